"""Comparison of two engines' outputs on the same images, and the tolerance of each precision."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from lvad_perception.engines.base import Engine
from lvad_perception.errors import EngineError
from lvad_perception.metrics.matching import MATCH_IOU, iou
from lvad_perception.types import Float32, Int32, RawOutputs, UInt8

_LABEL_MAPS: Final = ("semantic", "drivable")
_OUTPUTS: Final = ("boxes", "scores", "labels", "semantic", "drivable", "semantic_confidence")
_ALTERNATE: Final = -1.0
"""Marks an alternate in an array of distances."""


@dataclass(frozen=True, slots=True)
class Tolerance:
    """Permitted distance of one precision's outputs from the FP32 outputs of the same model file.

    Attributes:
        boxes_px: distance of box corners, network pixels.
        scores: difference of confidences; boxes whose scores differ by at most twice as much are match candidates.
        masks: minimum share of equal pixels in the label maps of any batch, in [0, 1].
        least_score: boxes with a lower confidence in both outputs are not compared.
        share: share of the compared boxes that must keep to ``boxes_px`` and ``scores``, in (0, 1].
        alternates: share of the compared boxes that may be matched by another box of the same object, in [0, 1].
    """

    boxes_px: float
    scores: float
    masks: float
    least_score: float = 0.0
    share: float = 1.0
    alternates: float = 0.0


TOLERANCES: Final[Mapping[str, Tolerance]] = MappingProxyType(
    {
        # Other kernels only sum in another order: every box and all but a few pixels on class borders stay.
        "fp32": Tolerance(boxes_px=1e-2, scores=1e-4, masks=0.999),
        # 11 significant bits: a coordinate of 640 px is rounded to a multiple of 0.5 px, and each refinement starts
        # from the rounded box of the last one. Rounding also decides the order of nearly equal candidates with low
        # scores, the class of single boxes with two nearly equal classes, and which of two nearly equal boxes of one
        # object non-maximum suppression keeps.
        "fp16": Tolerance(boxes_px=2.0, scores=0.02, masks=0.99, least_score=0.3, share=0.95, alternates=0.1),
        # 8 significant bits: a coordinate of 640 px is rounded to a multiple of 4 px in every product. Where a network
        # is unsure of whole regions, as on scenes unlike its training data, two of a hundred pixels change class.
        "bf16": Tolerance(boxes_px=6.0, scores=0.05, masks=0.97, least_score=0.3, share=0.95, alternates=0.2),
        # 256 levels per tensor, chosen on calibration images. These bounds detect a failed calibration only; the
        # accuracy has to be measured again on the data set.
        "int8": Tolerance(boxes_px=8.0, scores=0.1, masks=0.95, least_score=0.3, share=0.9, alternates=0.3),
    }
)
"""Precision of an engine ("fp32", "fp16", "bf16", "int8") -> its tolerance."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """The distance between two engines' outputs on the same images.

    Attributes:
        boxes_px: corner distance, in network pixels, that the tolerance's share of the compared boxes keeps to,
            without alternates; infinite where a box has no match.
        scores: difference of confidences, compared in order of rank, that the share keeps to.
        masks: smallest share of equal pixels in the label maps of one batch, in [0, 1].
        confidence: largest difference of ``semantic_confidence``, in steps of 1 / 255; for information.
        boxes: number of compared boxes, counted in both outputs.
        alternates: number of boxes further than the tolerance's ``boxes_px`` from every candidate, one of which
            overlaps with an intersection over union of 0.5 or more; 0 where the tolerance allows none.
    """

    boxes_px: float
    scores: float
    masks: float
    confidence: int
    boxes: int
    alternates: int = 0

    def within(self, tolerance: Tolerance) -> bool:
        """Whether the distance is within a tolerance; NaN never is."""
        return (
            self.boxes_px <= tolerance.boxes_px
            and self.scores <= tolerance.scores
            and self.masks >= tolerance.masks
            and self.alternates <= tolerance.alternates * self.boxes
        )

    def to_text(self) -> str:
        """One line for a terminal or a log."""
        alternates = f" ({self.alternates} are another box of the same object)" if self.alternates else ""
        return (
            f"{self.boxes} boxes within {self.boxes_px:.3g} px{alternates}, scores within {self.scores:.2g}, "
            f"{100 * self.masks:.3f} % of mask pixels equal, confidence within {self.confidence}/255"
        )


def agree(
    outputs: Sequence[RawOutputs], reference: Sequence[RawOutputs], tolerance: Tolerance = TOLERANCES["fp32"]
) -> Agreement:
    """Compare two engines' outputs, batch by batch.

    Boxes are compared as sets, since nearly equal scores may come in either order: the distance of a box is that to the
    nearest box on the other side with the same label and a score within twice the tolerance. Boxes whose score is that
    close to the lowest one on the other side are left out, since their match may be missing from the top K there.

    Args:
        outputs: of the engine under test, of ``infer_all``.
        reference: of the trusted engine on the same batches.
        tolerance: selects the candidates for a match, the compared boxes and their share.

    Raises:
        EngineError: nothing to compare, or outputs of different tasks or shapes.
    """
    if not outputs or len(outputs) != len(reference):
        raise EngineError(
            f"{len(outputs)} outputs cannot be compared with {len(reference)}; run both engines on the same images"
        )
    distances: list[Float32] = []
    differences: list[Float32] = []
    masks, confidence = 1.0, 0
    for one, other in zip(outputs, reference, strict=True):
        _check_shapes(one, other)
        for name in _LABEL_MAPS:
            if getattr(one, name) is not None:
                masks = min(masks, float((getattr(one, name) == getattr(other, name)).mean()))
        if one.semantic_confidence is not None and other.semantic_confidence is not None:
            steps = one.semantic_confidence.astype(np.int16) - other.semantic_confidence
            confidence = max(confidence, int(np.abs(steps).max()))
        if one.scores is not None and other.scores is not None:
            compared = ~(np.maximum(one.scores, other.scores) < tolerance.least_score)  # also NaN
            differences.append(np.abs(one.scores - other.scores)[compared])
            for image in range(len(one.scores)):
                sides = _boxes_of(one, image), _boxes_of(other, image)
                distances.append(_distances(*sides, tolerance))
                distances.append(_distances(*sides[::-1], tolerance))
    corners = np.concatenate(distances) if distances else np.zeros(0)
    alternates = corners == _ALTERNATE
    return Agreement(
        boxes_px=_bound(corners[~alternates], tolerance.share),
        scores=_bound(np.concatenate(differences) if differences else np.zeros(0), tolerance.share),
        masks=masks,
        confidence=confidence,
        boxes=len(corners),
        alternates=int(alternates.sum()),
    )


def infer_all(engine: Engine, batches: Sequence[UInt8]) -> list[RawOutputs]:
    """An engine's outputs on each batch, as copies, since the engine reuses its arrays."""
    return [copied(engine.infer(batch)) for batch in batches]


