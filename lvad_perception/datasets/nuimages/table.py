"""Version tables: the key frames of one version of nuImages as cached, memory-mapped arrays."""

import binascii
from base64 import b64decode
from functools import partial
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from lvad_perception.datasets.cache import FileStat, load_arrays, open_cached, read_parts, stat_files
from lvad_perception.datasets.formats import JSON_ERRORS
from lvad_perception.datasets.nuimages.flatten import ANNOTATION_ARRAYS, FRAME_ARRAYS, TableProblems, read_version
from lvad_perception.datasets.nuimages.records import TABLES, table_file
from lvad_perception.datasets.run_lengths import Rle
from lvad_perception.errors import LabelError
from lvad_perception.types import Bool, Float32, Int32, Size
from lvad_perception.vocabulary import NUIMAGES_DETECTION

_FORMAT_VERSION: Final = 1
_KINDS: Final = ("object_ann", "surface_ann")
_ARRAYS: Final = (*FRAME_ARRAYS, *(f"{kind}.{key}" for kind in _KINDS for key in ANNOTATION_ARRAYS), "object_ann.boxes")


class _Mask(msgspec.Struct):
    """A mask in nuImages' JSON: COCO's compressed run lengths in base64; ``size`` is (height, width)."""

    size: tuple[int, int]
    counts: str


_decode_mask: Final = msgspec.json.Decoder(_Mask)


class VersionTable:
    """The key frames of a version, sorted by name, and their annotation. Pickles as a path and reopens.

    Attributes:
        folder: of the tables, ``v1.0-train``.
        problems: faults that reading tolerated.
    """

    def __init__(self, folder: Path, cached: Path) -> None:
        self.folder = folder
        self._cached = cached
        self._arrays, meta = load_arrays(cached, _ARRAYS)
        self._files: dict[str, FileStat] = {Path(item[0]).stem: tuple(item) for item in meta["files"]}
        self.cameras: list[str] = meta["cameras"]
        self._locations: list[str] = meta["locations"]
        self.problems = TableProblems(**meta["problems"])

    def __reduce__(self) -> tuple[type["VersionTable"], tuple[Path, Path]]:
        return VersionTable, (self.folder, self._cached)

    def __len__(self) -> int:
        return len(self._arrays["names"])

    @property
    def files(self) -> list[Path]:
        """The tables' files."""
        return [Path(path) for path, _, _ in self._files.values()]

    @property
    def is_annotated(self) -> bool:
        """Whether any frame has an object or a surface; the annotation tables of the test version are empty."""
        return any(len(self._arrays[f"{kind}.label"]) for kind in _KINDS)

    def name(self, row: int) -> str:
        """The frame's image file without folder and suffix."""
        return bytes(self._arrays["names"][row]).decode()

    def file(self, row: int) -> str:
        """The frame's image file relative to the data set's folder."""
        return bytes(self._arrays["files"][row]).decode()

    def size_hw(self, row: int) -> Size:
        """(height, width) that the tables state; (0, 0) where they state none."""
        height, width = self._arrays["size_hw"][row].tolist()
        return height, width

    def rows_of_cameras(self, cameras: tuple[str, ...]) -> Int32:
        """int32 [F]: rows of these cameras' frames, ascending; all rows for no cameras."""
        indices = [self.cameras.index(camera) for camera in cameras]
        every = np.ones(len(self), np.bool_)
        return np.flatnonzero(np.isin(self._arrays["camera"], indices) if cameras else every).astype(np.int32)

    def attributes(self, row: int) -> dict[str, str]:
        """ "camera" and "location", where they are known; a fresh dict."""
        attributes = {
            "camera": self.cameras[int(self._arrays["camera"][row])],
            "location": self._locations[int(self._arrays["location"][row])],
        }
        return {key: value for key, value in attributes.items() if value}

    def boxes(self, row: int) -> tuple[Float32, Int32, Bool]:
        """Boxes of visible objects as annotated, not clipped.

        Returns:
            float32 [N, 4] xyxy, continuous pixels; labels int32 [N]; crowd bool [N], always False in nuImages.
        """
        part = self._part("object_ann", row)
        boxes, labels = np.array(self._arrays["object_ann.boxes"][part]), self._arrays["object_ann.label"][part]
        keep = (labels < len(NUIMAGES_DETECTION.names)) & (self._arrays["object_ann.length"][part] > 0)
        keep &= (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
        return boxes[keep], labels[keep].astype(np.int32), np.zeros(int(keep.sum()), np.bool_)

    def masks(self, row: int) -> list[tuple[int, Rle, str]]:
        """(class id, run lengths, name for messages) of everything visible, in drawing order.

        Raises:
            DatasetError: a table changed since it was opened.
            LabelError: a table cannot be read, or a mask of the frame is not run lengths.
        """
        masks = []
        for kind in reversed(_KINDS):  # objects are drawn over surfaces
            part = self._part(kind, row)
            columns = [self._arrays[f"{kind}.{key}"][part].tolist() for key in ("label", "token", "offset", "length")]
            visible = [item for item in zip(*columns, strict=True) if item[3]]
            texts = read_parts(self._files[kind], [(offset, length) for _, _, offset, length in visible])
            for (label, token, _, _), text in zip(visible, texts, strict=True):
                source = f"{self._files[kind][0]}: {token.decode()} of {self.name(row)}"
                masks.append((label, _decode(text, source), source))
        return masks

    def _part(self, kind: str, row: int) -> slice:
        start, end = (int(value) for value in self._arrays[f"{kind}.start"][row : row + 2])
        return slice(start, end)


def open_version(folder: Path, cache_dir: Path | None = None) -> VersionTable:
    """Open the tables of a version; parse them where they are not cached.

    Args:
        folder: ``v1.0-train`` or another version.
        cache_dir: as for ``lvad_perception.machine.cache_folders``.

    Raises:
        LabelError: a table is missing or is not of the schema.
        DatasetError: no cache directory can be written.
    """
    folder = folder.resolve()
    missing = [path.name for name in TABLES if not (path := table_file(folder, name)).is_file()]
    if missing:
        raise LabelError(
            f"{folder} lacks {', '.join(missing)}; unpack nuimages-v1.0-all-metadata.tgz (or -mini.tgz) over it again"
        )
    files = stat_files(table_file(folder, name) for name in TABLES)
    return open_cached(
        "nuimages",
        folder,
        files,
        version=_FORMAT_VERSION,
        cache_dir=cache_dir,
        open_folder=partial(VersionTable, folder),
        read=lambda: read_version(folder, files),
    )


def _decode(text: bytes, source: str) -> Rle:
    try:
        mask = _decode_mask.decode(text)
        return Rle(b64decode(mask.counts, validate=True).decode("ascii"), mask.size)
    except (*JSON_ERRORS, binascii.Error) as err:
        raise LabelError(f"{source}: its mask is no run lengths in base64 ({err}); unpack the metadata again") from err
