"""Decoding of the network's outputs to boxes and label maps; also traced into the model file.

Shapes are static, there is no GridSample, and uint8 is only cast from floats, as TensorRT's ONNX parser requires. No
constant tensor is created here: it would be copied to the GPU, and waited for, in every call.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from lvad_training.boxes import nms
from lvad_training.decoding.camera import CameraFrame
from lvad_training.samples import DetectionOutputs, MaskOutputs, Outputs, PixelOutputs, PointOutputs


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
        max_detections: K, boxes to keep per image (fewer when a head of proposals proposes fewer candidates).
        camera: converts the results to camera pixels; None leaves them in network pixels.
    """
    boxes = scores = labels = semantic = confidence = drivable = None
    if outputs.detection is not None:
        if isinstance(outputs.detection, PointOutputs):
            boxes, scores, labels = decode_points(outputs.detection, size_hw, max_detections)
        else:
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
    return _clip(_pick(boxes, proposal), size_hw), scores, labels


def decode_points(
    outputs: PointOutputs, size_hw: tuple[int, int], max_detections: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The best boxes after non-maximum suppression per class; returns as ``decode_boxes``, and always K boxes.

    The score is the geometric mean of class probability and centre-ness. If fewer boxes are left, the rest have score
    0, label 0 and no area.
    """
    settings = outputs.nms
    confidence = outputs.logits.float().sigmoid() * outputs.centerness.float().sigmoid()[..., None]  # (B, N, C)
    points, classes = confidence.shape[1:]
    # The best M (point, class) pairs lie on at most M points; only these take part.
    best = confidence.amax(dim=2).topk(min(settings.candidates, points), dim=1).indices
    candidates = min(settings.candidates, points * classes)
    scores, index = _pick(confidence, best).flatten(1).topk(candidates, dim=1)  # (B, M)
    point = torch.div(index, classes, rounding_mode="floor")
    labels = (index - point * classes).int()
    boxes = _pick(_clip(_pick(outputs.boxes_xyxy.float(), best), size_hw), point)  # (B, M, 4)
    kept = nms(boxes, scores.sqrt(), labels, settings)
    if candidates < max_detections:
        kept = functional.pad(kept, (0, max_detections - candidates))
    scores, index = kept.topk(max_detections, dim=1)  # (B, K)
    is_box = scores > 0
    index = index * is_box  # padding has index 0, and its box and label are multiplied by 0
    return _pick(boxes, index) * is_box[:, :, None], scores, labels.gather(1, index) * is_box.int()


def decode_masks(
    outputs: MaskOutputs | PixelOutputs, size_hw: tuple[int, int], *, camera: CameraFrame | None = None
) -> tuple[Tensor, Tensor]:
    """Label map uint8 [B, H, W], and the share of the winning class times 255, uint8 [B, H, W].

    Both are of network size, or of the camera's. The classes are chosen at network size in either case, or at the
    coarser ``label_stride`` of a convolutional head.
    """
    stride = 1
    if isinstance(outputs, PixelOutputs):
        stride = outputs.label_stride
        logits = outputs.logits.float()
        shares = torch.reshape(logits.flatten(2).softmax(1), logits.shape)  # flat: saves ORT a transpose
        size = (size_hw[0] // stride, size_hw[1] // stride)
        share, label_map = _enlarge(shares, size).max(dim=1)  # (B, H / stride, W / stride); shares add up to 1
    else:
        scores = _votes(outputs)
        total = _enlarge(scores.sum(dim=1, keepdim=True), size_hw)[:, 0]  # = sum of enlarged scores, cheaper
        best, label_map = _enlarge(scores, size_hw).max(dim=1)
        share = best / total.clamp(min=1e-6)
    masks = [_repeat(mask, stride) for mask in (label_map.float(), (share * 255).round())]
    if camera is not None:
        masks = [camera.mask_to_camera(mask) for mask in masks]
    return masks[0].to(torch.uint8), masks[1].to(torch.uint8)


def _votes(outputs: MaskOutputs) -> Tensor:
    """MaskFormer's semantic inference: class scores [B, C, h, w], to which every query adds its mask by class."""
    weights = outputs.logits[-1].float().softmax(2)[:, :, :-1]  # (B, Q, C)
    masks = outputs.masks[-1].float().sigmoid()  # (B, Q, h, w)
    scores = weights.transpose(1, 2) @ masks.flatten(2)  # (B, C, h * w)
    return torch.reshape(scores, (*scores.shape[:2], *masks.shape[2:]))


def _pick(values: Tensor, index: Tensor) -> Tensor:
    """Rows [B, K, D] of [B, N, D] by their index [B, K]."""
    return values.gather(1, index[:, :, None].expand(-1, -1, values.shape[2]))


def _clip(boxes_xyxy: Tensor, size_hw: tuple[int, int]) -> Tensor:
    x, y = boxes_xyxy[..., 0::2].clamp(0, size_hw[1]), boxes_xyxy[..., 1::2].clamp(0, size_hw[0])  # (B, K, 2) each
    return torch.stack([x, y], dim=-1).flatten(2)


def _enlarge(scores: Tensor, size_hw: tuple[int, int]) -> Tensor:
    return functional.interpolate(scores, size=size_hw, mode="bilinear", align_corners=False)


def _repeat(mask: Tensor, times: int) -> Tensor:
    """Every value of [B, h, w] as a block of ``times`` x ``times``."""
    if times == 1:
        return mask
    batch, height, width = mask.shape
    columns = torch.stack([mask] * times, dim=-1).reshape(batch, height, -1)
    return torch.cat([columns] * times, dim=-1).reshape(batch, height * times, width * times)
