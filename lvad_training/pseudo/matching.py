"""Detections against annotated boxes: which are right, which are wrong."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lvad_perception.metrics.matching import MATCH_IOU, covered, iou, match_greedily
from lvad_perception.types import Bool, Detections, Float32, Int32, TruthBoxes
from lvad_perception.vocabulary import DETECTION


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

    As in COCO's evaluation, a detection without a match that lies for at least half of its area in a crowd of its class
    is neither right nor wrong and is left out.
    """
    order = np.argsort(-detections.scores, kind="stable")
    boxes, labels = detections.boxes_xyxy[order], detections.labels[order]
    same = labels[:, None] == truth.labels  # (N, T)
    single, crowd = ~truth.crowd, truth.crowd
    hits = match_greedily(np.where(same[:, single], iou(boxes, truth.boxes_xyxy[single]), 0.0)) >= 0
    in_crowd = (same[:, crowd] & (covered(boxes, truth.boxes_xyxy[crowd]) >= MATCH_IOU)).any(axis=1)
    counts = hits | ~in_crowd
    total = np.bincount(truth.labels[single], minlength=len(DETECTION.names)).astype(np.int64)
    return Matches(labels[counts], detections.scores[order][counts], hits[counts], total)
