"""Pixel encodings of ``sensor_msgs/Image`` -> uint8 RGB."""

from dataclasses import dataclass
from typing import Any, Final

import cv2
import numpy as np
import numpy.typing as npt

from lvad_perception.errors import MessageError, one_line
from lvad_perception.media.image_header import MOST_PIXELS
from lvad_perception.types import UInt8

Samples = npt.NDArray[Any]
"""uint8 or uint16"""


@dataclass(frozen=True, slots=True)
class _Packed:
    """A packed encoding: all samples of a pixel side by side in one plane.

    Attributes:
        channels: samples per pixel.
        conversion: OpenCV's code to RGB, None where no conversion is needed.
        sample_bytes: 1, or 2 for samples that are scaled to 8 bits.
        paired: two neighbouring pixels share their chroma, so that a row consists of pixel pairs.
    """

    channels: int
    conversion: int | None
    sample_bytes: int = 1
    paired: bool = False

    @property
    def pixel_bytes(self) -> int:
        return self.channels * self.sample_bytes


# OpenCV names a Bayer pattern by its second row, ROS by its first: RGGB is OpenCV's "BG".
_BAYER: Final = {
    "rggb": cv2.COLOR_BayerBG2RGB,
    "bggr": cv2.COLOR_BayerRG2RGB,
    "gbrg": cv2.COLOR_BayerGR2RGB,
    "grbg": cv2.COLOR_BayerGB2RGB,
}
_PACKED: Final = {
    "rgb8": _Packed(3, None),
    "8UC3": _Packed(3, cv2.COLOR_BGR2RGB),  # no order is stated; OpenCV users mean BGR
    "bgr8": _Packed(3, cv2.COLOR_BGR2RGB),
    "rgba8": _Packed(4, cv2.COLOR_RGBA2RGB),
    "bgra8": _Packed(4, cv2.COLOR_BGRA2RGB),
    "8UC4": _Packed(4, cv2.COLOR_BGRA2RGB),
    "mono8": _Packed(1, cv2.COLOR_GRAY2RGB),
    "8UC1": _Packed(1, cv2.COLOR_GRAY2RGB),
    "yuv422": _Packed(2, cv2.COLOR_YUV2RGB_UYVY, paired=True),
    "uyvy": _Packed(2, cv2.COLOR_YUV2RGB_UYVY, paired=True),
    "yuv422_yuy2": _Packed(2, cv2.COLOR_YUV2RGB_YUY2, paired=True),
    "yuyv": _Packed(2, cv2.COLOR_YUV2RGB_YUY2, paired=True),
    **{f"bayer_{pattern}8": _Packed(1, code) for pattern, code in _BAYER.items()},
    "rgb16": _Packed(3, None, 2),
    "bgr16": _Packed(3, cv2.COLOR_BGR2RGB, 2),
    "rgba16": _Packed(4, cv2.COLOR_RGBA2RGB, 2),
    "bgra16": _Packed(4, cv2.COLOR_BGRA2RGB, 2),
    "mono16": _Packed(1, cv2.COLOR_GRAY2RGB, 2),
    **{f"bayer_{pattern}16": _Packed(1, code, 2) for pattern, code in _BAYER.items()},
}
# A plane of luma, then a half-height plane of interleaved chroma with the same step.
_SEMI_PLANAR: Final = {"nv12": cv2.COLOR_YUV2RGB_NV12, "nv21": cv2.COLOR_YUV2RGB_NV21}
# A plane of luma, then a plane of interleaved chroma for every pixel, with twice the step: (index of U, index of V).
_FULL_PLANAR: Final = {"nv24": (0, 1), "nv42": (1, 0)}
_LEAST_BAYER_SIDE: Final = 3
_REMEDY: Final = "publish rgb8, bgr8, mono8 or a JPEG/PNG CompressedImage instead"

ENCODINGS: Final = (*_PACKED, *_SEMI_PLANAR, *_FULL_PLANAR)
"""Every encoding that ``to_rgb`` knows, in the spelling of ``sensor_msgs/image_encodings``."""


def to_rgb(
    data: UInt8,
    *,
    encoding: str,
    height: int,
    width: int,
    step: int,
    big_endian: bool = False,
    most_pixels: int = MOST_PIXELS,
) -> UInt8:
    """Pixels of an image message as RGB.

    16-bit samples are scaled from their full range: v / 257, rounded. YUV is taken as BT.601 in limited range, as
    OpenCV and cv_bridge do. With subsampled chroma and an odd number of columns or rows, the last pair must be
    complete.

    Args:
        data: uint8 [N], the message's bytes; rows may be padded.
        encoding: one of ``ENCODINGS``.
        height: rows.
        width: columns.
        step: bytes from the start of one row to the start of the next.
        big_endian: 16-bit samples have their high byte first.
        most_pixels: larger images are an error.

    Returns:
        uint8 [height, width, 3]; for rgb8 a view of ``data``, which must not be written to.

    Raises:
        MessageError: the encoding is not a colour or grey one, or size, step and data are inconsistent.
    """
    check_layout(data.size, encoding=encoding, height=height, width=width, step=step, most_pixels=most_pixels)
    if encoding in _SEMI_PLANAR:
        return _from_semi_planar(data, _SEMI_PLANAR[encoding], height, width, step)
    if encoding in _FULL_PLANAR:
        return _from_full_planar(data, _FULL_PLANAR[encoding], height, width, step)
    packed = _PACKED[encoding]
    if packed.paired:
        even_width = width + width % 2
        pairs = _rows(data, height, 2 * even_width, step).reshape(height, even_width, 2)
        return np.ascontiguousarray(_convert(pairs, packed.conversion)[:, :width], np.uint8)
    rows = _rows(data, height, width * packed.pixel_bytes, step)
    if packed.sample_bytes == 2:
        samples = np.ascontiguousarray(rows).view(">u2" if big_endian else "<u2").astype(np.uint16, copy=False)
        return _to_8_bits(_convert(_shaped(samples, height, width, packed.channels), packed.conversion))
    image = _shaped(rows, height, width, packed.channels)
    return image if packed.conversion is None else _convert(image, packed.conversion)


