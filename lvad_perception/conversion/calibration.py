"""Images for the calibration of INT8 and for the comparison of a converted model with the original."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lvad_perception.errors import DatasetError
from lvad_perception.media.images import image_files, read_image
from lvad_perception.preprocess import letterbox_image
from lvad_perception.types import Size, UInt8


def folder_images(folder: Path, size_hw: Size, count: int) -> list[UInt8]:
    """``count`` images of a folder, evenly spread over its sorted names, letterboxed: uint8 [H, W, 3] each.

    Raises:
        DatasetError: the folder has no .jpg or .png file.
        ImageError: one cannot be decoded.
    """
    paths = image_files(folder, recursive=True)
    if not paths:
        raise DatasetError(f"{folder} has no .jpg or .png file; name a folder of images of the vehicle's cameras")
    indices = np.unique(np.linspace(0, len(paths) - 1, min(count, len(paths))).round().astype(int))
    return [letterbox_image(read_image(paths[index]), size_hw)[0] for index in indices]


def rendered_images(size_hw: Size, count: int) -> list[UInt8]:
    """Images of smooth colours with noise, the same in every call: uint8 [H, W, 3] each."""
    import cv2

    random = np.random.default_rng(0)
    shape = (size_hw[0] // 40 + 2, size_hw[1] // 40 + 2, 3)
    coarse = [random.integers(0, 256, shape, np.uint8) for _ in range(count)]
    smooth = [cv2.resize(each, size_hw[::-1], interpolation=cv2.INTER_CUBIC) for each in coarse]
    return [np.asarray(cv2.add(each, random.integers(0, 12, each.shape, np.uint8)), np.uint8) for each in smooth]


def to_batches(images: Sequence[UInt8], batch_size: int) -> list[UInt8]:
    """Images [H, W, 3] -> batches [N, H, W, 3]; the last batch is filled up with the first images."""
    starts = range(0, len(images), batch_size)
    return [np.stack([images[(start + each) % len(images)] for each in range(batch_size)]) for start in starts]
