"""Checks of single frames, read as training reads them: counts of their annotation, and problems."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from lvad_perception.datasets.bdd100k.masks import exif_orientation
from lvad_perception.datasets.split import Split
from lvad_perception.errors import ImageError, LabelError
from lvad_perception.media.images import jpeg_damage, read_image
from lvad_perception.types import Size, UInt8
from lvad_perception.vocabulary import TASKS, UNLABELED, Vocabulary
from lvad_training.data.check_problems import Problem

Int64 = npt.NDArray[np.int64]

_OUTSIDE_TOLERANCE_PX: Final = 1.0
_SPARSE_SHARE: Final = 0.05


@dataclass(slots=True)
class Counts:
    """Counts over frames.

    Attributes:
        vocabularies: the classes by task; BDD100K's for a task that is absent.
        images: number of frames.
        annotated: task -> annotated frames.
        boxes: int64 [C], boxes per detection class without crowds.
        crowds: crowd and ignored boxes.
        semantic_pixels: int64 [C + 1], pixels per semantic class, last unlabelled.
        drivable_pixels: int64 [C + 1], pixels per drivable class, last unlabelled.
    """

    vocabularies: Mapping[str, Vocabulary] = field(default_factory=lambda: TASKS)
    images: int = 0
    annotated: dict[str, int] = field(default_factory=lambda: dict.fromkeys(TASKS, 0))
    crowds: int = 0
    boxes: Int64 = field(init=False)
    semantic_pixels: Int64 = field(init=False)
    drivable_pixels: Int64 = field(init=False)

    def __post_init__(self) -> None:
        classes = {task: len(vocabulary.names) for task, vocabulary in {**TASKS, **self.vocabularies}.items()}
        self.boxes = np.zeros(classes["detection"], np.int64)
        self.semantic_pixels = np.zeros(classes["semantic"] + 1, np.int64)
        self.drivable_pixels = np.zeros(classes["drivable"] + 1, np.int64)

    def add(self, other: "Counts") -> None:
        """Add another part's counts to these."""
        self.images += other.images
        self.crowds += other.crowds
        for task, count in other.annotated.items():
            self.annotated[task] += count
        self.boxes += other.boxes
        self.semantic_pixels += other.semantic_pixels
        self.drivable_pixels += other.drivable_pixels


def check_frames(
    split: Split, frames: range, vocabularies: Mapping[str, Vocabulary] = TASKS
) -> tuple[Counts, list[Problem]]:
    """Count and check the frames of a range of indices; a missing image is not reported, its annotation is counted."""
    counts, problems = Counts(vocabularies), list[Problem]()
    for i in frames:
        problems += _check_frame(split, i, counts)
    return counts, problems


def _check_frame(split: Split, i: int, counts: Counts) -> Iterator[Problem]:
    """Read one frame as training does, and add to ``counts``."""
    annotated = split.annotated(i)
    counts.images += 1
    for task in annotated:
        counts.annotated[task] += 1
    path = split.image_path(i)
    if not path.is_file():
        return  # the checks of the whole data set report missing images together
    try:
        image = read_image(path)
    except ImageError as err:
        # Training never opens an image that has no annotation.
        yield Problem("error" if annotated else "warning", str(path), _without_file(err, path))
        return
    if (damage := jpeg_damage(path.read_bytes())) is not None:
        yield Problem("warning", str(path), f"damaged JPEG data ({damage}); part of the picture is wrong")
    size_hw = (image.shape[0], image.shape[1])
    if annotated and (orientation := exif_orientation(path)) > 1:
        message = (
            f"its EXIF orientation {orientation} is not applied, so labels have to be for the stored "
            f"{size_hw[1]}x{size_hw[0]} pixels; if they are not, rotate the pixels, as mogrify -auto-orient does"
        )
        yield Problem("warning", str(path), message)
    try:
        yield from _check_boxes(split, i, path, size_hw, counts)
    except LabelError as err:
        yield Problem("error", str(path), _without_file(err, path))
        return
    for task, read, pixels in (
        ("semantic", split.semantic, counts.semantic_pixels),
        ("drivable", split.drivable, counts.drivable_pixels),
    ):
        file = split.mask_path(i, task) or path
        try:
            mask = read(i, size_hw)
        except LabelError as err:
            yield Problem("error", str(file), _without_file(err, file))
            continue
        if mask is not None:
            pixels += _pixel_counts(mask, len(pixels) - 1)
            labelled = float((mask != UNLABELED).mean())
            if labelled < _SPARSE_SHARE:
                yield Problem(
                    "warning",
                    str(file),
                    f"only {100 * labelled:.1f} % of its pixels are labelled; is it a {task} mask, not one of lanes?",
                )


def _check_boxes(split: Split, i: int, path: Path, size_hw: Size, counts: Counts) -> Iterator[Problem]:
    raw, kept = split.raw_boxes(i), split.boxes(i, size_hw)
    if raw is None or kept is None:
        return
    counts.boxes += np.bincount(kept.labels[~kept.crowd], minlength=len(counts.boxes))
    counts.crowds += int(kept.crowd.sum())
    boxes = raw[0]
    limit = np.array([size_hw[1], size_hw[0]], np.float32)
    beyond = np.maximum(-boxes[:, :2], boxes[:, 2:] - limit).max(axis=1, initial=0.0)
    outside = beyond > _OUTSIDE_TOLERANCE_PX
    if outside.any():
        lost = len(boxes) - len(kept)
        what = f"clipped, {lost} left out as nothing of them is inside" if lost else "clipped"
        yield Problem(
            "warning",
            str(path),
            f"{outside.sum()} of {len(boxes)} boxes leave the image ({size_hw[1]}x{size_hw[0]}) by up to "
            f"{beyond.max():.1f} px; {what}",
        )


def _pixel_counts(mask: UInt8, classes: int) -> Int64:
    """int64 [classes + 1], unlabelled last."""
    counts = np.bincount(mask.ravel(), minlength=256)
    return np.append(counts[:classes], counts[UNLABELED])


def _without_file(err: Exception, file: Path) -> str:
    """The message without its leading file name, which the report prints already."""
    return str(err).removeprefix(f"{file} ")
