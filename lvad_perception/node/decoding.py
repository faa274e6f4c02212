"""Decoding of image messages to RGB pixels: by cv_bridge where it is exact, else by the package itself.

A replay without ROS must give the model the same pixels as the node. So for each layout of images (encoding, width, row
padding, byte order) both decoders convert a random image once, and cv_bridge is used only if the results are identical.
On ROS 2 Jazzy with NumPy 2 they differ, or cv_bridge fails, for

* rows whose padding is not a whole number of pixels: cv_bridge skews the image,
* an odd number of YUV columns: cv_bridge's last column is wrong,
* big-endian messages,
* nv12, nv21, nv24, 8UC1, 8UC3, 8UC4, uyvy and yuyv, which cv_bridge does not convert.

The package always decodes compressed images: cv_bridge returns 16-bit samples unscaled, and a partial image for
truncated data. cv_bridge cannot be loaded beside a NumPy newer than the one it was built with; then a warning is logged
once, and the package decodes everything.

The functions are called in several decoder threads at once; their caches are thread-safe.
"""

from functools import cache, lru_cache
from typing import Any, Final

import numpy as np
from rclpy.logging import get_logger

from lvad_perception.media.image_header import MOST_PIXELS
from lvad_perception.media.pixels import check_layout
from lvad_perception.messages import Message, image_from_compressed, image_from_message, ros_types
from lvad_perception.types import UInt8

_PROBED_ROWS: Final = 32
_MOST_PROBED_BYTES: Final = 1 << 26
"""A layout with longer rows, which no camera has, is not probed."""


def prepare_decoding() -> None:
    """Load cv_bridge ahead of the first frame; logs a warning if that is impossible."""
    _cv_bridge()


def decode(message: Message, *, most_pixels: int = MOST_PIXELS) -> UInt8:
    """Pixels of a ``sensor_msgs/Image`` or ``sensor_msgs/CompressedImage``.

    Args:
        message: the message.
        most_pixels: an image with more pixels by its header is not decoded.

    Returns:
        uint8 [H, W, 3], RGB. It may share the message's memory: do not write to it.

    Raises:
        MessageError: the encoding is unknown, size, step and data are inconsistent, or it has too many pixels.
        ImageError: compressed bytes are empty, truncated or not an image, or the image has too many pixels.
    """
    if not hasattr(message, "encoding"):
        return image_from_compressed(message, most_pixels=most_pixels)
    encoding, height, width, step = message.encoding, message.height, message.width, message.step
    # Before the probe, which a corrupt size could make larger than the memory.
    size = len(message.data)
    check_layout(size, encoding=encoding, height=height, width=width, step=step, most_pixels=most_pixels)
    if uses_cv_bridge(encoding, height, width, step, bool(message.is_bigendian)):
        return _by_cv_bridge(message)
    return image_from_message(message, most_pixels=most_pixels)


@lru_cache(maxsize=256)
def uses_cv_bridge(encoding: str, height: int, width: int, step: int, big_endian: bool) -> bool:
    """Whether cv_bridge decodes images of a layout: it is installed and identical to the package."""
    if _cv_bridge() is None:
        return False
    types = ros_types()
    rows = min(height, _PROBED_ROWS + height % 2)
    if rows * step > _MOST_PROBED_BYTES:
        return False
    probe = types.Image(height=rows, width=width, encoding=encoding, step=step, is_bigendian=int(big_endian))
    probe.data = types.pack(np.random.default_rng(0).integers(0, 256, 3 * rows * step, np.uint8))
    try:
        return np.array_equal(_by_cv_bridge(probe), image_from_message(probe))
    except Exception:  # of either decoder; the package then decodes or refuses the image, with its own error
        return False


def _by_cv_bridge(message: Message) -> UInt8:
    # passthrough returns a view, while "rgb8" copies even an rgb8 image.
    desired = "passthrough" if message.encoding == "rgb8" else "rgb8"
    return np.asarray(_cv_bridge().imgmsg_to_cv2(message, desired), np.uint8)


@cache
def _cv_bridge() -> Any:
    """A ``CvBridge`` whose compiled part works, or None."""
    try:
        from cv_bridge import CvBridge

        types = ros_types()
        bridge = CvBridge()
        # A conversion, because only that loads the compiled part.
        probe = types.Image(height=1, width=2, encoding="bgr8", step=6)
        probe.data = types.pack(np.arange(6, dtype=np.uint8))
        bridge.imgmsg_to_cv2(probe, "rgb8")
    except Exception as err:  # ImportError, AttributeError or SystemError, depending on the NumPy versions
        reason = (str(err).splitlines() or [type(err).__name__])[0]
        get_logger("perception").warning(
            f"cv_bridge cannot be loaded ({reason}), so the package decodes all images itself; install the cv_bridge "
            "that was built for this NumPy to use it"
        )
        return None
    return bridge
