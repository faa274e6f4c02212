"""Renders a sample set into a folder, in BDD100K's layout or in that of nuImages (see ``nuimages``).

    images/100k/{train,val}/<name>.jpg
    labels/det_20/det_{train,val}.json
    labels/sem_seg/masks/{train,val}/<name>.png       train ids, 255 unknown
    labels/drivable/masks/{train,val}/<name>.png      0 direct, 1 alternative, 2 background
    sample_set.json                                   parameters of the set

Each image depends only on the seed and its own number, not on the number of processes that render the set.
"""

import json
import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from tqdm import tqdm

from lvad_perception.errors import ConfigError, DatasetError
from lvad_perception.files import draft
from lvad_perception.types import Size
from lvad_perception.vocabulary import DETECTION
from lvad_training.sample_set import nuimages
from lvad_training.sample_set.canvas import Box
from lvad_training.sample_set.scene import render_scene

FORMAT_VERSION = 1
"""Incremented when the same seed renders different pixels."""

Layout = Literal["bdd100k", "nuimages"]

VAL_SHARE = 0.2
FRAME_INTERVAL_MS = 100
JPEG_QUALITY = 90

_SMALLEST_SIDE_PX = 64


@dataclass(frozen=True, slots=True)
class SampleSet:
    """The parameters of a sample set.

    Attributes:
        images: number of images in both splits.
        seed: random seed.
        size_hw: size of the images.
        train: images in the train split.
        val: images in the val split.
        version: version of the renderer.
        layout: layout of the folder.
    """

    images: int
    seed: int
    size_hw: Size
    train: int
    val: int
    version: int = FORMAT_VERSION
    layout: Layout = "bdd100k"


def render_sample_set(
    out: Path,
    *,
    images: int,
    seed: int,
    size_hw: Size = (360, 640),
    layout: Layout = "bdd100k",
    workers: int = 1,
    progress: bool = False,
) -> SampleSet:
    """Render a sample set into a new folder; a folder that already holds the same set is left unchanged.

    Args:
        out: folder to create; it appears once it is complete.
        images: number of images, at least 2; one in five is for validation.
        seed: random seed; equal seeds give equal files.
        size_hw: image size.
        layout: layout of the folder.
        workers: number of processes; 1 renders in this process.
        progress: show a progress bar on stderr.

    Raises:
        ConfigError: a number is out of range.
        DatasetError: the folder holds something else, or cannot be written.
    """
    if images < 2:
        raise ConfigError(f"a sample set of {images} images has no validation split; ask for at least 2")
    if seed < 0:
        raise ConfigError(f"the seed of a sample set is {seed}; give a number of at least 0")
    if min(size_hw) < _SMALLEST_SIDE_PX:
        raise ConfigError(f"a sample image of size {size_hw} is too small; both sides need {_SMALLEST_SIDE_PX} pixels")
    if workers < 1:
        raise ConfigError(f"a sample set cannot be rendered by {workers} processes; give at least 1")
    val = max(1, round(images * VAL_SHARE))
    sample_set = SampleSet(images, seed, (int(size_hw[0]), int(size_hw[1])), images - val, val, layout=layout)
    if out.exists():
        if _existing(out) == sample_set:
            return sample_set
        raise DatasetError(f"{out} exists and is not this sample set; choose another folder or delete that one")
    try:
        with draft(out) as own:
            _write(own, sample_set, workers, progress)
    except OSError as err:
        if _existing(out) == sample_set:  # another process has written it meanwhile
            return sample_set
        raise DatasetError(
            f"the sample set cannot be written to {out} ({err.strerror or err}); choose a writable folder"
        ) from err
    return sample_set


