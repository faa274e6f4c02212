"""What the storages of a bag have in common: topics, messages with their places, and the order of time."""

import heapq
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from operator import itemgetter
from typing import Final, Protocol

from lvad_perception.bags.compression import LARGEST
from lvad_perception.errors import BagError

Item = tuple[int, int, tuple[int, ...], bytes]
"""Time stamp in nanoseconds, channel, place in the file, and bytes of a message."""

Part = tuple[int, Callable[[], Iterator[Item]]]
"""A piece of a file: the first time stamp in it, and what reads its messages in the order of time."""

Damage = Callable[[str, str], None]
"""Is told which part of a file cannot be read, and why."""

_HELD: Final = 2 * LARGEST


@dataclass(frozen=True, slots=True)
class Recorded:
    """A topic as one storage file has it.

    Attributes:
        channel: the file's number for it.
        topic: its name.
        msgtype: type of its messages.
        count: messages that the file says it has of it.
        qos: profiles that its publishers offered, as YAML.
        definition: language and text of the type; both empty when it is not known.
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
    """An open file of messages."""

    recorded: list[Recorded]

    def parts(self, channels: frozenset[int], damaged: Damage, /) -> Iterable[Part]:
        """The pieces with messages of the channels."""

    def read(self, place: tuple[int, ...], /) -> bytes:
        """A message once more, by its place."""

    def close(self) -> None:
        """Close the file."""


class Budget:
    """Bytes of chunks that may be held at a time, of all files of a bag."""

    def __init__(self) -> None:
        self._held = 0

    @contextmanager
    def holding(self, size: int) -> Iterator[None]:
        """Hold so many bytes in the block. Raises BagError when they are too many."""
        self._held += size
        try:
            if self._held > _HELD and self._held > size:
                raise BagError(
                    f"the bag's chunks overlap in time, more than {_HELD:,} bytes of them; "
                    "bring its messages in order with: mcap sort FILE -o SORTED"
                )
            yield
        finally:
            self._held -= size


def in_time_order(parts: Iterable[Part]) -> Iterator[Item]:
    """The messages of all parts; a part is opened when its first stamp is due, and closed after its last message."""

    def lazily(start: int, items: Callable[[], Iterator[Item]]) -> Iterator[tuple[int, Item | None]]:
        yield start, None
        for item in items():
            yield item[0], item

    for _, item in heapq.merge(*(lazily(*part) for part in parts), key=itemgetter(0)):
        if item is not None:
            yield item
