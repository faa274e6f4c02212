"""Counts of pseudo labels, and their quality on images whose truth is known.

A pseudo-labelled image can have truth, which an experiment withholds from training. Only this report reads it; the
selection of labels never depends on it. All rates are in percent.
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

_HIT, _WRONG, _MISSED = range(3)  # columns of the table of boxes


class Tally(msgspec.Struct, frozen=True):
    """The counts of one frame, or of many.

    Attributes:
        labels: per class, boxes or pixels labelled.
        unlabelled: unlabelled pixels.
        table: (row, column, count) of the nonzero entries; rows are classes. Columns of boxes: true positives, false
            positives, false negatives. Columns of pixels: the label of a pixel of the row's true class, the last one
            for unlabelled pixels. None without truth.
    """

    labels: list[int]
    unlabelled: int = 0
    table: list[tuple[int, int, int]] | None = None


@dataclass(frozen=True, slots=True)
class ClassQuality:
    """The labels of one class; rates are None where they are undefined.

    Attributes:
        threshold: smallest score or confidence of a label; None for a class without labels.
        labels: boxes, or pixels.
        precision: share of correct labels, on images with truth.
        recall: share of the true boxes or pixels with the correct label.
        f1: harmonic mean of both.
        iou: over labelled pixels with known truth; None for boxes.
    """

    threshold: float | None
    labels: int
    precision: float | None
    recall: float | None
    f1: float | None
    iou: float | None = None


@dataclass(frozen=True, slots=True)
class TaskQuality:
    """The labels of one task; rates are None where they are undefined.

    Attributes:
        frames: images with labels of this task, possibly empty.
        compared: those with truth.
        labels: boxes, or labelled pixels.
        unlabelled: share of unlabelled pixels; None for boxes.
        precision: over all classes, boxes only.
        recall: over all classes, boxes only.
        f1: over all classes, boxes only.
        mean_iou: mean ``iou`` of the classes that occur in the truth of labelled pixels.
        pixel_accuracy: share of the labelled pixels with the correct label.
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
    """Label quality by task; a box counts as correct from an IoU of 0.5."""

    tasks: dict[str, TaskQuality]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self)

    def to_text(self) -> str:
        """Aligned tables, one per task; "-" where a number is not defined."""
        return "\n\n".join(_table(task, quality) for task, quality in self.tasks.items())


def tally_boxes(boxes: Detections, truth: TruthBoxes | None, vocabulary: Vocabulary) -> Tally:
    """Count one frame's boxes; ``truth`` is None if unknown."""
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
    """Count one frame's pixels, uint8 [H, W] with ``UNLABELED``; ``truth`` is None if unknown."""
    classes = len(vocabulary.names)
    counts = np.bincount(mask.ravel(), minlength=256)
    table = None if truth is None else _sparse(confuse(truth, mask, classes))
    return Tally(counts[:classes].tolist(), int(counts[UNLABELED]), table)


def task_quality(task: str, thresholds: Mapping[str, float], tallies: Iterable[Tally]) -> TaskQuality:
    """Sum up the tallies of a task's frames."""
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
        correct, given, true = table[:, _HIT], table[:, _HIT] + table[:, _WRONG], table[:, _HIT] + table[:, _MISSED]
        ious: dict[str, float | None] = dict.fromkeys(names)
        mean_iou = accuracy = share = None
        overall = _rates(int(correct.sum()), int(given.sum()), int(true.sum()))
    else:
        correct, given, true = np.diagonal(table), table[:, :-1].sum(0), table.sum(1)
        confident = table.copy()
        confident[:, -1] = 0
        scores = score(confident, names)
        ious, mean_iou, accuracy = scores.iou, scores.mean_iou, scores.pixel_accuracy
        share = _percent(unlabelled, unlabelled + int(labels.sum()))
        overall = (None, None, None)
    classes = {
        name: ClassQuality(
            thresholds.get(name), int(labels[i]), *_rates(int(correct[i]), int(given[i]), int(true[i])), ious[name]
        )
        for i, name in enumerate(names)
    }
    return TaskQuality(frames, compared, int(labels.sum()), share, *overall, mean_iou, accuracy, classes)


def _sparse(table: Int64) -> list[tuple[int, int, int]]:
    rows, columns = np.nonzero(table)
    return list(zip(rows.tolist(), columns.tolist(), table[rows, columns].tolist(), strict=True))


def _rates(correct: int, given: int, true: int) -> tuple[float | None, float | None, float | None]:
    """Precision, recall and F1 in percent."""
    return _percent(correct, given), _percent(correct, true), _percent(2 * correct, given + true)


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
    comparison = f"compared with the annotation of {quality.compared:,} of the images, which served this report alone"
    return f"{aligned(rows)}\n{comparison if quality.compared else 'not compared: none of the images is annotated'}"
