"""How many pseudo labels there are, and how good they are where the truth is known.

The truth of a pseudo-labelled image may exist: an experiment withholds it from training. It is read for this report
alone; which labels are kept never depends on it. Every rate is in percent.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from lvad_perception.metrics.segmentation import confuse, score
from lvad_perception.metrics.table import aligned, number
from lvad_perception.types import Detections, TruthBoxes, UInt8
from lvad_perception.vocabulary import TASKS, UNLABELED, Vocabulary
from lvad_training.pseudo.matching import match_boxes

Int64 = npt.NDArray[np.int64]

_HIT, _WRONG, _MISSED = range(3)  # columns of the boxes' table


class Tally(msgspec.Struct, frozen=True):
    """The counts of one frame, or of many.

    Attributes:
        labels: per class, boxes or pixels labelled.
        unlabelled: pixels left unlabelled.
        table: (row, column, count) of what is not zero; rows are classes. Columns of boxes: found an annotated box,
            found none, annotated but not found. Columns of pixels: the label that a pixel of the true class has, last
            none. None where the truth is not known.
    """

    labels: list[int]
    unlabelled: int = 0
    table: list[tuple[int, int, int]] | None = None


@dataclass(frozen=True, slots=True)
class ClassQuality:
    """The labels of one class; rates are None where nothing defines them.

    Attributes:
        threshold: smallest score or confidence of a label; None where the class gets none.
        labels: boxes, or pixels.
        precision: share of the labels that are right, where the truth is known.
        recall: share of the true boxes or pixels that have the right label.
        f1: harmonic mean of both.
        iou: of pixels, over those that are labelled and whose truth is known; None for boxes.
    """

    threshold: float | None
    labels: int
    precision: float | None
    recall: float | None
    f1: float | None
    iou: float | None = None


@dataclass(frozen=True, slots=True)
class TaskQuality:
    """The labels of one task; rates are None where nothing defines them.

    Attributes:
        frames: images with labels of this task, perhaps empty ones.
        compared: images among them whose truth is known.
        labels: boxes, or labelled pixels.
        unlabelled: share of the pixels left unlabelled; None for boxes.
        precision: over all classes, boxes only.
        recall: over all classes, boxes only.
        f1: over all classes, boxes only.
        mean_iou: mean of ``iou`` over the classes that occur in the truth of labelled pixels.
        pixel_accuracy: share of the labelled pixels that are right.
        classes: by name.
    """

    frames: int
    compared: int
    labels: int
    unlabelled: float | None
    precision: float | None
    recall: float | None
    f1: float | None
    mean_iou: float | None
    pixel_accuracy: float | None
    classes: dict[str, ClassQuality]


@dataclass(frozen=True, slots=True)
class PseudoReport:
    """What was labelled, by task; boxes are right from an IoU of 0.5 on."""

    tasks: dict[str, TaskQuality]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self)

    def to_text(self) -> str:
        """Aligned tables, one per task; "-" where a number is not defined."""
        return "\n\n".join(_table(task, quality) for task, quality in self.tasks.items())


def tally_boxes(boxes: Detections, truth: TruthBoxes | None, vocabulary: Vocabulary) -> Tally:
    """Count one frame's boxes; ``truth`` is None where it is not known."""
    classes = len(vocabulary.names)
    labels = np.bincount(boxes.labels, minlength=classes)
    if truth is None:
        return Tally(labels.tolist())
    matches = match_boxes(boxes, truth)
    table = np.zeros((classes, 3), np.int64)
    table[:, _HIT] = np.bincount(matches.labels[matches.hits], minlength=classes)
    table[:, _WRONG] = np.bincount(matches.labels[~matches.hits], minlength=classes)
    table[:, _MISSED] = matches.truth - table[:, _HIT]
    return Tally(labels.tolist(), 0, _sparse(table))


