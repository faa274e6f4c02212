"""Categories of nuImages -> class ids.

Objects follow the mapping of nuScenes' detection benchmark (``category_to_detection_name`` of its devkit). Pixels of
categories outside that mapping and of the ego vehicle are unlabelled, as in nuScenes' lidar segmentation challenge.
"""

from typing import Final

from lvad_perception.vocabulary import NUIMAGES_SEMANTIC, UNLABELED

_CLASS_OF: Final = {
    "vehicle.car": "car",
    "vehicle.truck": "truck",
    "vehicle.bus.bendy": "bus",
    "vehicle.bus.rigid": "bus",
    "vehicle.trailer": "trailer",
    "vehicle.construction": "construction_vehicle",
    "human.pedestrian.adult": "pedestrian",
    "human.pedestrian.child": "pedestrian",
    "human.pedestrian.construction_worker": "pedestrian",
    "human.pedestrian.police_officer": "pedestrian",
    "vehicle.motorcycle": "motorcycle",
    "vehicle.bicycle": "bicycle",
    "movable_object.trafficcone": "traffic_cone",
    "movable_object.barrier": "barrier",
    "flat.driveable_surface": "driveable_surface",
}
_NOT_EVALUATED: Final = (
    "animal",
    "human.pedestrian.personal_mobility",
    "human.pedestrian.stroller",
    "human.pedestrian.wheelchair",
    "movable_object.debris",
    "movable_object.pushable_pullable",
    "static_object.bicycle_rack",
    "vehicle.ego",
    "vehicle.emergency.ambulance",
    "vehicle.emergency.police",
)
_IDS: Final[dict[str, int]] = {
    **{category: NUIMAGES_SEMANTIC.index(name) for category, name in _CLASS_OF.items()},
    **dict.fromkeys(_NOT_EVALUATED, UNLABELED),
}


def class_id(category: str) -> int | None:
    """Id in ``vocabulary.NUIMAGES_SEMANTIC``; objects have the same id in ``NUIMAGES_DETECTION``.

    Args:
        category: full name, "vehicle.car".

    Returns:
        The id, ``UNLABELED`` for a category that is not evaluated, None for an unknown one.
    """
    return _IDS.get(category)
