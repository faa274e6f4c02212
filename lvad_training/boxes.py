"""Geometry of boxes, xyxy, that losses and decoding share."""

import torch
from torch import Tensor


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
