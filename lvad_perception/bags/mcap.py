"""An MCAP file as storage of a bag, read by its records from first to last rather than by its index.

Nothing in the file is trusted: lengths are compared with the file's size, chunks may not expand beyond
``compression.LARGEST``, and the numbers of messages in statistics and indices are compared with what is read.
"""

import struct
from array import array
from binascii import crc32
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np

from lvad_perception.bags import mcap_records as mcap
from lvad_perception.bags.compression import LARGEST, DamagedError, expand
from lvad_perception.bags.mcap_records import MAGIC, Chunk
from lvad_perception.bags.storage import Item, Location, MemoryBudget, Part, ReportDamage, StoredTopic
from lvad_perception.errors import BagError

_LARGEST_DESCRIPTIONS: Final = 64 << 20
_COMPRESSION_OVERHEAD: Final = 4096  # of the frame of a tiny chunk
_DEFINITIONS: Final = {"ros2msg", "ros2idl", "omgidl", ""}


@dataclass(slots=True)
class _Unchunked:
    """Messages of a channel outside of chunks: time stamps, and offsets of their contents in the file."""

    stamps: "array[int]" = field(default_factory=lambda: array("Q"))
    offsets: "array[int]" = field(default_factory=lambda: array("Q"))


class McapFile:
    """An open MCAP file.

    The location of a message is (byte at which its chunk begins, offset of its data in the decompressed chunk, length),
    or (-1, byte of its data in the file, length) outside of chunks.

    Attributes:
        topics: one for each channel of ROS 2.

    Raises:
        BagError: it is of ROS 1, or holds no message of ROS 2.
        DamagedError: it is truncated, or its records do not fit together.
        OSError: it cannot be read.
    """

    def __init__(self, path: Path, budget: MemoryBudget) -> None:
        self._path, self._budget = path, budget
        self._file = path.open("rb")
        self._size = path.stat().st_size
        self._schemas: dict[int, mcap.Schema] = {}
        self._channels: dict[int, mcap.Channel] = {}
        self._chunks: list[Chunk] = []
        self._unchunked: dict[int, _Unchunked] = {}
        # Numbers of messages by channel: of the statistics, None where they lack them, and of the message indices.
        self._counts: Counter[int] | None = None
        self._indexed: Counter[int] = Counter()
        self._described = 0
        self._cached: tuple[int, bytes] | None = None  # the chunk that ``read`` used last, by where it begins
        try:
            self._scan()
            self.topics = self._topics()
        except (struct.error, ValueError) as err:
            self.close()
            raise DamagedError(f"a record is malformed: {err}") from err
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def parts(self, channels: Collection[int], report_damage: ReportDamage) -> Iterator[Part]:
        """The chunks with messages of the channels, and the messages outside of chunks; see ``storage.Part``."""
        for chunk in self._chunks:
            if chunk.channels is None or not chunk.channels.isdisjoint(channels):
                yield chunk.start_ns, self._chunk_reader(chunk, channels, report_damage)
        for channel, messages in self._unchunked.items():
            if channel in channels:
                yield min(messages.stamps), self._unchunked_reader(channel, messages, report_damage)

    def read(self, location: Location) -> bytes:
        """Read a message again."""
        chunk_at, at, length = location
        if chunk_at < 0:
            return self._at(at, length)
        if self._cached is None or self._cached[0] != chunk_at:
            self._cached = None  # free its memory before the next one is decompressed
            self._cached = chunk_at, self._expanded(next(chunk for chunk in self._chunks if chunk.at == chunk_at))
        return self._cached[1][at : at + length]

    def _chunk_reader(
        self, chunk: Chunk, channels: Collection[int], report_damage: ReportDamage
    ) -> Callable[[], Iterator[Item]]:
        def items() -> Iterator[Item]:
            with self._budget.holding(chunk.size):
                stamps, offsets = array("Q"), array("Q")
                try:
                    data = self._expanded(chunk)
                    for operation, at, length in mcap.records(data):
                        if operation == mcap.MESSAGE:
                            channel, stamp = mcap.parse_message_head(data, at, length)
                            if channel in channels:
                                stamps.append(stamp)
                                offsets.append(at)
                except (DamagedError, struct.error) as err:
                    report_damage(f"chunk at byte {chunk.at}", f"{err}; what is in it is left out")
                    stamps = array("Q")  # nothing in a damaged chunk is reliable, not even its beginning
                if not stamps:
                    return
                for index in np.argsort(np.frombuffer(stamps, np.uint64), kind="stable").tolist():
                    at = offsets[index]
                    (length,) = struct.unpack_from("<Q", data, at - 8)
                    (channel,) = struct.unpack_from("<H", data, at)
                    start, stop = at + mcap.MESSAGE_HEAD, at + length
                    yield stamps[index], channel, (chunk.at, start, stop - start), data[start:stop]

        return items

    def _unchunked_reader(
        self, channel: int, messages: _Unchunked, report_damage: ReportDamage
    ) -> Callable[[], Iterator[Item]]:
        def items() -> Iterator[Item]:
            for index in np.argsort(np.frombuffer(messages.stamps, np.uint64), kind="stable").tolist():
                at = messages.offsets[index]
                length = struct.unpack("<Q", self._at(at - 8, 8))[0] - mcap.MESSAGE_HEAD
                start = at + mcap.MESSAGE_HEAD
                if length > LARGEST:
                    report_damage(
                        f"message at byte {at}", f"it has {length:,} bytes, and more than {LARGEST:,} are refused"
                    )
                    continue
                yield messages.stamps[index], channel, (-1, start, length), self._at(start, length)

        return items

    def _scan(self) -> None:
        """Visit all records outside of chunks."""
        if self._at(0, len(MAGIC)) != MAGIC:
            raise DamagedError("it is no MCAP of version 0, the only known one", remedy="update lvad_perception")
        if self._size < 2 * len(MAGIC) or self._at(self._size - len(MAGIC), len(MAGIC)) != MAGIC:
            raise DamagedError("it is truncated: the magic bytes at its end are missing")
        at, end = len(MAGIC), self._size - len(MAGIC)
        operation = 0
        while operation != mcap.FOOTER:
            if at + mcap.RECORD_HEAD > end:
                raise DamagedError(f"its records end at byte {at} without a footer")
            operation, length = struct.unpack("<BQ", self._at(at, mcap.RECORD_HEAD))
            if length > end - at - mcap.RECORD_HEAD:
                raise DamagedError(f"the record at byte {at} is longer than the file")
            self._visit(operation, at + mcap.RECORD_HEAD, length)
            at += mcap.RECORD_HEAD + length
        counts = self._counts
        if counts is None or any(count and channel not in self._channels for channel, count in counts.items()):
            counts = self._scan_chunks()
        # The larger number: of the statistics, or of the indices and the messages outside of chunks.
        unchunked = Counter({channel: len(messages.stamps) for channel, messages in self._unchunked.items()})
        self._counts = counts | self._indexed + unchunked

    def _visit(self, operation: int, at: int, length: int) -> None:
        """Store the information of a record outside of chunks whose content begins at ``at``."""
        if operation == mcap.HEADER:
            if mcap.parse_profile(self._description(at, length)) == "ros1":
                raise self._ros1_error()
        elif operation in (mcap.SCHEMA, mcap.CHANNEL):
            self._describe(operation, self._description(at, length))
        elif operation == mcap.MESSAGE:
            channel, stamp = mcap.parse_message_head(self._at(at, min(length, mcap.MESSAGE_HEAD)), 0, length)
            messages = self._unchunked.setdefault(channel, _Unchunked())
            messages.stamps.append(stamp)
            messages.offsets.append(at)
        elif operation == mcap.CHUNK:
            self._chunks.append(mcap.parse_chunk(self._at(at, min(length, mcap.CHUNK_HEAD)), at, length))
        elif operation == mcap.MESSAGE_INDEX and self._chunks:
            channel, count = mcap.parse_message_index(self._at(at, mcap.MESSAGE_INDEX_HEAD))
            chunk = self._chunks[-1]
            chunk.channels = (chunk.channels or set()) | ({channel} if count else set())
            self._indexed[channel] += count
        elif operation == mcap.STATISTICS:
            self._counts = mcap.parse_statistics(self._description(at, length))

    def _expanded(self, chunk: Chunk) -> bytes:
        """The records of a chunk. Raises DamagedError."""
        if chunk.data_size > 2 * chunk.size + _COMPRESSION_OVERHEAD:
            raise DamagedError(
                f"its {chunk.data_size:,} compressed bytes are too many for the {chunk.size:,} that it states"
            )
        data = expand(self._at(chunk.data_at, chunk.data_size), chunk.compression, size=chunk.size)
        if chunk.crc and crc32(data) != chunk.crc:
            raise DamagedError("its checksum does not fit")
        return data

    def _scan_chunks(self) -> Counter[int]:
        """Messages by channel, of a file without statistics, whose channels may be described in chunks only."""
        counts: Counter[int] = Counter()
        for chunk in self._chunks:
            try:
                with self._budget.holding(chunk.size):
                    data = self._expanded(chunk)
                    for operation, at, length in mcap.records(data):
                        if operation in (mcap.SCHEMA, mcap.CHANNEL):
                            self._describe(operation, data[at : at + length])
                        elif operation == mcap.MESSAGE:
                            counts[mcap.parse_message_head(data, at, length)[0]] += 1
            except (DamagedError, struct.error):
                continue  # reported when its messages are read
        return counts

    def _describe(self, operation: int, record: bytes) -> None:
        if operation == mcap.SCHEMA:
            self._schemas.setdefault(*mcap.parse_schema(record))
        else:
            self._channels.setdefault(*mcap.parse_channel(record))

    def _topics(self) -> list[StoredTopic]:
        assert self._counts is not None
        encodings = set()
        topics = []
        for key, channel in self._channels.items():
            schema = self._schemas.get(channel.schema, mcap.Schema("", "", ""))
            encodings.add("ros1" if schema.language == "ros1msg" else channel.encoding)
            if channel.encoding == "cdr" and schema.language in _DEFINITIONS and schema.name:
                definition = schema.language, schema.text
                topics.append(
                    StoredTopic(key, channel.topic, schema.name, self._counts[key], channel.qos, definition, "")
                )
        if not topics and "ros1" in encodings:
            raise self._ros1_error()
        if not topics and encodings:
            raise BagError(
                f"{self._path} has no message of ROS 2, only messages encoded as {', '.join(sorted(encodings))}; "
                "record it with ros2 bag, or convert its messages to CDR"
            )
        return topics

    def _ros1_error(self) -> BagError:
        return BagError(
            f"{self._path} is a recording of ROS 1 in MCAP; convert the .bag file that it was made from with: "
            f"rosbags-convert --src FILE.bag --dst {self._path.stem}"
        )

    def _description(self, at: int, length: int) -> bytes:
        """A record that describes the file; the size of all of them together is limited."""
        self._described += length
        if self._described > _LARGEST_DESCRIPTIONS:
            raise DamagedError(f"its descriptions have more than {_LARGEST_DESCRIPTIONS:,} bytes")
        return self._at(at, length)

    def _at(self, at: int, length: int) -> bytes:
        if at + length > self._size:
            raise DamagedError(f"it ends before byte {at + length}")
        self._file.seek(at)
        return self._file.read(length)
