"""Geometry of boxes, xyxy, that losses and decoding share, and non-maximum suppression.

ONNX's NonMaxSuppression gives a list as long as there are boxes left. Such a shape cannot be recorded as a CUDA graph,
and runtimes differ in how they treat it. Suppression as a fixed point needs none (Cluster-NMS, Zheng et al., IEEE
Transactions on Cybernetics 2022, arXiv 2005.03572): begin with all boxes, and let in every round those stay that
overlap no better box which stayed in the round before. A box's fate is settled after as many rounds as the longest
chain of overlaps above it has links, and is then that of the greedy algorithm.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

ROUNDS = 16
"""On 68 images of two trained models all was settled after 8 rounds with 300 candidates and after 12 with 1000. An even
number, after which a box that is not settled is kept: rather one box twice than an object without one."""


@dataclass(frozen=True, slots=True)
class NmsSettings:
    """Which of the overlapping boxes that a dense head gives for one object stay.

    Attributes:
        candidates: pairs of point and class of an image, best first, that take part.
        overlap: two boxes of one class with a larger intersection over union are one object, in (0, 1).
        least_score: boxes whose score is not above it are none, in [0, 1).
    """

    candidates: int
    overlap: float
    least_score: float


def areas(boxes_xyxy: Tensor) -> Tensor:
    """Areas of boxes [..., 4] -> [...]; a box whose corners are exchanged counts as they say, also below 0."""
    return (boxes_xyxy[..., 2:] - boxes_xyxy[..., :2]).prod(-1)


def intersections(first: Tensor, second: Tensor) -> Tensor:
    """Common area of every box of [B, Q, 4] with every one of [B, T, 4] -> [B, Q, T], 0 where they do not touch."""
    common = []
    for low, high in ((0, 2), (1, 3)):  # x, then y: a last dimension of 2 would keep runtimes from vectorising
        until = torch.minimum(first[:, :, None, high], second[:, None, :, high])  # (B, Q, T)
        begin = torch.maximum(first[:, :, None, low], second[:, None, :, low])
        common.append((until - begin).clamp(min=0))
    return common[0] * common[1]


def nms(boxes_xyxy: Tensor, scores: Tensor, labels: Tensor, rule: NmsSettings) -> Tensor:
    """Keep the boxes that overlap no better one of their class that is kept.

    Args:
        boxes_xyxy: float32 [B, M, 4].
        scores: float32 [B, M] in [0, 1], descending; of equal ones the first is the better.
        labels: int [B, M], classes.
        rule: what overlaps, and what is a box at all.

    Returns:
        float32 [B, M], the scores of the boxes that stay and 0 for the others.
    """
    common, area = intersections(boxes_xyxy, boxes_xyxy), areas(boxes_xyxy)
    union = area[:, :, None] + area[:, None] - common
    places = torch.arange(scores.shape[1], device=scores.device)
    better = places[:, None] < places  # (M, M), the row than the column
    one_object = (common > rule.overlap * union) & (labels[:, :, None] == labels[:, None]) & better
    hides = one_object.float()  # (B, M, M)
    is_box = (scores > rule.least_score).float()
    kept = is_box
    for _ in range(ROUNDS):
        hiding = torch.matmul(kept[:, None], hides)[:, 0]  # (B, M), by how many each is hidden
        kept = is_box * (hiding < 0.5).float()
    return scores * kept
