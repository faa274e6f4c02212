"""Arrays that are made from large source files once, kept on disk, and memory-mapped by every process that reads them.

A set of arrays lives in the cache directory under a key made of its sources' paths, sizes, modification times and the
version of its format. It is written beside its place and renamed, so that concurrent writers cannot disturb each other.
Nobody removes a set that somebody may be using: one that is damaged stays, and another is made beside it. What was not
opened for a month goes.
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
from lvad_perception.machine import cache_places

Arrays = dict[str, npt.NDArray[Any]]
Meta = dict[str, Any]
FileStat = tuple[str, int, int]
"""Path, size in bytes, and modification time in nanoseconds."""

Opened = TypeVar("Opened")

_STALE_AFTER_S: Final = 30 * 24 * 3600


def stat_files(paths: Iterable[Path]) -> list[FileStat]:
    """What tells one state of the files from another. Raises LabelError when one is not there."""
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
    """Open what the cache has of a source; make it when there is nothing that fits.

    Args:
        kind: folder of the cache.
        source: what the arrays are made from; older sets of the same source are removed once they are stale.
        files: every file of the source.
        version: of the arrays' format.
        cache_dir: as for ``cache_places``.
        open_folder: opens a set; raises what ``load_arrays`` raises where there is none or it is damaged.
        read: makes the arrays, and what is kept as JSON beside them.

    Raises:
        LabelError: the source cannot be read.
        DatasetError: no cache directory can be written.
    """
    key = hashlib.sha256(repr((version, list(files))).encode()).hexdigest()[:16]
    family = hashlib.sha256(os.fsencode(source)).hexdigest()[:16]
    places = [place / kind / f"{family}-{key}" for place in cache_places(cache_dir)]
    for place in places:
        for folder in (place, *sorted(place.parent.glob(f"{place.name}-*"))):
            if (found := _try_open(open_folder, folder)) is not None:
                return found
    arrays, meta = read()
    for place in places:
        try:
            found = _write(place, arrays, meta, open_folder)
        except OSError:
            continue
        _remove_stale(place.parent, family)
        return found
    raise DatasetError(f"the label cache cannot be written to {places[-1].parent}; pass a cache directory with space")


def load_arrays(folder: Path, names: Iterable[str]) -> tuple[Arrays, Meta]:
    """The arrays of a set, memory-mapped, and what is beside them.

    Raises:
        OSError, EOFError, ValueError, KeyError, TypeError: there is no whole set.
    """
    meta = json.loads((folder / "meta.json").read_text())
    return {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in names}, meta


def map_source(file: Path) -> mmap.mmap:
    """A source file as bytes that are read when they are looked at. Raises LabelError when it is absent or empty."""
    try:
        with file.open("rb") as stream:
            return mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    except ValueError as err:
        raise LabelError(f"{file} is empty; download it again") from err
    except OSError as err:
        raise LabelError(f"{file} cannot be read ({err.strerror}); check the path and its permissions") from err


def address(buffer: Any) -> int:
    """Where a buffer lies in memory: the difference of two views of a mapped file is that of their offsets."""
    return int(np.frombuffer(buffer, np.uint8).ctypes.data)


def read_parts(file: FileStat, parts: Iterable[tuple[int, int]]) -> list[bytes]:
    """Parts of a source file, each (offset, length) in bytes.

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
        found = open_folder(folder)
    except (OSError, EOFError, ValueError, KeyError, TypeError):
        return None  # absent, or damaged by a full disk or a clean-up: another is made
    with suppress(OSError):
        os.utime(folder)  # it is in use
    return found


def _write(place: Path, arrays: Arrays, meta: Meta, open_folder: Callable[[Path], Opened]) -> Opened:
    """Write a set, beside a damaged one under another name; one that somebody else has just written is taken."""
    taken = place.exists()  # before it is opened: what somebody else writes in between is no damaged set
    if (found := _try_open(open_folder, place)) is not None:
        return found
    folder = place.with_name(f"{place.name}-{uuid.uuid4().hex[:8]}") if taken else place
    try:
        with draft(folder) as own:
            own.mkdir()
            for name, values in arrays.items():
                np.save(own / f"{name}.npy", values)
            (own / "meta.json").write_text(json.dumps(meta))
    except OSError:
        if (found := _try_open(open_folder, folder)) is not None:  # somebody else was as fast
            return found
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
