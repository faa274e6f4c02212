"""Outputs -> boxes and label maps in network pixels: the only decoding, traced into the model file as it is.

Static shapes, no NMS, no GridSample, and uint8 only ever cast from floats, as TensorRT's ONNX parser wants.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from lvad_training.samples import DetectionOutputs, MaskOutputs, Outputs


@dataclass(frozen=True, slots=True, eq=False)
class Decoded:
    """The model file's outputs as tensors, network pixels; see ``lvad_perception.types.RawOutputs``.

    Attributes:
        boxes: float32 [B, K, 4], xyxy; scores: float32 [B, K], descending; labels: int32 [B, K].
        semantic: uint8 [B, H, W]; semantic_confidence: uint8 [B, H, W]; drivable: uint8 [B, H, W].

    A task without head is None.
    """

    boxes: Tensor | None
    scores: Tensor | None
    labels: Tensor | None
    semantic: Tensor | None
    semantic_confidence: Tensor | None
    drivable: Tensor | None


def decode(outputs: Outputs, size_hw: tuple[int, int], max_detections: int) -> Decoded:
    """Decode the last refinement and decoder layer of each task.

    Args:
        outputs: of the network.
        size_hw: network size.
        max_detections: K, boxes to keep per image (fewer when the head proposes fewer candidates).
    """
    boxes = scores = labels = semantic = confidence = drivable = None
    if outputs.detection is not None:
        boxes, scores, labels = decode_boxes(outputs.detection, size_hw, max_detections)
    if outputs.semantic is not None:
        semantic, confidence = decode_masks(outputs.semantic, size_hw)
    if outputs.drivable is not None:
        drivable, _ = decode_masks(outputs.drivable, size_hw)
    return Decoded(boxes, scores, labels, semantic, confidence, drivable)


def decode_boxes(
    outputs: DetectionOutputs, size_hw: tuple[int, int], max_detections: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The best (proposal, class) pairs: boxes [B, K, 4] clipped to the input, scores [B, K], labels int32 [B, K]."""
    logits, boxes = outputs.logits[-1].float(), outputs.boxes_xyxy[-1].float()
    classes = logits.shape[2]
    count = min(max_detections, logits.shape[1] * classes)
    scores, index = logits.sigmoid().flatten(1).topk(count, dim=1)  # (B, K)
    proposal = torch.div(index, classes, rounding_mode="floor")
    labels = (index - proposal * classes).int()
    chosen = boxes.gather(1, proposal[:, :, None].expand(-1, -1, 4))  # (B, K, 4)
    limit = chosen.new_tensor([size_hw[1], size_hw[0], size_hw[1], size_hw[0]])
    return torch.minimum(chosen.clamp(min=0), limit), scores, labels


def decode_masks(outputs: MaskOutputs, size_hw: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """MaskFormer's semantic inference: label map uint8 [B, H, W] and the share of the winning class times 255."""
    weights = outputs.logits[-1].float().softmax(2)[:, :, :-1]  # (B, Q, C)
    masks = outputs.masks[-1].float().sigmoid()  # (B, Q, h, w)
    scores = weights.transpose(1, 2) @ masks.flatten(2)  # (B, C, h * w)
    scores = scores.reshape(*scores.shape[:2], *masks.shape[2:])
    scores = functional.interpolate(scores, size=size_hw, mode="bilinear", align_corners=False)  # (B, C, H, W)
    best, label_map = scores.max(dim=1)
    share = best / scores.sum(dim=1).clamp(min=1e-6)
    return label_map.float().to(torch.uint8), (share * 255).round().to(torch.uint8)
