"""Mask images and shape labels -> class ids, uint8 [H, W], ``UNLABELED`` where unknown."""

from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image, UnidentifiedImageError

from lvad_perception.bdd100k.categories import drivable_class, normalise, semantic_class
from lvad_perception.bdd100k.labels import Label
from lvad_perception.bdd100k.shapes import decode_poly2d, decode_rle, fill, outline, rle_to_mask
from lvad_perception.errors import LabelError
from lvad_perception.types import Bool, Size, UInt8
from lvad_perception.vocabulary import DRIVABLE_BACKGROUND, SEMANTIC, TASKS, UNLABELED, Vocabulary

OLD_DRIVABLE_ENDING: Final = "_drivable_id.png"
"""Masks so named count 0 background, 1 direct, 2 alternative; all later ones 0 direct, 1 alternative, 2 background."""

_OLD_DRIVABLE: Final = np.array([2, 0, 1] + [UNLABELED] * 253, np.uint8)


def read_mask(path: Path, task: str) -> UInt8:
    """Read a mask image of ids, of palette colours, or of RGB colours.

    Args:
        path: an 8-bit grey or palette image, or an RGB colour map in the task's colours (black is unlabelled in a
            semantic map). Files that end in ``_drivable_id.png`` are renumbered from the old drivable ids.
        task: "semantic" or "drivable".

    Returns:
        uint8 [H, W], class ids of the task, ``UNLABELED`` where unknown.

    Raises:
        LabelError: the file is unreadable, is an RGBA bitmask or a bit-coded lane mask, or holds an id or a colour
            that the task does not have.
    """
    try:
        with Image.open(path) as image:
            mode, palette = image.mode, image.getpalette()
            pixels = np.asarray(image)
    except UnidentifiedImageError as err:
        raise LabelError(f"{path} is not an image; replace it or leave it out") from err
    except (OSError, SyntaxError, ValueError) as err:
        raise LabelError(f"{path} cannot be read as a mask ({err}); copy it again from its origin") from err
    vocabulary = TASKS[task]
    if mode in ("RGBA", "LA", "PA"):
        raise LabelError(
            f"{path} is a {mode} bitmask of instances, not a {task} mask; use the masks under labels/{_folder(task)}"
        )
    if mode == "RGB":
        return _from_colors(pixels, vocabulary, path)
    if mode not in ("L", "P") or pixels.dtype != np.uint8:
        raise LabelError(f"{path} has pixel type {mode}, not 8-bit ids, palette or RGB; convert it to 8-bit grey ids")
    if mode == "P" and palette and (ids := _palette_ids(pixels, palette, vocabulary)) is not None:
        return ids
    if path.name.endswith(OLD_DRIVABLE_ENDING) and task == "drivable":
        _refuse_unknown(pixels, 3, path, vocabulary)
        return np.asarray(_OLD_DRIVABLE[pixels])
    _refuse_unknown(pixels, len(vocabulary.names), path, vocabulary)
    return np.array(pixels)


def semantic_from_labels(labels: list[Label], size_hw: Size, *, source: str) -> UInt8:
    """Semantic mask from polygons or run lengths, later labels over earlier ones.

    Pixels of categories that are not evaluated become ``UNLABELED``, like pixels that no label covers.

    Args:
        labels: a frame's labels; those without shape or of an unknown category are skipped.
        size_hw: size of the image.
        source: what to call the frame in messages.

    Raises:
        LabelError: a shape is malformed or made for another size.
    """
    mask = np.full(size_hw, UNLABELED, np.uint8)
    for label in labels:
        value = semantic_class(normalise(label.category))
        if value is not None and (inside := _pixels_of(label, size_hw, source)) is not None:
            mask[inside] = value
    return mask


