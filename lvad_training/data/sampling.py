"""Which image comes when, and for which task: endless streams of shuffled epochs that can start at any micro-step.

A stream is a function of seed and micro-step alone, so a resumed run continues where it stopped, and processes agree
without talking to each other.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
from torch.utils.data import Sampler

Key = tuple[int, int, str | None]
"""(epoch, index into the data set, task to learn or None for all): with the seed they determine a sample."""

TaskOrder = Literal["uniform", "weighted", "round_robin"]

_TASK_EPOCHS, _TASK_DRAWS = 1, 2
"""Last words of the seeds of a task's permutations and of the draws of tasks, to keep them apart from others."""


class _Stream(Sampler[list[Key]]):
    """What both streams have: one batch of keys for each micro-step from ``first`` to before ``last``."""

    def __init__(self, *, batch_size: int, seed: int, first: int, last: int, process: int, processes: int) -> None:
        self.batch_size = batch_size
        self.seed = seed
        self.first = first
        self.last = last
        self.process = process
        self.processes = processes

    def __len__(self) -> int:
        return max(0, self.last - self.first)

    def _places(self, turn: int) -> range:
        """Where this process's batch is in the endless sequence of images, when all have taken ``turn`` batches."""
        start = (turn * self.processes + self.process) * self.batch_size
        return range(start, start + self.batch_size)


class TrainingStream(_Stream):
    """Batches of keys for one process, all tasks at once.

    Every epoch is a permutation of the data set, determined by seed and epoch alone; epochs follow each other without
    a gap, so that a batch may span two. All processes together take ``batch_size * processes`` images a micro-step.

    Args:
        count: size of the data set.
        batch_size: images per batch of this process.
        seed: of the permutations.
        first: micro-step to start at; a resumed run continues where it stopped.
        last: micro-step to stop before.
        process: rank of this process.
        processes: number of processes.
    """

    def __init__(
        self, *, count: int, batch_size: int, seed: int, first: int, last: int, process: int = 0, processes: int = 1
    ) -> None:
        super().__init__(batch_size=batch_size, seed=seed, first=first, last=last, process=process, processes=processes)
        self.count = count

    def __iter__(self) -> Iterator[list[Key]]:
        epochs = _Epochs(self.count, self.seed)
        for step in range(self.first, self.last):
            yield [(*epochs.at(place), None) for place in self._places(step)]


class OneTaskStream(_Stream):
    """Batches of keys for one process, one task per micro-step: the samplers that LV-Adapter is compared with.

    Each task runs through its own shuffled epochs without a gap, however often it is its turn. In a micro-step all
    processes learn the same task, on ``batch_size * processes`` images. With gradient accumulation each micro-step has
    a task of its own.

    Args:
        images: task -> indices into the data set of the images that have labels for it, at least one each.
        order: how a micro-step gets its task. "uniform": drawn, all equally likely; "weighted": drawn in proportion to
            the number of images; "round_robin": in turn, in the order of ``images``.
        batch_size: images per batch of this process.
        seed: of draws and permutations.
        first: micro-step to start at; a resumed run continues where it stopped.
        last: micro-step to stop before.
        process: rank of this process.
        processes: number of processes.
    """

    def __init__(
        self,
        *,
        images: Mapping[str, Sequence[int] | npt.NDArray[np.int64]],
        order: TaskOrder,
        batch_size: int,
        seed: int,
        first: int,
        last: int,
        process: int = 0,
        processes: int = 1,
    ) -> None:
        super().__init__(batch_size=batch_size, seed=seed, first=first, last=last, process=process, processes=processes)
        self.images = {task: np.asarray(indices, np.int64) for task, indices in images.items()}
        self.order = order

    def __iter__(self) -> Iterator[list[Key]]:
        tasks = list(self.images)
        numbers = self._task_numbers()
        epochs = [_Epochs(len(self.images[task]), self.seed, number, _TASK_EPOCHS) for number, task in enumerate(tasks)]
        turns = np.bincount(numbers[: self.first], minlength=len(tasks)).tolist()
        for number in numbers[self.first :].tolist():
            keys: list[Key] = []
            for place in self._places(turns[number]):
                epoch, offset = epochs[number].at(place)
                keys.append((epoch, int(self.images[tasks[number]][offset]), tasks[number]))
            turns[number] += 1
            yield keys

    def _task_numbers(self) -> npt.NDArray[np.int64]:
        """int64 [last]: the task of every micro-step from the very first, as its place in ``images``."""
        count = len(self.images)
        if self.order == "round_robin":
            return np.arange(self.last, dtype=np.int64) % count
        sizes = np.array([len(indices) for indices in self.images.values()], np.float64)
        shares = sizes if self.order == "weighted" else np.ones(count)
        draws = np.random.default_rng([self.seed, 0, 0, _TASK_DRAWS]).random(self.last)
        return np.searchsorted(np.cumsum(shares / shares.sum())[:-1], draws, side="right")


class _Epochs:
    """Permutations of ``count`` things, one after the other; ``words`` keep those of one seed apart."""

    def __init__(self, count: int, seed: int, *words: int) -> None:
        self.count = count
        self._seed = seed
        self._words = words
        self._epoch_in_hand = -1
        self._order: npt.NDArray[np.int64] = np.zeros(0, np.int64)

    def at(self, place: int) -> tuple[int, int]:
        """(epoch, which thing) at a place in the endless sequence."""
        epoch, offset = divmod(place, self.count)
        if epoch != self._epoch_in_hand:
            self._order = np.random.default_rng([self._seed, epoch, *self._words]).permutation(self.count)
            self._epoch_in_hand = epoch
        return epoch, int(self._order[offset])
