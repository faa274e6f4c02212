"""The interface of a data set: a split's images in a fixed order, with the annotation of each.

``bdd100k.Bdd100kSplit`` and ``nuimages.NuImagesSplit`` implement it; another data set needs these methods and a line in
``layout.py``.
"""

from pathlib import Path
from typing import Protocol

from lvad_perception.types import Bool, Float32, Int32, Size, Truth, TruthBoxes, UInt8


class Split(Protocol):
    """The images of one split in the order of their names. Instances pickle cheaply, for loaders' workers.

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
        """What is known of the image, such as weather or camera; may be empty."""

    def annotated(self, i: int) -> frozenset[str]:
        """The tasks that the image is annotated for."""

    def annotated_for(self, task: str) -> Bool:
        """bool [F]: which images are annotated for a task."""

    def mask_path(self, i: int, task: str) -> Path | None:
        """The file of a mask; None where there is none."""

    def annotation_files(self, task: str) -> list[Path]:
        """The files that the images' annotation for a task is read from; where none changed, it is what it was."""

    def raw_boxes(self, i: int) -> tuple[Float32, Int32, Bool] | None:
        """Boxes as annotated, not clipped: float32 [N, 4] xyxy, labels int32 [N], crowd bool [N]; None as ``boxes``."""

    def boxes(self, i: int, size_hw: Size) -> TruthBoxes | None:
        """Objects, clipped to an image of that size; None when not annotated. Raises LabelError."""

    def semantic(self, i: int, size_hw: Size) -> UInt8 | None:
        """Class ids, uint8 [H, W], 255 where unknown; None when not annotated. Raises LabelError."""

    def drivable(self, i: int, size_hw: Size) -> UInt8 | None:
        """Drivable ids, uint8 [H, W], 255 where unknown; None when not annotated. Raises LabelError."""

    def truth(self, i: int, size_hw: Size) -> Truth:
        """All annotation. Raises LabelError."""
