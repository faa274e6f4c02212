"""nuImages v1.0: relational JSON tables and run-length masks -> Truth.

Follows the schema and the devkit of nuImages (``nutonomy/nuscenes-devkit``: ``docs/schema_nuimages.md``,
``python-sdk/nuimages``). It was never run on the published files, which may not be redistributed.
"""

from lvad_perception.datasets.nuimages.split import NuImagesSplit, find_splits, is_nuimages, open_split

__all__ = ["NuImagesSplit", "find_splits", "is_nuimages", "open_split"]
