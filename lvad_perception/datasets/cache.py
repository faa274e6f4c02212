"""A disk cache of arrays: parsed from large source files once, memory-mapped by every process.

A set of arrays is a folder of the cache directory. Its key is a hash of the sources' paths, sizes, modification times
and the version of its format. A set is written under a temporary name and then renamed, so that concurrent writers do
not disturb each other. A damaged set is never removed, since another process may be using it; a new one is written
beside it. Sets that were not opened for a month are removed.
"""

import hashlib
import json
import mmap
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np
import numpy.typing as npt

from lvad_perception.errors import DatasetError, LabelError
from lvad_perception.files import draft
from lvad_perception.machine import cache_folders

Arrays = dict[str, npt.NDArray[Any]]
Meta = dict[str, Any]
FileStat = tuple[str, int, int]
"""Path, size in bytes, and modification time in nanoseconds."""

Opened = TypeVar("Opened")

_STALE_AFTER_S: Final = 30 * 24 * 3600


def stat_files(paths: Iterable[Path]) -> list[FileStat]:
    """Path, size and modification time of each file. Raises LabelError when one is missing."""
    stats = []
    for path in paths:
        try:
            stat = path.stat()
        except OSError as err:
            raise LabelError(f"{path} cannot be read ({err.strerror}); check the path and its permissions") from err
        stats.append((str(path), stat.st_size, stat.st_mtime_ns))
    return stats


def open_cached(
    kind: str,
    source: Path,
    files: Sequence[FileStat],
    *,
    version: int,
    cache_dir: Path | None,
    open_folder: Callable[[Path], Opened],
    read: Callable[[], tuple[Arrays, Meta]],
) -> Opened:
    """Open the cached arrays of a source; parse the source where the cache has none that match its files.

    Args:
        kind: subfolder of the cache.
        source: file or folder that is parsed; stale sets of the same source are removed.
        files: every file of the source.
        version: of the arrays' format.
        cache_dir: as for ``cache_folders``.
        open_folder: opens a set; raises as ``load_arrays`` does where it is missing or damaged.
        read: parses the source; returns the arrays and the metadata to store as JSON beside them.

    Raises:
        LabelError: the source cannot be read.
        DatasetError: no cache directory can be written.
    """
    key = hashlib.sha256(repr((version, list(files))).encode()).hexdigest()[:16]
    family = hashlib.sha256(os.fsencode(source)).hexdigest()[:16]
    folders = [folder / kind / f"{family}-{key}" for folder in cache_folders(cache_dir)]
    for folder in folders:
        for candidate in (folder, *sorted(folder.parent.glob(f"{folder.name}-*"))):
            if (opened := _try_open(open_folder, candidate)) is not None:
                return opened
    arrays, meta = read()
    for folder in folders:
        try:
            opened = _write(folder, arrays, meta, open_folder)
        except OSError:
            continue
        _remove_stale(folder.parent, family)
        return opened
    raise DatasetError(f"the label cache cannot be written to {folders[-1].parent}; pass a cache directory with space")


def load_arrays(folder: Path, names: Iterable[str]) -> tuple[Arrays, Meta]:
    """The memory-mapped arrays of a set, and its metadata.

    Raises:
        OSError, EOFError, ValueError, KeyError, TypeError: the set is missing or damaged.
    """
    meta = json.loads((folder / "meta.json").read_text())
    return {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in names}, meta


def map_source(file: Path) -> mmap.mmap:
    """Memory-map a source file. Raises LabelError when it is missing or empty."""
    try:
        with file.open("rb") as stream:
            return mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    except ValueError as err:
        raise LabelError(f"{file} is empty; download it again") from err
    except OSError as err:
        raise LabelError(f"{file} cannot be read ({err.strerror}); check the path and its permissions") from err


def address(buffer: Any) -> int:
    """Memory address of a buffer: views of one mapped file differ by as much as their offsets in the file."""
    return int(np.frombuffer(buffer, np.uint8).ctypes.data)


def read_parts(file: FileStat, parts: Iterable[tuple[int, int]]) -> list[bytes]:
    """Read parts of a source file, each given as (offset, length) in bytes.

    Raises:
        DatasetError: the file changed since its arrays were opened.
        LabelError: it cannot be read.
    """
    path, size, mtime_ns = file
    try:
        with Path(path).open("rb") as stream:
            stat = os.fstat(stream.fileno())
            if (stat.st_size, stat.st_mtime_ns) != (size, mtime_ns):
                raise DatasetError(f"{path} changed while the data set was open; start again")
            return [os.pread(stream.fileno(), length, offset) for offset, length in parts]
    except OSError as err:
        raise LabelError(f"{path} cannot be read ({err.strerror}); check the path and its permissions") from err


def _try_open(open_folder: Callable[[Path], Opened], folder: Path) -> Opened | None:
    try:
        opened = open_folder(folder)
    except (OSError, EOFError, ValueError, KeyError, TypeError):
        return None  # missing, or damaged by a full disk or a clean-up
    with suppress(OSError):
        os.utime(folder)  # mark it as used, for _remove_stale
    return opened


def _write(folder: Path, arrays: Arrays, meta: Meta, open_folder: Callable[[Path], Opened]) -> Opened:
    """Write a set, under another name where a damaged one is; open the one that another process wrote meanwhile."""
    exists = folder.exists()  # before opening: a set that another process writes in between is not damaged
    if (opened := _try_open(open_folder, folder)) is not None:
        return opened
    if exists:
        folder = folder.with_name(f"{folder.name}-{uuid.uuid4().hex[:8]}")
    try:
        with draft(folder) as own:
            own.mkdir()
            for name, values in arrays.items():
                np.save(own / f"{name}.npy", values)
            (own / "meta.json").write_text(json.dumps(meta))
    except OSError:
        if (opened := _try_open(open_folder, folder)) is not None:  # another process was faster
            return opened
        raise
    return open_folder(folder)


def _remove_stale(folder: Path, family: str) -> None:
    """Remove sets of a source that were not opened for a month."""
    for other in folder.glob(f"{family}-*"):
        try:
            stale = time.time() - other.stat().st_mtime > _STALE_AFTER_S
        except OSError:
            continue
        if stale:
            shutil.rmtree(other, ignore_errors=True)
