"""Vocabularies: the classes and colours of the three tasks, of BDD100K (the default) and nuImages.

BDD100K's detection classes are its ten evaluated categories (``bdd100k/configs/det.toml``), its semantic classes the
nineteen Cityscapes-compatible train ids (``bdd100k/label/label.py``), and drivable area has three classes. Note that
detection has "pedestrian" where segmentation has "person".

A model file lists its own classes; ``vocabulary_of`` gives them colours.
"""

import colorsys
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

Rgb = tuple[int, int, int]

UNLABELED: Final = 255
"""Pixel value of both masks where annotation is missing; ``vision_msgs`` has the same convention for uint8 masks."""


class Vocabulary(NamedTuple):
    """The ordered classes of one task: index in the tuple = class id in tensors, masks and model files."""

    task: str
    names: tuple[str, ...]
    colors: tuple[Rgb, ...]

    def index(self, name: str) -> int:  # type: ignore[override]
        """Class id of ``name``. Raises ValueError when the task lacks the class."""
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
    # Bright and distinct colours, since the segmentation palette is too dark for thin box outlines.
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

_NUIMAGES_OBJECTS: Final = (
    "car",
    "truck",
    "bus",
    "trailer",
    "construction_vehicle",
    "pedestrian",
    "motorcycle",
    "bicycle",
    "traffic_cone",
    "barrier",
)
_NUIMAGES_COLORS: Final[tuple[Rgb, ...]] = (
    (255, 158, 0),
    (255, 99, 71),
    (255, 69, 0),
    (255, 210, 90),
    (233, 150, 170),
    (64, 128, 255),
    (255, 61, 199),
    (192, 224, 64),
    (0, 224, 192),
    (160, 112, 255),
)

NUIMAGES_DETECTION: Final = Vocabulary("detection", _NUIMAGES_OBJECTS, _NUIMAGES_COLORS)
"""The ten classes of nuScenes' detection benchmark, in the order of its devkit."""

NUIMAGES_SEMANTIC: Final = Vocabulary(
    "semantic",
    (*_NUIMAGES_OBJECTS, "driveable_surface", "background"),
    (*_NUIMAGES_COLORS, (0, 160, 148), (0, 0, 0)),
)
"""The ten object classes with their detection ids, then the driveable surface, then background: all other pixels."""

VOCABULARIES: Final[Mapping[str, Mapping[str, Vocabulary]]] = {
    "bdd100k": TASKS,
    "nuimages": {"detection": NUIMAGES_DETECTION, "semantic": NUIMAGES_SEMANTIC},
}
"""Data set -> vocabulary of each task; tasks that it does not annotate are absent."""

BACKGROUND: Final = "background"
"""Name of the semantic class of all remaining pixels; overlays leave it uncoloured."""

_GOLDEN_SHARE: Final = 0.618034


def vocabulary_of(task: str, names: Sequence[str]) -> Vocabulary:
    """The vocabulary with these class names: a known one, else one with generated colours."""
    classes = tuple(names)
    for known in VOCABULARIES.values():
        if task in known and known[task].names == classes:
            return known[task]
    return Vocabulary(task, classes, tuple(_color(index) for index in range(len(classes))))


def vocabularies_of(classes: Mapping[str, Sequence[str]]) -> dict[str, Vocabulary]:
    """``vocabulary_of`` for each task of a model file's ``classes``."""
    return {task: vocabulary_of(task, names) for task, names in classes.items()}


def difference(found: Sequence[str], expected: Sequence[str]) -> str:
    """Difference of two class lists as a predicate: "lacks rider and has barrier"; empty if they are equal.

    The same classes in another order differ too, because their ids do: "has them in another order".
    """
    if tuple(found) == tuple(expected):
        return ""
    lacking = [name for name in expected if name not in found]
    extra = [name for name in found if name not in expected]
    parts = [f"{verb} {', '.join(names)}" for verb, names in (("lacks", lacking), ("has", extra)) if names]
    return " and ".join(parts) or "has them in another order"


def _color(index: int) -> Rgb:
    """Hues a golden section apart, so that neighbours differ for any number of classes."""
    red, green, blue = colorsys.hsv_to_rgb(index * _GOLDEN_SHARE % 1.0, 0.75, 0.95)
    return round(red * 255), round(green * 255), round(blue * 255)