def _existing(out: Path) -> SampleSet | None:
    """The parameters of a finished sample set; None for any other folder."""
    try:
        content = json.loads((out / "sample_set.json").read_text())
        return SampleSet(**{**content, "size_hw": tuple(content["size_hw"])})
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _write(out: Path, sample_set: SampleSet, workers: int, progress: bool) -> None:
    of_nuimages = sample_set.layout == "nuimages"
    for split in ("train", "val"):
        for folder in [(out / nuimages.image_file(0)).parent] if of_nuimages else _folders(out, split):
            folder.mkdir(parents=True, exist_ok=True)
    frames: dict[str, list[dict[str, Any]]] = {"train": [], "val": []}
    render, numbers = partial(_render_one, out, sample_set), range(sample_set.images)
    with ExitStack() as stack:
        rendered: Iterator[dict[str, Any]] = map(render, numbers)
        if workers > 1:  # forking a process that runs threads, as torch's does, can deadlock
            spawn = multiprocessing.get_context("spawn")
            pool = ProcessPoolExecutor(workers, spawn, initializer=cv2.setNumThreads, initargs=(1,))
            rendered = stack.enter_context(pool).map(render, numbers, chunksize=4)
        for index, frame in enumerate(
            tqdm(rendered, "render", sample_set.images, unit="image", disable=not progress, dynamic_ncols=True)
        ):
            frames[_split_of(sample_set, index)].append(frame)
    for split, listed in frames.items():
        if of_nuimages:
            nuimages.write_version(out / f"v1.0-{split}", listed)
        else:
            labels = out / "labels" / "det_20"
            labels.mkdir(exist_ok=True)
            (labels / f"det_{split}.json").write_text(json.dumps(listed))
    (out / "sample_set.json").write_text(json.dumps(asdict(sample_set), indent=1) + "\n")


def _folders(out: Path, split: str) -> tuple[Path, Path, Path]:
    """Folders of images, semantic masks and drivable masks."""
    return (
        out / "images" / "100k" / split,
        out / "labels" / "sem_seg" / "masks" / split,
        out / "labels" / "drivable" / "masks" / split,
    )


def _split_of(sample_set: SampleSet, index: int) -> str:
    return "train" if index < sample_set.train else "val"


def _render_one(out: Path, sample_set: SampleSet, index: int) -> dict[str, Any]:
    """Render and write one image; returns its det_20 entry, or its rows of nuImages' tables."""
    scene = render_scene(np.random.default_rng([sample_set.seed, index]), sample_set.size_hw)
    bgr, quality = cv2.cvtColor(scene.image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
    if sample_set.layout == "nuimages":
        _save(out / nuimages.image_file(index), bgr, quality)
        return nuimages.rows_of(scene, index)
    split = _split_of(sample_set, index)
    name = f"sample-{index:06d}"
    images, semantic, drivable = _folders(out, split)
    _save(images / f"{name}.jpg", bgr, quality)
    _save(semantic / f"{name}.png", scene.semantic, [])
    _save(drivable / f"{name}.png", scene.drivable, [])
    frame = index if split == "train" else index - sample_set.train
    return {
        "name": f"{name}.jpg",
        "attributes": {"weather": scene.weather, "timeofday": scene.timeofday, "scene": scene.place},
        "timestamp": frame * FRAME_INTERVAL_MS,
        "labels": [_label(f"{index:06d}-{number:03d}", box) for number, box in enumerate(scene.boxes)],
    }


def _label(ident: str, box: Box) -> dict[str, Any]:
    """A det_20 label; its corners are the first and the last pixel inside the box."""
    x1, y1, x2, y2 = box.xyxy
    return {
        "id": ident,
        "attributes": {"occluded": box.occluded, "truncated": box.truncated, "trafficLightColor": box.signal},
        "category": DETECTION.names[box.detection],
        "box2d": {"x1": float(x1), "y1": float(y1), "x2": float(x2 - 1), "y2": float(y2 - 1)},
    }


def _save(path: Path, pixels: Any, options: list[int]) -> None:
    encoded, data = cv2.imencode(path.suffix, pixels, options)
    if not encoded:
        raise OSError(f"{path.name} could not be encoded")
    path.write_bytes(data.tobytes())
