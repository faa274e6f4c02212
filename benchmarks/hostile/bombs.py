"""Small inputs that expand to a huge size: 65,500 pixels a side, compressed zeros, lengths of gigabytes."""

import io
import struct
import zipfile
import zlib
from typing import Final

from lvad_perception.bags.compression import zstd_module

SIDE: Final = 65_500
"""The longest side of a JPEG that libjpeg reads."""
ZEROS: Final = 64 << 20
"""Bytes that a compressed bomb really expands to; its header may declare more."""


def png(side: int = SIDE) -> bytes:
    """A grey PNG of ``side`` times ``side`` pixels with data for the first 64 million."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    rows = zlib.compress(bytes(ZEROS), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def jpeg(valid: bytes, side: int = SIDE) -> bytes:
    """A JPEG whose frame header declares ``side`` times ``side`` pixels."""
    for marker in (b"\xff\xc0", b"\xff\xc1", b"\xff\xc2"):
        place = valid.find(marker)
        if place >= 0:
            return valid[: place + 5] + struct.pack(">HH", side, side) + valid[place + 9 :]
    raise ValueError("no frame header in this JPEG")


def mcap(compression: str = "zstd", declared: int = 1 << 40) -> bytes:
    """An MCAP file with one chunk of compressed zeros that declares ``declared`` bytes."""
    if compression == "zstd":
        packed = zstd_module().compress(bytes(ZEROS))
    else:
        import lz4.frame

        packed = lz4.frame.compress(bytes(ZEROS))

    def record(code: int, content: bytes) -> bytes:
        return struct.pack("<BQ", code, len(content)) + content

    def text(value: str) -> bytes:
        return struct.pack("<I", len(value)) + value.encode()

    chunk = struct.pack("<QQQI", 0, 1, declared, 0) + text(compression) + struct.pack("<Q", len(packed)) + packed
    header, end = record(1, text("ros2") + text("hostile")), record(2, struct.pack("<QQI", 0, 0, 0))
    magic = b"\x89MCAP0\r\n"
    return magic + header + record(6, chunk) + record(15, struct.pack("<I", 0)) + end + magic


def checkpoint(valid: bytes) -> bytes:
    """A checkpoint with a storage of compressed zeros put in place of its first tensor."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(valid)) as old, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, bytes(ZEROS) if name.endswith("/data/0") else old.read(name))
    return out.getvalue()
