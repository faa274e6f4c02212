"""Distinguishes masks of class ids from colour maps: palette and RGB images may be either.

A PNG with a grey palette holds ids, and its id 0 is as black as an unlabelled pixel of a colour map. A single image may
be ambiguous, so all masks of a folder are read in the same way.
"""

from collections.abc import Sequence
from functools import cache
from typing import Final, Literal

import numpy as np

from lvad_perception.types import UInt8
from lvad_perception.vocabulary import SEMANTIC, UNLABELED, Rgb, Vocabulary

Reading = Literal["ids", "colors"]

_FOREIGN: Final = 254
_STRIP: Final = 1 << 20
_BLACK: Final = (0, 0, 0)


def read_either_way(
    pixels: UInt8, palette: Sequence[int] | None, vocabulary: Vocabulary
) -> tuple[Reading | None, bool]:
    """Find out which readings one image allows.

    Args:
        pixels: palette indices, uint8 [H, W], or RGB, uint8 [H, W, 3].
        palette: red, green and blue of each index, flat; None for RGB.
        vocabulary: of the task.

    Returns:
        (the only possible reading, None when both are possible; whether a palette is ambiguous: both readings are
        possible and differ, and it has no colour but grey).
    """
    used = _used_colors(pixels, palette)
    ids = _color_ids(vocabulary)
    fits_ids = all(index < len(vocabulary.names) or index == UNLABELED for index, _ in used)
    fits_colors = all(color in ids or index == UNLABELED for index, color in used)
    if fits_ids != fits_colors:
        return ("ids" if fits_ids else "colors"), False
    if not fits_ids or all(ids.get(color) == index or index == UNLABELED for index, color in used):
        return None, False
    declared = used if palette is None else [(i, _entry(palette, i)) for i in range(len(palette) // 3)]
    classes = {color for index, color in declared if color in ids and len(set(color)) > 1 and ids[color] != index}
    if any(color in classes for _, color in used) or len(classes) > 1:
        return "colors", False
    return None, palette is not None  # an all-black RGB image is a colour map unless its folder says otherwise


def palette_to_ids(palette: Sequence[int], vocabulary: Vocabulary) -> UInt8:
    """Class id of each palette index by its colour, uint8 [256]; 254 for a colour that is no class of the task."""
    ids = _color_ids(vocabulary)
    table = np.array([ids.get(_entry(palette, index), _FOREIGN) for index in range(256)], np.uint8)
    table[UNLABELED] = UNLABELED
    return table


def colors_to_ids(pixels: UInt8, vocabulary: Vocabulary) -> tuple[UInt8, Rgb | None]:
    """Class ids of RGB pixels, uint8 [H, W], and the first colour that is no class of the task, None without one."""
    table = _rgb_table(vocabulary)
    flat, ids = pixels.reshape(-1, 3), np.empty(pixels.shape[0] * pixels.shape[1], np.uint8)
    for start in range(0, len(flat), _STRIP):
        packed = _packed(flat[start : start + _STRIP])
        ids[start : start + _STRIP] = part = table[packed]
        if (part == _FOREIGN).any():
            value = int(packed[part == _FOREIGN][0])
            return ids.reshape(pixels.shape[:2]), _unpacked(value)
    return ids.reshape(pixels.shape[:2]), None


def _used_colors(pixels: UInt8, palette: Sequence[int] | None) -> list[tuple[int, Rgb]]:
    """(index, colour) pairs that an image uses; a grey RGB colour has its grey value as index, any other RGB 256."""
    if palette is not None:
        counts = np.bincount(pixels.ravel(), minlength=256)
        return [(int(index), _entry(palette, int(index))) for index in np.flatnonzero(counts)]
    seen = np.zeros(1 << 24, np.bool_)
    flat = pixels.reshape(-1, 3)
    for start in range(0, len(flat), _STRIP):
        seen[_packed(flat[start : start + _STRIP])] = True
    colors = [_unpacked(int(value)) for value in np.flatnonzero(seen)]
    return [(color[0] if len(set(color)) == 1 else 256, color) for color in colors]


def _entry(palette: Sequence[int], index: int) -> Rgb:
    """Colour of a palette index; black beyond the palette's end, as decoders do."""
    red, green, blue = (*palette[3 * index : 3 * index + 3], 0, 0, 0)[:3]
    return red, green, blue


@cache
def _color_ids(vocabulary: Vocabulary) -> dict[Rgb, int]:
    """Colour -> class id; black is unlabelled in a semantic map and background in a drivable one."""
    ids = {color: index for index, color in reversed(list(enumerate(vocabulary.colors)))}
    if vocabulary is SEMANTIC or _BLACK not in ids:
        ids[_BLACK] = UNLABELED
    return ids


@cache
def _rgb_table(vocabulary: Vocabulary) -> UInt8:
    """Class id of every RGB colour, uint8 [2^24]."""
    table = np.full(1 << 24, _FOREIGN, np.uint8)
    for (red, green, blue), index in _color_ids(vocabulary).items():
        table[red << 16 | green << 8 | blue] = index
    return table


def _packed(rgb: UInt8) -> "np.ndarray[tuple[int, ...], np.dtype[np.uint32]]":
    """RGB as one number per colour: uint8 [N, 3] -> uint32 [N]."""
    red, green, blue = rgb.astype(np.uint32).T
    return np.asarray(red << 16 | green << 8 | blue, np.uint32)


def _unpacked(value: int) -> Rgb:
    return value >> 16, value >> 8 & 255, value & 255
