"""How far the outputs of one runtime are from those of another, on the same images."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.gpu.job import Cells

Arrays = dict[str, npt.NDArray[Any]]
"""Output name of the model file -> array."""


@dataclass(frozen=True, slots=True)
class Difference:
    """Between decoded outputs; what a task without head would say is None.

    Attributes:
        scores: largest difference of confidences of equal rank.
        boxes_px_p50, boxes_px_p99: distance of a box's corners to the nearest box of the same class, network pixels.
        semantic, drivable: smallest share of equal pixels of an image.
    """

    scores: float | None
    boxes_px_p50: float | None
    boxes_px_p99: float | None
    semantic: float | None
    drivable: float | None

    def cells(self) -> Cells:
        """For a table."""
        return {
            "scores, max": self.scores,
            "boxes px, p50": self.boxes_px_p50,
            "boxes px, p99": self.boxes_px_p99,
            "semantic equal %": None if self.semantic is None else 100 * self.semantic,
            "drivable equal %": None if self.drivable is None else 100 * self.drivable,
        }


def to_arrays(outputs: Sequence[Any]) -> Arrays:
    """The tensors that the model file's graph gives, of a network with every task, as arrays by name."""
    names = ("boxes", "scores", "labels", "semantic", "semantic_confidence", "drivable")
    return {name: tensor.cpu().numpy() for name, tensor in zip(names, outputs, strict=True)}


def difference(found: Arrays, wanted: Arrays) -> Difference:
    """Compare decoded outputs.

    The boxes of lowest scores may tie with candidates that fell off the list, so distances are given as quantiles. A
    box without any other of its class counts with its own extent.
    """
    shares = {
        name: float((found[name] == wanted[name]).mean(axis=(1, 2)).min()) if name in wanted else None
        for name in ("semantic", "drivable")
    }
    if "boxes" not in wanted:
        return Difference(None, None, None, shares["semantic"], shares["drivable"])
    distances = []
    for image in range(len(wanted["boxes"])):
        for box, label in zip(found["boxes"][image], found["labels"][image], strict=True):
            same = wanted["boxes"][image][wanted["labels"][image] == label]
            alone = np.abs(box[2:] - box[:2]).max()
            distances.append(float(np.abs(same - box).max(axis=1).min()) if len(same) else float(alone))
    return Difference(
        scores=float(np.abs(found["scores"] - wanted["scores"]).max()),
        boxes_px_p50=float(np.percentile(distances, 50)),
        boxes_px_p99=float(np.percentile(distances, 99)),
        semantic=shares["semantic"],
        drivable=shares["drivable"],
    )
