"""Image messages -> RGB pixels, in the node: by cv_bridge where it can be relied on, else by the package itself.

A bag that is replayed without ROS must show the model the pixels that the node saw. So for each layout of images
(encoding, width, row padding, byte order) that arrives, both decode a random image once, and cv_bridge is used only
where they agree to the bit. On ROS 2 Jazzy with NumPy 2 they disagree, or cv_bridge fails, for

* rows whose padding is not a whole number of pixels: cv_bridge skews the image,
* an odd number of YUV columns: its last column is wrong,
* messages that say big-endian,
* nv12, nv21, nv24, 8UC1, 8UC3, 8UC4, uyvy and yuyv, which it does not convert.

Compressed images are the package's alone: cv_bridge hands out 16-bit samples as they are, and of a truncated image
whatever the decoder makes of it. Where NumPy is newer than the one that cv_bridge was built with, it cannot be loaded;
that is said once, and the package decodes everything.
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
"""Of an image with longer rows, which no camera sends, there is no probe."""


def prepare_decoding() -> None:
    """Load cv_bridge, so that the first frame need not wait for it; says so where that is impossible."""
    _cv_bridge()


def decode(message: Message, *, most_pixels: int = MOST_PIXELS) -> UInt8:
    """Pixels of a ``sensor_msgs/Image`` or ``sensor_msgs/CompressedImage``.

    Args:
        message: it.
        most_pixels: an image that says it has more is not decoded.

    Returns:
        uint8 [H, W, 3], RGB. It may share the message's memory: do not write to it.

    Raises:
        MessageError: the encoding is unknown, size, step and data do not fit together, or it has too many pixels.
        ImageError: compressed bytes are empty, truncated, not an image, or one of too many pixels.
    """
    if not hasattr(message, "encoding"):
        return image_from_compressed(message, most_pixels=most_pixels)
    encoding, height, width, step = message.encoding, message.height, message.width, message.step
    # First of all: a corrupt size could make the probe of a layout larger than the memory.
    size = len(message.data)
    check_layout(size, encoding=encoding, height=height, width=width, step=step, most_pixels=most_pixels)
    if uses_cv_bridge(encoding, height, width, step, bool(message.is_bigendian)):
        return _by_cv_bridge(message)
    return image_from_message(message, most_pixels=most_pixels)


@lru_cache(maxsize=256)
def uses_cv_bridge(encoding: str, height: int, width: int, step: int, big_endian: bool) -> bool:
    """Whether images of a layout are decoded by cv_bridge: it is there and agrees with the package to the bit."""
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
    except Exception:  # of either: an image that one of them refuses is the package's to refuse, in its words
        return False


def _by_cv_bridge(message: Message) -> UInt8:
    # Without a conversion cv_bridge hands out a view, with the conversion of rgb8 to rgb8 a copy.
    desired = "passthrough" if message.encoding == "rgb8" else "rgb8"
    return np.asarray(_cv_bridge().imgmsg_to_cv2(message, desired), np.uint8)


@cache
def _cv_bridge() -> Any:
    """A ``CvBridge`` whose compiled part works, or None."""
    try:
        from cv_bridge import CvBridge

        types = ros_types()
        bridge = CvBridge()
        # Only a conversion loads the compiled part.
        probe = types.Image(height=1, width=2, encoding="bgr8", step=6)
        probe.data = types.pack(np.arange(6, dtype=np.uint8))
        bridge.imgmsg_to_cv2(probe, "rgb8")
    except Exception as err:  # ImportError, AttributeError or SystemError, by the NumPy versions
        reason = (str(err).splitlines() or [type(err).__name__])[0]
        get_logger("perception").warning(
            f"cv_bridge cannot be loaded ({reason}), so the package decodes all images itself; install the cv_bridge "
            "that was built for this NumPy to use it"
        )
        return None
    return bridge
