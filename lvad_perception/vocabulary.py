"""The classes and colours of the three tasks, in BDD100K's order.

Detection uses BDD100K's ten evaluated categories (``bdd100k/configs/det.toml``), semantic segmentation the nineteen
Cityscapes-compatible train ids (``bdd100k/label/label.py``), drivable area BDD100K's three classes. Mind the trap:
detection says "pedestrian" where segmentation says "person".
"""

from typing import Final, NamedTuple

Rgb = tuple[int, int, int]

UNLABELED: Final = 255
"""Pixel value of both masks where there is no annotation; ``vision_msgs`` uses the same value for uint8 masks."""


class Vocabulary(NamedTuple):
    """The ordered classes of one task: index in the tuple = class id in tensors, masks and model files."""

    task: str
    names: tuple[str, ...]
    colors: tuple[Rgb, ...]

    def index(self, name: str) -> int:  # type: ignore[override]
        """Class id of ``name``. Raises ValueError when the task has no such class."""
        return self.names.index(name)


DETECTION: Final = Vocabulary(
    "detection",
    (
        "pedestrian",
        "rider",
        "car",
        "truck",
        "bus",
        "train",
        "motorcycle",
        "bicycle",
        "traffic light",
        "traffic sign",
    ),
    # Bright, mutually distinct colours: the segmentation palette is too dark for thin box outlines.
    (
        (255, 64, 96),
        (255, 128, 0),
        (64, 200, 255),
        (64, 128, 255),
        (160, 112, 255),
        (0, 224, 192),
        (255, 96, 224),
        (192, 224, 64),
        (255, 200, 0),
        (255, 255, 96),
    ),
)

SEMANTIC: Final = Vocabulary(
    "semantic",
    (
        "road",
        "sidewalk",
        "building",
        "wall",
        "fence",
        "pole",
        "traffic light",
        "traffic sign",
        "vegetation",
        "terrain",
        "sky",
        "person",
        "rider",
        "car",
        "truck",
        "bus",
        "train",
        "motorcycle",
        "bicycle",
    ),
    # The Cityscapes palette, which BDD100K shares.
    (
        (128, 64, 128),
        (244, 35, 232),
        (70, 70, 70),
        (102, 102, 156),
        (190, 153, 153),
        (153, 153, 153),
        (250, 170, 30),
        (220, 220, 0),
        (107, 142, 35),
        (152, 251, 152),
        (70, 130, 180),
        (220, 20, 60),
        (255, 0, 0),
        (0, 0, 142),
        (0, 0, 70),
        (0, 60, 100),
        (0, 80, 100),
        (0, 0, 230),
        (119, 11, 32),
    ),
)

DRIVABLE: Final = Vocabulary(
    "drivable",
    ("direct", "alternative", "background"),
    ((219, 94, 86), (86, 211, 219), (0, 0, 0)),
)

DRIVABLE_BACKGROUND: Final = 2

TASKS: Final = {vocabulary.task: vocabulary for vocabulary in (DETECTION, SEMANTIC, DRIVABLE)}
