"""Overlays: draws predictions or annotation onto an image.

Semantic classes tint the image in the colours of their vocabulary; BDD100K's are the Cityscapes palette. Direct and
alternative drivable area replace the semantic colours, which would only show "road" there. Boxes are labelled with
class and score.
"""

from collections.abc import Mapping
from functools import cache
from typing import Final

import cv2
import numpy as np

from lvad_perception.errors import ImageError
from lvad_perception.types import Bool, Float32, Predictions, Size, Truth, UInt8
from lvad_perception.vocabulary import BACKGROUND, DRIVABLE, DRIVABLE_BACKGROUND, TASKS, Rgb, Vocabulary

_UNCOLOURED: Final = 255
_DRIVABLE_START: Final = _UNCOLOURED - len(DRIVABLE.names)  # drivable classes are at the end of the common palette
_IGNORED_COLOR: Final[Rgb] = (170, 170, 170)
_FONT: Final = cv2.FONT_HERSHEY_SIMPLEX


def draw_predictions(
    image: UInt8,
    predictions: Predictions,
    *,
    score_threshold: float = 0.3,
    alpha: float = 0.5,
    vocabularies: Mapping[str, Vocabulary] = TASKS,
) -> UInt8:
    """Draw a model's predictions.

    Args:
        image: uint8 [H, W, 3], RGB; not modified.
        predictions: of this image; tasks that are None are not drawn.
        score_threshold: boxes with a lower score are not drawn.
        alpha: weight of the mask colours, 0 (invisible) to 1 (opaque).
        vocabularies: the classes by task, a model file's or a data set's; BDD100K's by default.

    Returns:
        uint8 [H, W, 3], RGB.

    Raises:
        ImageError: predictions and image differ in size.
    """
    canvas = _tinted(
        image, predictions.size_hw, predictions.semantic, predictions.drivable, alpha, vocabularies.get("semantic")
    )
    if predictions.detections is not None:
        detections = predictions.detections
        keep = np.flatnonzero(detections.scores >= score_threshold)[::-1]  # the best are drawn last, on top
        boxes_xyxy, labels, scores = detections.boxes_xyxy[keep], detections.labels[keep], detections.scores[keep]
        objects = vocabularies["detection"]
        texts = [f"{objects.names[label]} {score:.2f}" for label, score in zip(labels, scores, strict=True)]
        _draw_boxes(canvas, boxes_xyxy, [objects.colors[label] for label in labels], texts)
    return canvas


def draw_truth(
    image: UInt8, truth: Truth, *, alpha: float = 0.5, vocabularies: Mapping[str, Vocabulary] = TASKS
) -> UInt8:
    """Draw the annotation in the style of ``draw_predictions``; crowds and ignored boxes are thin and grey.

    Args:
        image: uint8 [H, W, 3], RGB; not modified.
        truth: of this image; tasks that are None are not drawn.
        alpha: weight of the mask colours, 0 (invisible) to 1 (opaque).
        vocabularies: the classes by task, a model file's or a data set's; BDD100K's by default.

    Returns:
        uint8 [H, W, 3], RGB.

    Raises:
        ImageError: annotation and image differ in size.
    """
    canvas = _tinted(image, truth.size_hw, truth.semantic, truth.drivable, alpha, vocabularies.get("semantic"))
    if truth.boxes is not None:
        for x1, y1, x2, y2 in np.round(truth.boxes.boxes_xyxy[truth.boxes.crowd]).astype(int).tolist():
            cv2.rectangle(canvas, (x1, y1), (x2 - 1, y2 - 1), _IGNORED_COLOR, 1)
        real: Bool = ~truth.boxes.crowd
        labels = truth.boxes.labels[real]
        boxes_xyxy = truth.boxes.boxes_xyxy[real]
        order = np.argsort(boxes_xyxy[:, 3], kind="stable")  # nearer objects reach lower in the image: draw them last
        objects = vocabularies["detection"]
        colors = [objects.colors[label] for label in labels[order]]
        _draw_boxes(canvas, boxes_xyxy[order], colors, [objects.names[label] for label in labels[order]])
    return canvas


def _palette(vocabulary: Vocabulary, start: int = 0) -> UInt8:
    """uint8 [256, 3] with the vocabulary's colours from ``start`` on and black elsewhere."""
    table = np.zeros((256, 3), np.uint8)
    table[start : start + len(vocabulary.colors)] = vocabulary.colors
    return table