def copied(outputs: RawOutputs) -> RawOutputs:
    """A copy that the engine does not overwrite."""
    arrays = {name: array.copy() for name in _OUTPUTS if (array := getattr(outputs, name)) is not None}
    return replace(outputs, **arrays)


_Boxes = tuple[Float32, Float32, Int32]
"""Boxes [K, 4], scores [K] and labels [K] of one image."""


def _boxes_of(outputs: RawOutputs, image: int) -> _Boxes:
    assert outputs.boxes is not None
    assert outputs.scores is not None
    assert outputs.labels is not None
    return outputs.boxes[image], outputs.scores[image], outputs.labels[image]


def _distances(these: _Boxes, those: _Boxes, tolerance: Tolerance) -> Float32:
    """Corner distance from each compared box of ``these`` to its nearest candidate of ``those``, float32 [J].

    The distance is the largest of the four coordinates'; ``_ALTERNATE`` marks an alternate.
    """
    boxes, scores, labels = these
    other_boxes, other_scores, other_labels = those
    if not len(scores) or not len(other_scores):
        return np.zeros(0, np.float32)
    reach = 2 * tolerance.scores
    compared = ~((scores <= other_scores.min() + reach) | (scores < tolerance.least_score))
    boxes, scores, labels = boxes[compared], scores[compared], labels[compared]
    candidates = (labels[:, None] == other_labels) & (np.abs(scores[:, None] - other_scores) <= reach)  # (J, K)
    apart = np.abs(boxes[:, None] - other_boxes).max(axis=2)  # (J, K)
    nearest = np.where(candidates, apart, np.inf).min(axis=1)  # (J,)
    if tolerance.alternates > 0:
        same_object = (candidates & (iou(boxes, other_boxes) >= MATCH_IOU)).any(axis=1)
        nearest[same_object & (nearest > tolerance.boxes_px)] = _ALTERNATE
    return np.asarray(nearest, np.float32)


def _bound(values: npt.NDArray[Any], share: float) -> float:
    """The smallest of the values that ``share`` of them do not exceed; 0 for none, NaN if one is NaN."""
    if not len(values):
        return 0.0
    ordered = np.sort(values)  # NaN last
    return float(ordered[-1] if np.isnan(ordered[-1]) else ordered[math.ceil(share * (len(ordered) - 1))])


def _check_shapes(one: RawOutputs, other: RawOutputs) -> None:
    for name in _OUTPUTS:
        shapes = [None if array is None else array.shape for array in (getattr(one, name), getattr(other, name))]
        if shapes[0] != shapes[1]:
            raise EngineError(
                f"output {name} of shape {shapes[0]} cannot be compared with {shapes[1]}; "
                "compare engines of the same model file"
            )
