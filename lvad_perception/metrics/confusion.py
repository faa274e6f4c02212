"""Confusion matrix of the boxes of an image at IoU 0.5, and F1 from it.

Average precision ignores which class a wrong box was taken for. This matrix shows it, for the boxes that a user sees:
those with at least a given score. Matching is one to one, the best score first:

1. with truth of the same class, as in average precision;
2. what is left, with truth of any other class: a confusion.

Truth without a match is a miss, a detection without one a false positive. A detection of which at least half lies in a
crowd is left out, as is the crowd itself.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

from lvad_perception.metrics.matching import MATCH_IOU, covered, iou, match_greedily
from lvad_perception.types import Detections, TruthBoxes
from lvad_perception.vocabulary import DETECTION

BACKGROUND: Final = len(DETECTION.names)
"""Row of false positives and column of misses, with BDD100K's classes."""


def confuse_boxes(
    detections: Detections, truth: TruthBoxes, score_threshold: float, *, classes: int = BACKGROUND
) -> npt.NDArray[np.int64]:
    """Count the boxes of one image by true class (row) and predicted class (column); the last of both is background.

    Args:
        detections: of the image, in any order.
        truth: of the same image.
        score_threshold: detections with a lower score are left out.
        classes: C.

    Returns:
        int64 [C + 1, C + 1]; the last entry, background taken for background, is 0.
    """
    counts = np.zeros((classes + 1, classes + 1), np.int64)
    order = np.argsort(-detections.scores, kind="stable")
    order = order[detections.scores[order] >= score_threshold]
    boxes_xyxy, labels = detections.boxes_xyxy[order], detections.labels[order]
    truth_labels = truth.labels[~truth.crowd]
    overlap = iou(boxes_xyxy, truth.boxes_xyxy[~truth.crowd])  # (D, T)
    free, free_truth = np.ones(len(labels), np.bool_), np.ones(len(truth_labels), np.bool_)
    for candidates in (labels[:, None] == truth_labels, np.ones_like(overlap, np.bool_)):
        columns = match_greedily(np.where(candidates & free[:, None] & free_truth, overlap, 0.0))
        rows = np.flatnonzero(columns >= 0)
        columns = columns[rows]
        free[rows] = free_truth[columns] = False
        np.add.at(counts, (truth_labels[columns], labels[rows]), 1)
    free &= ~(covered(boxes_xyxy, truth.boxes_xyxy[truth.crowd]) >= MATCH_IOU).any(axis=1)
    np.add.at(counts[:, classes], truth_labels[free_truth], 1)
    np.add.at(counts[classes], labels[free], 1)
    return counts


def f1(counts: npt.NDArray[np.int64]) -> float:
    """Harmonic mean of precision and recall over all classes in percent; 100 without truth and detections.

    Args:
        counts: from ``confuse_boxes``, of one image or summed.
    """
    hits = int(np.trace(counts))
    predicted, truth = int(counts[:, :-1].sum()), int(counts[:-1].sum())
    return 100.0 if predicted + truth == 0 else 200.0 * hits / (predicted + truth)