@cache
def _common_palette(vocabulary: Vocabulary | None) -> UInt8:
    """uint8 [256, 1, 3]: colours of the semantic classes, unless None, and of the drivable classes at the end."""
    semantic = np.zeros((256, 3), np.uint8) if vocabulary is None else _palette(vocabulary)
    return np.maximum(semantic, _palette(DRIVABLE, _DRIVABLE_START))[:, None]


def _tinted(
    image: UInt8,
    size_hw: Size,
    semantic: UInt8 | None,
    drivable: UInt8 | None,
    alpha: float,
    vocabulary: Vocabulary | None,
) -> UInt8:
    """A copy of the image, blended with the colours of both masks; ``vocabulary`` is that of ``semantic``."""
    if image.shape != (*size_hw, 3) or any(mask is not None and mask.shape != size_hw for mask in (semantic, drivable)):
        raise ImageError(
            f"an image of shape {image.shape} cannot carry an overlay of size {size_hw}; "
            "draw predictions and truth on the image that they belong to"
        )
    if semantic is None and drivable is None:
        return np.array(image)
    classes: UInt8 = np.full(size_hw, _UNCOLOURED, np.uint8) if semantic is None else semantic.copy()
    if vocabulary is not None:
        classes[classes >= len(vocabulary.names)] = _UNCOLOURED
        if BACKGROUND in vocabulary.names:
            classes[classes == vocabulary.index(BACKGROUND)] = _UNCOLOURED
    if drivable is not None:
        free = drivable < DRIVABLE_BACKGROUND
        classes[free] = drivable[free] + _DRIVABLE_START
    colors = cv2.applyColorMap(classes, _common_palette(vocabulary))
    blended = cv2.addWeighted(image, 1 - alpha, colors, alpha, 0)
    known = np.not_equal(classes, _UNCOLOURED).view(np.uint8)
    return np.asarray(cv2.copyTo(blended, known, image.copy()), np.uint8)


def _draw_boxes(canvas: UInt8, boxes_xyxy: Float32, colors: list[Rgb], texts: list[str]) -> None:
    """Draw outlines, later boxes on top, then names, of which later boxes' have priority; in place."""
    height, width = canvas.shape[:2]
    thickness = max(1, round(min(height, width) / 320))
    corners = np.round(boxes_xyxy).astype(int).tolist()
    for (x1, y1, x2, y2), color in zip(corners, colors, strict=True):
        cv2.rectangle(canvas, (x1, y1), (max(x1, x2 - 1), max(y1, y2 - 1)), color, thickness)
    plates: list[tuple[int, int, int, int]] = []
    for corner, color, text in reversed(list(zip(corners, colors, texts, strict=True))):
        _draw_name(canvas, corner, color, text, thickness, plates)


def _draw_name(
    canvas: UInt8,
    corner: list[int],
    color: Rgb,
    text: str,
    thickness: int,
    plates: list[tuple[int, int, int, int]],
) -> None:
    """Draw the name on a plate above the box, or inside the box at the upper edge of the image.

    The name is omitted where it would cover another name or a whole small object; the outline's colour shows the class.
    """
    height, width = canvas.shape[:2]
    x1, y1, _, y2 = corner
    scale = max(0.32, min(height, width) / 1100)
    weight = max(1, round(scale * 1.5))
    (text_width, text_height), baseline = cv2.getTextSize(text, _FONT, scale, weight)
    plate_height = text_height + baseline + 2
    top = y1 - plate_height if y1 >= plate_height else y1 + thickness
    left = min(max(0, x1 - thickness // 2), max(0, width - text_width - 4))
    right, bottom = left + text_width + 4, top + plate_height
    if y2 - y1 < text_height or any(
        left < other[2] and other[0] < right and top < other[3] and other[1] < bottom for other in plates
    ):
        return
    plates.append((left, top, right, bottom))
    cv2.rectangle(canvas, (left, top), (right - 1, bottom - 1), color, cv2.FILLED)
    luma = 0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2]
    ink = (0, 0, 0) if luma > 110 else (255, 255, 255)
    cv2.putText(canvas, text, (left + 2, top + text_height + 1), _FONT, scale, ink, weight, cv2.LINE_AA)
