"""Greedy non-maximum suppression with static shapes: in plain torch, and as ONNX's NonMaxSuppression in a model file.

The operator's own output is a list as long as there are boxes left, which differs from image to image. It never leaves
the three nodes that stand for it: the scores that the list names are scattered into a tensor of zeros.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lvad_training.boxes import areas, intersections


@dataclass(frozen=True, slots=True)
class Suppression:
    """Which of the overlapping boxes that a dense head gives for one object stay.

    Attributes:
        candidates: points of an image, best first, whose boxes take part.
        overlap: two boxes of one class with a larger intersection over union are one object, in (0, 1).
        least_score: boxes whose score is not above it are none, in [0, 1).
    """

    candidates: int
    overlap: float
    least_score: float


def suppress(boxes_xyxy: Tensor, scores: Tensor, rule: Suppression, count: int) -> Tensor:
    """Keep the best boxes of each class that do not overlap a better one of it.

    Args:
        boxes_xyxy: float32 [B, M, 4], the same for all classes.
        scores: float32 [B, C, M], in [0, 1].
        rule: what overlaps, and what is a box at all.
        count: most boxes to keep per class and image.

    Returns:
        float32 [B, C, M], the scores of the boxes that stay and 0 for the others.
    """
    if torch.onnx.is_in_onnx_export():
        kept: Tensor = torch.ops.lvad.suppress(boxes_xyxy, scores, rule.overlap, rule.least_score, count)
        return kept
    return _suppress(boxes_xyxy, scores, rule.overlap, rule.least_score, count)


def onnx_translations() -> dict[Any, Callable[..., Any]]:
    """For ``torch.onnx.export(custom_translation_table=...)``; needs onnxscript."""
    from onnxscript import opset18

    op: Any = opset18  # its types are those of values, and these are names of a graph

    def translate(boxes: Any, scores: Any, overlap: float, least_score: float, count: int) -> Any:
        limits = op.Constant(value_ints=[count]), *(op.Constant(value_floats=[x]) for x in (overlap, least_score))
        selected = op.NonMaxSuppression(boxes, scores, *limits)  # int64 [as many as there are, 3]
        nothing = op.Mul(scores, op.Constant(value_float=0.0))
        return op.ScatterND(nothing, selected, op.GatherND(scores, selected))

    return {torch.ops.lvad.suppress.default: translate}


def _suppress(boxes_xyxy: Tensor, scores: Tensor, overlap: float, least_score: float, count: int) -> Tensor:
    """One box per class and round, all classes and images at once: nothing asks the host how many are left."""
    common, area = intersections(boxes_xyxy, boxes_xyxy), areas(boxes_xyxy)
    union = area[:, :, None] + area[:, None] - common
    near = common / union.clamp(min=1e-9) > overlap  # (B, M, M)
    places = torch.arange(scores.shape[2], device=scores.device)
    waiting = scores * (scores > least_score)
    kept = torch.zeros_like(scores)
    for _ in range(min(count, scores.shape[2])):
        index = waiting.argmax(
            dim=2, keepdim=True
        )  # (B, C, 1); of a class that has no box left it is any, with score 0
        chosen = places == index  # (B, C, M)
        kept = torch.maximum(kept, waiting * chosen)
        gone = near.gather(1, index.expand(-1, -1, near.shape[2])) | chosen
        waiting = waiting * ~gone
    return kept


@torch.library.custom_op("lvad::suppress", mutates_args=())
def _operator(boxes_xyxy: Tensor, scores: Tensor, overlap: float, least_score: float, count: int) -> Tensor:
    return _suppress(boxes_xyxy, scores, overlap, least_score, count)


@_operator.register_fake
def _shape(boxes_xyxy: Tensor, scores: Tensor, overlap: float, least_score: float, count: int) -> Tensor:
    return torch.empty_like(scores)
