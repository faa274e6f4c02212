"""Thresholds per class that decide which predictions become labels, as pure functions.

Box thresholds map class names to the smallest score of a box; a missing class gets no boxes. Mask thresholds map every
class name to the smallest confidence of a pixel, the probability of its winning class.
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
"""Range of the scores that ``auto_thresholds`` chooses from."""

_NEVER: Final = 256  # above every confidence


def check_names(config: PseudoConfig) -> None:
    """Refuse thresholds of unknown classes. Raises ConfigError."""
    masks = (*SEMANTIC.names, *DRIVABLE.names)
    for key, given, known in (
        ("box_scores", config.box_scores, DETECTION.names),
        ("mask_confidences", config.mask_confidences, masks),
    ):
        unknown = [name for name in given if name not in known]
        if unknown:
            raise ConfigError(f"stages.pseudo.{key} has no class {unknown[0]!r}; choose from {', '.join(known)}")


def needs_auto(config: PseudoConfig) -> bool:
    """Whether any class has an "auto" box threshold, chosen on the teacher's own training images."""
    return config.box_score == "auto" and any(name not in config.box_scores for name in DETECTION.names)


def box_thresholds(config: PseudoConfig, auto: Mapping[str, float]) -> dict[str, float]:
    """Thresholds per class: those of ``config``, or ``auto`` of ``auto_thresholds`` where it says "auto"."""
    default = auto if config.box_score == "auto" else dict.fromkeys(DETECTION.names, config.box_score)
    scores = {**default, **config.box_scores}
    return {name: scores[name] for name in DETECTION.names if name in scores}


def mask_thresholds(config: PseudoConfig, task: str) -> dict[str, float]:
    """Thresholds per class of "semantic" or "drivable"."""
    return {name: config.mask_confidences.get(name, config.mask_confidence) for name in TASKS[task].names}


def auto_thresholds(matches: Iterable[Matches]) -> dict[str, float]:
    """Per class, the score threshold between 0.05 and 0.95 with the best F1.

    Of thresholds with equal F1 the highest wins. A class that the images lack, or that the teacher never finds with
    such a score, is left out: a teacher that misses a class on its own training images would only add noise.

    Args:
        matches: of images that the teacher was trained on.
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
        of_class = labels == index
        best = _best_threshold(scores[of_class], hits[of_class], int(truth[index]))
        if best is not None:
            found[name] = best
    return found


def _best_threshold(scores: Float32, hits: Bool, truth: int) -> float | None:
    order = np.argsort(-scores, kind="stable")
    scores, true_positives = scores[order], np.cumsum(hits[order])
    candidates = np.unique(scores[(scores >= LOWEST) & (scores <= HIGHEST)])[::-1]
    if (scores > HIGHEST).any():
        candidates = np.concatenate([np.array([HIGHEST], scores.dtype), candidates])
    if not len(candidates) or not truth:
        return None
    kept = np.searchsorted(-scores, -candidates, side="right")  # number of boxes with at least that score
    f1 = 2 * true_positives[kept - 1] / (kept + truth)
    best = int(f1.argmax())
    return float(candidates[best]) if f1[best] > 0 else None


def select_boxes(detections: Detections, thresholds: Mapping[str, float]) -> Detections:
    """The boxes whose score reaches the threshold of their class, in unchanged order."""
    return _take(detections, detections.scores >= _smallest_scores(detections, thresholds))


def ignored_boxes(detections: Detections, thresholds: Mapping[str, float], ignored_score: float) -> Detections:
    """The boxes below the threshold of their class with a score of at least ``ignored_score``, in unchanged order.

    The teacher is unsure of them; training on them as background would teach its misses.
    """
    below = detections.scores < _smallest_scores(detections, thresholds)
    return _take(detections, below & (detections.scores >= ignored_score))


def _smallest_scores(detections: Detections, thresholds: Mapping[str, float]) -> Float32:
    """Threshold of each detection's class, float32 [N]."""
    smallest = np.array([thresholds.get(name, math.inf) for name in DETECTION.names], np.float32)
    return np.asarray(smallest[detections.labels])


def _take(detections: Detections, keep: Bool) -> Detections:
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
