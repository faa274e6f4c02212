"""Geometry of boxes, xyxy, that losses and decoding share."""

import torch
from torch import Tensor


def areas(boxes_xyxy: Tensor) -> Tensor:
    """Areas of boxes [..., 4] -> [...]; a box whose corners are exchanged counts as they say, also below 0."""
    return (boxes_xyxy[..., 2:] - boxes_xyxy[..., :2]).prod(-1)


def intersections(first: Tensor, second: Tensor) -> Tensor:
    """Common area of every box of [B, Q, 4] with every one of [B, T, 4] -> [B, Q, T], 0 where they do not touch."""
    a, b = first[:, :, None], second[:, None]  # (B, Q, 1, 4), (B, 1, T, 4)
    return (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0).prod(-1)