def to_mask(data: UInt8, *, encoding: str, height: int, width: int, step: int) -> UInt8:
    """Pixels of a mono8 or 8UC1 message as uint8 [height, width], a view of ``data``. Raises MessageError."""
    if encoding not in ("mono8", "8UC1"):
        raise MessageError(f"a mask with encoding '{one_line(encoding)}' holds no class ids; publish masks as mono8")
    check_layout(data.size, encoding=encoding, height=height, width=width, step=step)
    return _rows(data, height, width, step)


def check_layout(
    size: int, *, encoding: str, height: int, width: int, step: int, most_pixels: int = MOST_PIXELS
) -> None:
    """Check that the layout of an image message is consistent.

    Args:
        size: bytes that the message carries.
        encoding: one of ``ENCODINGS``.
        height: rows.
        width: columns.
        step: bytes from the start of one row to the start of the next.
        most_pixels: larger images are an error.

    Raises:
        MessageError: the layout is inconsistent, or the encoding unknown; one sentence with the remedy.
    """
    if encoding not in ENCODINGS:
        given = one_line(encoding)
        raise MessageError(f"image encoding '{given}' is not one of {', '.join(ENCODINGS)}; {_REMEDY}")
    if height < 1 or width < 1:
        raise MessageError(f"an image of {width}x{height} pixels is empty; check the camera driver")
    if encoding.startswith("bayer_") and min(height, width) < _LEAST_BAYER_SIDE:
        raise MessageError(f"an image of {width}x{height} pixels is too small for {encoding}; {_REMEDY}")
    if height * width > most_pixels:
        raise MessageError(
            f"an image of {width}x{height} pixels has more than {most_pixels / 1e6:g} megapixels and is not processed; "
            "publish smaller images"
        )
    used, rows = _extent(encoding, height, width)
    if step < used:
        raise MessageError(
            f"step {step} is shorter than a row of {width} {encoding} pixels ({used} bytes); "
            f"set step to {used} in the publisher"
        )
    if size < step * rows:
        raise MessageError(
            f"a {width}x{height} {encoding} image with step {step} needs {step * rows} bytes but carries {size}; "
            "the message is truncated or wrongly stepped: fix the publisher"
        )


def is_mosaic(encoding: str) -> bool:
    """Whether an encoding is a Bayer pattern."""
    return encoding in _PACKED and encoding.startswith("bayer_")


def demosaic(mosaic: UInt8, encoding: str) -> UInt8:
    """RGB, uint8 [H, W, 3], of an 8-bit Bayer mosaic, uint8 [H, W], in an encoding's pattern. Raises MessageError."""
    height, width = mosaic.shape
    pattern = encoding.removeprefix("bayer_").removesuffix("16").removesuffix("8")
    data = np.ascontiguousarray(mosaic).ravel()
    return to_rgb(data, encoding=f"bayer_{pattern}8", height=height, width=width, step=width)


def _extent(encoding: str, height: int, width: int) -> tuple[int, int]:
    """(minimum bytes of a row, total number of rows of all planes)."""
    if encoding in _SEMI_PLANAR:
        return width + width % 2, height + (height + 1) // 2
    if encoding in _FULL_PLANAR:
        return width, 3 * height
    packed = _PACKED[encoding]
    return (width + width % 2 if packed.paired else width) * packed.pixel_bytes, height


def _rows(data: UInt8, height: int, used: int, step: int) -> UInt8:
    """View of the bytes without padding, uint8 [height, used]."""
    return data[: step * height].reshape(height, step)[:, :used]


def _shaped(rows: Samples, height: int, width: int, channels: int) -> Samples:
    """Rows of samples, [H, W * C], as [H, W] or [H, W, C]."""
    return rows if channels == 1 else rows.reshape(height, width, channels)


def _convert(image: Samples, conversion: int | None) -> Samples:
    return image if conversion is None else cv2.cvtColor(np.ascontiguousarray(image), conversion)


def _to_8_bits(image: Samples) -> UInt8:
    """uint16 -> uint8, 65535 -> 255."""
    return np.asarray(cv2.convertScaleAbs(image, alpha=255 / 65535), np.uint8)


def _from_semi_planar(data: UInt8, conversion: int, height: int, width: int, step: int) -> UInt8:
    even_width = width + width % 2
    rows = _rows(data, height + (height + 1) // 2, even_width, step)
    if height % 2:  # OpenCV needs an even number of rows; the added one is removed below
        rows = np.concatenate([rows[:height], rows[height - 1 :]])
    return np.ascontiguousarray(cv2.cvtColor(np.ascontiguousarray(rows), conversion)[:height, :width], np.uint8)


def _from_full_planar(data: UInt8, uv: tuple[int, int], height: int, width: int, step: int) -> UInt8:
    luma = _rows(data, height, width, step)
    chroma = _rows(data[height * step :], height, 2 * width, 2 * step).reshape(height, width, 2)
    # OpenCV converts YUV with chroma for every pixel in full range only, so each pixel is doubled to a UYVY pair.
    pairs = np.stack([chroma[:, :, uv[0]], luma, chroma[:, :, uv[1]], luma], axis=2)  # (H, W, UYVY)
    doubled = cv2.cvtColor(pairs.reshape(height, 2 * width, 2), cv2.COLOR_YUV2RGB_UYVY)
    return np.ascontiguousarray(doubled[:, ::2], np.uint8)
