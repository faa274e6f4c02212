"""Which image comes when: an endless stream of shuffled epochs that can start at any step."""

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

Key = tuple[int, int]
"""(epoch, index into the data set): together with the seed they determine an augmented sample."""


class TrainingStream(Sampler[list[Key]]):
    """Batches of keys for one process.

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
        self.count = count
        self.batch_size = batch_size
        self.seed = seed
        self.first = first
        self.last = last
        self.process = process
        self.processes = processes

    def __len__(self) -> int:
        return max(0, self.last - self.first)

    def __iter__(self) -> Iterator[list[Key]]:
        epoch_in_hand, order = -1, np.zeros(0, np.int64)
        for step in range(self.first, self.last):
            start = (step * self.processes + self.process) * self.batch_size
            keys: list[Key] = []
            for position in range(start, start + self.batch_size):
                epoch, offset = divmod(position, self.count)
                if epoch != epoch_in_hand:
                    order = np.random.default_rng([self.seed, epoch]).permutation(self.count)
                    epoch_in_hand = epoch
                keys.append((epoch, int(order[offset])))
            yield keys
