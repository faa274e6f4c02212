"""Detects which data set a folder holds: nuImages where it has tables in ``v1.0-*``, otherwise BDD100K."""

from collections.abc import Callable
from pathlib import Path

from lvad_perception.datasets import bdd100k, nuimages
from lvad_perception.datasets.split import Split
from lvad_perception.errors import DatasetError


def vocabulary_name(root: Path, *, expected: str | None = None) -> str:
    """Key of ``vocabulary.VOCABULARIES`` for the folder's annotation; "bdd100k" for a folder of neither data set.

    Args:
        root: folder of the data set.
        expected: the key that the caller needs; decides the error for a folder of neither data set.

    Raises:
        DatasetError: nuImages is expected or lies one folder deeper, and the folder holds neither data set.
    """
    if nuimages.is_nuimages(root):
        return "nuimages"
    if not (root / "images").is_dir():
        inner = sorted(path.parent.parent for path in root.glob("*/v1.0-*/sample_data.json"))
        if inner or expected == "nuimages":
            hint = f"did you mean {inner[0]}?" if inner else "pass the folder that holds samples/ and v1.0-train/"
            raise DatasetError(f"{root} holds no nuImages: it has no folder v1.0-train with its tables; {hint}")
    return "bdd100k"


def find_splits(root: Path, *, expected: str | None = None) -> list[str]:
    """Names of the folder's splits, sorted; ``expected`` as in ``vocabulary_name``.

    Raises:
        DatasetError: the folder holds neither BDD100K nor nuImages, or not the expected one.
    """
    is_nuimages = vocabulary_name(root, expected=expected) == "nuimages"
    return nuimages.find_splits(root) if is_nuimages else bdd100k.find_splits(root)


def open_split(
    root: Path,
    split: str,
    *,
    cameras: tuple[str, ...] = (),
    cache_dir: Path | None = None,
    report: Callable[[str], None] | None = None,
) -> Split:
    """Open a split of the data set that the folder holds.

    Args:
        root: folder of the data set.
        split: one of ``find_splits``.
        cameras: channels of nuImages to select; all when empty.
        cache_dir: folder for parsed labels; a folder in the user's cache directory when None.
        report: called with one line for every label file that is skipped; see ``bdd100k.open_split``.

    Raises:
        DatasetError: no such folder, split or camera, or nowhere to keep the cache.
        LabelError: annotation cannot be read.
    """
    if nuimages.is_nuimages(root):
        return nuimages.open_split(root, split, cameras=cameras, cache_dir=cache_dir)
    if cameras:
        raise DatasetError(f"{root} is in BDD100K's layout, which has one camera; leave out data.cameras")
    return bdd100k.open_split(root, split, cache_dir=cache_dir, report=report)
