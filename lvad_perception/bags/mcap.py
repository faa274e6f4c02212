"""One MCAP file: its topics and messages, read by its records from first to last rather than by its index.

Nothing that the file says of itself is believed unseen: lengths are compared with the file's, chunks become no larger
than ``compression.LARGEST``, and what its statistics promise is compared with what is read. The format is
https://mcap.dev/spec.
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

from lvad_perception.bags.compression import LARGEST, DamagedError, expand
from lvad_perception.bags.recorded import Budget, Damage, Item, Part, Recorded
from lvad_perception.errors import BagError

MAGIC: Final = b"\x89MCAP0\r\n"
_HEADER, _FOOTER, _SCHEMA, _CHANNEL, _MESSAGE, _CHUNK, _MESSAGE_INDEX, _STATISTICS = 1, 2, 3, 4, 5, 6, 7, 11
_HEAD: Final = 9  # operation code and length of a record
_MESSAGE_HEAD: Final = 22
_CHUNK_HEAD: Final = 32  # up to the name of the compression
_MOST_DESCRIBING: Final = 64 << 20
_LEAST_COMPRESSED: Final = 4096  # a frame of next to nothing
_DEFINITIONS: Final = {"ros2msg", "ros2idl", "omgidl", ""}


@dataclass(slots=True)
class _Chunk:
    """Position and sizes of a chunk; ``channels`` are those of its message index, None where it has no index."""

    at: int
    start_ns: int
    size: int
    crc: int
    compression: str
    data_at: int
    data_size: int
    channels: set[int] | None = None


@dataclass(slots=True)
class _Loose:
    """Messages outside of chunks, channel by channel: time stamps, and offsets of their records in the file."""

    stamps: "array[int]" = field(default_factory=lambda: array("Q"))
    offsets: "array[int]" = field(default_factory=lambda: array("Q"))


class McapFile:
    """An open MCAP file.

    Attributes:
        recorded: its topics, one for each channel that ROS 2 wrote; several channels may be of one topic.

    Raises:
        BagError: it is of ROS 1, or holds no message of ROS 2.
        DamagedError: it is truncated, or its records do not fit together.
        OSError: it cannot be read.
    """

    def __init__(self, path: Path, budget: Budget) -> None:
        self._path, self._budget = path, budget
        self._file = path.open("rb")
        self._size = path.stat().st_size
        self._schemas: dict[int, tuple[str, str, str]] = {}  # name, encoding, text
        self._channels: dict[int, tuple[int, str, str, str]] = {}  # schema, topic, encoding of messages, QoS profiles
        self._chunks: list[_Chunk] = []
        self._loose: dict[int, _Loose] = {}
        self._promised: Counter[int] | None = None  # by channel, as the next
        self._indexed: Counter[int] = Counter()
        self._described = 0
        self._kept: tuple[int, bytes] | None = None
        try:
            self._survey()
            self.recorded = self._recorded()
        except (struct.error, ValueError) as err:
            self.close()
            raise DamagedError(f"a record is malformed: {err}") from err
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def parts(self, channels: Collection[int], damaged: Damage) -> Iterator[Part]:
        """The chunks with messages of the channels, and the messages outside of chunks; see ``recorded.Part``."""
        for chunk in self._chunks:
            if chunk.channels is None or not chunk.channels.isdisjoint(channels):
                yield chunk.start_ns, self._reader_of(chunk, channels, damaged)
        for channel, loose in self._loose.items():
            if channel in channels:
                yield min(loose.stamps), self._loose_reader(channel, loose, damaged)

    def read(self, place: tuple[int, ...]) -> bytes:
        """A message once more, by its place."""
        chunk_at, at, length = place
        if chunk_at < 0:
            return self._at(at, length)
        if self._kept is None or self._kept[0] != chunk_at:
            self._kept = None  # before the next one is there
            self._kept = chunk_at, self._expanded(next(chunk for chunk in self._chunks if chunk.at == chunk_at))
        return self._kept[1][at : at + length]

    def _reader_of(self, chunk: _Chunk, channels: Collection[int], damaged: Damage) -> Callable[[], Iterator[Item]]:
        def items() -> Iterator[Item]:
            with self._budget.holding(chunk.size):
                stamps, offsets = array("Q"), array("Q")
                try:
                    data = self._expanded(chunk)
                    for operation, at, length in _records(data):
                        if operation == _MESSAGE:
                            channel, _, stamp = _message_head(data, at, length)
                            if channel in channels:
                                stamps.append(stamp)
                                offsets.append(at)
                except (DamagedError, struct.error) as err:
                    damaged(f"chunk at byte {chunk.at}", f"{err}; what is in it is left out")
                    stamps = array("Q")  # of a damaged chunk nothing is sure, not even its beginning
                if not stamps:
                    return
                for place in np.argsort(np.frombuffer(stamps, np.uint64), kind="stable").tolist():
                    at = offsets[place]
                    (length,) = struct.unpack_from("<Q", data, at - 8)
                    (channel,) = struct.unpack_from("<H", data, at)
                    start, stop = at + _MESSAGE_HEAD, at + length
                    yield stamps[place], channel, (chunk.at, start, stop - start), data[start:stop]

        return items

    def _loose_reader(self, channel: int, loose: _Loose, damaged: Damage) -> Callable[[], Iterator[Item]]:
        def items() -> Iterator[Item]:
            for place in np.argsort(np.frombuffer(loose.stamps, np.uint64), kind="stable").tolist():
                at = loose.offsets[place]
                length = struct.unpack("<Q", self._at(at - 8, 8))[0] - _MESSAGE_HEAD
                start = at + _MESSAGE_HEAD
                if length > LARGEST:
                    damaged(f"message at byte {at}", f"it has {length:,} bytes, and more than {LARGEST:,} are refused")
                    continue
                yield loose.stamps[place], channel, (-1, start, length), self._at(start, length)

        return items

    def _survey(self) -> None:
        if self._at(0, len(MAGIC)) != MAGIC:
            raise DamagedError(
                "it is no MCAP of version 0, the one that is known here", remedy="update lvad_perception"
            )
        if self._size < 2 * len(MAGIC) or self._at(self._size - len(MAGIC), len(MAGIC)) != MAGIC:
            raise DamagedError("it is truncated: it lacks the end that a recorder writes last")
        at, end = len(MAGIC), self._size - len(MAGIC)
        operation = 0
        while operation != _FOOTER:
            if at + _HEAD > end:
                raise DamagedError(f"its records end at byte {at} without a footer")
            operation, length = struct.unpack("<BQ", self._at(at, _HEAD))
            if length > end - at - _HEAD:
                raise DamagedError(f"the record at byte {at} is longer than the file")
            self._note(operation, at + _HEAD, length)
            at += _HEAD + length
        counts = self._promised
        if counts is None or any(count and channel not in self._channels for channel, count in counts.items()):
            counts = self._look_into_chunks()
        # Whatever promises more: the statistics, or the index and what is outside of chunks.
        self._promised = counts | self._indexed + Counter({key: len(each.stamps) for key, each in self._loose.items()})

    def _note(self, operation: int, at: int, length: int) -> None:
        """Take in a record outside of chunks, by where its content is."""
        if operation == _HEADER:
            profile, _ = _string(self._describing(at, length), 0)
            if profile == "ros1":
                raise self._of_ros1()
        elif operation in (_SCHEMA, _CHANNEL):
            self._describe(operation, self._describing(at, length))
        elif operation == _MESSAGE:
            channel, _, stamp = _message_head(self._at(at, min(length, _MESSAGE_HEAD)), 0, length)
            loose = self._loose.setdefault(channel, _Loose())
            loose.stamps.append(stamp)
            loose.offsets.append(at)
        elif operation == _CHUNK:
            self._chunks.append(self._chunk(at, length))
        elif operation == _MESSAGE_INDEX and self._chunks:
            channel, size = struct.unpack("<HI", self._at(at, 6))
            chunk = self._chunks[-1]
            chunk.channels = (chunk.channels or set()) | ({channel} if size else set())
            self._indexed[channel] += size // 16
        elif operation == _STATISTICS:
            data = self._describing(at, length)
            (total,) = struct.unpack_from("<Q", data)
            (size,) = struct.unpack_from("<I", data, 42)
            counts = Counter(dict(struct.iter_unpack("<HQ", data[46 : 46 + size])))
            self._promised = counts if counts.total() == total else None  # a writer need not count by channel

    def _chunk(self, at: int, length: int) -> _Chunk:
        head = self._at(at, min(length, _CHUNK_HEAD + 64))
        start_ns, _, size, crc = struct.unpack_from("<QQQI", head)
        compression, data_at = _string(head, _CHUNK_HEAD - 4)
        (data_size,) = struct.unpack_from("<Q", head, data_at)
        data_at += 8
        if data_size > length - data_at:
            raise DamagedError(f"the chunk at byte {at - _HEAD} is longer than its record")
        if size > LARGEST:
            raise DamagedError(
                f"the chunk at byte {at - _HEAD} promises to become {size:,} bytes, and more than {LARGEST:,} are "
                "refused",
                remedy="write it with smaller chunks, as 'mcap sort' does, if you trust where it comes from",
            )
        return _Chunk(at - _HEAD, start_ns, size, crc, compression, at + data_at, data_size)

    def _expanded(self, chunk: _Chunk) -> bytes:
        """A chunk's records. Raises DamagedError."""
        if chunk.data_size > 2 * chunk.size + _LEAST_COMPRESSED:
            raise DamagedError(f"its {chunk.data_size:,} bytes promise to become {chunk.size:,}, which are fewer")
        data = expand(self._at(chunk.data_at, chunk.data_size), chunk.compression, size=chunk.size)
        if chunk.crc and crc32(data) != chunk.crc:
            raise DamagedError("its checksum does not fit")
        return data

    def _look_into_chunks(self) -> Counter[int]:
        """Messages by channel, of a file that does not say; channels are described in chunks then."""
        counts: Counter[int] = Counter()
        for chunk in self._chunks:
            try:
                with self._budget.holding(chunk.size):
                    data = self._expanded(chunk)
                    for operation, at, length in _records(data):
                        if operation in (_SCHEMA, _CHANNEL):
                            self._describe(operation, data[at : at + length])
                        elif operation == _MESSAGE:
                            counts[_message_head(data, at, length)[0]] += 1
            except (DamagedError, struct.error):
                continue  # told when its messages are asked for
        return counts

    def _describe(self, operation: int, data: bytes) -> None:
        if operation == _SCHEMA:
            (key,) = struct.unpack_from("<H", data)
            name, at = _string(data, 2)
            encoding, at = _string(data, at)
            text, _ = _string(data, at)
            self._schemas.setdefault(key, (name, encoding, text))
        else:
            key, schema = struct.unpack_from("<HH", data)
            topic, at = _string(data, 4)
            encoding, at = _string(data, at)
            facts, qos = data[at + 4 :], ""
            at = 0
            while at < len(facts):
                name, at = _string(facts, at)
                value, at = _string(facts, at)
                if name == "offered_qos_profiles":
                    qos = value
            self._channels.setdefault(key, (schema, topic, encoding, qos))

    def _recorded(self) -> list[Recorded]:
        assert self._promised is not None
        encodings = set()
        found = []
        for key, (schema, topic, encoding, qos) in self._channels.items():
            name, language, text = self._schemas.get(schema, ("", "", ""))
            encodings.add("ros1" if language == "ros1msg" else encoding)
            if encoding == "cdr" and language in _DEFINITIONS and name:
                found.append(Recorded(key, topic, name, self._promised[key], qos, (language, text), ""))
        if not found and "ros1" in encodings:
            raise self._of_ros1()
        if not found and encodings:
            raise BagError(
                f"{self._path} holds no message of ROS 2 but such encoded as {', '.join(sorted(encodings))}; "
                "record it with ros2 bag, or convert its messages to CDR"
            )
        return found

    def _of_ros1(self) -> BagError:
        return BagError(
            f"{self._path} is a recording of ROS 1 in MCAP; convert the .bag file that it was made from with: "
            f"rosbags-convert --src FILE.bag --dst {self._path.stem}"
        )

    def _describing(self, at: int, length: int) -> bytes:
        """A record that describes the file; all of them together are bounded."""
        self._described += length
        if self._described > _MOST_DESCRIBING:
            raise DamagedError(f"its descriptions have more than {_MOST_DESCRIBING:,} bytes")
        return self._at(at, length)

    def _at(self, at: int, length: int) -> bytes:
        if at + length > self._size:
            raise DamagedError(f"it ends before byte {at + length}")
        self._file.seek(at)
        return self._file.read(length)


def _records(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Operation code, place and length of the content of each record of a chunk."""
    at = 0
    while at < len(data):
        operation, length = struct.unpack_from("<BQ", data, at)
        at += _HEAD
        if length > len(data) - at:
            raise DamagedError("a record in it is longer than the chunk")
        yield operation, at, length
        at += length


def _message_head(data: bytes, at: int, length: int) -> tuple[int, int, int]:
    """Channel, sequence number and time stamp of a message."""
    if length < _MESSAGE_HEAD:
        raise DamagedError(f"a message has {length} bytes, fewer than its head")
    channel, sequence, stamp = struct.unpack_from("<HIQ", data, at)
    return channel, sequence, stamp


def _string(data: bytes, at: int) -> tuple[str, int]:
    """A string and the place behind it."""
    (length,) = struct.unpack_from("<I", data, at)
    at += 4
    if length > len(data) - at:
        raise DamagedError("a text in it is longer than its record")
    return data[at : at + length].decode(), at + length
