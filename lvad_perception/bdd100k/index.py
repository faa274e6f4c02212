"""Label files -> flat arrays on disk, written once and memory-mapped by every process that reads the data set.

One *table* holds what one label file (or folder of per-frame files) says: frames sorted by name, their boxes in one
long array, and where in the source each frame's JSON lies, so that polygons and run lengths are decoded only when they
are asked for. A table lives in the cache directory under a key made of the source's path, size, modification time and
the format version; it is written beside its place and renamed, so that concurrent writers cannot disturb each other.
"""

import hashlib
import json
import os
import shutil
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from lvad_perception.bdd100k.flatten import Problems, read_source
from lvad_perception.bdd100k.labels import Frame, decode_frame
from lvad_perception.errors import DatasetError, LabelError
from lvad_perception.types import Bool, Float32, Int32
from lvad_perception.vocabulary import DETECTION

_FORMAT_VERSION: Final = 1
_STALE_AFTER_S: Final = 30 * 24 * 3600
_ARRAYS: Final = (
    "names",
    "box_start",
    "boxes",
    "labels",
    "crowd",
    "attribute",
    "timestamp",
    "file",
    "offset",
    "length",
    "shapes",
)


class LabelTable:
    """One source's labels, memory-mapped. Rows are frames, sorted by name. Pickles as a path and reopens.

    Attributes:
        source: the label file or folder.
        has_drivable: whether any frame has drivable polygons or run lengths: then every frame is annotated for it.
        problems: what was tolerated.
    """

    def __init__(self, source: Path, folder: Path) -> None:
        self.source = source
        self._folder = folder
        meta = json.loads((folder / "meta.json").read_text())
        self._files: list[tuple[str, int, int]] = [tuple(item) for item in meta["files"]]
        self._attributes: list[dict[str, str]] = meta["attributes"]
        self.has_drivable: bool = meta["has_drivable"]
        self.problems = Problems(**meta["problems"])
        self._arrays: dict[str, npt.NDArray[Any]] = {
            name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in _ARRAYS
        }

    def __reduce__(self) -> tuple[type["LabelTable"], tuple[Path, Path]]:
        return LabelTable, (self.source, self._folder)

    def __len__(self) -> int:
        return len(self._arrays["names"])

    @property
    def names(self) -> npt.NDArray[np.bytes_]:
        """Frame names, UTF-8, sorted."""
        return self._arrays["names"]

    @property
    def has_shapes(self) -> Bool:
        """bool [F]: the frame has at least one polygon or run-length label."""
        return self._arrays["shapes"]

    def rows_of(self, names: npt.NDArray[np.bytes_]) -> Int32:
        """Row of each name, -1 where the table has none; int32, shaped as ``names``."""
        own = self.names
        if not len(own):
            return np.full(len(names), -1, np.int32)
        at = np.minimum(np.searchsorted(own, names), len(own) - 1)
        return np.where(own[at] == names, at, -1).astype(np.int32)

    def boxes(self, row: int) -> tuple[Float32, Int32, Bool]:
        """Boxes as annotated, not clipped: float32 [N, 4] xyxy, continuous pixels; labels int32 [N]; crowd bool [N]."""
        start, end = (int(value) for value in self._arrays["box_start"][row : row + 2])
        return (
            np.array(self._arrays["boxes"][start:end]),
            self._arrays["labels"][start:end].astype(np.int32),
            np.array(self._arrays["crowd"][start:end]),
        )

    def class_counts(self) -> npt.NDArray[np.int64]:
        """Boxes per class, crowds included, int64 [10]."""
        return np.bincount(self._arrays["labels"], minlength=len(DETECTION.names))

    def attributes(self, row: int) -> dict[str, str]:
        """The frame's attributes; a fresh dict."""
        return dict(self._attributes[int(self._arrays["attribute"][row])])

    def timestamp_ms(self, row: int) -> int | None:
        """Milliseconds since the video's start, None when not stated."""
        value = int(self._arrays["timestamp"][row])
        return None if value < 0 else value

    def frame(self, row: int) -> Frame:
        """The frame's whole entry, read and decoded anew from the source.

        Raises:
            DatasetError: the source changed since the table was opened.
            LabelError: the source cannot be read.
        """
        path, size, mtime_ns = self._files[int(self._arrays["file"][row])]
        try:
            with Path(path).open("rb") as stream:
                stat = os.fstat(stream.fileno())
                if (stat.st_size, stat.st_mtime_ns) != (size, mtime_ns):
                    raise DatasetError(f"{path} changed while the data set was open; start again")
                stream.seek(int(self._arrays["offset"][row]))
                data = stream.read(int(self._arrays["length"][row]))
        except OSError as err:
            raise LabelError(f"{path} cannot be read ({err.strerror}); check the path and its permissions") from err
        return decode_frame(data, source=f"{path}: {self.names[row].decode()}")


