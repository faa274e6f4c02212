"""CameraInfo for the results: with the header of the processed image, at source or network size.

Pixel coordinates in CameraInfo have their origin at the centre of the first pixel, as in OpenCV's calibration; a resize
by s that keeps the image's edges therefore maps u to s * (u + 0.5) - 0.5.
"""

import copy
from typing import Final

import numpy as np
import numpy.typing as npt

from lvad_perception.errors import MessageError, one_line
from lvad_perception.messages import Message
from lvad_perception.types import Letterbox, Size

_MOST_COEFFICIENTS: Final = 64
"""OpenCV's longest distortion model has 14 coefficients."""
Float64 = npt.NDArray[np.float64]


def camera_info_of_image(info: Message, header: Message, source_hw: Size) -> Message:
    """A copy of a ``sensor_msgs/CameraInfo`` with the header of a processed image.

    Args:
        info: the camera's.
        header: of the processed image.
        source_hw: size of that image.

    Raises:
        MessageError: ``info`` is for images of another size, or is not a valid calibration.
    """
    _check(info, source_hw)
    out = copy.copy(info)
    out.header = header
    return out


def camera_info_at_network_size(info: Message, header: Message, box: Letterbox) -> Message:
    """The CameraInfo of the network input that an image was placed in.

    It has neither binning nor a region of interest: those of the source image are folded into K and P. Distortion and
    rectification are the source's, as they do not depend on the pixel grid.

    Args:
        info: the camera's; not modified.
        header: of the processed image.
        box: the placement of the image in the network input.

    Raises:
        MessageError: ``info`` is for images of another size, or is not a valid calibration.
    """
    _check(info, box.source_hw)
    to_network = _letterbox_matrix(box) @ _window_matrix(info)
    out = copy.copy(info)
    out.header = header
    out.height, out.width = box.network_hw
    out.k = (to_network @ np.asarray(info.k, np.float64).reshape(3, 3)).ravel()
    out.p = (to_network @ np.asarray(info.p, np.float64).reshape(3, 4)).ravel()
    out.binning_x = out.binning_y = 0
    out.roi = type(info.roi)(x_offset=0, y_offset=0, height=0, width=0, do_rectify=False)
    return out


def _check(info: Message, source_hw: Size) -> None:
    if len(info.d) > _MOST_COEFFICIENTS or len(info.distortion_model) > _MOST_COEFFICIENTS:
        raise MessageError(
            f"CameraInfo has {len(info.d)} distortion coefficients of model '{one_line(info.distortion_model)}', which "
            "is no camera's, so it is not published; calibrate the camera again"
        )
    if not all(np.isfinite(np.asarray(values, np.float64)).all() for values in (info.k, info.r, info.p, info.d)):
        raise MessageError(
            "CameraInfo holds numbers that are not finite, so it is not published; calibrate the camera again"
        )
    height, width = _window_hw(info)
    binned_hw = (height // max(1, info.binning_y), width // max(1, info.binning_x))
    if binned_hw != source_hw:
        raise MessageError(
            f"CameraInfo is of {binned_hw[1]}x{binned_hw[0]} images but the image is {source_hw[1]}x{source_hw[0]}, so "
            "it is not published; calibrate the camera at the size that it sends"
        )


def _window_hw(info: Message) -> Size:
    """Size of the region of interest, or of the full image where there is none, before binning."""
    is_full = info.roi.height == 0 or info.roi.width == 0
    return (info.height, info.width) if is_full else (info.roi.height, info.roi.width)


def _window_matrix(info: Message) -> Float64:
    """From pixels of the calibrated image to pixels of the sent one, float64 [3, 3]."""
    scale_x, scale_y = 1 / max(1, info.binning_x), 1 / max(1, info.binning_y)
    return _resize_matrix(scale_x, scale_y, -info.roi.x_offset * scale_x, -info.roi.y_offset * scale_y)


def _letterbox_matrix(box: Letterbox) -> Float64:
    """From source pixels to network pixels, float64 [3, 3]."""
    scale_y, scale_x = box.resized_hw[0] / box.source_hw[0], box.resized_hw[1] / box.source_hw[1]
    return _resize_matrix(scale_x, scale_y, box.left, box.top)


def _resize_matrix(scale_x: float, scale_y: float, left: float, top: float) -> Float64:
    """A resize that keeps the edges, then a shift, float64 [3, 3]; for coordinates of pixel centres."""
    return np.array(
        [[scale_x, 0, 0.5 * scale_x - 0.5 + left], [0, scale_y, 0.5 * scale_y - 0.5 + top], [0, 0, 1]], np.float64
    )
