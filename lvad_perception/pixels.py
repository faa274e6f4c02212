"""The pixel encodings of ``sensor_msgs/Image`` -> uint8 RGB."""

from typing import Final

import cv2
import numpy as np

from lvad_perception.errors import MessageError
from lvad_perception.types import UInt8

# encoding -> (bytes a pixel, OpenCV conversion to RGB; None where there is nothing to convert).
# OpenCV names a Bayer pattern by its second row, ROS by its first: RGGB is OpenCV's "BG".
_PACKED: Final[dict[str, tuple[int, int | None]]] = {
    "rgb8": (3, None),
    "8UC3": (3, cv2.COLOR_BGR2RGB),  # no order is stated; OpenCV users mean BGR
    "bgr8": (3, cv2.COLOR_BGR2RGB),
    "rgba8": (4, cv2.COLOR_RGBA2RGB),
    "bgra8": (4, cv2.COLOR_BGRA2RGB),
    "8UC4": (4, cv2.COLOR_BGRA2RGB),
    "mono8": (1, cv2.COLOR_GRAY2RGB),
    "8UC1": (1, cv2.COLOR_GRAY2RGB),
    "yuv422": (2, cv2.COLOR_YUV2RGB_UYVY),
    "uyvy": (2, cv2.COLOR_YUV2RGB_UYVY),
    "yuv422_yuy2": (2, cv2.COLOR_YUV2RGB_YUY2),
    "yuyv": (2, cv2.COLOR_YUV2RGB_YUY2),
    "bayer_rggb8": (1, cv2.COLOR_BayerBG2RGB),
    "bayer_bggr8": (1, cv2.COLOR_BayerRG2RGB),
    "bayer_gbrg8": (1, cv2.COLOR_BayerGR2RGB),
    "bayer_grbg8": (1, cv2.COLOR_BayerGB2RGB),
}
# A plane of luma, then a half-height plane of interleaved chroma with the same step.
_SEMI_PLANAR: Final[dict[str, int]] = {"nv12": cv2.COLOR_YUV2RGB_NV12, "nv21": cv2.COLOR_YUV2RGB_NV21}
_REMEDY: Final = "publish rgb8, bgr8, mono8 or a JPEG/PNG CompressedImage instead"


def to_rgb(data: UInt8, *, encoding: str, height: int, width: int, step: int) -> UInt8:
    """Pixels of an image message as RGB.

    Args:
        data: uint8 [N], the message's bytes; rows may be padded.
        encoding: one of ``sensor_msgs/image_encodings``.
        height: rows.
        width: columns.
        step: bytes from the start of one row to the start of the next.

    Returns:
        uint8 [height, width, 3]; for rgb8 a view of ``data``, so that it must not be written to.

    Raises:
        MessageError: the encoding is not an 8-bit colour or grey one, or size, step and data do not fit together.
    """
    semi_planar = _SEMI_PLANAR.get(encoding)
    if semi_planar is not None:
        rows = _rows(data, encoding, height + height // 2, width, step, 1)
        if height % 2 or width % 2:
            raise MessageError(f"an {encoding} image of {width}x{height} has an odd side; {_REMEDY}")
        return np.asarray(cv2.cvtColor(np.ascontiguousarray(rows), semi_planar), np.uint8)
    if encoding not in _PACKED:
        known = ", ".join([*_PACKED, *_SEMI_PLANAR])
        raise MessageError(f"image encoding {encoding!r} is not one of {known}; {_REMEDY}")
    pixel_bytes, conversion = _PACKED[encoding]
    rows = _rows(data, encoding, height, width, step, pixel_bytes)
    if pixel_bytes == 2 and width % 2:
        raise MessageError(f"a {encoding} image of {width}x{height} has an odd width; {_REMEDY}")
    image = rows if pixel_bytes == 1 else rows.reshape(height, width, pixel_bytes)
    if conversion is None:
        return image
    return np.asarray(cv2.cvtColor(np.ascontiguousarray(image), conversion), np.uint8)


def to_mask(data: UInt8, *, encoding: str, height: int, width: int, step: int) -> UInt8:
    """Pixels of a mono8 or 8UC1 message as uint8 [height, width], a view of ``data``. Raises MessageError."""
    if encoding not in ("mono8", "8UC1"):
        raise MessageError(f"a mask with encoding {encoding!r} holds no class ids; publish masks as mono8")
    return _rows(data, encoding, height, width, step, 1)


def _rows(data: UInt8, encoding: str, height: int, width: int, step: int, pixel_bytes: int) -> UInt8:
    """View of the bytes without padding, uint8 [height, width * pixel_bytes]."""
    if height < 1 or width < 1:
        raise MessageError(f"an image of {width}x{height} pixels is empty; check the camera driver")
    used = width * pixel_bytes
    if step < used:
        raise MessageError(
            f"step {step} is shorter than a row of {width} {encoding} pixels ({used} bytes); "
            f"set step to {used} in the publisher"
        )
    if data.size < step * height:
        raise MessageError(
            f"a {width}x{height} {encoding} image with step {step} needs {step * height} bytes "
            f"but carries {data.size}; "
            "the message is truncated or wrongly stepped: fix the publisher"
        )
    return data[: step * height].reshape(height, step)[:, :used]
