"""The values that flow through training: plain dataclasses over tensors."""

from dataclasses import dataclass

import torch
from torch import Tensor

from lvad_perception.types import Detections, Letterbox, Size, UInt8
from lvad_training.boxes import NmsSettings


@dataclass(frozen=True, slots=True, eq=False)
class Targets:
    """The annotation of one image in network pixels. A task that the image is not annotated for is None.

    Attributes:
        boxes_xyxy: float32 [N, 4], 0 <= x1 < x2 <= W, 0 <= y1 < y2 <= H; N = 0 when annotated and empty.
        labels: int64 [N], indices into ``vocabulary.DETECTION.names``; None exactly when ``boxes_xyxy`` is.
        semantic: uint8 [H, W], train ids, 255 where unknown.
        drivable: uint8 [H, W], drivable ids, 255 where unknown.
        ignored_xyxy: float32 [M, 4], like ``boxes_xyxy``: crowds, and what a teacher is not sure of. A box found there
            is neither wanted nor wrong. None when there are none.
        ignored_labels: int64 [M], their classes; None exactly when ``ignored_xyxy`` is.
    """

    boxes_xyxy: Tensor | None
    labels: Tensor | None
    semantic: Tensor | None
    drivable: Tensor | None
    ignored_xyxy: Tensor | None = None
    ignored_labels: Tensor | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """One training image.

    Attributes:
        name: the image's name as the data set knows it, for messages.
        image: uint8 [3, H, W], RGB, network size.
        targets: what the image is annotated for.
    """

    name: str
    image: Tensor
    targets: Targets


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Images of one step.

    Attributes:
        names: B image names.
        images: uint8 [B, 3, H, W], RGB.
        targets: B annotations.
    """

    names: list[str]
    images: Tensor
    targets: list[Targets]


@dataclass(frozen=True, slots=True, eq=False)
class EvaluationSample:
    """One image for evaluation; its truth stays in source pixels and is read apart.

    Attributes:
        name: the image's name as the data set knows it.
        image: uint8 [3, H, W], RGB, letterboxed to network size.
        letterbox: the placement that turns network pixels back into source pixels.
    """

    name: str
    image: Tensor
    letterbox: Letterbox


@dataclass(frozen=True, slots=True, eq=False)
class ConfidentPredictions:
    """What a network says of one image and how sure it is, in source pixels. A task without a head is None.

    Attributes:
        name: the image's name as the data set knows it.
        size_hw: size of the source image.
        detections: boxes, best score first.
        semantic: uint8 [H, W], train ids.
        semantic_confidence: uint8 [H, W], share of the winning class times 255; None exactly when ``semantic`` is.
        drivable: uint8 [H, W], drivable ids.
        drivable_confidence: uint8 [H, W], likewise; None exactly when ``drivable`` is.
    """

    name: str
    size_hw: Size
    detections: Detections | None
    semantic: UInt8 | None
    semantic_confidence: UInt8 | None
    drivable: UInt8 | None
    drivable_confidence: UInt8 | None


@dataclass(frozen=True, slots=True, eq=False)
class DetectionOutputs:
    """What the detection head says, one entry per refinement, last is best.

    Attributes:
        logits: [R, B, Q, C], class logits before the sigmoid.
        boxes_xyxy: [R, B, Q, 4], network pixels.
    """

    logits: Tensor
    boxes_xyxy: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class PointOutputs:
    """What a convolutional detection head says: one box for every point of its levels, finest level first.

    Attributes:
        logits: [B, N, C], class logits before the sigmoid.
        centerness: [B, N], logits of how near the point is to the centre of its object.
        boxes_xyxy: float32 [B, N, 4], network pixels.
        points_xy: float32 [N, 2], network pixels.
        strides: float32 [N], of each point's level, network pixels.
        nms: how decoding is to choose among boxes of the same object.
    """

    logits: Tensor
    centerness: Tensor
    boxes_xyxy: Tensor
    points_xy: Tensor
    strides: Tensor
    nms: NmsSettings


@dataclass(frozen=True, slots=True, eq=False)
class MaskOutputs:
    """What a mask-classification head says, one entry per decoder layer, last is best.

    Attributes:
        logits: [L, B, Q, C + 1], class logits before the softmax; the last is "no object".
        masks: [L, B, Q, H / s, W / s], mask logits before the sigmoid at the mask features' stride s.
    """

    logits: Tensor
    masks: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class PixelOutputs:
    """What a convolutional segmentation head says.

    Attributes:
        logits: [B, C, H / s, W / s], class logits before the softmax at the finest level's stride s.
        label_stride: handed on to decoding: pixels from one chosen class to the next.
    """

    logits: Tensor
    label_stride: int = 1


@dataclass(frozen=True, slots=True, eq=False)
class Outputs:
    """What the network says of a batch, the same in training and evaluation. A task without a head is None.

    Attributes:
        detection: boxes, per refinement or per point.
        semantic: 19 classes, as masks per decoder layer or per pixel.
        drivable: 3 classes, likewise.
        semantic_pixels: [B, 19, H / s, W / s], auxiliary per-pixel logits of a head of masks; None outside training or
            not configured.
        drivable_pixels: [B, 3, H / s, W / s], likewise.
    """

    detection: DetectionOutputs | PointOutputs | None
    semantic: MaskOutputs | PixelOutputs | None
    drivable: MaskOutputs | PixelOutputs | None
    semantic_pixels: Tensor | None = None
    drivable_pixels: Tensor | None = None


def collate(samples: list[Sample]) -> Batch:
    """Stack samples of equal image size into a batch."""
    return Batch(
        [sample.name for sample in samples],
        torch.stack([sample.image for sample in samples]),
        [sample.targets for sample in samples],
    )
