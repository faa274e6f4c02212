"""Label tables: label files as cached flat arrays, memory-mapped by every process.

One table holds one label file, or one folder of per-frame files: frames sorted by name, their boxes in one array, and
the position of each frame's JSON in the source, so that polygons and run lengths are decoded on demand.
"""

from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from lvad_perception.datasets.bdd100k.flatten import LabelProblems, read_source
from lvad_perception.datasets.bdd100k.labels import Frame, decode_frame, files_of
from lvad_perception.datasets.cache import FileStat, load_arrays, open_cached, read_parts, stat_files
from lvad_perception.errors import LabelError
from lvad_perception.types import Bool, Float32, Int32
from lvad_perception.vocabulary import DETECTION

_FORMAT_VERSION: Final = 2
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
    """The memory-mapped labels of one source. Rows are frames, sorted by name. Pickles as a path and reopens.

    Attributes:
        source: the label file or folder.
        has_drivable: whether any frame has drivable polygons or run lengths; if so, every frame is annotated for it.
        problems: faults that reading tolerated.
    """

    def __init__(self, source: Path, folder: Path) -> None:
        self.source = source
        self._folder = folder
        self._arrays, meta = load_arrays(folder, _ARRAYS)
        self._files: list[FileStat] = [tuple(item) for item in meta["files"]]
        self._attributes: list[dict[str, str]] = meta["attributes"]
        self.has_drivable: bool = meta["has_drivable"]
        self.problems = LabelProblems(**meta["problems"])

    def __reduce__(self) -> tuple[type["LabelTable"], tuple[Path, Path]]:
        return LabelTable, (self.source, self._folder)

    def __len__(self) -> int:
        return len(self._arrays["names"])

    @property
    def files(self) -> list[Path]:
        """The source's files."""
        return [Path(path) for path, _, _ in self._files]

    @property
    def names(self) -> npt.NDArray[np.bytes_]:
        """Frame names, UTF-8, sorted."""
        return self._arrays["names"]

    @property
    def has_shapes(self) -> Bool:
        """bool [F]: the frame has at least one polygon or run-length label."""
        return self._arrays["shapes"]

    def rows_of(self, names: npt.NDArray[np.bytes_]) -> Int32:
        """Row of each name, -1 where the table lacks it; int32, shaped as ``names``."""
        own = self.names
        if not len(own):
            return np.full(len(names), -1, np.int32)
        rows = np.minimum(np.searchsorted(own, names), len(own) - 1)
        return np.where(own[rows] == names, rows, -1).astype(np.int32)

    def boxes(self, row: int) -> tuple[Float32, Int32, Bool]:
        """Boxes as annotated, not clipped: float32 [N, 4] xyxy, continuous pixels; labels int32 [N]; crowd bool [N]."""
        start, end = (int(value) for value in self._arrays["box_start"][row : row + 2])
        return (
            np.array(self._arrays["boxes"][start:end]),
            self._arrays["labels"][start:end].astype(np.int32),
            np.array(self._arrays["crowd"][start:end]),
        )

    def class_counts(self) -> npt.NDArray[np.int64]:
        """Boxes per class, including crowds, int64 [10]."""
        return np.bincount(self._arrays["labels"], minlength=len(DETECTION.names))

    def attributes(self, row: int) -> dict[str, str]:
        """The frame's attributes; a fresh dict."""
        return dict(self._attributes[int(self._arrays["attribute"][row])])

    def timestamp_ms(self, row: int) -> int | None:
        """Milliseconds since the start of the video; None when not stated."""
        value = int(self._arrays["timestamp"][row])
        return None if value < 0 else value

    def frame(self, row: int) -> Frame:
        """The frame's complete entry, read and decoded from the source.

        Raises:
            DatasetError: the source changed since the table was opened.
            LabelError: the source cannot be read.
        """
        file = self._files[int(self._arrays["file"][row])]
        part = (int(self._arrays["offset"][row]), int(self._arrays["length"][row]))
        (data,) = read_parts(file, [part])
        return decode_frame(data, source=f"{file[0]}: {self.names[row].decode()}")


def open_table(source: Path, cache_dir: Path | None = None) -> LabelTable:
    """Open the table of a label file or of a folder of per-frame files; parse the source where it is not cached.

    Args:
        source: a label JSON, or a folder of them.
        cache_dir: as for ``machine.cache_folders``.

    Raises:
        LabelError: the source cannot be read as labels.
        DatasetError: no cache directory can be written.
    """
    source = source.resolve()
    files = _stat_files(source)
    return open_cached(
        "labels",
        source,
        files,
        version=_FORMAT_VERSION,
        cache_dir=cache_dir,
        open_folder=partial(LabelTable, source),
        read=lambda: read_source(source, files),
    )


def _stat_files(source: Path) -> list[FileStat]:
    """Every file of a source, sorted."""
    try:
        paths = files_of(source)
    except OSError as err:
        raise LabelError(f"{source} cannot be read ({err.strerror}); check the path and its permissions") from err
    return stat_files(paths)
