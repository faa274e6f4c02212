"""Writes a small data set in nuImages' schema v1.0: relational tables, hexadecimal tokens, base64 run lengths."""

import base64
import hashlib
import json

import cv2
import numpy as np
import pytest

SIZE_HW = (60, 80)
CATEGORIES = (
    *("animal", "flat.driveable_surface", "human.pedestrian.adult", "movable_object.barrier"),
    *("movable_object.trafficcone", "vehicle.car", "vehicle.ego", "vehicle.emergency.police", "vehicle.truck"),
)
CAMERAS = ("CAM_FRONT", "CAM_BACK")


def token(*parts):
    """A token: 32 hexadecimal digits, a hash of the parts."""
    return hashlib.md5(" ".join(map(str, parts)).encode()).hexdigest()


def rle(mask):
    """A mask, bool [H, W], in nuImages' encoding; by pycocotools, like the published ones."""
    from pycocotools.mask import encode

    counted = encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": [int(side) for side in counted["size"]], "counts": base64.b64encode(counted["counts"]).decode()}


def area(x1, y1, x2, y2, size_hw=SIZE_HW):
    """The mask of a rectangle, bool [H, W]."""
    mask = np.zeros(size_hw, bool)
    mask[y1:y2, x1:x2] = True
    return mask


class NuTree:
    """Writes a version: add images and annotation, then call ``write``; tests can change ``tables`` before."""

    def __init__(self, root, version="v1.0-train"):
        self.root, self.version = root, version
        self.tables = {name: [] for name in ("sample", "sample_data", "object_ann", "surface_ann")}
        self.tables["log"] = [
            {
                "token": token("log"),
                "logfile": "n003-2018-01-02-11-48-43+0800",
                "vehicle": "n003",
                "date_captured": "2018-01-02",
                "location": "singapore-onenorth",
            }
        ]
        self.tables["category"] = [
            {"token": token("category", name), "name": name, "description": ""} for name in CATEGORIES
        ]
        self.tables["attribute"] = [{"token": token("parked"), "name": "vehicle.parked", "description": ""}]
        self.tables["ego_pose"] = [{"token": token("pose"), "translation": [0.0, 0.0, 0.0], "timestamp": 1}]
        channels = [*((camera, "camera") for camera in CAMERAS), ("LIDAR_TOP", "lidar")]
        self.tables["sensor"] = [
            {"token": token("sensor", channel), "channel": channel, "modality": modality}
            for channel, modality in channels
        ]
        self.tables["calibrated_sensor"] = [
            {"token": token("calibrated", channel), "sensor_token": token("sensor", channel), "camera_intrinsic": []}
            for channel, _ in channels
        ]

    def image(self, stamp, *, camera="CAM_FRONT", size_hw=SIZE_HW):
        """Add a key frame, and a sweep of the same camera; returns the key frame's token."""
        key, sample = token("data", camera, stamp), token("sample", camera, stamp)
        log = self.tables["log"][0]["logfile"]
        self.tables["sample"].append(
            {"token": sample, "timestamp": stamp, "log_token": token("log"), "key_camera_token": key}
        )
        for folder, time, is_key in (("samples", stamp, True), ("sweeps", stamp + 1, False)):
            self.tables["sample_data"].append(
                {
                    "token": key if is_key else token("data", camera, time),
                    "sample_token": sample,
                    "ego_pose_token": token("pose"),
                    "calibrated_sensor_token": token("calibrated", camera),
                    "filename": f"{folder}/{camera}/{log}__{camera}__{time}.jpg",
                    "fileformat": "jpg",
                    "width": size_hw[1],
                    "height": size_hw[0],
                    "timestamp": time,
                    "is_key_frame": is_key,
                    "next": "",
                    "prev": "",
                }
            )
        path = self.root / self.tables["sample_data"][-2]["filename"]
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), np.full((*size_hw, 3), 90, np.uint8))
        return key

    def thing(self, image, category, mask, *, bbox=None, order=None):
        """Add an object; returns its row.

        Args:
            image: token of the key frame.
            category: nuImages' name.
            mask: visible pixels, bool [H, W], or None.
            bbox: its box; by default that of the mask.
            order: start of its token, by which masks are painted in order.
        """
        if bbox is None:
            rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            bbox = [int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1]
        made = token("object", len(self.tables["object_ann"]))
        row = {
            "token": made if order is None else f"{order:02d}{made[2:]}",
            "sample_data_token": image,
            "category_token": token("category", category),
            "attribute_tokens": [token("parked")] if category == "vehicle.car" else [],
            "bbox": bbox,
            "mask": None if mask is None else rle(mask),
        }
        self.tables["object_ann"].append(row)
        return row

    def surface(self, image, category, mask):
        """Add a surface; returns its row."""
        row = {
            "token": token("surface", len(self.tables["surface_ann"])),
            "sample_data_token": image,
            "category_token": token("category", category),
            "mask": None if mask is None else rle(mask),
        }
        self.tables["surface_ann"].append(row)
        return row

    def write(self):
        """Write the tables; returns the root."""
        folder = self.root / self.version
        folder.mkdir(parents=True, exist_ok=True)
        for name, rows in self.tables.items():
            (folder / f"{name}.json").write_text(json.dumps(rows, indent=0))
        return self.root


def street(root, version="v1.0-train", images=3):
    """A version of easy images: a road, a bright car at a different position in each, and a pedestrian."""
    tree = NuTree(root, version)
    for index in range(images):
        image = tree.image(1000 + 10 * index, camera=CAMERAS[index % 2])
        x = 5 + 6 * index
        tree.surface(image, "flat.driveable_surface", area(0, 30, 80, 60))
        tree.surface(image, "vehicle.ego", area(0, 55, 80, 60))
        tree.thing(image, "vehicle.car", area(x, 32, x + 20, 46))
        tree.thing(image, "human.pedestrian.adult", area(60, 24, 66, 44))
        pixels = np.full((*SIZE_HW, 3), (200, 150, 90), np.uint8)  # BGR
        pixels[30:] = 90
        pixels[32:46, x : x + 20] = (30, 30, 220)
        pixels[24:44, 60:66] = (60, 200, 60)
        cv2.imwrite(str(root / tree.tables["sample_data"][-2]["filename"]), pixels)
    return tree


def write_street(folder, images):
    """A data set with ``images`` training images and two validation images; skips without pycocotools."""
    pytest.importorskip("pycocotools", reason="pycocotools, which makes the masks, is not installed")
    street(folder, images=images).write()
    street(folder, "v1.0-val", images=2).write()
    return folder
