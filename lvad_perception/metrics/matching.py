"""Overlap of boxes in numpy, and greedy one-to-one matching by it.

All boxes are float [N, 4], xyxy, with x1 <= x2 and y1 <= y2; results are float64. ``lvad_training.boxes`` has the
overlap of torch tensors.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

from lvad_perception.types import Float32

MATCH_IOU: Final = 0.5
"""Two boxes with at least this intersection over union are the same object."""

_LEAST_AREA: Final = float(np.finfo(np.float32).tiny)  # boxes without area overlap nothing


def iou(first_xyxy: Float32, second_xyxy: Float32) -> npt.NDArray[np.float64]:
    """Intersection over union of every pair, [N, T] in [0, 1]."""
    shared = _intersections(first_xyxy, second_xyxy)
    union = _areas(first_xyxy)[:, None] + _areas(second_xyxy) - shared
    return np.asarray(shared / np.maximum(union, _LEAST_AREA))


def covered(first_xyxy: Float32, second_xyxy: Float32) -> npt.NDArray[np.float64]:
    """Share of each first box that lies inside each second one, [N, T] in [0, 1]; COCO's overlap with crowds."""
    areas = np.maximum(_areas(first_xyxy), _LEAST_AREA)
    return np.asarray(_intersections(first_xyxy, second_xyxy) / areas[:, None])


def match_greedily(overlap: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Match rows, best first, each to the free column that it overlaps most.

    Args:
        overlap: [N, T]; pairs below ``MATCH_IOU`` do not match.

    Returns:
        int64 [N], the column of each row, -1 where there is none.
    """
    columns = np.full(len(overlap), -1, np.int64)
    if overlap.shape[1] == 0:
        return columns
    free = overlap.copy()
    for row in range(len(free)):
        best = int(free[row].argmax())
        if free[row, best] >= MATCH_IOU:
            columns[row] = best
            free[:, best] = -1.0
    return columns


def _areas(boxes_xyxy: Float32) -> npt.NDArray[np.float64]:
    boxes = boxes_xyxy.astype(np.float64)
    return np.asarray((boxes[:, 2:] - boxes[:, :2]).prod(axis=1))


def _intersections(first_xyxy: Float32, second_xyxy: Float32) -> npt.NDArray[np.float64]:
    first, second = first_xyxy.astype(np.float64)[:, None], second_xyxy.astype(np.float64)
    sides = np.minimum(first[..., 2:], second[:, 2:]) - np.maximum(first[..., :2], second[:, :2])  # (N, T, 2)
    return np.asarray(sides.clip(min=0).prod(axis=2))
