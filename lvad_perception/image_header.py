"""Size of an encoded image by its first bytes, for every format that OpenCV decodes: nothing is decompressed.

A file of a few kilobytes may say that it has 65,500 pixels a side, whose decoding takes gigabytes.
"""

import re
import struct
from collections.abc import Iterator
from typing import Final

from lvad_perception.types import Size

LARGEST_PIXELS: Final = 2**28 // 3
"""Pixels of the largest image that is decoded, 89 million: 256 MiB of RGB. Cameras of 8K have 33 million."""

START_OF_SCAN: Final = 0xDA
_STANDALONE_MARKERS: Final = frozenset({0x01, *range(0xD0, 0xD8)})
_FRAME_MARKERS: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_TIFF_SIZES: Final = {257: 0, 256: 1}  # tag -> place in (height, width)
_PNM: Final = re.compile(rb"P(?:[1-6Ff])(?:\s+|#[^\n]*\n)+(\d+)(?:\s+|#[^\n]*\n)+(\d+)")
_PAM: Final = re.compile(rb"P7\s.*?WIDTH\s+(\d+).*?HEIGHT\s+(\d+)", re.DOTALL)
_RADIANCE: Final = re.compile(rb"[-+]Y (\d+) [-+]X (\d+)")


def is_too_large(size_hw: Size) -> bool:
    """Whether an image has more pixels than are decoded."""
    return size_hw[0] * size_hw[1] > LARGEST_PIXELS


def encoded_size(data: bytes) -> Size | None:
    """(height, width) that an encoded image states; None when it is none that is known, or its header is cut off.

    Args:
        data: the encoded image, or its first 64 KiB, which a TIFF or a JPEG with a large profile may exceed.
    """
    try:
        return _size(data)
    except (struct.error, IndexError, ValueError, OverflowError):
        return None


def jpeg_segments(data: bytes) -> Iterator[tuple[int, int]]:
    """(marker, offset of its 0xFF) of each segment of a JPEG until its pixels begin, as libjpeg finds them."""
    at = 2
    while at + 4 <= len(data):
        if data[at] != 0xFF:
            at += 1  # stray bytes between segments, which decoders skip as well
            continue
        marker = data[at + 1]
        if marker == 0xFF:
            at += 1  # fill byte
        elif marker == 0 or marker in _STANDALONE_MARKERS:
            at += 2
        else:
            yield marker, at
            if marker == START_OF_SCAN:
                return
            at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")


def _size(data: bytes) -> Size | None:
    if data.startswith(b"\xff\xd8"):
        frame = next((at for marker, at in jpeg_segments(data) if marker in _FRAME_MARKERS), None)
        return None if frame is None else _unpack(">HH", data, frame + 5)
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return _swapped(_unpack(">II", data, 16))
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
    if data[4:8] == b"ftyp":  # AVIF: the largest of its pictures and tiles
        places = [match.end() for match in re.finditer(b"ispe", data[: 1 << 16])]
        return max(_swapped(_unpack(">II", data, at + 4)) for at in places)
    if data.startswith(b"\x59\xa6\x6a\x95"):  # Sun raster
        return _swapped(_unpack(">II", data, 4))
    if data.startswith(b"#?"):
        return _numbers(_RADIANCE.search(data[: 1 << 12]))
    found = _numbers(_PNM.match(data[: 1 << 12]) or _PAM.match(data[: 1 << 12]))
    return None if found is None else _swapped(found)


def _webp_size(data: bytes) -> Size:
    kind = data[12:16]
    if kind == b"VP8X":
        width, height = (1 + int.from_bytes(data[at : at + 3], "little") for at in (24, 27))
    elif kind == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        width, height = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    else:
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", data, 26))
    return height, width


def _tiff_size(data: bytes) -> Size | None:
    order = "<" if data.startswith(b"II") else ">"
    big = data[2:4] in (b"+\0", b"\0+")
    (at,) = struct.unpack_from(f"{order}{'Q' if big else 'I'}", data, 8 if big else 4)
    (count,) = struct.unpack_from(f"{order}{'Q' if big else 'H'}", data, at)
    sides: list[int | None] = [None, None]
    entry, value, stride = (8, 12, 20) if big else (2, 8, 12)
    for index in range(min(count, 1000)):
        tag, kind = struct.unpack_from(f"{order}HH", data, at + entry + index * stride)
        if tag in _TIFF_SIZES:
            letter = {3: "H", 4: "I", 16: "Q"}[kind] if kind in (3, 4, 16) else "I"
            (sides[_TIFF_SIZES[tag]],) = struct.unpack_from(
                f"{order}{letter}", data, at + entry + index * stride + value
            )
    height, width = sides
    return None if height is None or width is None else (height, width)


def _unpack(layout: str, data: bytes, at: int) -> Size:
    first, second = struct.unpack_from(layout, data, at)
    return first, second


def _swapped(size: Size) -> Size:
    return size[1], size[0]


def _numbers(match: re.Match[bytes] | None) -> Size | None:
    return None if match is None else (int(match[1]), int(match[2]))
