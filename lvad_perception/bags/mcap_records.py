"""Parsing of MCAP records (https://mcap.dev/spec) from untrusted bytes.

All functions raise DamagedError, or struct.error and ValueError where bytes are missing or no UTF-8.
"""

import struct
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from lvad_perception.bags.compression import LARGEST, DamagedError

MAGIC: Final = b"\x89MCAP0\r\n"
HEADER, FOOTER, SCHEMA, CHANNEL, MESSAGE, CHUNK, MESSAGE_INDEX, STATISTICS = 1, 2, 3, 4, 5, 6, 7, 11
RECORD_HEAD: Final = 9
"""Bytes of a record's operation code and length."""
MESSAGE_HEAD: Final = 22
"""Bytes before the data of a message."""
CHUNK_HEAD: Final = 32 + 64
"""Bytes that hold a chunk's fields before its records, with space for the name of the compression."""
MESSAGE_INDEX_HEAD: Final = 6
_COMPRESSION_AT: Final = 28
_CHANNEL_COUNTS_AT: Final = 42


@dataclass(frozen=True, slots=True)
class Schema:
    """A message type: its name, and language and text of its definition."""

    name: str
    language: str
    text: str


@dataclass(frozen=True, slots=True)
class Channel:
    """A channel: id of its schema, topic, encoding of its messages, and offered QoS profiles as YAML."""

    schema: int
    topic: str
    encoding: str
    qos: str


@dataclass(slots=True)
class Chunk:
    """A chunk of records.

    Attributes:
        at: byte of the file at which its record begins.
        start_ns: first time stamp in it.
        size: bytes of its records after decompression.
        crc: CRC-32 of these bytes, 0 for none.
        compression: "zstd", "lz4" or "".
        data_at: byte of the file at which its compressed records begin.
        data_size: bytes of its compressed records.
        channels: channels with messages according to its message indices; None without any.
    """

    at: int
    start_ns: int
    size: int
    crc: int
    compression: str
    data_at: int
    data_size: int
    channels: set[int] | None = None


def records(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Operation code, and offset and length of the content, of each record in the data of a chunk."""
    at = 0
    while at < len(data):
        operation, length = struct.unpack_from("<BQ", data, at)
        at += RECORD_HEAD
        if length > len(data) - at:
            raise DamagedError("a record in it is longer than the chunk")
        yield operation, at, length
        at += length


def parse_profile(header: bytes) -> str:
    """The profile that a header record names, such as "ros2"."""
    return _string(header, 0)[0]


def parse_schema(record: bytes) -> tuple[int, Schema]:
    """Id and content of a schema record."""
    (key,) = struct.unpack_from("<H", record)
    name, at = _string(record, 2)
    language, at = _string(record, at)
    text, _ = _string(record, at)
    return key, Schema(name, language, text)


def parse_channel(record: bytes) -> tuple[int, Channel]:
    """Id and content of a channel record."""
    key, schema = struct.unpack_from("<HH", record)
    topic, at = _string(record, 4)
    encoding, at = _string(record, at)
    metadata, qos, at = record[at + 4 :], "", 0
    while at < len(metadata):
        name, at = _string(metadata, at)
        value, at = _string(metadata, at)
        if name == "offered_qos_profiles":
            qos = value
    return key, Channel(schema, topic, encoding, qos)


def parse_message_head(data: bytes, at: int, length: int) -> tuple[int, int]:
    """Channel and time stamp of a message record of ``length`` bytes whose content begins at ``at``."""
    if length < MESSAGE_HEAD:
        raise DamagedError(f"a message has {length} bytes, fewer than its head")
    channel, _, stamp = struct.unpack_from("<HIQ", data, at)
    return channel, stamp


def parse_chunk(head: bytes, at: int, length: int) -> Chunk:
    """A chunk record.

    Args:
        head: the first ``CHUNK_HEAD`` bytes of its content, or all if they are fewer.
        at: byte of the file at which the content begins.
        length: bytes of the content.
    """
    record_at = at - RECORD_HEAD
    start_ns, _, size, crc = struct.unpack_from("<QQQI", head)
    compression, data_at = _string(head, _COMPRESSION_AT)
    (data_size,) = struct.unpack_from("<Q", head, data_at)
    data_at += 8
    if data_size > length - data_at:
        raise DamagedError(f"the chunk at byte {record_at} is longer than its record")
    if size > LARGEST:
        raise DamagedError(
            f"the chunk at byte {record_at} states a size of {size:,} bytes, and more than {LARGEST:,} are refused",
            remedy="write it with smaller chunks, as 'mcap sort' does, if you trust where it comes from",
        )
    return Chunk(record_at, start_ns, size, crc, compression, at + data_at, data_size)


def parse_message_index(head: bytes) -> tuple[int, int]:
    """Channel and number of messages of a message index, by the first ``MESSAGE_INDEX_HEAD`` bytes of its content."""
    channel, size = struct.unpack("<HI", head)
    return channel, size // 16


def parse_statistics(record: bytes) -> Counter[int] | None:
    """Number of messages by channel; None where the writer counted only all of them, which the format allows."""
    (total,) = struct.unpack_from("<Q", record)
    (size,) = struct.unpack_from("<I", record, _CHANNEL_COUNTS_AT)
    start = _CHANNEL_COUNTS_AT + 4
    counts = Counter(dict(struct.iter_unpack("<HQ", record[start : start + size])))
    return counts if counts.total() == total else None


def _string(data: bytes, at: int) -> tuple[str, int]:
    """A string and the offset behind it."""
    (length,) = struct.unpack_from("<I", data, at)
    at += 4
    if length > len(data) - at:
        raise DamagedError("a text in it is longer than its record")
    return data[at : at + length].decode(), at + length
