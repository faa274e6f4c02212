"""Predictions between network and source pixels: the inverse letterbox, exact to the pixel, and the way forward."""

from dataclasses import replace

import cv2
import numpy as np
import numpy.typing as npt

from lvad_perception.types import Bool, Detections, Float32, Letterbox, Predictions, RawOutputs, UInt8
from lvad_perception.vocabulary import UNLABELED


def boxes_to_source(boxes_xyxy: Float32, box: Letterbox) -> Float32:
    """Boxes from network pixels to source pixels, clipped to the source image.

    Args:
        boxes_xyxy: float32 [N, 4], network pixels.
        box: the placement of the source image in the network input.
    """
    scale_y = box.source_hw[0] / box.resized_hw[0]
    scale_x = box.source_hw[1] / box.resized_hw[1]
    offset = np.array([box.left, box.top, box.left, box.top], np.float32)
    scale = np.array([scale_x, scale_y, scale_x, scale_y], np.float32)
    limit = np.array([box.source_hw[1], box.source_hw[0]] * 2, np.float32)
    return np.asarray(np.clip((boxes_xyxy - offset) * scale, 0, limit), np.float32)


def boxes_to_network(boxes_xyxy: Float32, box: Letterbox) -> Float32:
    """Boxes from source pixels to network pixels, float32 [N, 4]; inverse of ``boxes_to_source`` inside the image."""
    scale_y = box.resized_hw[0] / box.source_hw[0]
    scale_x = box.resized_hw[1] / box.source_hw[1]
    offset = np.array([box.left, box.top, box.left, box.top], np.float32)
    scale = np.array([scale_x, scale_y, scale_x, scale_y], np.float32)
    return np.asarray(boxes_xyxy * scale + offset, np.float32)


def mask_to_source(mask: UInt8, box: Letterbox) -> UInt8:
    """A label map from network to source pixels: uint8 [h, w] -> uint8 [H, W], nearest pixel centre."""
    inside = mask[box.top : box.top + box.resized_hw[0], box.left : box.left + box.resized_hw[1]]
    if box.resized_hw == box.source_hw:
        return np.array(inside)  # a copy: the engine reuses its outputs
    size_wh = (box.source_hw[1], box.source_hw[0])
    return np.asarray(cv2.resize(inside, size_wh, interpolation=cv2.INTER_NEAREST_EXACT), np.uint8)


def network_pixels(box: Letterbox) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """``mask_to_source`` as indices: the network row of each source row, int64 [H], and likewise columns, int64 [W]."""
    indices = []
    for source, resized, start in zip(box.source_hw, box.resized_hw, (box.top, box.left), strict=True):
        ramp = np.arange(start, start + resized, dtype=np.float32)[None]
        nearest = cv2.resize(ramp, (source, 1), interpolation=cv2.INTER_NEAREST_EXACT)[0]
        indices.append(np.asarray(nearest, np.int64))
    return indices[0], indices[1]


def mask_to_network(mask: UInt8, box: Letterbox, *, border: int) -> UInt8:
    """A label map from source to network pixels: uint8 [H, W] -> uint8 [h, w], ``border`` around the image.

    It is the exact inverse of ``mask_to_source`` where that enlarged the mask.
    """
    out = np.full(box.network_hw, border, np.uint8)
    size_wh = (box.resized_hw[1], box.resized_hw[0])
    inside = out[box.top : box.top + size_wh[1], box.left : box.left + size_wh[0]]
    inside[:] = cv2.resize(mask, size_wh, interpolation=cv2.INTER_NEAREST_EXACT)
    return out


def predictions_to_network(predictions: Predictions, box: Letterbox) -> Predictions:
    """Predictions from source pixels to network pixels; the letterbox border is unlabelled with confidence 0."""
    detections = predictions.detections
    confidence = predictions.semantic_confidence
    return Predictions(
        box.network_hw,
        None if detections is None else replace(detections, boxes_xyxy=boxes_to_network(detections.boxes_xyxy, box)),
        None if predictions.semantic is None else mask_to_network(predictions.semantic, box, border=UNLABELED),
        None if predictions.drivable is None else mask_to_network(predictions.drivable, box, border=UNLABELED),
        None if confidence is None else mask_to_network(confidence, box, border=0),
    )


def to_predictions(
    raw: RawOutputs, index: int, box: Letterbox, *, score_threshold: float | Float32 = 0.0
) -> Predictions:
    """One image's predictions in source pixels.

    Args:
        raw: the engine's outputs for a batch.
        index: which image of the batch.
        box: that image's placement in the network input.
        score_threshold: boxes with a lower confidence are dropped; 0 keeps all, as evaluation needs. A single number or
            one per box, float32 [K].

    Boxes outside the source image, which have no area after clipping, are dropped.
    """
    detections = None
    if raw.boxes is not None and raw.scores is not None and raw.labels is not None:
        boxes_xyxy = boxes_to_source(raw.boxes[index], box)
        has_area: Bool = (boxes_xyxy[:, 2] > boxes_xyxy[:, 0]) & (boxes_xyxy[:, 3] > boxes_xyxy[:, 1])
        keep = has_area & (raw.scores[index] >= score_threshold)
        detections = Detections(boxes_xyxy[keep], raw.scores[index][keep], raw.labels[index][keep])
    return Predictions(
        box.source_hw,
        detections,
        None if raw.semantic is None else mask_to_source(raw.semantic[index], box),
        None if raw.drivable is None else mask_to_source(raw.drivable[index], box),
        None if raw.semantic_confidence is None else mask_to_source(raw.semantic_confidence[index], box),
    )
