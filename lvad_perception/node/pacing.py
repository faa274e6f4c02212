"""When to take the next frames: not while the device still has long to work on the ones before.

An engine computes while the next frames are decoded and brought to its input size. Started at once they would be ready
long before a slow engine, and wait for it: older images than necessary, as newer ones may come meanwhile. Started when
the engine is free, it would have nothing to do until they are ready. They are taken so long before it becomes free as
they usually take to be prepared.
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from statistics import median
from typing import Final

_RECENT: Final = 15
"""Batches whose times say how long the next will take: half a second at 30 frames a second."""


class Pace:
    """Times of batches, from which follows when the next is due.

    One thread prepares and begins batches and waits here for the next; the thread that fetches their results says when
    each is through the engine.

    Args:
        clock: seconds, monotonic; for tests.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._changed = threading.Condition()
        self._under_way: deque[float] = deque()  # since when
        self._free_s = float("-inf")
        self._preparing_s: deque[float] = deque(maxlen=_RECENT)
        self._engine_s: deque[float] = deque(maxlen=_RECENT)

    def began(self, *, taken_s: float) -> None:
        """A batch has been begun whose frames were taken at ``taken_s``."""
        with self._changed:
            now = self._clock()
            self._preparing_s.append(now - taken_s)
            self._under_way.append(now)

    def ended(self) -> None:
        """The oldest of the batches that were begun is through the engine, or has failed there."""
        with self._changed:
            now = self._clock()
            # Until the batch before was through, it only waited: that is not what the engine needs for one.
            self._engine_s.append(now - max(self._under_way.popleft(), self._free_s))
            self._free_s = now
            self._changed.notify_all()

    @property
    def due_s(self) -> float:
        """When to take the next frames: at once where the engine is idle; never where no batch has shown times yet."""
        with self._changed:
            return self._due_s()

    def wait(self) -> None:
        """Wait until the next frames are due, or until the engine has nothing more to do."""
        with self._changed:
            while (left_s := self._due_s() - self._clock()) > 0:
                self._changed.wait(min(left_s, threading.TIMEOUT_MAX))

    def _due_s(self) -> float:
        if not self._under_way:
            return float("-inf")
        if not self._engine_s:
            return float("inf")
        engine_s, starts_s = median(self._engine_s), max(self._under_way[0], self._free_s)
        return starts_s + engine_s * len(self._under_way) - median(self._preparing_s)
