"""Findings of an evaluation beyond its metrics: curves, confusions, slices by attribute, frames."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from lvad_perception.metrics.segmentation import Confusion

if TYPE_CHECKING:
    from lvad_perception.metrics.evaluator import Metrics

ATTRIBUTES: Final = ("weather", "scene", "timeofday")
"""Attributes of BDD100K's frames by which findings are sliced."""
NOT_STATED: Final = "not stated"
SCORE_THRESHOLD: Final = 0.3
"""Default minimum score of the boxes that count in confusions and in the errors of frames."""


@dataclass(frozen=True, slots=True)
class FrameMetadata:
    """Name, attributes and losses of a frame.

    Attributes:
        name: its name in its data set, or any text that identifies the image.
        attributes: "weather", "scene", "timeofday" and their values; empty where unknown.
        losses: weighted terms of the training loss on this frame alone; empty outside of training.
    """

    name: str
    attributes: Mapping[str, str] = field(default_factory=dict)
    losses: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class FrameFindings:
    """One evaluated frame.

    Attributes:
        name, attributes, losses: as in ``FrameMetadata``.
        errors: task -> 100 minus the score of this frame alone, for tasks with a prediction and a truth: F1 of the
            boxes at IoU 0.5, mean IoU over the classes of the frame's truth for masks (drivable: three classes).
    """

    name: str
    attributes: dict[str, str]
    losses: dict[str, float]
    errors: dict[str, float]


@dataclass(frozen=True, slots=True)
class SliceScores:
    """Scores over the frames that share an attribute, in percent; None where no truth defines the number.

    Attributes:
        images: number of frames.
        ap, ap50: of boxes, all classes.
        semantic: mean IoU.
        drivable: mean IoU of the three classes.
    """

    images: int
    ap: float | None
    ap50: float | None
    semantic: float | None
    drivable: float | None


@dataclass(frozen=True, slots=True, eq=False)
class Findings:
    """The data that a report shows of an evaluation.

    Attributes:
        metrics: over all frames.
        classes: task -> its class names in the order of their ids.
        precision: detection class -> float64 [101], precision in percent at recall 0, 1, ... 100 % and IoU 0.5, of
            the curve whose mean is AP50; without classes that have no truth.
        confusions: task -> counts by true (row) and predicted class (column): boxes int64 [C + 1, C + 1] with the
            background last (see ``confusion``), pixels int64 [C, C + 1] with "no class" last.
        score_threshold: minimum score of the boxes in ``confusions`` and in the frames' errors.
        slices: attribute -> value -> scores of those frames; without attributes that no frame has.
        frames: in the order of evaluation.
    """

    metrics: "Metrics"
    classes: dict[str, tuple[str, ...]]
    precision: dict[str, npt.NDArray[np.float64]]
    confusions: dict[str, Confusion]
    score_threshold: float
    slices: dict[str, dict[str, SliceScores]]
    frames: tuple[FrameFindings, ...]


@dataclass(frozen=True, slots=True)
class Excess:
    """How far a frame is above the median frame.

    Attributes:
        frame: the frame.
        total: sum of its losses, or mean of its errors where there are no losses.
        above: sum of ``parts``.
        parts: loss term or task -> its excess over the median of the frames that have it, largest first.
    """

    frame: FrameFindings
    total: float
    above: float
    parts: dict[str, float]


def worst_first(frames: Sequence[FrameFindings]) -> list[Excess]:
    """Frames by their excess over the median frame, the worst first.

    Each loss term is compared with its own median over the frames that are annotated for it, and the differences are
    summed, so that more annotated tasks do not make a frame worse. Without losses, the errors of the tasks are used.
    """
    by_loss = any(frame.losses for frame in frames)
    numbers = [frame.losses if by_loss else frame.errors for frame in frames]
    names = dict.fromkeys(name for terms in numbers for name in terms)
    medians = {name: median(terms[name] for terms in numbers if name in terms) for name in names}
    ranked = []
    for frame, terms in zip(frames, numbers, strict=True):
        parts = {name: value - medians[name] for name, value in terms.items()}
        total = sum(terms.values()) / (1 if by_loss else max(1, len(terms)))
        ordered = dict(sorted(parts.items(), key=lambda part: -part[1]))
        ranked.append(Excess(frame, total, sum(parts.values()), ordered))
    return sorted(ranked, key=lambda excess: -excess.above)


def groups(frames: Mapping[str, FrameMetadata]) -> dict[str, dict[str, list[str]]]:
    """Attribute -> value -> keys of the frames with it; without attributes that no frame has."""
    grouped: dict[str, dict[str, list[str]]] = {}
    for attribute in ATTRIBUTES:
        values: dict[str, list[str]] = {}
        for key, metadata in frames.items():
            values.setdefault(metadata.attributes.get(attribute, NOT_STATED), []).append(key)
        if set(values) - {NOT_STATED}:
            grouped[attribute] = dict(sorted(values.items(), key=lambda item: (item[0] == NOT_STATED, -len(item[1]))))
    return grouped
