"""The classes and colours of the three tasks: BDD100K's, which the package speaks by itself, and nuImages'.

Detection uses BDD100K's ten evaluated categories (``bdd100k/configs/det.toml``), semantic segmentation the nineteen
Cityscapes-compatible train ids (``bdd100k/label/label.py``), drivable area BDD100K's three classes. Mind the trap:
detection says "pedestrian" where segmentation says "person".

A model file lists its own classes; what shows them gets their colours from ``vocabulary_of``.
"""

import colorsys
from collections.abc import Mapping, Sequence
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
"""The ten object classes with their ids, then the one surface, then what nobody annotated: neither of them."""

VOCABULARIES: Final[Mapping[str, Mapping[str, Vocabulary]]] = {
    "bdd100k": TASKS,
    "nuimages": {"detection": NUIMAGES_DETECTION, "semantic": NUIMAGES_SEMANTIC},
}
"""Name -> the vocabularies of its tasks; a task that it does not annotate is absent."""

BACKGROUND: Final = "background"
"""The class of pixels that show nothing that a vocabulary names: drawn without a colour."""

_GOLDEN_SHARE: Final = 0.618034


def vocabulary_of(task: str, names: Sequence[str]) -> Vocabulary:
    """The vocabulary with these class names: a known one, else one whose colours follow from the classes' places."""
    wanted = tuple(names)
    for known in VOCABULARIES.values():
        if task in known and known[task].names == wanted:
            return known[task]
    return Vocabulary(task, wanted, tuple(_color(place) for place in range(len(wanted))))


def vocabularies_of(classes: Mapping[str, Sequence[str]]) -> dict[str, Vocabulary]:
    """``vocabulary_of`` for each task of a model file's ``classes``."""
    return {task: vocabulary_of(task, names) for task, names in classes.items()}


def difference(found: Sequence[str], wanted: Sequence[str]) -> str:
    """How a list of classes differs from another, as words behind "it": "lacks rider and has barrier"; empty if equal.

    Lists of the same classes in another order are "has them in another order": ids would be mistaken.
    """
    if tuple(found) == tuple(wanted):
        return ""
    lacking = [name for name in wanted if name not in found]
    extra = [name for name in found if name not in wanted]
    parts = [f"{verb} {', '.join(names)}" for verb, names in (("lacks", lacking), ("has", extra)) if names]
    return " and ".join(parts) or "has them in another order"


def _color(place: int) -> Rgb:
    """Hues a golden section apart, so that neighbours differ however many there are."""
    red, green, blue = colorsys.hsv_to_rgb(place * _GOLDEN_SHARE % 1.0, 0.75, 0.95)
    return round(red * 255), round(green * 255), round(blue * 255)
