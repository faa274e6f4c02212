"""Writes rendered scenes in nuImages' schema v1.0.

    samples/CAM_FRONT/<name>.jpg
    v1.0-{train,val}/<table>.json

The tables are those of the published data set. They hold every visible object with box and mask, the driveable surface
and the ego vehicle. Five of the ten classes occur; riders count as pedestrians; trains, traffic lights and signs are
not annotated.
"""

import base64
import hashlib
import json
from pathlib import Path
from typing import Any, Final

import numpy as np

from lvad_perception.datasets.run_lengths import mask_to_rle
from lvad_perception.types import Bool
from lvad_perception.vocabulary import DETECTION, SEMANTIC, UNLABELED
from lvad_training.sample_set.scene import Scene

CAMERA: Final = "CAM_FRONT"

_LOG: Final = "n000-2000-01-01-00-00-00+0000"
_CATEGORY: Final = {
    "pedestrian": "human.pedestrian.adult",
    "rider": "human.pedestrian.adult",
    "car": "vehicle.car",
    "truck": "vehicle.truck",
    "bus": "vehicle.bus.rigid",
    "motorcycle": "vehicle.motorcycle",
    "bicycle": "vehicle.bicycle",
}
_SURFACES: Final = ("flat.driveable_surface", "vehicle.ego")
_SIZE_OF_TOKEN: Final = 32


def image_file(index: int) -> str:
    """The file of an image, relative to the data set's folder."""
    return f"samples/{CAMERA}/{_LOG}__{CAMERA}__{index:016d}.jpg"


def rows_of(scene: Scene, index: int) -> dict[str, list[dict[str, Any]]]:
    """The rows of a scene: table -> rows.

    Args:
        scene: the scene.
        index: its number, which determines its tokens.
    """
    height, width = scene.semantic.shape
    data = _token("sample_data", index)
    objects = [
        {
            "token": _token("object", index, number),
            "sample_data_token": data,
            "category_token": _token("category", _CATEGORY[DETECTION.names[box.detection]]),
            "attribute_tokens": [],
            "bbox": [int(corner) for corner in box.xyxy],
            "mask": _mask(scene.instances == box.ident),
        }
        for number, box in enumerate(scene.boxes)
        if DETECTION.names[box.detection] in _CATEGORY
    ]
    areas = (scene.semantic == SEMANTIC.index("road"), scene.semantic == UNLABELED)
    surfaces = [
        {
            "token": _token("surface", index, name),
            "sample_data_token": data,
            "category_token": _token("category", name),
            "mask": _mask(area),
        }
        for name, area in zip(_SURFACES, areas, strict=True)
        if area.any()
    ]
    image = {
        "token": data,
        "sample_token": _token("sample", index),
        "ego_pose_token": _token("ego_pose", index),
        "calibrated_sensor_token": _token("calibrated_sensor"),
        "filename": image_file(index),
        "fileformat": "jpg",
        "width": width,
        "height": height,
        "timestamp": index,
        "is_key_frame": True,
        "next": "",
        "prev": "",
    }
    sample = {
        "token": _token("sample", index),
        "timestamp": index,
        "log_token": _token("log"),
        "key_camera_token": data,
    }
    pose = {"token": _token("ego_pose", index), "translation": [0.0, 0.0, 0.0], "rotation": [1.0, 0.0, 0.0, 0.0]}
    return {
        "sample_data": [image],
        "sample": [sample],
        "ego_pose": [pose],
        "object_ann": objects,
        "surface_ann": surfaces,
    }


def write_version(folder: Path, scenes: list[dict[str, list[dict[str, Any]]]]) -> None:
    """Write the tables of a version.

    Args:
        folder: such as ``v1.0-train``; created.
        scenes: ``rows_of`` each image.
    """
    categories = sorted({*_CATEGORY.values(), *_SURFACES})
    tables: dict[str, list[dict[str, Any]]] = {
        "log": [{"token": _token("log"), "logfile": _LOG, "vehicle": "n000", "location": "rendered"}],
        "sensor": [{"token": _token("sensor"), "channel": CAMERA, "modality": "camera"}],
        "calibrated_sensor": [{"token": _token("calibrated_sensor"), "sensor_token": _token("sensor")}],
        "category": [{"token": _token("category", name), "name": name, "description": ""} for name in categories],
        "attribute": [],
    }
    for rows in scenes:
        for table, found in rows.items():
            tables.setdefault(table, []).extend(found)
    folder.mkdir()
    for table, found in tables.items():
        (folder / f"{table}.json").write_text(json.dumps(found))


def _mask(mask: Bool) -> dict[str, Any] | None:
    """A mask in nuImages' run-length encoding; None if it is empty."""
    if not np.any(mask):
        return None
    rle = mask_to_rle(mask)
    return {"size": list(rle.size), "counts": base64.b64encode(str(rle.counts).encode()).decode()}


def _token(*parts: object) -> str:
    return hashlib.sha256(" ".join(map(str, parts)).encode()).hexdigest()[:_SIZE_OF_TOKEN]
