"""Mask images and shape labels -> class ids, uint8 [H, W], ``UNLABELED`` where unknown."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from lvad_perception.datasets.bdd100k.categories import drivable_class, normalise, semantic_class
from lvad_perception.datasets.bdd100k.labels import Label
from lvad_perception.datasets.bdd100k.palettes import Reading, colors_to_ids, palette_to_ids, read_either_way
from lvad_perception.datasets.bdd100k.polygons import decode_poly2d, fill, outline
from lvad_perception.datasets.run_lengths import decode_rle, rle_to_mask
from lvad_perception.errors import LabelError
from lvad_perception.media.image_header import MOST_PIXELS, encoded_size
from lvad_perception.types import Bool, Size, UInt8
from lvad_perception.vocabulary import DRIVABLE_BACKGROUND, TASKS, UNLABELED, Vocabulary

OLD_DRIVABLE_ENDING: Final = "_drivable_id.png"
"""Ending of masks with the old ids: 0 background, 1 direct, 2 alternative. Later masks have 0 direct, 1 alternative,
2 background."""

_LOSSLESS: Final = ("PNG", "BMP", "GIF", "TIFF")
_LOSSY: Final = ("JPEG", "WEBP")
_HEADER_BYTES: Final = 1 << 16
_SAMPLED: Final = 8
_OLD_DRIVABLE: Final = np.array([2, 0, 1] + [UNLABELED] * 253, np.uint8)


def exif_orientation(path: Path) -> int:
    """EXIF orientation of an image, 1 to 8; 1 (as stored) where it states none."""
    try:
        with Image.open(path, formats=_LOSSLESS + _LOSSY) as image:
            value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # Pillow raises errors of many kinds on damaged tags
        return 1
    return value if value in range(1, 9) else 1


@dataclass(frozen=True, slots=True)
class MaskImage:
    """A mask image as it is stored.

    Attributes:
        pixels: uint8 [H, W], ids, grey values or palette indices; uint8 [H, W, 3] for RGB.
        palette: red, green and blue of each index, flat; None without a palette.
    """

    pixels: UInt8
    palette: list[int] | None

    @property
    def has_colors(self) -> bool:
        """Whether its pixels may be class colours: RGB, or with a palette."""
        return self.palette is not None or self.pixels.ndim == 3


def open_mask(path: Path, task: str) -> MaskImage:
    """Decode a mask image.

    Args:
        path: the image, of a lossless format, with at most ``image_header.MOST_PIXELS`` pixels.
        task: named in messages.

    Raises:
        LabelError: the file is unreadable, too large or of a lossy format, or has an unsupported pixel type.
    """
    try:
        with path.open("rb") as file:
            size_hw = encoded_size(file.read(_HEADER_BYTES))
        if size_hw is not None and size_hw[0] * size_hw[1] > MOST_PIXELS:
            raise _too_large(path, size_hw)
        with Image.open(path, formats=_LOSSLESS + _LOSSY) as image:
            if image.height * image.width > MOST_PIXELS:
                raise _too_large(path, (image.height, image.width))
            if image.format not in _LOSSLESS:
                raise LabelError(
                    f"{path} holds {image.format} data, whose compression changes ids; save the mask as PNG, "
                    "from its origin"
                )
            mode, palette = image.mode, image.getpalette()
            pixels = np.asarray(image)
    except LabelError:
        raise
    except UnidentifiedImageError as err:
        raise LabelError(f"{path} is not an image; replace it or leave it out") from err
    except Exception as err:  # of many kinds for damaged files: SyntaxError, struct.error, zlib.error, ...
        raise LabelError(f"{path} cannot be read as a mask ({err}); copy it again from its origin") from err
    if mode in ("RGBA", "LA", "PA"):
        raise LabelError(
            f"{path} is a {mode} bitmask of instances, not a {task} mask; use the masks under labels/{_folder(task)}"
        )
    if mode not in ("L", "P", "RGB") or pixels.dtype != np.uint8:
        raise LabelError(f"{path} has pixel type {mode}, not 8-bit ids, palette or RGB; convert it to 8-bit grey ids")
    return MaskImage(pixels, palette if mode == "P" else None)


def folder_reading(paths: Sequence[Path], task: str) -> Reading | None:
    """Decide from a sample of a folder's masks whether palettes and RGB mean ids or colours: the majority counts.

    Args:
        paths: the folder's masks.
        task: "semantic" or "drivable".

    Returns:
        "ids" also where palettes fit both readings and nothing favours colours; None where no mask has colours.
    """
    step = max(1, len(paths) // _SAMPLED)
    votes: Counter[Reading] = Counter()
    ambiguous = False
    for path in paths[::step][:_SAMPLED]:
        try:
            mask = open_mask(path, task)
        except LabelError:
            continue  # reported when it is read
        if mask.has_colors:
            certain, possible = read_either_way(mask.pixels, mask.palette, TASKS[task])
            votes.update([certain] if certain else [])
            ambiguous |= possible
    if votes["ids"] != votes["colors"]:
        return "ids" if votes["ids"] > votes["colors"] else "colors"
    return "ids" if votes or ambiguous else None


def read_mask(path: Path, task: str, reading: Reading | None = None) -> UInt8:
    """Read a mask image of ids, of palette colours, or of RGB colours.

    Args:
        path: an 8-bit grey or palette image, or an RGB colour map in the task's colours (black is unlabelled in a
            semantic map). Files that end in ``_drivable_id.png`` are converted from the old drivable ids.
        task: "semantic" or "drivable".
        reading: whether a palette or grey RGB means ids or colours, see ``folder_reading``; None to decide by this
            image alone.

    Returns:
        uint8 [H, W], class ids of the task, ``UNLABELED`` where unknown.

    Raises:
        LabelError: as ``open_mask``, or it contains an id or a colour that is no class of the task.
    """
    vocabulary = TASKS[task]
    mask = open_mask(path, task)
    pixels, palette = mask.pixels, mask.palette
    if mask.has_colors:
        certain, _ = read_either_way(pixels, palette, vocabulary)
        if palette is None:
            if (reading or certain) != "ids" or not (pixels == pixels[..., :1]).all():
                return _from_colors(pixels, vocabulary, path)
            pixels = np.ascontiguousarray(pixels[..., 0])
        elif certain is not None and reading not in (certain, None):
            own, others = ("colours", "ids") if certain == "colors" else ("ids", "colours")
            raise LabelError(
                f"{path} has a palette that can only mean {own}, those of its folder mean {others}; save all alike"
            )
        elif (reading or certain) == "colors":
            return _from_palette(pixels, palette, vocabulary, path)
    if path.name.lower().endswith(OLD_DRIVABLE_ENDING) and task == "drivable":
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
        source: name of the frame in messages.

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
        labels: a frame's labels; only drivable areas are drawn. Areas of unknown type are ``UNLABELED``.
        size_hw: size of the image.
        source: name of the frame in messages.

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
    """Pixels of a label, bool [H, W]; from run lengths, which are exact, before polygons; None without a shape."""
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


def _from_palette(pixels: UInt8, palette: list[int], vocabulary: Vocabulary, path: Path) -> UInt8:
    table = palette_to_ids(palette, vocabulary)
    known = set(range(len(vocabulary.names))) | {UNLABELED}
    for index in np.flatnonzero(np.bincount(pixels.ravel(), minlength=256)):
        if int(table[index]) not in known:
            color = tuple(palette[3 * index : 3 * index + 3])
            raise _foreign_color(path, color, vocabulary)
    return np.asarray(table[pixels])


def _from_colors(pixels: UInt8, vocabulary: Vocabulary, path: Path) -> UInt8:
    ids, foreign = colors_to_ids(pixels, vocabulary)
    if foreign is not None:
        raise _foreign_color(path, foreign, vocabulary)
    return ids


def _foreign_color(path: Path, color: tuple[int, ...], vocabulary: Vocabulary) -> LabelError:
    return LabelError(
        f"{path} holds the colour {color}, which is no {vocabulary.task} class; "
        "use the id masks, or correct the colour map"
    )


def _too_large(path: Path, size_hw: Size) -> LabelError:
    return LabelError(
        f"{path} is a mask of {size_hw[1]}x{size_hw[0]} pixels, and more than {MOST_PIXELS / 1e6:g} megapixels are not "
        "decoded; scale image and mask down, or leave them out"
    )


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
