"""A split of BDD100K: images and annotation of all three tasks, behind ``datasets.split.Split``."""

import logging
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from lvad_perception.datasets.bdd100k.index import LabelTable, open_table
from lvad_perception.datasets.bdd100k.masks import (
    drivable_from_labels,
    exif_orientation,
    folder_reading,
    read_mask,
    semantic_from_labels,
)
from lvad_perception.datasets.bdd100k.palettes import Reading
from lvad_perception.datasets.bdd100k.sources import Note, choose_tables
from lvad_perception.datasets.bdd100k.tree import ImageFolder, find_sources, odd_masks
from lvad_perception.datasets.split import clip_boxes
from lvad_perception.errors import LabelError
from lvad_perception.types import Bool, Float32, Int32, Size, Truth, TruthBoxes, UInt8
from lvad_perception.vocabulary import TASKS

_LOG: Final = logging.getLogger(__name__)
_FROM_LABELS: Final = {"semantic": semantic_from_labels, "drivable": drivable_from_labels}


@dataclass(frozen=True, slots=True)
class MaskSource:
    """Mask images of one folder and file-name ending; ``reading``: whether palettes and grey RGB are ids or colours."""

    folder: str
    ending: str
    reading: Reading | None = None


@dataclass(frozen=True, slots=True, eq=False)
class TaskIndex:
    """Index of each frame's annotation for one task.

    Attributes:
        sources: mask folders and label tables, best first.
        which: int8 [F], index into ``sources``, -1 where the frame is not annotated.
        row: int32 [F], row of the label table; unused for mask folders.
    """

    sources: tuple[MaskSource | LabelTable, ...]
    which: npt.NDArray[np.int8]
    row: Int32


