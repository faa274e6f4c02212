"""Overlap of boxes in torch, for losses and decoding, and non-maximum suppression.

ONNX's NonMaxSuppression has an output whose length depends on the data. Such a shape cannot be recorded as a CUDA
graph, and runtimes treat it differently. ``nms`` is therefore computed as a fixed point with static shapes
(Cluster-NMS, Zheng et al., IEEE Transactions on Cybernetics 2022, arXiv 2005.03572): begin with all boxes, and keep in
every round those that overlap no better box kept in the round before. A box is settled, as by the greedy algorithm,
after as many rounds as the longest chain of overlaps above it has links.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

ROUNDS = 16
"""On 68 images of two trained models all boxes were settled after 8 rounds with 300 candidates, and after 12 with 1000.
The number is even, so that an unsettled box is kept: a duplicate is better than a missed object."""


@dataclass(frozen=True, slots=True)
class NmsSettings:
    """Settings of non-maximum suppression for a dense head.

    Attributes:
        candidates: number of best (point, class) pairs per image that take part.
        overlap: IoU above which two boxes of one class are the same object, in (0, 1).
        least_score: score above which a box counts, in [0, 1).
    """

    candidates: int
    overlap: float
    least_score: float


def areas(boxes_xyxy: Tensor) -> Tensor:
    """Areas of boxes [..., 4] -> [...]; negative if a box's corners are swapped along one axis."""
    return (boxes_xyxy[..., 2:] - boxes_xyxy[..., :2]).prod(-1)


def intersections(first: Tensor, second: Tensor) -> Tensor:
    """Intersection of every box of [B, Q, 4] with every box of [B, T, 4] -> areas [B, Q, T], 0 where they are apart."""
    common = []
    for low, high in ((0, 2), (1, 3)):  # x, then y: a last dimension of 2 would keep runtimes from vectorising
        until = torch.minimum(first[:, :, None, high], second[:, None, :, high])  # (B, Q, T)
        begin = torch.maximum(first[:, :, None, low], second[:, None, :, low])
        common.append((until - begin).clamp(min=0))
    return common[0] * common[1]


def pairwise_giou(first: Tensor, second: Tensor) -> Tensor:
    """Generalised IoU of every box of [B, Q, 4] with every box of [B, T, 4] -> [B, Q, T], in [-1, 1]."""
    a, b = first[:, :, None], second[:, None]  # (B, Q, 1, 4), (B, 1, T, 4)
    common = intersections(first, second)
    hull = (torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])).clamp(min=0).prod(-1)
    union = areas(first)[:, :, None] + areas(second)[:, None] - common
    return common / union.clamp(min=1e-6) - (hull - union) / hull.clamp(min=1e-6)


def nms(boxes_xyxy: Tensor, scores: Tensor, labels: Tensor, settings: NmsSettings) -> Tensor:
    """Keep the boxes that overlap no better kept box of their class.

    Args:
        boxes_xyxy: float32 [B, M, 4].
        scores: float32 [B, M] in [0, 1], descending; of equal scores the first is the better.
        labels: int [B, M], classes.
        settings: thresholds of overlap and score.

    Returns:
        float32 [B, M], the scores of kept boxes, and 0 for the others.
    """
    common, area = intersections(boxes_xyxy, boxes_xyxy), areas(boxes_xyxy)
    union = area[:, :, None] + area[:, None] - common
    ranks = torch.arange(scores.shape[1], device=scores.device)
    better = ranks[:, None] < ranks  # (M, M): row better than column
    same_object = (common > settings.overlap * union) & (labels[:, :, None] == labels[:, None]) & better
    suppresses = same_object.float()  # (B, M, M): row suppresses column
    is_box = (scores > settings.least_score).float()
    kept = is_box
    for _ in range(ROUNDS):
        suppressors = torch.matmul(kept[:, None], suppresses)[:, 0]  # (B, M): number of each box's suppressors
        kept = is_box * (suppressors < 0.5).float()
    return scores * kept
