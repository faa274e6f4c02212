"""BDD100K on disk: label files and masks of every published format -> Truth."""

from lvad_perception.bdd100k.split import Split, open_split
from lvad_perception.bdd100k.tree import find_splits
from lvad_perception.images import decode_image, read_image

__all__ = ["Split", "decode_image", "find_splits", "open_split", "read_image"]
