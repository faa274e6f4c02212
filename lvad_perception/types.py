"""Data types of perception: frozen dataclasses over numpy arrays, without behaviour.

Conventions of the whole project: a *size* is (height, width) in pixels; a box is ``xyxy`` in continuous pixel
coordinates, where pixel (row r, column c) covers [c, c + 1) x [r, r + 1), so that 0 <= x1 < x2 <= width and
0 <= y1 < y2 <= height; images are RGB.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Float32 = npt.NDArray[np.float32]
Int32 = npt.NDArray[np.int32]
UInt8 = npt.NDArray[np.uint8]
Bool = npt.NDArray[np.bool_]
Progress = Callable[[float, str], None]
"""Receives the share of the work that is done, in [0, 1], and the name of the current phase."""
Size = tuple[int, int]
"""(height, width) in pixels."""


@dataclass(frozen=True, slots=True, eq=False)
class Detections:
    """Detected traffic objects of one image, best score first.

    Attributes:
        boxes_xyxy: float32 [N, 4], source pixels, 0 <= x1 < x2 <= W and 0 <= y1 < y2 <= H.
        scores: float32 [N], confidence in [0, 1], descending.
        labels: int32 [N], indices into the model's detection classes.
    """

    boxes_xyxy: Float32
    scores: Float32
    labels: Int32

    def __len__(self) -> int:
        return len(self.scores)


@dataclass(frozen=True, slots=True, eq=False)
class Predictions:
    """The model's predictions for one image, in source pixels. A task that the model lacks is None.

    Attributes:
        size_hw: size of the source image.
        detections: boxes, or None.
        semantic: uint8 [H, W], indices into the model's semantic classes, or None.
        drivable: uint8 [H, W], indices into ``vocabulary.DRIVABLE.names``, or None.
        semantic_confidence: uint8 [H, W], probability of the predicted semantic class times 255, or None.
    """

    size_hw: Size
    detections: Detections | None
    semantic: UInt8 | None
    drivable: UInt8 | None
    semantic_confidence: UInt8 | None = None


@dataclass(frozen=True, slots=True, eq=False)
class TruthBoxes:
    """Annotated traffic objects of one image. Annotated-and-empty is N = 0.

    Attributes:
        boxes_xyxy: float32 [N, 4], source pixels, 0 <= x1 < x2 <= W and 0 <= y1 < y2 <= H.
        labels: int32 [N], indices into the data set's detection classes.
        crowd: bool [N], True for crowds and for BDD100K's ignored categories ("other person", "other vehicle",
            "trailer"): neither a miss nor a false positive in evaluation, and not a target in training.
    """

    boxes_xyxy: Float32
    labels: Int32
    crowd: Bool

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, slots=True, eq=False)
class Truth:
    """The annotation of one image, in source pixels. A task that the image is not annotated for is None.

    Attributes:
        size_hw: size of the source image.
        boxes: annotated objects, or None.
        semantic: uint8 [H, W], indices into the data set's semantic classes, ``UNLABELED`` where unknown, or None.
        drivable: uint8 [H, W], indices into ``vocabulary.DRIVABLE.names``, ``UNLABELED`` where unknown, or None.
    """

    size_hw: Size
    boxes: TruthBoxes | None
    semantic: UInt8 | None
    drivable: UInt8 | None


@dataclass(frozen=True, slots=True)
class Letterbox:
    """Geometry of a letterboxed image: the source was resized to ``resized_hw``, then padded to ``network_hw``.

    Attributes:
        source_hw: size of the source image.
        network_hw: size of the network input.
        resized_hw: size of the resized image within the network input.
        top: rows of padding above the resized image.
        left: columns of padding left of the resized image.
    """

    source_hw: Size
    network_hw: Size
    resized_hw: Size
    top: int
    left: int


@dataclass(frozen=True, slots=True, eq=False)
class RawOutputs:
    """A model file's outputs for a batch, named as in the file, in pixels of the manifest's ``output_hw``.

    Attributes:
        boxes: float32 [N, K, 4], xyxy.
        scores: float32 [N, K], in [0, 1], descending.
        labels: int32 [N, K].
        semantic: uint8 [N, H, W].
        drivable: uint8 [N, H, W].
        semantic_confidence: uint8 [N, H, W].

    A task that the model lacks is None.
    """

    boxes: Float32 | None
    scores: Float32 | None
    labels: Int32 | None
    semantic: UInt8 | None
    drivable: UInt8 | None
    semantic_confidence: UInt8 | None
