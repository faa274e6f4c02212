"""Outputs -> boxes and label maps: the only decoding, traced into the model file as it is.

Static shapes, no NMS, no GridSample, and uint8 only ever cast from floats, as TensorRT's ONNX parser wants. No constant
tensor is made on the way, which would be copied to a GPU, and waited for, in every call.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from lvad_training.camera import CameraFrame
from lvad_training.samples import DetectionOutputs, MaskOutputs, Outputs


@dataclass(frozen=True, slots=True, eq=False)
class Decoded:
    """The model file's outputs as tensors, network or camera pixels; see ``lvad_perception.types.RawOutputs``.

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


def decode(
    outputs: Outputs, size_hw: tuple[int, int], max_detections: int, *, camera: CameraFrame | None = None
) -> Decoded:
    """Decode the last refinement and decoder layer of each task.

    Args:
        outputs: of the network.
        size_hw: network size.
        max_detections: K, boxes to keep per image (fewer when the head proposes fewer candidates).
        camera: brings everything to camera pixels; None leaves it in network pixels.
    """
    boxes = scores = labels = semantic = confidence = drivable = None
    if outputs.detection is not None:
        boxes, scores, labels = decode_boxes(outputs.detection, size_hw, max_detections)
        boxes = boxes if camera is None else camera.boxes_to_camera(boxes)
    if outputs.semantic is not None:
        semantic, confidence = decode_masks(outputs.semantic, size_hw, camera=camera)
    if outputs.drivable is not None:
        drivable, _ = decode_masks(outputs.drivable, size_hw, camera=camera)
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
    x, y = chosen[..., 0::2].clamp(0, size_hw[1]), chosen[..., 1::2].clamp(0, size_hw[0])  # (B, K, 2) each
    return torch.stack([x, y], dim=-1).flatten(2), scores, labels


def decode_masks(
    outputs: MaskOutputs, size_hw: tuple[int, int], *, camera: CameraFrame | None = None
) -> tuple[Tensor, Tensor]:
    """MaskFormer's semantic inference: label map uint8 [B, H, W] and the share of the winning class times 255.

    Both of network size, or of the camera's: the classes are chosen at network size either way.
    """
    weights = outputs.logits[-1].float().softmax(2)[:, :, :-1]  # (B, Q, C)
    masks = outputs.masks[-1].float().sigmoid()  # (B, Q, h, w)
    scores = weights.transpose(1, 2) @ masks.flatten(2)  # (B, C, h * w)
    scores = scores.reshape(*scores.shape[:2], *masks.shape[2:])
    total = _enlarge(scores.sum(dim=1, keepdim=True), size_hw)[:, 0]  # the sum of the enlarged, a C-th of the work
    best, label_map = _enlarge(scores, size_hw).max(dim=1)  # (B, H, W)
    whole = [label_map.float(), (best / total.clamp(min=1e-6) * 255).round()]
    if camera is not None:
        whole = [camera.mask_to_camera(mask) for mask in whole]
    return whole[0].to(torch.uint8), whole[1].to(torch.uint8)


def _enlarge(scores: Tensor, size_hw: tuple[int, int]) -> Tensor:
    return functional.interpolate(scores, size=size_hw, mode="bilinear", align_corners=False)
