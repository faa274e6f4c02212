"""A split of nuImages: its key frames and their annotation, behind ``datasets.split.Split``.

Every key frame of a camera is annotated for detection and semantic segmentation, possibly as empty. The semantic mask
is drawn in the devkit's order: surfaces, then objects by token, later ones on top; the remaining pixels are background.
nuImages has no drivable areas in BDD100K's sense (direct, alternative); its driveable surface is a semantic class.
"""

from pathlib import Path
from typing import Final

import numpy as np

from lvad_perception.datasets.nuimages.table import VersionTable, open_version
from lvad_perception.datasets.run_lengths import paint_rle
from lvad_perception.datasets.split import clip_boxes
from lvad_perception.errors import DatasetError, LabelError
from lvad_perception.types import Bool, Float32, Int32, Size, Truth, TruthBoxes, UInt8
from lvad_perception.vocabulary import BACKGROUND, NUIMAGES_SEMANTIC

VERSION: Final = "v1.0-"
_TASKS: Final = ("detection", "semantic")
_BACKGROUND: Final = NUIMAGES_SEMANTIC.index(BACKGROUND)


class NuImagesSplit:
    """The key frames of one version, or of some of its cameras, sorted by name. Pickles cheaply.

    Args:
        root: the folder with samples/ and the versions.
        name: "train" for v1.0-train.
        table: of the version.
        cameras: channels to select; all when empty.
    """

    def __init__(self, root: Path, name: str, table: VersionTable, cameras: tuple[str, ...] = ()) -> None:
        self.root = root
        self.name = name
        self.table = table
        self._rows = table.rows_of_cameras(cameras)

    def __len__(self) -> int:
        return len(self._rows)

    def name_of(self, i: int) -> str:
        """The frame's name: its image file without folder and suffix."""
        return self.table.name(self._rows[i])

    def image_path(self, i: int) -> Path:
        """The frame's image file."""
        return self.root / self.table.file(self._rows[i])

    def attributes(self, i: int) -> dict[str, str]:
        """ "camera" and "location" of the frame, where they are known."""
        return self.table.attributes(self._rows[i])

    def annotated(self, i: int) -> frozenset[str]:
        """The tasks that the frame is annotated for: detection and semantic, or none in the test version."""
        return frozenset(_TASKS if self.table.is_annotated else ())

    def annotated_for(self, task: str) -> Bool:
        """bool [F]: which frames are annotated for ``task``."""
        return np.full(len(self), self.table.is_annotated and task in _TASKS, np.bool_)

    def mask_path(self, i: int, task: str) -> Path | None:
        """None: the masks are run lengths in the tables."""
        return None

    def annotation_files(self, task: str) -> list[Path]:
        """The version's tables, for every task."""
        return self.table.files

    def raw_boxes(self, i: int) -> tuple[Float32, Int32, Bool] | None:
        """Boxes as annotated, which may reach outside the image, as ``VersionTable.boxes``; None as in ``boxes``."""
        return self.table.boxes(self._rows[i]) if self.table.is_annotated else None

    def boxes(self, i: int, size_hw: Size) -> TruthBoxes | None:
        """The frame's objects, clipped to the image; None when the version is not annotated.

        Args:
            i: index of the frame.
            size_hw: size of the frame's image.

        Raises:
            LabelError: the image's size differs from the tables'.
        """
        raw = self.raw_boxes(i)
        if raw is None:
            return None
        self._check_size(i, size_hw)
        return clip_boxes(*raw, size_hw)

    def semantic(self, i: int, size_hw: Size) -> UInt8 | None:
        """The semantic mask, uint8 [H, W]; None when the version is not annotated.

        Raises:
            LabelError: as ``truth``.
        """
        if not self.table.is_annotated:
            return None
        self._check_size(i, size_hw)
        columns = np.full(size_hw[0] * size_hw[1], _BACKGROUND, np.uint8)  # column by column, as run lengths are
        for label, rle, source in self.table.masks(self._rows[i]):
            if rle.size != size_hw:
                raise LabelError(
                    f"{source}: its mask is {rle.size[1]}x{rle.size[0]} and its image {size_hw[1]}x{size_hw[0]}; "
                    "unpack images and metadata of the same release"
                )
            try:
                paint_rle(columns, rle, label)
            except LabelError as err:
                raise LabelError(f"{source}: {err}; unpack the metadata again") from err
        return np.ascontiguousarray(columns.reshape(size_hw[1], size_hw[0]).T)

    def drivable(self, i: int, size_hw: Size) -> UInt8 | None:
        """None: nuImages has no drivable areas in BDD100K's sense."""
        return None

    def truth(self, i: int, size_hw: Size) -> Truth:
        """All annotation of a frame.

        Args:
            i: index of the frame.
            size_hw: size of the frame's image.

        Raises:
            DatasetError: a table changed since it was opened.
            LabelError: a mask is unreadable or has another size, or the image's size differs from the tables'.
        """
        return Truth(size_hw, self.boxes(i, size_hw), self.semantic(i, size_hw), None)

    def _check_size(self, i: int, size_hw: Size) -> None:
        stated = self.table.size_hw(self._rows[i])
        if size_hw != stated:
            raise LabelError(
                f"{self.image_path(i)} is {size_hw[1]}x{size_hw[0]} and sample_data states {stated[1]}x{stated[0]}, "
                "to which its boxes and masks refer; unpack nuImages' own images"
            )