class Bdd100kSplit:
    """The images of one split in the order of their names, and their annotation by task.

    A frame is an image; a name that occurs in the 100k and in the 10k set is one frame with the annotations of both.
    A frame is annotated for

    * detection if it has an entry in a detection file. An entry without labels (missing, null or empty) is annotated
      and empty; a frame without an entry is not annotated.
    * semantic if it has a mask image, or an entry with at least one polygon or run-length label in a sem_seg label
      file.
    * drivable if it has a mask image, or an entry in a drivable label file or in a detection file that has drivable
      polygons anywhere (the release of 2018); an entry without such polygons is all background.

    Of several sources for a task, a frame uses the first that has it, in the order masks, colour maps, run lengths,
    polygons, detection files. Instances hold small arrays and memory-mapped tables; they pickle cheaply and may be
    shared between threads.

    Attributes:
        root: folder of the data set.
        name: of the split.
        tables: the label files that are used.
        notes: files that were skipped.
    """

    def __init__(
        self,
        root: Path,
        name: str,
        *,
        names: npt.NDArray[np.bytes_],
        image_parts: list[tuple[str, str]],
        image_part_of: Int32,
        tasks: dict[str, TaskIndex],
        tables: list[LabelTable],
        notes: tuple[Note, ...] = (),
    ) -> None:
        self.root = root
        self.name = name
        self.tables = tables
        self.notes = notes
        self._names = names
        self._image_parts = image_parts
        self._image_part_of = image_part_of
        self._tasks = tasks

    def __len__(self) -> int:
        return len(self._names)

    def name_of(self, i: int) -> str:
        """The frame's name: its image file without folder and suffix."""
        return os.fsdecode(bytes(self._names[i]))

    def image_path(self, i: int) -> Path:
        """The frame's image file."""
        folder, suffix = self._image_parts[self._image_part_of[i]]
        return Path(folder, self.name_of(i) + suffix)

    def attributes(self, i: int) -> dict[str, str]:
        """The attributes in the frame's label entry ("weather", "scene", "timeofday"); may be empty."""
        table, row = self._entry(i)
        return {} if table is None else table.attributes(row)

    def timestamp_ms(self, i: int) -> int | None:
        """Milliseconds since the start of the frame's video; None when not stated."""
        table, row = self._entry(i)
        return None if table is None else table.timestamp_ms(row)

    def annotated(self, i: int) -> frozenset[str]:
        """The tasks that the frame is annotated for: a subset of "detection", "semantic", "drivable"."""
        return frozenset(task for task, index in self._tasks.items() if index.which[i] >= 0)

    def annotated_for(self, task: str) -> Bool:
        """bool [F]: which frames are annotated for ``task``."""
        return self._tasks[task].which >= 0

    def mask_path(self, i: int, task: str) -> Path | None:
        """The mask image of "semantic" or "drivable"; None where the frame is not annotated or has shapes instead."""
        index = self._tasks[task]
        source = index.sources[index.which[i]] if index.which[i] >= 0 else None
        return Path(source.folder, self.name_of(i) + source.ending) if isinstance(source, MaskSource) else None

    def annotation_files(self, task: str) -> list[Path]:
        """The label files and mask images that the task's annotation is read from."""
        index = self._tasks[task]
        tables = [path for source in index.sources if isinstance(source, LabelTable) for path in source.files]
        masks = (self.mask_path(i, task) for i in range(len(self)))
        return [*tables, *(path for path in masks if path is not None)]

    def boxes(self, i: int, size_hw: Size) -> TruthBoxes | None:
        """The frame's objects, clipped to the image; None when it is not annotated for detection.

        Args:
            i: index of the frame.
            size_hw: size of the frame's image, which label files do not state. Boxes outside it are dropped.
        """
        raw = self.raw_boxes(i)
        return None if raw is None else clip_boxes(*raw, size_hw)

    def raw_boxes(self, i: int) -> tuple[Float32, Int32, Bool] | None:
        """Boxes as annotated, which may reach outside the image, as ``LabelTable.boxes``; None as in ``boxes``."""
        index = self._tasks["detection"]
        table = index.sources[index.which[i]] if index.which[i] >= 0 else None
        return table.boxes(int(index.row[i])) if isinstance(table, LabelTable) else None

    def semantic(self, i: int, size_hw: Size) -> UInt8 | None:
        """The semantic mask, uint8 [H, W]; None when not annotated. Raises LabelError as ``truth`` does."""
        return self._mask(i, "semantic", size_hw)

    def drivable(self, i: int, size_hw: Size) -> UInt8 | None:
        """The drivable mask, uint8 [H, W]; None when not annotated. Raises LabelError as ``truth`` does."""
        return self._mask(i, "drivable", size_hw)

    def truth(self, i: int, size_hw: Size) -> Truth:
        """All annotation of a frame.

        Args:
            i: index of the frame.
            size_hw: size of the frame's image.

        Raises:
            LabelError: a mask is unreadable, has another size than the image or unknown ids; a shape is malformed.
        """
        return Truth(size_hw, self.boxes(i, size_hw), self.semantic(i, size_hw), self.drivable(i, size_hw))

    def _mask(self, i: int, task: str, size_hw: Size) -> UInt8 | None:
        index = self._tasks[task]
        if index.which[i] < 0:
            return None
        source = index.sources[index.which[i]]
        if isinstance(source, LabelTable):
            labels = source.frame(int(index.row[i])).all_labels
            return _FROM_LABELS[task](labels, size_hw, source=f"{source.source}: {self.name_of(i)}")
        path = Path(source.folder, self.name_of(i) + source.ending)
        mask = read_mask(path, task, source.reading)
        if mask.shape != size_hw:
            orientation = exif_orientation(self.image_path(i)) if mask.shape == size_hw[::-1] else 1
            remedy = "give both the same size"
            if orientation > 1:
                remedy = (
                    f"the image's EXIF orientation {orientation}, which is not applied, turns it; turn its pixels, as "
                    "mogrify -auto-orient does"
                )
            raise LabelError(
                f"{path} is {mask.shape[1]}x{mask.shape[0]} and its image {size_hw[1]}x{size_hw[0]}; {remedy}"
            )
        return mask

    def _entry(self, i: int) -> tuple[LabelTable | None, int]:
        """The first label entry of the frame: that for detection, else of any other task; (None, -1) without one."""
        for index in self._tasks.values():
            source = index.sources[index.which[i]] if index.which[i] >= 0 else None
            if isinstance(source, LabelTable):
                return source, int(index.row[i])
        return None, -1


