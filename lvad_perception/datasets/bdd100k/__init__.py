"""BDD100K on disk: label files and masks in the formats of 2018 and 2020 -> Truth."""

from lvad_perception.errors import MissingDependencyError

try:
    from lvad_perception.datasets.bdd100k.split import Bdd100kSplit, open_split
    from lvad_perception.datasets.bdd100k.tree import find_splits
except ModuleNotFoundError as err:  # msgspec or Pillow: a vehicle that only runs the node needs neither
    raise MissingDependencyError(
        f"reading BDD100K needs the Python package '{err.name}'; pip install 'lvad_perception[bags]'"
    ) from err

__all__ = ["Bdd100kSplit", "find_splits", "open_split"]
