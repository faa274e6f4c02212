"""Data types of training: samples, batches, targets and the outputs of the heads."""

from collections.abc import Mapping
from dataclasses import dataclass, field

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
        ignored_xyxy: float32 [M, 4], like ``boxes_xyxy``: crowds, and boxes of which a teacher is not sure. A predicted
            box there is neither right nor wrong. None when there are none.
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
        name: the image's name in the data set, for messages.
        image: uint8 [3, H, W], RGB, network size.
        targets: the image's annotation.
    """

    name: str
    image: Tensor
    targets: Targets


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Images of one micro-step.

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
    """One image for evaluation, without its truth, which stays in source pixels.

    Attributes:
        name: the image's name in the data set.
        image: uint8 [3, H, W], RGB, letterboxed to network size.
        letterbox: placement of the source image in the network's input.
    """

    name: str
    image: Tensor
    letterbox: Letterbox


@dataclass(frozen=True, slots=True, eq=False)
class ConfidentPredictions:
    """Predictions for one image with their confidences, in source pixels. A task without a head is None.

    Attributes:
        name: the image's name in the data set.
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
    """Outputs of a detection head with proposals, one entry per refinement; the last is the best.

    Attributes:
        logits: [R, B, Q, C], class logits before the sigmoid.
        boxes_xyxy: [R, B, Q, 4], network pixels.
    """

    logits: Tensor
    boxes_xyxy: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class PointOutputs:
    """Outputs of a convolutional detection head: one box for every point of its levels, finest level first.

    Attributes:
        logits: [B, N, C], class logits before the sigmoid.
        centerness: [B, N], logits of the points' centre-ness: 1 at the centre of the object, 0 at its sides.
        boxes_xyxy: float32 [B, N, 4], network pixels.
        points_xy: float32 [N, 2], network pixels.
        strides: float32 [N], of each point's level, network pixels.
        nms: settings of decoding's non-maximum suppression.
    """

    logits: Tensor
    centerness: Tensor
    boxes_xyxy: Tensor
    points_xy: Tensor
    strides: Tensor
    nms: NmsSettings


@dataclass(frozen=True, slots=True, eq=False)
class MaskOutputs:
    """Outputs of a mask-classification head, one entry per decoder layer; the last is the best.

    Attributes:
        logits: [L, B, Q, C + 1], class logits before the softmax; the last is "no object".
        masks: [L, B, Q, H / s, W / s], mask logits before the sigmoid at the mask features' stride s.
    """

    logits: Tensor
    masks: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class PixelOutputs:
    """Outputs of a convolutional segmentation head.

    Attributes:
        logits: [B, C, H / s, W / s], class logits before the softmax at the finest level's stride s.
        label_stride: for decoding: network pixels between the positions whose class is chosen.
    """

    logits: Tensor
    label_stride: int = 1


@dataclass(frozen=True, slots=True, eq=False)
class Outputs:
    """Outputs of the network for a batch, the same in training and evaluation. A task without a head is None.

    Attributes:
        detection: boxes, per refinement or per point.
        semantic: 19 classes, as masks per decoder layer or per pixel.
        drivable: 3 classes, likewise.
        semantic_pixels: [B, 19, H / s, W / s], auxiliary per-pixel logits of a mask-classification head; None outside
            training or if not configured.
        drivable_pixels: [B, 3, H / s, W / s], likewise.
        neck_weights: in training, the sum of the neck's parameters, which not every head depends on; None otherwise.
        score_maps: in training with a score map, task -> cosine of each position with each of its classes,
            [B, K, H / 32, W / 32]; otherwise empty.
    """

    detection: DetectionOutputs | PointOutputs | None
    semantic: MaskOutputs | PixelOutputs | None
    drivable: MaskOutputs | PixelOutputs | None
    semantic_pixels: Tensor | None = None
    drivable_pixels: Tensor | None = None
    neck_weights: Tensor | None = None
    score_maps: Mapping[str, Tensor] = field(default_factory=dict)


def collate(samples: list[Sample]) -> Batch:
    """Stack samples of equal image size into a batch."""
    return Batch(
        [sample.name for sample in samples],
        torch.stack([sample.image for sample in samples]),
        [sample.targets for sample in samples],
    )
