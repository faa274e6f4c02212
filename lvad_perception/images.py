"""Encoded image -> RGB pixels: the one decoder of data sets and bags, so that both see identical pixels."""

from pathlib import Path
from typing import Final

import cv2
import numpy as np

from lvad_perception.errors import ImageError
from lvad_perception.image_header import LARGEST_PIXELS, START_OF_SCAN, encoded_size, is_too_large, jpeg_segments
from lvad_perception.types import UInt8

# Labels and camera calibrations refer to the stored raster, so an EXIF orientation is not applied.
_FLAGS: Final = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION


def decode_image(data: bytes, *, source: str) -> UInt8:
    """Decode a JPEG, PNG or any other format that OpenCV reads.

    Grey images become RGB, an alpha channel is dropped, 16-bit samples become 8-bit, an EXIF orientation is ignored.
    A truncated JPEG or PNG is refused: decoders fill the missing rows with grey and say nothing. So is an image of more
    than ``image_header.LARGEST_PIXELS``, by its header: a small file may state a size whose pixels take gigabytes.

    Args:
        data: the encoded image.
        source: what to call the image in messages: a path, or a topic with index and stamp.

    Returns:
        uint8 [H, W, 3], RGB, C-contiguous.

    Raises:
        ImageError: the data are empty, truncated, too large or not an image.
    """
    if not data:
        raise ImageError(f"{source} is empty; record or copy it again")
    if _is_truncated(data):
        raise ImageError(f"{source} is a truncated image; copy it again from its origin")
    if (size_hw := encoded_size(data)) is None:
        raise ImageError(f"{source} cannot be decoded as an image; replace it or leave it out")
    if is_too_large(size_hw):
        raise ImageError(
            f"{source} states {size_hw[1]}x{size_hw[0]} pixels, more than the {LARGEST_PIXELS:,} that are decoded; "
            "scale it down or leave it out"
        )
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), _FLAGS)
    except cv2.error as err:
        raise ImageError(f"{source} cannot be decoded as an image; replace it or leave it out") from err
    if image is None:
        raise ImageError(f"{source} cannot be decoded as an image; replace it or leave it out")
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=image), np.uint8)


def read_image(path: Path) -> UInt8:
    """Read an image file as uint8 RGB [H, W, 3]; see ``decode_image``.

    Raises:
        ImageError: the file is missing, unreadable, truncated or not an image.
    """
    try:
        data = path.read_bytes()
    except OSError as err:
        raise ImageError(f"{path} cannot be read ({err.strerror}); check the path and its permissions") from err
    return decode_image(data, source=str(path))


def _is_truncated(data: bytes) -> bool:
    """Whether a JPEG lacks its end-of-image marker or a PNG its IEND chunk; bytes after those are tolerated."""
    if data.startswith(b"\xff\xd8"):
        scan = next((at for marker, at in jpeg_segments(data) if marker == START_OF_SCAN), None)
        # Inside a scan 0xFF is always stuffed, so this two-byte sequence is the marker itself; a thumbnail inside the
        # EXIF header has one of its own, hence the search from the scan on.
        return scan is None or data.rfind(b"\xff\xd9", scan) < 0
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return data.rfind(b"IEND") < 0
    return False
