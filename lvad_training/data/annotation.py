"""Annotation of images for training: truth where the recipe's lists allow it, pseudo labels elsewhere."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from lvad_perception.datasets.split import Split
from lvad_perception.types import Bool, Int32, Size, Truth
from lvad_perception.vocabulary import TASKS
from lvad_training.data.settings import Lists

Frames = npt.NDArray[np.int64]
"""Indices into a split."""


class Annotation:
    """The annotation of a split's images for training.

    Instances hold splits and small arrays, and so are cheap to pickle for worker processes.

    Args:
        split: images and their truth.
        lists: for each task, the images whose truth counts; all truth counts if None.
        pseudo: a split with the same image names, whose annotation is used for the tasks that an image has no truth
            for; None for no pseudo labels.
        tasks: tasks to read annotation of.
    """

    def __init__(
        self,
        split: Split,
        *,
        lists: Lists | None = None,
        pseudo: Split | None = None,
        tasks: Sequence[str] = tuple(TASKS),
    ) -> None:
        self.split = split
        self.pseudo = pseudo
        self.tasks = tuple(tasks)
        self._true = {task: _listed(split, lists, task) for task in tasks}
        self._pseudo_index = _indices_in(pseudo, split) if pseudo is not None else None

    def __len__(self) -> int:
        return len(self.split)

    def true_for(self, task: str) -> Bool:
        """bool [F]: which images have truth for ``task`` that counts."""
        return self._true[task]

    def labelled_for(self, task: str) -> Bool:
        """bool [F]: which images have truth or pseudo labels for ``task``."""
        true = self._true[task]
        if self.pseudo is None or self._pseudo_index is None:
            return true
        filled = self._pseudo_index >= 0
        filled[filled] = self.pseudo.annotated_for(task)[self._pseudo_index[filled]]
        return np.asarray(true | filled)

    def truth(self, frame: int, size_hw: Size, task: str | None = None) -> Truth:
        """Truth or pseudo labels of an image; None for tasks without either.

        Args:
            frame: index in the split.
            size_hw: size of the image.
            task: the only task to read; all if None.

        Raises:
            LabelError: as ``Split.truth``.
        """
        sources = {name: self._source(frame, name) for name in self.tasks if task in (None, name)}
        boxes, semantic, drivable = (sources.get(name) for name in ("detection", "semantic", "drivable"))
        return Truth(
            size_hw,
            boxes[0].boxes(boxes[1], size_hw) if boxes else None,
            semantic[0].semantic(semantic[1], size_hw) if semantic else None,
            drivable[0].drivable(drivable[1], size_hw) if drivable else None,
        )

    def _source(self, frame: int, task: str) -> tuple[Split, int] | None:
        """The split with the image's annotation for a task, and its index there; None if there is no annotation."""
        if self._true[task][frame]:
            return self.split, frame
        if self.pseudo is None or self._pseudo_index is None or self._pseudo_index[frame] < 0:
            return None
        return self.pseudo, int(self._pseudo_index[frame])


def _listed(split: Split, lists: Lists | None, task: str) -> Bool:
    annotated = split.annotated_for(task)
    if lists is None:
        return annotated
    names = frozenset(lists.images.get(task, ()))
    return annotated & np.fromiter((split.name_of(i) in names for i in range(len(split))), np.bool_, len(split))


def _indices_in(pseudo: Split, split: Split) -> Int32:
    """int32 [F]: index in ``pseudo`` of each image of ``split``, -1 if it is not there."""
    index_of = {pseudo.name_of(i): i for i in range(len(pseudo))}
    return np.fromiter((index_of.get(split.name_of(i), -1) for i in range(len(split))), np.int32, len(split))