def tally_pixels(mask: UInt8, truth: UInt8 | None, vocabulary: Vocabulary) -> Tally:
    """Count one frame's pixels, uint8 [H, W] with ``UNLABELED``; ``truth`` is None where it is not known."""
    classes = len(vocabulary.names)
    counts = np.bincount(mask.ravel(), minlength=256)
    table = None if truth is None else _sparse(confuse(truth, mask, classes))
    return Tally(counts[:classes].tolist(), int(counts[UNLABELED]), table)


def task_quality(task: str, thresholds: Mapping[str, float], tallies: Iterable[Tally]) -> TaskQuality:
    """Sum the tallies of a task's frames up."""
    names = TASKS[task].names
    labels = np.zeros(len(names), np.int64)
    table = np.zeros((len(names), 3 if task == "detection" else len(names) + 1), np.int64)
    frames = compared = unlabelled = 0
    for tally in tallies:
        frames += 1
        labels += np.array(tally.labels, np.int64)
        unlabelled += tally.unlabelled
        if tally.table is not None:
            compared += 1
            for row, column, count in tally.table:
                table[row, column] += count
    if task == "detection":
        right, given, true = table[:, _HIT], table[:, _HIT] + table[:, _WRONG], table[:, _HIT] + table[:, _MISSED]
        ious: dict[str, float | None] = dict.fromkeys(names)
        mean_iou = accuracy = share = None
        overall = _rates(int(right.sum()), int(given.sum()), int(true.sum()))
    else:
        right, given, true = np.diagonal(table), table[:, :-1].sum(0), table.sum(1)
        confident = table.copy()
        confident[:, -1] = 0
        scores = score(confident, names)
        ious, mean_iou, accuracy = scores.iou, scores.mean_iou, scores.pixel_accuracy
        share = _percent(unlabelled, unlabelled + int(labels.sum()))
        overall = (None, None, None)
    classes = {
        name: ClassQuality(
            thresholds.get(name), int(labels[i]), *_rates(int(right[i]), int(given[i]), int(true[i])), ious[name]
        )
        for i, name in enumerate(names)
    }
    return TaskQuality(frames, compared, int(labels.sum()), share, *overall, mean_iou, accuracy, classes)


def _sparse(table: Int64) -> list[tuple[int, int, int]]:
    rows, columns = np.nonzero(table)
    return list(zip(rows.tolist(), columns.tolist(), table[rows, columns].tolist(), strict=True))


def _rates(right: int, given: int, true: int) -> tuple[float | None, float | None, float | None]:
    """Precision, recall and F1 in percent."""
    return _percent(right, given), _percent(right, true), _percent(2 * right, given + true)


def _percent(part: int, whole: int) -> float | None:
    return 100 * part / whole if whole else None


_UNITS: Final = {"detection": "boxes", "semantic": "% pixels", "drivable": "% pixels"}


def _table(task: str, quality: TaskQuality) -> str:
    boxes = task == "detection"
    title = f"{task}, {quality.frames:,} image{'' if quality.frames == 1 else 's'}"
    head = (title, "threshold", _UNITS[task], "precision", "recall", "F1") + (() if boxes else ("IoU",))
    total = quality.labels
    rows = [head]
    if boxes:
        rates = (quality.precision, quality.recall, quality.f1)
        rows.append(("all classes", "", f"{total:,}", *map(number, rates)))
    else:
        labelled = None if quality.unlabelled is None else 100 - quality.unlabelled
        rows.append(("labelled, of all", "", number(labelled), "", "", "", ""))
        rows.append(("mean IoU", "", "", "", "", "", number(quality.mean_iou)))
        rows.append(("pixel accuracy", "", "", "", "", "", number(quality.pixel_accuracy)))
    for name, one in quality.classes.items():
        amount = f"{one.labels:,}" if boxes else number(_percent(one.labels, total))
        threshold = "none" if one.threshold is None else f"{one.threshold:.2f}"
        rates = (one.precision, one.recall, one.f1)
        rows.append((name, threshold, amount, *map(number, rates)) + (() if boxes else (number(one.iou),)))
    where = f"compared with the annotation of {quality.compared:,} of the images, which served this report alone"
    return f"{aligned(rows)}\n{where if quality.compared else 'not compared: none of the images is annotated'}"