def drivable_from_labels(labels: list[Label], size_hw: Size, *, source: str) -> UInt8:
    """Drivable mask from polygons or run lengths, later labels over earlier ones; the rest is background.

    Args:
        labels: a frame's labels; others than drivable areas are skipped. An area of unknown type is ``UNLABELED``.
        size_hw: size of the image.
        source: what to call the frame in messages.

    Raises:
        LabelError: a shape is malformed or made for another size.
    """
    mask = np.full(size_hw, DRIVABLE_BACKGROUND, np.uint8)
    for label in labels:
        value = drivable_class(normalise(label.category), label.area_type)
        if value is not None and (inside := _pixels_of(label, size_hw, source)) is not None:
            mask[inside] = value
    return mask


def _pixels_of(label: Label, size_hw: Size, source: str) -> Bool | None:
    """bool [H, W]; run lengths first, as they are exact; None when the label has no shape."""
    try:
        if (rle := decode_rle(label.rle)) is not None:
            if tuple(rle.size) != size_hw:
                raise LabelError(f"'rle' has size {rle.size[0]}x{rle.size[1]}, the image {size_hw[0]}x{size_hw[1]}")
            return rle_to_mask(rle)
        inside = None
        for polygon in decode_poly2d(label.poly2d):
            if len(polygon.vertices) < 3:
                continue
            part = fill(outline(polygon), size_hw)
            inside = part if inside is None else inside | part
        return inside
    except LabelError as err:
        raise LabelError(f"{source}: label of '{label.category}': {err}; repair or remove it") from err


def _palette_ids(pixels: UInt8, palette: list[int], vocabulary: Vocabulary) -> UInt8 | None:
    """Ids by the colours of a palette, None when some used colour is not the vocabulary's: then indices are ids."""
    colors = {color: index for index, color in reversed(list(enumerate(vocabulary.colors)))}
    lut = np.zeros(256, np.uint8)
    for index in np.flatnonzero(np.bincount(pixels.ravel(), minlength=256)):
        color = tuple(palette[3 * index : 3 * index + 3])
        if index == UNLABELED or (color == (0, 0, 0) and vocabulary is SEMANTIC):
            lut[index] = UNLABELED
        elif color in colors:
            lut[index] = colors[color]
        else:
            return None
    return lut[pixels]


def _from_colors(pixels: UInt8, vocabulary: Vocabulary, path: Path) -> UInt8:
    packed = (pixels.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], np.uint32)).astype(np.uint32)
    known = {(r << 16) | (g << 8) | b: index for index, (r, g, b) in enumerate(vocabulary.colors)}
    known.setdefault(0, UNLABELED)  # black; it is background in a drivable map
    values, inverse = np.unique(packed, return_inverse=True)
    for value in values:
        if int(value) not in known:
            color = (int(value) >> 16, int(value) >> 8 & 255, int(value) & 255)
            raise LabelError(
                f"{path} holds the colour {color}, which is no {vocabulary.task} class; "
                "use the id masks, or correct the colour map"
            )
    ids = np.array([known[int(value)] for value in values], np.uint8)
    return ids[inverse].reshape(pixels.shape[:2])


def _refuse_unknown(pixels: UInt8, classes: int, path: Path, vocabulary: Vocabulary) -> None:
    counts = np.bincount(pixels.ravel(), minlength=256)
    unknown = [int(value) for value in np.flatnonzero(counts[classes:UNLABELED]) + classes]
    if unknown:
        raise LabelError(
            f"{path} holds {_listed(unknown)}, which no {vocabulary.task} class has (0 to {classes - 1}, "
            f"{UNLABELED} unlabelled); use the masks under labels/{_folder(vocabulary.task)}, not raw ids or lane masks"
        )


def _listed(ids: list[int]) -> str:
    shown = ", ".join(map(str, ids[:5])) + (", …" if len(ids) > 5 else "")
    return f"the id {shown}" if len(ids) == 1 else f"the ids {shown}"


def _folder(task: str) -> str:
    return "sem_seg" if task == "semantic" else task
