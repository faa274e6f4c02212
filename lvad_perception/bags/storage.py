"""Interface of storage files (MCAP and sqlite3): their topics, their messages, and merging by time."""

import heapq
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from operator import itemgetter
from typing import Final, Protocol

from lvad_perception.bags.compression import LARGEST
from lvad_perception.errors import BagError

Location = tuple[int, ...]
"""Position of a message in its file. Each storage format defines the numbers."""

Item = tuple[int, int, Location, bytes]
"""A message: time stamp in nanoseconds, channel, location in the file, and bytes."""

Part = tuple[int, Callable[[], Iterator[Item]]]
"""A piece of a file: its first time stamp, and a function that reads its messages in the order of time."""

ReportDamage = Callable[[str, str], None]
"""Called with the name of a part that cannot be read, and the reason."""

_BUDGET: Final = 2 * LARGEST


@dataclass(frozen=True, slots=True)
class StoredTopic:
    """A topic in a storage file.

    Attributes:
        channel: the file's id of it; a topic may have several.
        topic: its name.
        msgtype: type of its messages.
        count: number of messages according to the file.
        qos: profiles that its publishers offered, as YAML.
        definition: language and text of the message definition; both empty when unknown.
        digest: hash of the type; may be empty.
    """

    channel: int
    topic: str
    msgtype: str
    count: int
    qos: str
    definition: tuple[str, str]
    digest: str


class StorageFile(Protocol):
    """An open storage file."""

    topics: list[StoredTopic]

    def parts(self, channels: frozenset[int], report_damage: ReportDamage, /) -> Iterable[Part]:
        """The pieces with messages of the channels."""

    def read(self, location: Location, /) -> bytes:
        """Read a message again by its location."""

    def close(self) -> None:
        """Close the file."""


class MemoryBudget:
    """Limits the bytes of chunks in memory, of all files of a bag together."""

    def __init__(self) -> None:
        self._held = 0

    @contextmanager
    def holding(self, size: int) -> Iterator[None]:
        """Account for ``size`` bytes during the block. Raises BagError beyond the limit."""
        self._held += size
        try:
            if self._held > _BUDGET and self._held > size:
                raise BagError(
                    f"the bag's chunks overlap in time, more than {_BUDGET:,} bytes of them; "
                    "bring its messages in order with: mcap sort FILE -o SORTED"
                )
            yield
        finally:
            self._held -= size


def in_time_order(parts: Iterable[Part]) -> Iterator[Item]:
    """Merge the messages of all parts; a part is read only from its first stamp on, and dropped after its last."""

    def lazily(start: int, items: Callable[[], Iterator[Item]]) -> Iterator[tuple[int, Item | None]]:
        yield start, None
        for item in items():
            yield item[0], item

    for _, item in heapq.merge(*(lazily(*part) for part in parts), key=itemgetter(0)):
        if item is not None:
            yield item