def open_table(source: Path, cache_dir: Path | None = None) -> LabelTable:
    """Open the table of a label file or of a folder of per-frame files; make it when the cache has none that fits.

    Args:
        source: a label JSON, or a folder of them.
        cache_dir: where tables are kept; ``$XDG_CACHE_HOME/lvad`` (``~/.cache/lvad``) when None, or the system's
            temporary directory where that cannot be written.

    Raises:
        LabelError: the source cannot be read as labels.
        DatasetError: no cache directory can be written.
    """
    source = source.resolve()
    files = _stat_files(source)
    key = hashlib.sha256(repr((_FORMAT_VERSION, files)).encode()).hexdigest()[:16]
    family = hashlib.sha256(os.fsencode(source)).hexdigest()[:16]
    folders = [place / "labels" / f"{family}-{key}" for place in cache_places(cache_dir)]
    for folder in folders:
        if (table := _try_open(source, folder)) is not None:
            return table
    arrays, meta = read_source(source, files)
    for folder in folders:
        try:
            _write(folder, arrays, meta)
        except OSError:
            continue
        _remove_stale(folder, family)
        return LabelTable(source, folder)
    raise DatasetError(f"the label cache cannot be written to {folders[-1].parent}; pass a cache directory with space")


def cache_places(cache_dir: Path | None) -> list[Path]:
    """Directories to keep tables in, best first."""
    if cache_dir is not None:
        return [cache_dir]
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return [home / "lvad", Path(tempfile.gettempdir(), f"lvad-{os.getuid()}")]


def _stat_files(source: Path) -> list[tuple[str, int, int]]:
    """(path, size, modification time) of every file of a source, sorted."""
    try:
        paths = sorted(source.glob("*.json")) if source.is_dir() else [source]
        stats = [(str(path), path.stat()) for path in paths]
    except OSError as err:
        raise LabelError(f"{source} cannot be read ({err.strerror}); check the path and its permissions") from err
    return [(path, stat.st_size, stat.st_mtime_ns) for path, stat in stats]


def _try_open(source: Path, folder: Path) -> LabelTable | None:
    try:
        return LabelTable(source, folder)
    except (OSError, EOFError, ValueError, KeyError, TypeError):
        return None  # absent, or damaged by a full disk or a clean-up: made anew


def _write(folder: Path, arrays: dict[str, npt.NDArray[Any]], meta: dict[str, Any]) -> None:
    """Write a table beside its place, then rename it there; a concurrent writer of the same table may win."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}")
    draft.mkdir()
    try:
        for name, values in arrays.items():
            np.save(draft / f"{name}.npy", values)
        (draft / "meta.json").write_text(json.dumps(meta))
        if folder.exists() and _try_open(Path(meta["source"]), folder) is None:
            shutil.rmtree(folder, ignore_errors=True)
        try:
            draft.rename(folder)
        except OSError:
            if _try_open(Path(meta["source"]), folder) is None:
                raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _remove_stale(folder: Path, family: str) -> None:
    """Remove tables of earlier versions of the same source, except recent ones, which a running job may still use."""
    for other in folder.parent.glob(f"{family}-*"):
        try:
            stale = other != folder and time.time() - other.stat().st_mtime > _STALE_AFTER_S
        except OSError:
            continue
        if stale:
            shutil.rmtree(other, ignore_errors=True)
