"""Detections against annotated boxes: which are right, which are wrong."""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from lvad_perception.types import Bool, Detections, Float32, Int32, TruthBoxes
from lvad_perception.vocabulary import DETECTION

MIN_IOU: Final = 0.5
"""Overlap from which on a detection and an annotated box are the same object."""


@dataclass(frozen=True, slots=True, eq=False)
class Matches:
    """The detections of one image that count, best score first, and how many objects there were to find.

    Attributes:
        labels: int32 [N], indices into ``vocabulary.DETECTION.names``.
        scores: float32 [N].
        hits: bool [N], whether the detection is the one that found an annotated box.
        truth: int64 [10], annotated boxes per class, crowds not counted.
    """

    labels: Int32
    scores: Float32
    hits: Bool
    truth: npt.NDArray[np.int64]


def match_boxes(detections: Detections, truth: TruthBoxes) -> Matches:
    """Match one to one within each class, greedily by score: each detection takes the free box that it overlaps most.

    As in COCO's evaluation, a detection without a box of its own that lies for at least half of its area in a crowd is
    neither right nor wrong and is left out.
    """
    order = np.argsort(-detections.scores, kind="stable")
    boxes, labels = detections.boxes_xyxy[order], detections.labels[order]
    hits = np.zeros(len(order), np.bool_)
    counts = np.ones(len(order), np.bool_)
    for label in np.unique(labels):
        mine = np.flatnonzero(labels == label)
        single = truth.boxes_xyxy[(truth.labels == label) & ~truth.crowd]
        crowds = truth.boxes_xyxy[(truth.labels == label) & truth.crowd]
        hits[mine] = _find(_overlap(boxes[mine], single, of_union=True))
        inside = (_overlap(boxes[mine], crowds, of_union=False) >= MIN_IOU).any(axis=1)
        counts[mine] = hits[mine] | ~inside
    total = np.bincount(truth.labels[~truth.crowd], minlength=len(DETECTION.names)).astype(np.int64)
    return Matches(labels[counts], detections.scores[order][counts], hits[counts], total)


def _find(overlap: npt.NDArray[np.float64]) -> Bool:
    """bool [N]: row by row, whether a free column has enough overlap; the best one is taken. ``overlap`` is [N, T]."""
    found = np.zeros(len(overlap), np.bool_)
    if overlap.shape[1] == 0:
        return found
    free = overlap.copy()
    for row in range(len(free)):
        best = int(free[row].argmax())
        if free[row, best] >= MIN_IOU:
            found[row] = True
            free[:, best] = -1.0
    return found


def _overlap(first: Float32, second: Float32, *, of_union: bool) -> npt.NDArray[np.float64]:
    """Shared area of boxes [N, 4] and [T, 4] by that of their union, or by that of the first box: float64 [N, T]."""
    a, b = first.astype(np.float64)[:, None], second.astype(np.float64)[None]
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])  # (N, T, 2)
    shared = np.clip(sides, 0, None).prod(axis=2)
    area_a, area_b = ((box[..., 2:] - box[..., :2]).prod(axis=2) for box in (a, b))
    whole = area_a + area_b - shared if of_union else np.broadcast_to(area_a, shared.shape)
    return np.asarray(shared / np.maximum(whole, 1e-12))
