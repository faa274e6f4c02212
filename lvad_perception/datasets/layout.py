"""Which data set a folder holds: BDD100K, or nuImages where there is a folder ``v1.0-*`` with its tables."""

from collections.abc import Callable
from pathlib import Path

from lvad_perception.datasets import bdd100k, nuimages
from lvad_perception.datasets.split import Split
from lvad_perception.errors import DatasetError


def vocabulary_name(root: Path, *, wanted: str | None = None) -> str:
    """Key of ``vocabulary.VOCABULARIES`` that the folder's annotation is in; of a folder that is neither, BDD100K's.

    Args:
        root: folder of the data set.
        wanted: the key that is hoped for, for the message where the folder is neither.

    Raises:
        DatasetError: the folder is neither where nuImages is wanted, or nuImages lies one folder deeper.
    """
    if nuimages.is_nuimages(root):
        return "nuimages"
    if not (root / "images").is_dir():
        inner = sorted(path.parent.parent for path in root.glob("*/v1.0-*/sample_data.json"))
        if inner or wanted == "nuimages":
            hint = f"did you mean {inner[0]}?" if inner else "pass the folder that holds samples/ and v1.0-train/"
            raise DatasetError(f"{root} holds no nuImages: it has no folder v1.0-train with its tables; {hint}")
    return "bdd100k"


def find_splits(root: Path, *, wanted: str | None = None) -> list[str]:
    """Names of the splits that the folder has, sorted; ``wanted`` as in ``vocabulary_name``.

    Raises:
        DatasetError: it holds neither BDD100K nor nuImages, or not the one that is wanted.
    """
    is_nuimages = vocabulary_name(root, wanted=wanted) == "nuimages"
    return nuimages.find_splits(root) if is_nuimages else bdd100k.find_splits(root)


def open_split(
    root: Path,
    split: str,
    *,
    cameras: tuple[str, ...] = (),
    cache_dir: Path | None = None,
    report: Callable[[str], None] | None = None,
) -> Split:
    """Open a split of whichever data set the folder holds.

    Args:
        root: folder of the data set.
        split: one of ``find_splits``.
        cameras: nuImages' channels to look at; all when empty.
        cache_dir: where parsed labels are kept; a folder in the user's cache directory when None.
        report: is handed one line for every label file that is passed over; see ``bdd100k.open_split``.

    Raises:
        DatasetError: no such folder, split or camera, or nowhere to keep the cache.
        LabelError: annotation cannot be read.
    """
    if nuimages.is_nuimages(root):
        return nuimages.open_split(root, split, cameras=cameras, cache_dir=cache_dir)
    if cameras:
        raise DatasetError(f"{root} is in BDD100K's layout, which has one camera; leave out data.cameras")
    return bdd100k.open_split(root, split, cache_dir=cache_dir, report=report)
