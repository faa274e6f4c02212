"""What of a teacher's prediction becomes a label: thresholds per class, and what passes them. Pure functions.

Box thresholds map class names to the smallest score of a box; a class that is missing in them gets no boxes. Mask
thresholds map every class name to the smallest share of the winning class of a pixel.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Final

import numpy as np

from lvad_perception.errors import ConfigError
from lvad_perception.types import Bool, Detections, Float32, UInt8
from lvad_perception.vocabulary import DETECTION, DRIVABLE, SEMANTIC, TASKS, UNLABELED, Vocabulary
from lvad_training.pseudo.matching import Matches
from lvad_training.recipe.schema import PseudoConfig

LOWEST, HIGHEST = 0.05, 0.95
"""Between these lie the scores that ``auto_thresholds`` chooses from."""

_NEVER: Final = 256  # above every confidence


def check_names(config: PseudoConfig) -> None:
    """Refuse thresholds of classes that there are not. Raises ConfigError."""
    masks = (*SEMANTIC.names, *DRIVABLE.names)
    for key, given, known in (
        ("box_scores", config.box_scores, DETECTION.names),
        ("mask_confidences", config.mask_confidences, masks),
    ):
        unknown = [name for name in given if name not in known]
        if unknown:
            raise ConfigError(f"stages.pseudo.{key} has no class {unknown[0]!r}; choose from {', '.join(known)}")


def needs_auto(config: PseudoConfig) -> bool:
    """Whether the box threshold of some class is to be found from the teacher's own training images."""
    return config.box_score == "auto" and any(name not in config.box_scores for name in DETECTION.names)


def box_thresholds(config: PseudoConfig, auto: Mapping[str, float]) -> dict[str, float]:
    """Thresholds per class: those of ``config``, and where it says "auto" those of ``auto_thresholds``."""
    if config.box_score == "auto":
        return {
            name: {**auto, **config.box_scores}[name]
            for name in DETECTION.names
            if name in {**auto, **config.box_scores}
        }
    return {name: config.box_scores.get(name, config.box_score) for name in DETECTION.names}


def mask_thresholds(config: PseudoConfig, task: str) -> dict[str, float]:
    """Thresholds per class of "semantic" or "drivable"."""
    return {name: config.mask_confidences.get(name, config.mask_confidence) for name in TASKS[task].names}


def auto_thresholds(matches: Iterable[Matches]) -> dict[str, float]:
    """Per class the score at which keeping all boxes from there on has the best F1, between 0.05 and 0.95.

    Of equal scores' F1 the highest threshold wins. A class that the images do not have, or that the teacher never finds
    with such a score, is left out: a teacher that misses a class on images that it learned would only add noise.

    Args:
        matches: of all images, made on images that the teacher was trained on.
    """
    images = list(matches)
    if not images:
        return {}
    labels = np.concatenate([image.labels for image in images])
    scores = np.concatenate([image.scores for image in images])
    hits = np.concatenate([image.hits for image in images])
    truth = np.sum([image.truth for image in images], axis=0)
    found = {}
    for index, name in enumerate(DETECTION.names):
        mine = labels == index
        best = _best_threshold(scores[mine], hits[mine], int(truth[index]))
        if best is not None:
            found[name] = best
    return found


def _best_threshold(scores: Float32, hits: Bool, truth: int) -> float | None:
    order = np.argsort(-scores, kind="stable")
    scores, right = scores[order], np.cumsum(hits[order])
    candidates = np.unique(scores[(scores >= LOWEST) & (scores <= HIGHEST)])[::-1]
    if (scores > HIGHEST).any():
        candidates = np.concatenate([np.array([HIGHEST], scores.dtype), candidates])
    if not len(candidates) or not truth:
        return None
    kept = np.searchsorted(-scores, -candidates, side="right")  # boxes with at least that score
    f1 = 2 * right[kept - 1] / (kept + truth)
    best = int(f1.argmax())
    return float(candidates[best]) if f1[best] > 0 else None


def select_boxes(detections: Detections, thresholds: Mapping[str, float]) -> Detections:
    """The boxes whose score reaches the threshold of their class, in their order."""
    smallest = np.array([thresholds.get(name, math.inf) for name in DETECTION.names], np.float32)
    keep = detections.scores >= smallest[detections.labels]
    return Detections(detections.boxes_xyxy[keep], detections.scores[keep], detections.labels[keep])


def ignored_boxes(detections: Detections, thresholds: Mapping[str, float], ignored_score: float) -> Detections:
    """The boxes that are no labels by ``select_boxes``, and yet score at least ``ignored_score``, in their order.

    The teacher is not sure of them: to take them for background would teach its misses.
    """
    smallest = np.array([thresholds.get(name, math.inf) for name in DETECTION.names], np.float32)
    keep = (detections.scores < smallest[detections.labels]) & (detections.scores >= ignored_score)
    return Detections(detections.boxes_xyxy[keep], detections.scores[keep], detections.labels[keep])


def select_pixels(
    label_map: UInt8, confidence: UInt8, thresholds: Mapping[str, float], vocabulary: Vocabulary
) -> UInt8:
    """The label map, ``UNLABELED`` where its confidence is below the threshold of the pixel's class.

    Args:
        label_map: uint8 [H, W], class ids; other ids become ``UNLABELED``.
        confidence: uint8 [H, W], share of the winning class times 255.
        thresholds: of every class, in [0, 1].
        vocabulary: of the task.
    """
    smallest = np.full(256, _NEVER, np.uint16)
    for index, name in enumerate(vocabulary.names):
        smallest[index] = math.ceil(round(255 * thresholds[name], 6))
    return np.where(confidence >= smallest[label_map], label_map, np.uint8(UNLABELED))
