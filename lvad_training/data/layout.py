"""Which data set a folder holds: BDD100K, or nuImages where there is a folder ``v1.0-*`` with its tables."""

from pathlib import Path

from lvad_perception import bdd100k
from lvad_perception.errors import DatasetError
from lvad_training.data import nuimages
from lvad_training.split import Split


def vocabulary_name(root: Path) -> str:
    """Key of ``vocabulary.VOCABULARIES`` that the folder's annotation is in."""
    return "nuimages" if nuimages.is_nuimages(root) else "bdd100k"


def find_splits(root: Path) -> list[str]:
    """Names of the splits that the folder has, sorted.

    Raises:
        DatasetError: it holds neither BDD100K nor nuImages.
    """
    return nuimages.find_splits(root) if nuimages.is_nuimages(root) else bdd100k.find_splits(root)


def open_split(root: Path, split: str, *, cameras: tuple[str, ...] = (), cache_dir: Path | None = None) -> Split:
    """Open a split of whichever data set the folder holds.

    Args:
        root: folder of the data set.
        split: one of ``find_splits``.
        cameras: nuImages' channels to look at; all when empty.
        cache_dir: where parsed labels are kept; a folder in the user's cache directory when None.

    Raises:
        DatasetError: no such folder, split or camera, or nowhere to keep the cache.
        LabelError: annotation cannot be read.
    """
    if nuimages.is_nuimages(root):
        return nuimages.open_split(root, split, cameras=cameras, cache_dir=cache_dir)
    if cameras:
        raise DatasetError(f"{root} is in BDD100K's layout, which has one camera; leave out data.cameras")
    return bdd100k.open_split(root, split, cache_dir=cache_dir)
