"""What became of every box of an image at IoU 0.5: found, taken for another class, missed, or not there at all.

Average precision ignores which class a wrong box was taken for; this is the other view, of the boxes that a user sees:
those with at least a given score. Matching is one to one, the best score first, each box to the free truth that it
overlaps most:

1. with truth of its own class, as average precision matches;
2. what is then left over, with truth of any other class: a confusion.

What remains is a miss (truth) or a false alarm (detection). A detection of which at least half lies in a crowd is
neither, as is the crowd itself.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

from lvad_perception.types import Bool, Detections, Float32, TruthBoxes
from lvad_perception.vocabulary import DETECTION

MATCH_IOU: Final = 0.5
BACKGROUND: Final = len(DETECTION.names)
"""Row of detections that match no truth, column of truth that no detection matches, with BDD100K's classes."""


def confuse_boxes(
    detections: Detections, truth: TruthBoxes, score_threshold: float, *, classes: int = BACKGROUND
) -> npt.NDArray[np.int64]:
    """Boxes of one image by true class (row) and predicted class (column), the last of both is the background.

    Args:
        detections: best score first.
        truth: of the same image.
        score_threshold: detections with a lower score are left out.
        classes: C, how many there are.

    Returns:
        int64 [C + 1, C + 1]; the last entry, background taken for background, is 0.
    """
    counts = np.zeros((classes + 1, classes + 1), np.int64)
    shown = detections.scores >= score_threshold
    boxes_xyxy, labels = detections.boxes_xyxy[shown], detections.labels[shown]
    order = np.argsort(-detections.scores[shown], kind="stable")
    real = ~truth.crowd
    wanted = truth.labels[real]
    overlap = _intersections(boxes_xyxy, truth.boxes_xyxy)  # (D, T)
    areas = _areas(boxes_xyxy)
    union = areas[:, None] + _areas(truth.boxes_xyxy[real])[None] - overlap[:, real]
    iou = overlap[:, real] / np.maximum(union, 1e-9)
    same = labels[:, None] == wanted[None]
    free_found, free_truth = np.ones(len(labels), np.bool_), np.ones(len(wanted), np.bool_)
    for candidates in (np.where(same, iou, 0.0), iou):
        for row in order[free_found[order]]:
            scores = np.where(free_truth, candidates[row], 0.0)
            if scores.size and scores.max() >= MATCH_IOU:
                column = int(scores.argmax())
                free_found[row] = free_truth[column] = False
                counts[wanted[column], labels[row]] += 1
    free_found &= ~_in_crowd(overlap[:, truth.crowd], areas)
    np.add.at(counts[:, classes], wanted[free_truth], 1)
    np.add.at(counts[classes], labels[free_found], 1)
    return counts


def f1(counts: npt.NDArray[np.int64]) -> float:
    """Harmonic mean of precision and recall over all classes in percent; 100 where nothing is and nothing is found.

    Args:
        counts: what ``confuse_boxes`` returns, of one image or summed.
    """
    hits = int(np.trace(counts))
    found, wanted = int(counts[:, :-1].sum()), int(counts[:-1].sum())
    return 100.0 if found + wanted == 0 else 200.0 * hits / (found + wanted)


def _in_crowd(overlap: npt.NDArray[np.float64], areas: npt.NDArray[np.float64]) -> Bool:
    """bool [D]: at least half of the detection lies in one crowd. ``overlap`` is [D, crowds] in square pixels."""
    if not overlap.shape[1]:
        return np.zeros(len(areas), np.bool_)
    inside: Bool = overlap.max(1) >= MATCH_IOU * np.maximum(areas, 1e-9)
    return inside


def _areas(boxes_xyxy: Float32) -> npt.NDArray[np.float64]:
    sides = (boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]).astype(np.float64)
    return np.asarray(sides[:, 0] * sides[:, 1])


def _intersections(first: Float32, second: Float32) -> npt.NDArray[np.float64]:
    """Shared area of every pair in square pixels, [D, T]."""
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    sides = np.clip(high - low, 0, None).astype(np.float64)
    return np.asarray(sides[..., 0] * sides[..., 1])
