"""What an evaluation found beyond its metrics: curves, confusions, every frame, and slices by frame attributes."""

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
"""The attributes of BDD100K's frames that findings are sliced by."""
NOT_STATED: Final = "not stated"
SCORE_THRESHOLD: Final = 0.3
"""Boxes with at least this score are counted in confusions and in the frames' errors, as a user would see them."""


@dataclass(frozen=True, slots=True)
class FrameMetadata:
    """What is known of a frame besides its predictions and truth.

    Attributes:
        name: its name in its data set, or what else says which image it is.
        attributes: "weather", "scene", "timeofday" and their values; empty where nobody stated them.
        losses: weighted terms of the training loss on this frame alone; empty where there is no training loss.
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
        images: so many frames.
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
    """Everything that a report says of an evaluation.

    Attributes:
        metrics: over all frames.
        classes: task -> its class names in the order of their ids.
        precision: detection class -> float64 [101], precision in percent at recall 0, 1, ... 100 % and IoU 0.5, of
            the very curve whose mean is AP50; classes without truth are left out.
        confusions: task -> counts by true (row) and predicted class (column): boxes int64 [C + 1, C + 1] with the
            background last (see ``matching``), pixels int64 [C, C + 1] with "no class" last.
        score_threshold: least score of the boxes in ``confusions`` and in the frames' errors.
        slices: attribute -> value -> scores of those frames; without the attributes that no frame states.
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
    """How much worse than usual a frame is.

    Attributes:
        frame: the frame.
        total: sum of its losses, or mean of its errors where there are no losses.
        above: sum of ``parts``.
        parts: loss term or task -> how far it is above its median over the frames that have it, largest first.
    """

    frame: FrameFindings
    total: float
    above: float
    parts: dict[str, float]


def worst_first(frames: Sequence[FrameFindings]) -> list[Excess]:
    """Frames by how far they are above the median frame, the worst first.

    Each loss term is compared with its own median, over the frames that are annotated for it, and the differences are
    summed: a frame is not worse for being annotated for more tasks. Without losses, the tasks' errors take their place.
    """
    by_loss = any(frame.losses for frame in frames)
    numbers = [frame.losses if by_loss else frame.errors for frame in frames]
    names = dict.fromkeys(name for found in numbers for name in found)
    usual = {name: median(found[name] for found in numbers if name in found) for name in names}
    ranked = []
    for frame, found in zip(frames, numbers, strict=True):
        parts = {name: value - usual[name] for name, value in found.items()}
        total = sum(found.values()) / (1 if by_loss else max(1, len(found)))
        ordered = dict(sorted(parts.items(), key=lambda part: -part[1]))
        ranked.append(Excess(frame, total, sum(parts.values()), ordered))
    return sorted(ranked, key=lambda excess: -excess.above)


def groups(frames: Mapping[str, FrameMetadata]) -> dict[str, dict[str, list[str]]]:
    """Attribute -> value -> keys of the frames with it; attributes that no frame states are left out."""
    found: dict[str, dict[str, list[str]]] = {}
    for attribute in ATTRIBUTES:
        values: dict[str, list[str]] = {}
        for key, metadata in frames.items():
            values.setdefault(metadata.attributes.get(attribute, NOT_STATED), []).append(key)
        if set(values) - {NOT_STATED}:
            found[attribute] = dict(sorted(values.items(), key=lambda item: (item[0] == NOT_STATED, -len(item[1]))))
    return found
