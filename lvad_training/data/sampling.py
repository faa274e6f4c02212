"""Samplers: endless streams of shuffled epochs, for all tasks at once or one task per micro-step.

A stream is a function of seed and micro-step alone, so a resumed run continues where it stopped, and processes agree
without communication.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
from torch.utils.data import Sampler

Key = tuple[int, int, str | None]
"""(epoch, index into the data set, task to learn or None for all); with the seed, it determines a sample."""

TaskOrder = Literal["uniform", "weighted", "round_robin"]

_TASK_EPOCHS, _TASK_DRAWS = 1, 2
"""Last number of the seeds for a task's permutations and for the choice of tasks, to keep their streams independent."""


class _Stream(Sampler[list[Key]]):
    """Base of both streams: one batch of keys for each micro-step from ``first`` to before ``last``."""

    def __init__(self, *, batch_size: int, seed: int, first: int, last: int, process: int, processes: int) -> None:
        self.batch_size = batch_size
        self.seed = seed
        self.first = first
        self.last = last
        self.process = process
        self.processes = processes

    def __len__(self) -> int:
        return max(0, self.last - self.first)

    def _positions(self, batch: int) -> range:
        """Positions of this process's batch with this number in the endless sequence of images."""
        start = (batch * self.processes + self.process) * self.batch_size
        return range(start, start + self.batch_size)


class TrainingStream(_Stream):
    """Batches of keys for one process, all tasks at once.

    Every epoch is a permutation of the data set, determined by seed and epoch alone; epochs follow each other without
    a gap, so that a batch may span two. All processes together take ``batch_size * processes`` images per micro-step.

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
            yield [(*epochs.at(position), None) for position in self._positions(step)]


class OneTaskStream(_Stream):
    """Batches of keys for one process, one task per micro-step: the samplers that LV-Adapter is compared with.

    Each task has its own shuffled epochs, without a gap. In a micro-step all processes learn the same task, on
    ``batch_size * processes`` images. With gradient accumulation each micro-step has its own task.

    Args:
        images: task -> indices into the data set of the images that have labels for it, at least one each.
        order: how a micro-step's task is chosen. "uniform": at random, all equally likely; "weighted": at random, in
            proportion to the number of images; "round_robin": in turn, in the order of ``images``.
        batch_size: images per batch of this process.
        seed: of permutations and of the choice of tasks.
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
        batches = np.bincount(numbers[: self.first], minlength=len(tasks)).tolist()  # of each task so far
        for number in numbers[self.first :].tolist():
            keys: list[Key] = []
            for position in self._positions(batches[number]):
                epoch, index = epochs[number].at(position)
                keys.append((epoch, int(self.images[tasks[number]][index]), tasks[number]))
            batches[number] += 1
            yield keys

    def _task_numbers(self) -> npt.NDArray[np.int64]:
        """int64 [last]: for every micro-step from 0 on, the index of its task in ``images``."""
        count = len(self.images)
        if self.order == "round_robin":
            return np.arange(self.last, dtype=np.int64) % count
        sizes = np.array([len(indices) for indices in self.images.values()], np.float64)
        shares = sizes if self.order == "weighted" else np.ones(count)
        draws = np.random.default_rng([self.seed, 0, 0, _TASK_DRAWS]).random(self.last)
        return np.searchsorted(np.cumsum(shares / shares.sum())[:-1], draws, side="right")


class _Epochs:
    """Permutations of ``count`` items, one per epoch; streams with the same seed differ by ``stream``."""

    def __init__(self, count: int, seed: int, *stream: int) -> None:
        self.count = count
        self._seed = seed
        self._stream = stream
        self._epoch = -1  # of the permutation in ``_order``
        self._order: npt.NDArray[np.int64] = np.zeros(0, np.int64)

    def at(self, position: int) -> tuple[int, int]:
        """(epoch, item) at a position of the endless sequence."""
        epoch, offset = divmod(position, self.count)
        if epoch != self._epoch:
            self._order = np.random.default_rng([self._seed, epoch, *self._stream]).permutation(self.count)
            self._epoch = epoch
        return epoch, int(self._order[offset])
