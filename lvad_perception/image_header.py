"""What an encoded image says of its size, read before anything is decoded.

A few hundred bytes can claim four thousand million pixels, for which a decoder would take all memory of the machine.
Sizes are read here as the decoders read them: where a file says two, the larger counts.
"""

import re
import struct
from collections.abc import Iterator
from typing import Final

from lvad_perception.types import Size

MOST_PIXELS: Final = 67_000_000
"""A larger image than about 8192 x 8192 pixels is not decoded; as RGB it would have more than 201 MB."""
START_OF_SCAN: Final = 0xDA
# A marker; bytes between segments and 0xFF as filling are skipped, as libjpeg does.
_JPEG_MARKER: Final = re.compile(rb"\xff([\x01-\xfe])", re.DOTALL)
_STANDALONE_MARKERS: Final = frozenset({0x01, *range(0xD0, 0xD9)})
_START_OF_FRAME: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # those are tables and a reserved one
_MOST_SEGMENTS: Final = 4096


def encoded_size(data: bytes) -> Size | None:
    """(height, width) that a JPEG, PNG, BMP or WebP says it has; None for anything else, and for damaged data."""
    try:
        if data.startswith(b"\xff\xd8"):
            return _jpeg(data)
        if data.startswith(b"\x89PNG\r\n\x1a\n"):
            return _png(data)
        if data.startswith(b"BM"):
            return _bmp(data)
        if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
            return _webp(data)
    except struct.error:  # cut off
        pass
    return None


def jpeg_segments(data: bytes) -> Iterator[tuple[int, int]]:
    """Marker and offset of each segment of a JPEG up to and with its first start of scan, or to where they end."""
    at = 2
    for _ in range(_MOST_SEGMENTS):
        found = _JPEG_MARKER.search(data, at)
        if found is None:
            return
        marker, at = found[1][0], found.start()
        yield marker, at
        if marker == START_OF_SCAN:
            return
        at += 2
        if marker not in _STANDALONE_MARKERS:
            at += max(2, int.from_bytes(data[at : at + 2], "big"))


def jpeg_scans(data: bytes) -> int:
    """How often a JPEG goes over its pixels: 1, or about ten in a progressive one. No more than this."""
    return data.count(bytes((0xFF, START_OF_SCAN)))  # in a scan, 0xFF is always followed by 0 or a restart


def _jpeg(data: bytes) -> Size | None:
    frames = [
        struct.unpack_from(">HH", data, at + 5) for marker, at in jpeg_segments(data) if marker in _START_OF_FRAME
    ]
    return _largest(frames)


def _png(data: bytes) -> Size | None:
    if data[12:16] != b"IHDR":
        return None
    width, height = struct.unpack_from(">II", data, 16)
    return height, width


def _bmp(data: bytes) -> Size:
    (header,) = struct.unpack_from("<I", data, 14)
    width, height = struct.unpack_from("<HH" if header == 12 else "<ii", data, 18)
    return abs(height), abs(width)  # rows from the top down have a negative height


def _webp(data: bytes) -> Size | None:
    kind = data[12:16]
    if kind == b"VP8X":
        width, height = (int.from_bytes(data[at : at + 3], "little") + 1 for at in (24, 27))
    elif kind == b"VP8L":
        (packed,) = struct.unpack_from("<I", data, 21)
        width, height = (packed & 0x3FFF) + 1, (packed >> 14 & 0x3FFF) + 1
    elif kind == b"VP8 ":
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", data, 26))
    else:
        return None
    return height, width


def _largest(sizes: list[Size]) -> Size | None:
    return (max(height for height, _ in sizes), max(width for _, width in sizes)) if sizes else None
