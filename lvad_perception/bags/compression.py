"""Decompression of parts of bags in bounded memory, against files that expand to any size."""

import shutil
import sys
from pathlib import Path
from typing import Any, Final

from lvad_perception.errors import LvadError

LARGEST: Final = 256 << 20
"""Maximum bytes of an MCAP chunk or a message; several times the largest camera image."""

ZSTD_MAGIC: Final = b"\x28\xb5\x2f\xfd"
_LZ4_RATIO: Final = 256
"""LZ4's format compresses at most 255 to 1."""
_FILE_RATIO: Final = 1000
_LEAST_FREE: Final = 256 << 20
_BLOCK: Final = 1 << 20


class DamagedError(LvadError):
    """A part of a bag cannot be read. The text is a clause; the caller adds which part.

    Attributes:
        remedy: what to do; empty where the general remedy against damage applies.
    """

    def __init__(self, reason: str, *, remedy: str = "") -> None:
        super().__init__(reason)
        self.remedy = remedy


def expand(data: bytes, compression: str, *, size: int | None = None) -> bytes:
    """Decompress a chunk or a message.

    Args:
        data: one frame of zstd or LZ4.
        compression: "zstd", "lz4" or "" for none, as MCAP spells them.
        size: bytes after decompression; None for any number up to ``LARGEST``.

    Raises:
        DamagedError: it is damaged, or expands to more than ``size`` or ``LARGEST``.
    """
    limit = LARGEST if size is None else size
    if limit > LARGEST:
        raise DamagedError(f"it states a size of {limit:,} bytes, and more than {LARGEST:,} are refused")
    if compression == "":
        raw = data
    elif compression == "zstd":
        raw = _expanded(zstd_module().ZstdDecompressor(), data, limit)
    elif compression == "lz4":
        from lz4.frame import LZ4FrameDecompressor  # type: ignore[import-untyped]

        if size is None:
            limit = min(limit, _LZ4_RATIO * len(data))
        elif size > _LZ4_RATIO * len(data):
            raise DamagedError(f"it states a size of {size:,} bytes, to which {len(data):,} of LZ4 cannot expand")
        raw = _expanded(LZ4FrameDecompressor(), data, limit)
    else:
        raise DamagedError(f"its compression {compression!r} is unknown")
    if size is not None and len(raw) != size:
        raise DamagedError(f"it has {len(raw):,} bytes instead of {size:,}")
    return raw


def expand_file(path: Path, folder: Path) -> Path:
    """Decompress a zstd file into a folder, under its name without the last suffix.

    Raises:
        DamagedError: it is damaged, expands to a thousand times its size, or would fill the disk.
        OSError: a file cannot be read or written.
    """
    target, written = folder / path.stem, 0
    limit = _FILE_RATIO * path.stat().st_size + LARGEST
    zstd = zstd_module()
    with target.open("wb") as out, zstd.open(path, "rb") as stream:
        while True:
            try:
                block = stream.read(_BLOCK)
            except (EOFError, zstd.ZstdError) as err:
                raise DamagedError(f"{path.name} is a damaged zstd file: {err}".rstrip(".")) from err
            if not block:
                return target
            written += len(block)
            if written > limit:
                raise DamagedError(
                    f"{path.name} expands to more than {_FILE_RATIO} times its size, which no recording does",
                    remedy="decompress it yourself, with zstd -d, if you trust where it comes from",
                )
            if shutil.disk_usage(folder).free < _LEAST_FREE:
                raise DamagedError(
                    f"{path.name} does not fit into {folder.parent} when it is decompressed",
                    remedy="set TMPDIR to a folder with more space",
                )
            out.write(block)


def _expanded(decompressor: Any, data: bytes, limit: int) -> bytes:
    """Decompress one frame through the common interface of the decompressors of zstd and LZ4."""
    try:
        raw: bytes = decompressor.decompress(data, max_length=limit + 1)
    except (RuntimeError, ValueError, EOFError, MemoryError, zstd_module().ZstdError) as err:
        raise DamagedError(f"it cannot be decompressed: {err}".rstrip(".")) from err
    if len(raw) > limit:
        raise DamagedError(f"it expands to more than the allowed {limit:,} bytes")
    if not decompressor.eof:
        raise DamagedError("its compressed data ends too early")
    return raw


def zstd_module() -> Any:
    """The standard library's zstd module from Python 3.14 on, before that its backport, which rosbags requires."""
    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        from backports import zstd
    return zstd