def open_split(
    root: Path, split: str, *, cache_dir: Path | None = None, report: Callable[[str], None] | None = None
) -> Bdd100kSplit:
    """Open a split of a folder in BDD100K's layout, of any release, with any of the three tasks.

    Label files are parsed once into a memory-mapped cache (see ``index``), which later runs and all processes share.
    Every skipped file is reported, see ``sources.choose_tables``.

    Args:
        root: the folder that holds images/ and labels/.
        split: name of its image folders; see ``find_splits``.
        cache_dir: folder for parsed labels; a folder in the user's cache directory when None.
        report: called with one line for every skipped file; a log warning, once per process, when None.

    Raises:
        DatasetError: no such folder or split, or nowhere to keep the cache.
        LabelError: a label file cannot be read as any known format.
    """
    sources = find_sources(root, split)
    names, image_parts, image_part_of = _join_images(sources.images)
    chosen = {
        task: choose_tables(paths, split, partial(open_table, cache_dir=cache_dir))
        for task, paths in sources.labels.items()
    }
    notes = [note for _, found in chosen.values() for note in found]
    notes += [Note(path, "compressed, so it is not read; unpack it") for path in sources.packed]
    tables = {task: used for task, (used, _) in chosen.items()}
    tasks = {}
    for task in TASKS:
        index = _TaskIndexBuilder(names)
        for folder in sources.masks.get(task, ()):
            has = np.fromiter((os.fsdecode(bytes(name)) in folder.names for name in names), np.bool_, len(names))
            paths = [Path(folder.path, name + folder.ending) for name in sorted(folder.names)]
            source = MaskSource(folder.path, folder.ending, folder_reading(paths, task))
            index.add(source, np.where(has, 0, -1).astype(np.int32))
        for table in tables[task]:
            rows = table.rows_of(names)
            if task == "semantic" and len(table):
                rows = np.where(table.has_shapes[rows], rows, -1).astype(np.int32)
            index.add(table, rows)
        if task == "drivable":
            for table in tables["detection"]:
                if table.has_drivable:
                    index.add(table, table.rows_of(names))
        tasks[task] = index.build()
    odd = [
        Note(Path(folder), f"masks are read from .png, not from {len(names)} others such as {names[0]}")
        for folder, names in odd_masks(root, split).items()
    ]
    for note in (*notes, *odd):  # not in Split.notes: data check itself lists all files of other endings
        (report or _warn_once)(f"{note.file}: {note.message}")
    return Bdd100kSplit(
        root,
        split,
        names=names,
        image_parts=image_parts,
        image_part_of=image_part_of,
        tasks=tasks,
        tables=[table for used in tables.values() for table in used],
        notes=tuple(notes),
    )


@cache
def _warn_once(line: str) -> None:
    _LOG.warning("%s", line)


def _join_images(folders: Iterable[ImageFolder]) -> tuple[npt.NDArray[np.bytes_], list[tuple[str, str]], Int32]:
    """Sorted frame names; the (folder, suffix) pairs that occur; the index of each frame's pair."""
    parts: dict[tuple[str, str], int] = {}
    part_of: dict[str, int] = {}
    for folder in folders:
        for name, file in sorted(folder.files.items()):
            part = (folder.path, file[len(name) :])
            part_of.setdefault(name, parts.setdefault(part, len(parts)))
    names = np.array([os.fsencode(name) for name in part_of], np.bytes_)
    order = np.argsort(names, kind="stable")
    return names[order], list(parts), np.array(list(part_of.values()), np.int32)[order]


class _TaskIndexBuilder:
    def __init__(self, names: npt.NDArray[np.bytes_]) -> None:
        self._sources: list[MaskSource | LabelTable] = []
        self._which = np.full(len(names), -1, np.int8)
        self._row = np.full(len(names), -1, np.int32)

    def add(self, source: MaskSource | LabelTable, rows: Int32) -> None:
        """Add a source of the frames where ``rows`` >= 0; frames that have a source already keep it."""
        new = (self._which < 0) & (rows >= 0)
        if new.any():
            self._which[new] = len(self._sources)
            self._row[new] = rows[new]
            self._sources.append(source)

    def build(self) -> TaskIndex:
        return TaskIndex(tuple(self._sources), self._which, self._row)
