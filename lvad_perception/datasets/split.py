"""The interface of every data set: a split's images in a fixed order, with the annotation of each.

``bdd100k.Bdd100kSplit`` and ``nuimages.NuImagesSplit`` implement it. Another data set needs a class with these methods
and a branch in ``layout.py``.
"""

from pathlib import Path
from typing import Protocol

import numpy as np

from lvad_perception.types import Bool, Float32, Int32, Size, Truth, TruthBoxes, UInt8


class Split(Protocol):
    """The images of one split, sorted by name. Instances pickle cheaply, since data loaders copy them into workers.

    Attributes:
        root: folder of the data set.
        name: of the split.
    """

    root: Path
    name: str

    def __len__(self) -> int:
        """Number of images."""

    def name_of(self, i: int) -> str:
        """The image's name, unique in the split."""

    def image_path(self, i: int) -> Path:
        """The image's file."""

    def attributes(self, i: int) -> dict[str, str]:
        """Attributes of the image, such as weather or camera; may be empty."""

    def annotated(self, i: int) -> frozenset[str]:
        """The tasks that the image is annotated for."""

    def annotated_for(self, task: str) -> Bool:
        """bool [F]: which images are annotated for a task."""

    def mask_path(self, i: int, task: str) -> Path | None:
        """The image file of the mask; None where the image has none, or the mask is stored in another way."""

    def annotation_files(self, task: str) -> list[Path]:
        """All files that the task's annotation is read from: unchanged files mean unchanged annotation."""

    def raw_boxes(self, i: int) -> tuple[Float32, Int32, Bool] | None:
        """Boxes as annotated, not clipped: float32 [N, 4] xyxy, labels int32 [N], crowd bool [N]; None as ``boxes``."""

    def boxes(self, i: int, size_hw: Size) -> TruthBoxes | None:
        """Objects, clipped to an image of this size; None when not annotated. Raises LabelError."""

    def semantic(self, i: int, size_hw: Size) -> UInt8 | None:
        """Class ids, uint8 [H, W], 255 where unknown; None when not annotated. Raises LabelError."""

    def drivable(self, i: int, size_hw: Size) -> UInt8 | None:
        """Drivable ids, uint8 [H, W], 255 where unknown; None when not annotated. Raises LabelError."""

    def truth(self, i: int, size_hw: Size) -> Truth:
        """All annotation. Raises LabelError."""


def clip_boxes(boxes: Float32, labels: Int32, crowd: Bool, size_hw: Size) -> TruthBoxes:
    """Clip annotated boxes to their image, in place, and drop those that lie outside.

    Args:
        boxes: float32 [N, 4] xyxy, as ``Split.raw_boxes`` returns them; modified.
        labels: int32 [N].
        crowd: bool [N].
        size_hw: of the image.
    """
    height, width = size_hw
    np.clip(boxes, 0, np.array([width, height, width, height], np.float32), out=boxes)
    keep = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    return TruthBoxes(boxes[keep], labels[keep], crowd[keep])
