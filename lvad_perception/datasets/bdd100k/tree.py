"""The layout of a BDD100K folder: its splits, and each split's images, label files and mask folders."""

import itertools
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from lvad_perception.errors import DatasetError
from lvad_perception.media.images import IMAGE_SUFFIXES, is_image_name

# Folders of a task's annotation, best first: a frame uses the first source that has it.
_MASK_FOLDERS: Final = {
    "semantic": (
        ("labels/sem_seg/masks/{split}", (".png", "_train_id.png")),
        ("labels/sem_seg/colormaps/{split}", (".png", "_train_color.png")),
        ("seg/labels/{split}", ("_train_id.png", ".png")),
        ("seg/color_labels/{split}", ("_train_color.png",)),
    ),
    "drivable": (
        ("labels/drivable/masks/{split}", (".png", "_drivable_id.png")),
        ("labels/drivable/colormaps/{split}", (".png",)),
        ("drivable_maps/labels/{split}", ("_drivable_id.png", ".png")),
    ),
}
_LABEL_FOLDERS: Final = {
    "detection": ("labels/det_20", "labels"),
    "semantic": ("labels/sem_seg/rles", "labels/sem_seg/polygons"),
    "drivable": ("labels/drivable/rles", "labels/drivable/polygons"),
}
_DETECTION_FILE: Final = r"det_|bdd100k_labels_"
_FRAME_FOLDERS: Final = ("labels/det_20/{split}", "labels/100k/{split}")
_PUBLISHED: Final = r"(?:(?:det|det_20|det_v2|bdd100k_labels_images|sem_seg|drivable)_)?{split}(?:_release)?"
_COPY: Final = re.compile(
    r"\(\d+\)|~|(?<![^\W_])(?:copy|kopie|copie|copia|orig|original|backup|bak|old|prev|previous|saved?|before|tmp|temp)"
    r"(?![^\W_])",
    re.IGNORECASE,
)
_ODD_MASKS: Final = (".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".npy", ".npz")
_PACKED: Final = (".gz", ".bz2", ".xz", ".zst", ".zip", ".7z")


@dataclass(frozen=True, slots=True)
class ImageFolder:
    """The images of one set (100k, 10k, …).

    Attributes:
        path: the folder.
        files: frame name -> file name.
        shadowed: files that are not used, because another one has the same frame name.
    """

    path: str
    files: dict[str, str]
    shadowed: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class MaskFolder:
    """Mask images that share a folder and a file-name ending.

    Attributes:
        path: the folder.
        ending: a mask's file name is the frame name plus this.
        names: the frames that have a mask.
    """

    path: str
    ending: str
    names: frozenset[str]


@dataclass(frozen=True, slots=True)
class SplitSources:
    """All files of one split.

    Attributes:
        images: folders of images; a name that occurs in several sets is one frame, with the image of the first.
        masks: per task ("semantic", "drivable"), mask folders, best first.
        labels: per task, label files or folders of one file per frame, best first; "detection" sources may also carry
            drivable polygons (the release of 2018 does).
        packed: compressed label files without an unpacked version; they are not read.
    """

    images: tuple[ImageFolder, ...]
    masks: dict[str, tuple[MaskFolder, ...]]
    labels: dict[str, tuple[Path, ...]]
    packed: tuple[Path, ...] = ()


def find_splits(root: Path) -> list[str]:
    """Sorted names of the splits: the folders of images directly under images/, or one level below.

    Raises:
        DatasetError: ``root`` is not a BDD100K folder or holds no images.
    """
    folders = _image_folders(root)
    if not folders:
        raise DatasetError(
            f"{root} has no images under images/100k/<split>, images/10k/<split> or images/<split>; "
            "unpack BDD100K's images there"
        )
    return sorted({folder.name for folder in folders})


def find_sources(root: Path, split: str) -> SplitSources:
    """Find all files of a split.

    Raises:
        DatasetError: ``root`` is not a BDD100K folder, or it has no images for the split.
    """
    every = _image_folders(root)
    folders = [folder for folder in every if folder.name == split]
    if not folders:
        splits = find_splits(root)
        raise DatasetError(f"{root} has no split '{split}'; it has {', '.join(splits)}")
    images = tuple(_image_folder(folder) for folder in folders)
    masks = {task: tuple(_mask_folders(root, split, task)) for task in _MASK_FOLDERS}
    others = {folder.name for folder in every} - {split}
    labels = {
        task: tuple(
            path for path in _label_files(root, split, task) if not any(is_published(path, it) for it in others)
        )
        for task in _LABEL_FOLDERS
    }
    frame_folders = [path for pattern in _FRAME_FOLDERS if (path := root / pattern.format(split=split)).is_dir()]
    labels["detection"] += tuple(path for path in frame_folders if any(_is_json(name) for name in _files_in(path)))
    return SplitSources(images, masks, labels, tuple(sorted(_packed_labels(root, split))))


def _image_folder(folder: Path) -> ImageFolder:
    found = sorted(_images_in(folder), reverse=True)  # so that the dict keeps the first suffix: .jpg, not .png
    files = dict(found)
    shadowed = (
        frozenset(file for _, file in found).difference(files.values()) if len(files) < len(found) else frozenset()
    )
    return ImageFolder(str(folder), files, shadowed)


def is_published(path: Path, split: str) -> bool:
    """Whether a label file has a name that releases use for the split: ``det_train.json``, ``train.json``, …"""
    return re.fullmatch(_PUBLISHED.format(split=re.escape(split)), path.stem) is not None


def is_copy(path: Path, split: str) -> bool:
    """Whether a file is named as a copy: ``det_val-orig.json``, ``det_val (1).json``, ``old_det_val``."""
    return _COPY.search(path.stem.replace(split, "", 1)) is not None


def unused_labels(root: Path) -> list[Path]:
    """Label files and mask folders whose names match no split of the images, sorted."""
    splits = find_splits(root)
    labels = {path for path in _in_label_folders(root) if _is_json(path.name)}
    used = {path for split in splits for task in _LABEL_FOLDERS for path in _label_files(root, split, task)}
    masks = {
        folder
        for patterns in _MASK_FOLDERS.values()
        for pattern, _ in patterns
        for folder in (root / pattern).parent.glob("*/")
        if folder.is_dir() and folder.name not in splits
    }
    return sorted((labels - used) | masks)


def unread_files(root: Path, split: str) -> dict[str, list[str]]:
    """Folder of labels, masks or images -> sorted names of its files with an ending that is not read."""
    found = {str(folder): [path.name for path in files] for folder, files in _other_endings(root).items()}
    for folder, endings in _folders_of_masks(root, split):
        found[str(folder)] = [name for name in _files_in(folder) if not name.lower().endswith(endings)]
    for folder in _image_folders(root):
        if folder.name == split:
            found[str(folder)] = [name for name in _files_in(folder) if not name.lower().endswith(IMAGE_SUFFIXES)]
    return {folder: sorted(names) for folder, names in sorted(found.items()) if names}


def odd_masks(root: Path, split: str) -> dict[str, list[str]]:
    """Folder of masks -> sorted names of its files that look like masks but have an ending that is not read."""
    found = {
        str(folder): sorted(name for name in _files_in(folder) if name.lower().endswith(_ODD_MASKS))
        for folder, _ in _folders_of_masks(root, split)
    }
    return {folder: names for folder, names in found.items() if names}


def _folders_of_masks(root: Path, split: str) -> Iterator[tuple[Path, tuple[str, ...]]]:
    """The existing mask folders, each with the endings that are read."""
    for pattern, endings in itertools.chain.from_iterable(_MASK_FOLDERS.values()):
        if (folder := root / pattern.format(split=split)).is_dir():
            yield folder, endings


def _other_endings(root: Path) -> dict[Path, list[Path]]:
    """Folder of labels -> its files that are not JSON, without compressed ones, which ``_packed_labels`` reports."""
    found: dict[Path, list[Path]] = {}
    for path in _in_label_folders(root):
        if not _is_json(path.name) and path.suffix.lower() not in _PACKED:
            found.setdefault(path.parent, []).append(path)
    return found


def _in_label_folders(root: Path) -> Iterator[Path]:
    """The files in folders of label files; directly under labels/, only those named as detection files."""
    for folder in {root / name for names in _LABEL_FOLDERS.values() for name in names}:
        for name in _files_in(folder) if folder.is_dir() else ():
            if folder.name != "labels" or re.match(_DETECTION_FILE, name):
                yield folder / name


def _is_json(name: str) -> bool:
    return name.lower().endswith(".json")


def _image_folders(root: Path) -> list[Path]:
    """Folders that contain image files, at most two levels below images/, in the order 100k, 10k, others."""
    if not root.is_dir():
        raise DatasetError(f"{root} is not a folder; pass the folder that holds BDD100K's images/ and labels/")
    tops = [path for path in (root / "images", root / "seg" / "images") if path.is_dir()]
    if not tops:
        inner = sorted(path.parent for path in root.glob("*/images") if path.is_dir())
        hint = f"did you mean {inner[0]}?" if inner else "pass the folder that holds BDD100K's images/ and labels/"
        raise DatasetError(f"{root} has no folder images/; {hint}")
    found = []
    for top in tops:
        for folder in sorted(_folders_in(top), key=lambda path: (_set_rank(path.name), path.name)):
            candidates = [folder, *sorted(_folders_in(folder))]
            found += [path for path in candidates if next(_images_in(path), None)]
    return found


def _set_rank(name: str) -> int:
    return {"100k": 0, "10k": 1}.get(name, 2)


def _folders_in(folder: Path) -> list[Path]:
    with os.scandir(folder) as entries:
        return [Path(entry.path) for entry in entries if entry.is_dir() and not entry.name.startswith(".")]


def _files_in(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:
        return [entry.name for entry in entries if not entry.name.startswith(".") and not entry.is_dir()]


def _images_in(folder: Path) -> Iterator[tuple[str, str]]:
    """(frame name, file name) of each image."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if is_image_name(entry.name):
                yield entry.name.rpartition(".")[0], entry.name


def _mask_folders(root: Path, split: str, task: str) -> Iterator[MaskFolder]:
    for pattern, endings in _MASK_FOLDERS[task]:
        folder = root / pattern.format(split=split)
        if not folder.is_dir():
            continue
        names: dict[str, dict[str, list[str]]] = {ending: {} for ending in endings}  # ending -> spelling -> frames
        longest_first = sorted(endings, key=len, reverse=True)
        for file in _files_in(folder):
            ending = next((ending for ending in longest_first if file.lower().endswith(ending)), None)
            if ending:
                frame, spelling = file[: -len(ending)], file[-len(ending) :]
                names[ending].setdefault(spelling, []).append(frame)
        for ending in endings:
            for spelling in sorted(names[ending], reverse=True):  # ".png" before ".PNG"
                yield MaskFolder(str(folder), spelling, frozenset(names[ending][spelling]))


def _packed_labels(root: Path, split: str) -> Iterator[Path]:
    """Compressed label files with published names and without an unpacked version."""
    for folder in sorted({root / name for names in _LABEL_FOLDERS.values() for name in names}):
        names = set(_files_in(folder)) if folder.is_dir() else set()
        for name in names:
            inner = Path(name).stem
            unpacked = inner if _is_json(inner) else f"{inner}.json"
            if Path(name).suffix.lower() in _PACKED and unpacked not in names and is_published(Path(unpacked), split):
                yield folder / name


def _label_files(root: Path, split: str, task: str) -> Iterator[Path]:
    """JSON files that are named after the split, as ``det_train.json``, ``det_v2_train_release.json``, ``train.json``.

    In each folder, files with published names come first and files named as copies last. Directly under labels/, only
    detection files are used: ``det_*``, ``bdd100k_labels_*`` and ``<split>.json``.
    """
    # The split must be a whole word of the name ("val" does not match "interval"); its own name may contain "_".
    word = re.compile(rf"(?:^|[_\-. ]){re.escape(split)}(?:[_\-. (~]|$)")
    for folder in (root / part for part in _LABEL_FOLDERS[task]):
        if not folder.is_dir():
            continue
        files = [path for name in _files_in(folder) if _is_json(name) and word.search((path := folder / name).stem)]
        if folder.name == "labels":
            files = [path for path in files if re.match(_DETECTION_FILE, path.stem) or path.stem == split]
        yield from sorted(files, key=lambda path: (not is_published(path, split), is_copy(path, split), path.stem))
