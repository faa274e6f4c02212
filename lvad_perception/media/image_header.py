"""Image size from the header of an encoded image, for every format that OpenCV decodes.

Nothing is decoded: a file of a few hundred bytes can state 65,500 pixels a side, for which a decoder would allocate all
memory of the machine. Sizes are read as the decoders read them; where a file states several, the largest counts.
"""

import re
import struct
from collections.abc import Iterator
from typing import Final

from lvad_perception.types import Size

MOST_PIXELS: Final = 67_000_000
"""Limit for decoding: about 8192 x 8192 pixels, 201 MB as RGB."""
START_OF_SCAN: Final = 0xDA
# A marker; bytes between segments and 0xFF fill bytes are skipped, as libjpeg does.
_JPEG_MARKER: Final = re.compile(rb"\xff([\x01-\xfe])", re.DOTALL)
_STANDALONE_MARKERS: Final = frozenset({0x01, *range(0xD0, 0xD9)})
_START_OF_FRAME: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # those are tables and a reserved one
_MOST_SEGMENTS: Final = 4096
# Tag -> index in (height, width), of the image and of its tiles, since decoders allocate a tile too.
_TIFF_SIZES: Final = {257: 0, 256: 1, 323: 0, 322: 1}
_PNM: Final = re.compile(rb"P(?:[1-6Ff])(?:\s+|#[^\n]*\n)+(\d+)(?:\s+|#[^\n]*\n)+(\d+)")
_PAM: Final = re.compile(rb"P7\s.*?WIDTH\s+(\d+).*?HEIGHT\s+(\d+)", re.DOTALL)
_RADIANCE: Final = re.compile(rb"[-+]Y (\d+) [-+]X (\d+)")


def encoded_size(data: bytes) -> Size | None:
    """(height, width) stated in the header; None for an unknown format or an incomplete header.

    Args:
        data: the encoded image, or its first 64 KiB, which suffice except for TIFF and JPEGs with a large profile.
    """
    try:
        return _size(data)
    except (struct.error, IndexError, ValueError, OverflowError):
        return None


def jpeg_segments(data: bytes) -> Iterator[tuple[int, int]]:
    """(marker, offset) of each segment of a JPEG, up to and including the first start of scan."""
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
    """Upper bound of the number of scans of a JPEG: 1 in a baseline file, about ten in a progressive one."""
    return data.count(bytes((0xFF, START_OF_SCAN)))  # within a scan, 0xFF is always followed by 0 or a restart marker


def _size(data: bytes) -> Size | None:
    if data.startswith(b"\xff\xd8"):
        frames = [_unpack(">HH", data, at + 5) for marker, at in jpeg_segments(data) if marker in _START_OF_FRAME]
        return (max(height for height, _ in frames), max(width for _, width in frames)) if frames else None
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return None if data[12:16] != b"IHDR" else _swapped(_unpack(">II", data, 16))
    if data.startswith(b"BM"):
        if data[14] == 12:  # the header of OS/2
            return _swapped(_unpack("<HH", data, 18))
        width, height = struct.unpack_from("<ii", data, 18)
        return abs(height), abs(width)
    if data.startswith((b"GIF87a", b"GIF89a")):
        return _swapped(_unpack("<HH", data, 6))
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return _webp_size(data)
    if data.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):
        return _tiff_size(data)
    if data.startswith(b"\xff\x4f\xff\x51"):  # a JPEG 2000 code stream
        width, height, left, top = struct.unpack_from(">IIII", data, 8)
        return height - top, width - left
    if data[4:8] == b"jP  ":
        return _unpack(">II", data, data.index(b"ihdr") + 4)
    if data[4:8] == b"ftyp":  # AVIF: the largest of its images and tiles
        offsets = [match.end() for match in re.finditer(b"ispe", data[: 1 << 16])]
        return max(_swapped(_unpack(">II", data, offset + 4)) for offset in offsets)
    if data.startswith(b"\x59\xa6\x6a\x95"):  # Sun raster
        return _swapped(_unpack(">II", data, 4))
    if data.startswith(b"#?"):
        return _numbers(_RADIANCE.search(data[: 1 << 12]))
    found = _numbers(_PNM.match(data[: 1 << 12]) or _PAM.match(data[: 1 << 12]))
    return None if found is None else _swapped(found)


def _webp_size(data: bytes) -> Size | None:
    kind = data[12:16]
    if kind == b"VP8X":
        width, height = (1 + int.from_bytes(data[at : at + 3], "little") for at in (24, 27))
    elif kind == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        width, height = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    elif kind == b"VP8 ":
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", data, 26))
    else:
        return None
    return height, width


def _tiff_size(data: bytes) -> Size | None:
    order = "<" if data.startswith(b"II") else ">"
    big = data[2:4] in (b"+\0", b"\0+")
    (at,) = struct.unpack_from(f"{order}{'Q' if big else 'I'}", data, 8 if big else 4)
    (count,) = struct.unpack_from(f"{order}{'Q' if big else 'H'}", data, at)
    sides = [0, 0]
    entry, value, stride = (8, 12, 20) if big else (2, 8, 12)
    for index in range(min(count, 1000)):
        tag, kind = struct.unpack_from(f"{order}HH", data, at + entry + index * stride)
        if tag in _TIFF_SIZES:
            letter = {3: "H", 4: "I", 16: "Q"}[kind] if kind in (3, 4, 16) else "I"
            (side,) = struct.unpack_from(f"{order}{letter}", data, at + entry + index * stride + value)
            sides[_TIFF_SIZES[tag]] = max(sides[_TIFF_SIZES[tag]], side)
    height, width = sides
    return (height, width) if height and width else None


def _unpack(layout: str, data: bytes, at: int) -> Size:
    first, second = struct.unpack_from(layout, data, at)
    return first, second


def _swapped(size: Size) -> Size:
    return size[1], size[0]


def _numbers(match: re.Match[bytes] | None) -> Size | None:
    return None if match is None else (int(match[1]), int(match[2]))
