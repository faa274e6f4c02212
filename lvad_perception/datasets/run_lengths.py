"""Run-length masks in COCO's format, compressed or not -> pixels, and back."""

from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from lvad_perception.datasets.formats import JSON_ERRORS
from lvad_perception.errors import LabelError
from lvad_perception.types import Bool


class Rle(msgspec.Struct):
    """COCO run lengths, column by column, beginning with a run outside the mask; ``counts`` is text when compressed;
    ``size`` is (height, width)."""

    counts: str | list[int]
    size: tuple[int, int]


_decode_rle: Final = msgspec.json.Decoder(Rle | None)


def decode_rle(data: bytes) -> Rle | None:
    """Run lengths from their JSON; None for null. Raises LabelError for any other JSON."""
    try:
        rle: Rle | None = _decode_rle.decode(data)
        return rle
    except JSON_ERRORS as err:
        raise LabelError(f"'rle' is not COCO run lengths with 'counts' and 'size' ({err})") from err


def rle_to_mask(rle: Rle) -> Bool:
    """Run lengths as pixels, bool [H, W].

    Raises:
        LabelError: the runs do not fill the size exactly.
    """
    height, width = rle.size
    columns = np.zeros(height * width, np.bool_)
    paint_rle(columns, rle, True)
    return columns.reshape(width, height).T  # runs go down the columns


def paint_rle(columns: npt.NDArray[Any], rle: Rle, value: Any) -> None:
    """Write a value to the pixels of a mask, in place; only the span from its first to its last pixel is visited.

    Args:
        columns: [W * H], an image of the mask's size, column by column.
        rle: the mask.
        value: to write.

    Raises:
        LabelError: the runs do not fill the size exactly.
    """
    height, width = rle.size
    try:
        runs = _uncompress(rle.counts) if isinstance(rle.counts, str) else np.array(rle.counts, np.int64)
    except OverflowError as err:
        raise LabelError("'rle' counts are beyond any image") from err
    # Each run is checked too, since a sum of huge runs wraps around.
    if (runs < 0).any() or (runs > height * width).any() or runs.sum() != height * width:
        raise LabelError(f"'rle' covers {runs.sum()} pixels where its size {height}x{width} has {height * width}")
    if len(runs) < 2:
        return
    span = runs[1 : len(runs) - len(runs) % 2]  # from the first run inside the mask to the last
    inside = np.arange(len(span)) % 2 == 0
    start = int(runs[0])
    columns[start : start + int(span.sum())][np.repeat(inside, span)] = value


def mask_to_rle(mask: Bool) -> Rle:
    """A mask, bool [H, W], as compressed run lengths; the inverse of ``rle_to_mask``."""
    columns = np.asarray(mask, np.bool_).T.ravel()
    changes = np.flatnonzero(columns[1:] != columns[:-1]) + 1
    runs = np.diff(np.concatenate([[0], changes, [len(columns)]])).tolist()
    if len(columns) and columns[0]:
        runs = [0, *runs]  # the first run is outside the mask
    text = [_compress(run - (runs[index - 2] if index > 2 else 0)) for index, run in enumerate(runs)]
    return Rle("".join(text), (mask.shape[0], mask.shape[1]))


def _compress(value: int) -> str:
    """One number of COCO's compressed counts, as ``_uncompress`` reads it."""
    text = ""
    more = True
    while more:
        bits, value = value & 0x1F, value >> 5
        more = value != (-1 if bits & 0x10 else 0)
        text += chr((bits | 0x20 * more) + 48)
    return text


def _uncompress(text: str) -> npt.NDArray[np.int64]:
    """COCO's compressed counts: 5 bits a character, low bits first, 0x20 = more follow; differences from run n - 2."""
    codes = np.frombuffer(text.encode("ascii", "replace"), np.uint8).astype(np.int64) - 48
    if not len(codes):
        return np.zeros(0, np.int64)
    if codes.min() < 0 or codes.max() > 63 or codes[-1] & 0x20:
        raise LabelError("'rle' counts are not COCO's compressed run lengths")
    last = (codes & 0x20) == 0
    starts = np.concatenate([[0], np.flatnonzero(last)[:-1] + 1])
    digit = np.arange(len(codes)) - np.repeat(starts, np.diff(np.append(starts, len(codes))))
    if digit.max() > 11:
        raise LabelError("'rle' counts are not COCO's compressed run lengths")
    values = np.add.reduceat((codes & 0x1F) << (5 * digit), starts)
    ends = np.flatnonzero(last)
    negative = (codes[ends] & 0x10) != 0
    values -= np.where(negative, np.int64(1) << (5 * (digit[ends] + 1)), 0)
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return values
