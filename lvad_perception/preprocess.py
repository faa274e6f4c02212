"""Letterboxing of images into the network input, for training and on the vehicle."""

from typing import Final

import cv2
import numpy as np

from lvad_perception.errors import ImageError
from lvad_perception.types import Letterbox, Size, UInt8

PAD_VALUE: Final = 114
"""Grey level of the letterbox border, the value that YOLO-family exporters use."""


def fit_letterbox(source_hw: Size, network_hw: Size) -> Letterbox:
    """The largest centred placement of a source image in the network input that keeps its aspect ratio.

    Args:
        source_hw: (height, width) of the source image, each >= 1.
        network_hw: (height, width) of the network input, each >= 1.
    """
    scale = min(network_hw[0] / source_hw[0], network_hw[1] / source_hw[1])
    resized_hw = (
        min(network_hw[0], max(1, round(source_hw[0] * scale))),
        min(network_hw[1], max(1, round(source_hw[1] * scale))),
    )
    top = (network_hw[0] - resized_hw[0]) // 2
    left = (network_hw[1] - resized_hw[1]) // 2
    return Letterbox(source_hw, network_hw, resized_hw, top, left)


def resize_image(image: UInt8, size_hw: Size) -> UInt8:
    """Resize an image, uint8 [H, W, 3] -> uint8 [h, w, 3]; area averaging when shrinking, bilinear when growing."""
    if image.shape[:2] == size_hw:
        return image
    shrinks = size_hw[0] < image.shape[0]
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, (size_hw[1], size_hw[0]), interpolation=interpolation), np.uint8)


def letterbox_image(image: UInt8, network_hw: Size, *, out: UInt8 | None = None) -> tuple[UInt8, Letterbox]:
    """Place an image in the network input.

    Args:
        image: uint8 [H, W, 3], RGB.
        network_hw: (height, width) of the network input.
        out: array for the result, uint8 [h, w, 3]; a new one when None.

    Returns:
        The network input, uint8 [h, w, 3], RGB, and the placement of the image in it.

    Raises:
        ImageError: the image is not uint8 [H, W, 3] or is empty.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
        raise ImageError(
            f"an image of shape {image.shape} and type {image.dtype} is not uint8 [H, W, 3]; "
            "convert it to 8-bit RGB first"
        )
    box = fit_letterbox((image.shape[0], image.shape[1]), network_hw)
    if out is None:
        out = np.empty((*network_hw, 3), np.uint8)
    bottom, right = box.top + box.resized_hw[0], box.left + box.resized_hw[1]
    out[: box.top], out[bottom:] = PAD_VALUE, PAD_VALUE
    out[box.top : bottom, : box.left], out[box.top : bottom, right:] = PAD_VALUE, PAD_VALUE
    out[box.top : bottom, box.left : right] = resize_image(image, box.resized_hw)
    return out, box
