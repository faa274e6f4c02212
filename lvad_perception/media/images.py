"""Image files and encoded images -> RGB pixels, by one decoder for data sets and bags."""

from pathlib import Path
from typing import Final

import cv2
import numpy as np

from lvad_perception.errors import ImageError
from lvad_perception.media.image_header import MOST_PIXELS, START_OF_SCAN, encoded_size, jpeg_scans, jpeg_segments
from lvad_perception.types import UInt8

# Labels and camera calibrations refer to the stored raster, so an EXIF orientation is not applied.
_FLAGS: Final = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION

IMAGE_SUFFIXES: Final = (".jpg", ".jpeg", ".png")
"""Suffixes of the image files that folders are searched for, in lower case."""

_MOST_SCANNED: Final = 1 << 30
"""Limit of pixels times scans of a JPEG, which bounds the time: a few kilobytes can hold thousands of scans."""


def decode_image(data: bytes, *, source: str, most_pixels: int = MOST_PIXELS) -> UInt8:
    """Decode a JPEG, PNG or any other format that OpenCV reads.

    Grey images become RGB, an alpha channel is dropped, 16-bit samples become 8-bit, an EXIF orientation is ignored. A
    truncated JPEG or PNG is an error, because decoders silently fill the missing rows with grey.

    Args:
        data: the encoded image.
        source: name of the image in messages: a path, or a topic with index and stamp.
        most_pixels: an image whose header states more is not decoded.

    Returns:
        uint8 [H, W, 3], RGB, C-contiguous.

    Raises:
        ImageError: the data are empty, truncated, not an image, or have too many pixels.
    """
    if not data:
        raise ImageError(f"{source} is empty; record or copy it again")
    if _is_truncated(data):
        raise ImageError(f"{source} is a truncated image; copy it again from its origin")
    _check_size(data, source, most_pixels)
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), _FLAGS)
    except cv2.error as err:
        raise ImageError(f"{source} cannot be decoded as an image; replace it or leave it out") from err
    if image is None:
        raise ImageError(f"{source} cannot be decoded as an image; replace it or leave it out")
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=image), np.uint8)


def jpeg_damage(data: bytes) -> str | None:
    """Find damage of a JPEG that OpenCV hides behind grey or shifted blocks, with a strict decoder.

    Args:
        data: an encoded image that OpenCV decoded.

    Returns:
        The fault, without a final stop; None where the data are intact or no JPEG, or simplejpeg is not installed.
    """
    if not data.startswith(b"\xff\xd8"):
        return None
    try:
        import simplejpeg
    except ImportError:
        return None
    try:
        # Decoding to an eighth of the size reads all data at half the cost.
        simplejpeg.decode_jpeg(data, "GRAY", fastdct=True, min_height=1, min_width=1, min_factor=8, strict=True)
    except ValueError as err:
        return str(err).rstrip(".")
    return None


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


def is_image_name(name: str) -> bool:
    """Whether a file name has an image's suffix; hidden files, such as macOS's ``._x.jpg``, are no images."""
    return name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith(".")


def image_files(folder: Path, *, recursive: bool = False) -> list[Path]:
    """The JPEG and PNG files of a folder, sorted by path; empty where there is no such folder.

    Args:
        folder: to search.
        recursive: search its subfolders too.
    """
    return sorted(path for path in (folder.rglob if recursive else folder.glob)("*") if is_image_name(path.name))


def _check_size(data: bytes, source: str, most_pixels: int) -> None:
    """Raise ImageError for an image whose header states a size that would take too much memory or time."""
    size_hw = encoded_size(data)
    if size_hw is None:
        raise ImageError(f"{source} cannot be decoded as an image; replace it or leave it out")
    height, width = size_hw
    if height * width > most_pixels:
        raise ImageError(
            f"{source} is an image of {width}x{height} pixels, and more than {most_pixels / 1e6:g} megapixels are not "
            "decoded; replace it by a smaller one or leave it out"
        )
    if data.startswith(b"\xff\xd8") and height * width * (scans := jpeg_scans(data)) > _MOST_SCANNED:
        raise ImageError(
            f"{source} is a JPEG of {width}x{height} pixels in {scans} scans, which would take minutes; encode it again"
        )


def _is_truncated(data: bytes) -> bool:
    """Whether a JPEG lacks its end-of-image marker or a PNG its IEND chunk; bytes after them are ignored."""
    if data.startswith(b"\xff\xd8"):
        scan = next((at for marker, at in jpeg_segments(data) if marker == START_OF_SCAN), None)
        # Within a scan, 0xFF is always stuffed, so these two bytes are the marker itself. The search begins at the scan
        # because a thumbnail in the EXIF header has an end-of-image marker of its own.
        return scan is None or data.rfind(b"\xff\xd9", scan) < 0
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return data.rfind(b"IEND") < 0
    return False
