"""Category names of all BDD100K releases -> classes of the three tasks.

The detection mapping is the official one (``bdd100k/configs/det.toml``), with renamed categories and with ignored ones,
which count as crowds of a similar class. Categories are compared in lower case.
"""

from typing import Final

from lvad_perception.vocabulary import DETECTION, DRIVABLE, DRIVABLE_BACKGROUND, SEMANTIC, UNLABELED

_RENAMED: Final = {"person": "pedestrian", "bike": "bicycle", "motor": "motorcycle", "caravan": "car", "van": "car"}
_IGNORED: Final = {"other person": "pedestrian", "other vehicle": "car", "trailer": "truck"}

_DETECTION: Final[dict[str, tuple[int, bool]]] = {
    **{name: (index, False) for index, name in enumerate(DETECTION.names)},
    **{name: (DETECTION.index(target), False) for name, target in _RENAMED.items()},
    **{name: (DETECTION.index(target), True) for name, target in _IGNORED.items()},
}

_NOT_EVALUATED: Final = (
    "banner",
    "billboard",
    "bridge",
    "bus stop",
    "caravan",
    "dynamic",
    "ego vehicle",
    "fire hydrant",
    "garage",
    "ground",
    "guard rail",
    "lane divider",
    "mail box",
    "other person",
    "other vehicle",
    "parking",
    "parking sign",
    "polegroup",
    "rail track",
    "static",
    "street light",
    "traffic cone",
    "traffic device",
    "traffic sign frame",
    "trailer",
    "trash can",
    "tunnel",
    "unlabeled",
)
_SEMANTIC: Final[dict[str, int]] = {
    **{name: index for index, name in enumerate(SEMANTIC.names)},
    **dict.fromkeys(_NOT_EVALUATED, UNLABELED),
    "pedestrian": SEMANTIC.index("person"),
    "bike": SEMANTIC.index("bicycle"),
    "motor": SEMANTIC.index("motorcycle"),
}

_DRIVABLE: Final[dict[str, int]] = {
    "direct": DRIVABLE.index("direct"),
    "area/drivable": DRIVABLE.index("direct"),
    "drivable": DRIVABLE.index("direct"),
    "alternative": DRIVABLE.index("alternative"),
    "area/alternative": DRIVABLE.index("alternative"),
    "background": DRIVABLE_BACKGROUND,
    "area/unknown": UNLABELED,
}
_DRIVABLE_BY_TYPE: Final = "drivable area"
_LANE_WORDS: Final = ("lane", "single ", "double ", "road curb", "crosswalk")


def normalise(category: str | None) -> str:
    """Lower case without surrounding blanks; empty for None."""
    return (category or "").strip().lower()


def detection_class(category: str) -> tuple[int, bool] | None:
    """(class id, ignored) of a normalised category; None when it is not a traffic object."""
    return _DETECTION.get(category)


def semantic_class(category: str) -> int | None:
    """Train id of a normalised category, ``UNLABELED`` for one that is not evaluated; None when unknown."""
    return _SEMANTIC.get(category)


def is_drivable(category: str) -> bool:
    """Whether a normalised category is a drivable area, whatever its type."""
    return category == _DRIVABLE_BY_TYPE or category in _DRIVABLE


def drivable_class(category: str, area_type: object) -> int | None:
    """Drivable id of a normalised category; None when it is not a drivable area.

    Args:
        category: "drivable area" (2018), whose type is an attribute, or a category that includes the type.
        area_type: the attribute ``areaType`` of "drivable area". Types other than direct and alternative give
            ``UNLABELED``.
    """
    if category == _DRIVABLE_BY_TYPE:
        return _DRIVABLE.get(str(area_type).lower(), UNLABELED)
    return _DRIVABLE.get(category)


def is_known(category: str) -> bool:
    """Whether a normalised category occurs in any BDD100K release, lane markings included."""
    return category in _DETECTION or category in _SEMANTIC or is_drivable(category) or category.startswith(_LANE_WORDS)