def is_nuimages(root: Path) -> bool:
    """Whether a folder holds a version of nuImages, or of nuScenes, which ``find_splits`` refuses by name."""
    return any(root.glob(f"{VERSION}*/sample_data.json")) or any(root.glob(f"{VERSION}*/object_ann.json"))


def find_splits(root: Path) -> list[str]:
    """Sorted names of the versions in a folder, "train" for v1.0-train; versions of nuScenes are skipped.

    Raises:
        DatasetError: the folder holds nuScenes only.
    """
    folders = [path for path in root.glob(f"{VERSION}*/") if path.is_dir()]
    names = sorted(path.name.removeprefix(VERSION) for path in folders if not _is_nuscenes(path))
    if folders and not names:
        table = f"{folders[0].name}/{_nuscenes_tables(folders[0])[0]}"
        raise DatasetError(
            f"{root} holds nuScenes (there is {table}), whose boxes are in space and which has no masks; give "
            "nuImages, another download: nuimages-v1.0-all-metadata.tgz and -all-samples.tgz (or -mini.tgz)"
        )
    return names


def _is_nuscenes(folder: Path) -> bool:
    return bool(_nuscenes_tables(folder)) and not (folder / "object_ann.json").is_file()


def _nuscenes_tables(folder: Path) -> list[str]:
    """The tables in a version's folder that nuScenes has and nuImages lacks."""
    return [name for name in ("sample_annotation.json", "instance.json", "scene.json") if (folder / name).is_file()]


def open_split(
    root: Path, split: str, *, cameras: tuple[str, ...] = (), cache_dir: Path | None = None
) -> NuImagesSplit:
    """Open a version of nuImages. Its tables are parsed once into a memory-mapped cache, which all processes share.

    Args:
        root: the folder with samples/ and the versions.
        split: "train" for v1.0-train.
        cameras: channels to select, as "CAM_FRONT"; all when empty.
        cache_dir: folder for parsed tables; a folder in the user's cache directory when None.

    Raises:
        DatasetError: no such version or camera, or the cache cannot be written.
        LabelError: a table is missing or is not of the schema.
    """
    if split not in (names := find_splits(root)):
        raise DatasetError(f"{root} has no split '{split}'; it has {', '.join(names)}")
    table = open_version(root / f"{VERSION}{split}", cache_dir)
    if absent := [camera for camera in cameras if camera not in table.cameras]:
        known = ", ".join(sorted(filter(None, table.cameras))) or "none"
        raise DatasetError(f"{root}: split '{split}' has no camera {', '.join(absent)}; it has {known}")
    return NuImagesSplit(root, split, table, cameras)
