"""Just-in-time start of the next batch: its preparation ends when the engine becomes free.

The next frames are decoded and resized while an engine computes. Prepared too early, they would wait for the engine
while newer images arrive; prepared only when the engine is free, they would leave it idle. So they are taken from the
mailbox ahead of the expected end of the computation by the usual duration of the preparation.

Threads: the worker's thread calls ``began`` and ``wait``, the publisher's calls ``ended``. The condition ``_changed``
protects all state and is notified by ``ended``.
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from statistics import median
from typing import Final

_RECENT: Final = 15
"""Batches whose median predicts the next one: half a second at 30 frames a second."""


class Pace:
    """Predicts from the times of recent batches when to take the next. Thread-safe.

    Args:
        clock: seconds, monotonic; for tests.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._changed = threading.Condition()
        self._under_way: deque[float] = deque()  # begin of each batch that the engine has not finished
        self._free_s = float("-inf")  # end of the latest finished batch
        self._preparing_s: deque[float] = deque(maxlen=_RECENT)
        self._engine_s: deque[float] = deque(maxlen=_RECENT)

    def began(self, *, taken_s: float) -> None:
        """Record that the engine has begun a batch whose frames were taken at ``taken_s``."""
        with self._changed:
            now = self._clock()
            self._preparing_s.append(now - taken_s)
            self._under_way.append(now)

    def ended(self) -> None:
        """Record that the engine has finished the oldest batch under way, or failed at it."""
        with self._changed:
            now = self._clock()
            # Without the time that it waited for the batch before.
            self._engine_s.append(now - max(self._under_way.popleft(), self._free_s))
            self._free_s = now
            self._changed.notify_all()

    @property
    def due_s(self) -> float:
        """When to take the next frames: -inf if the engine is idle, inf until the first batch has been timed."""
        with self._changed:
            return self._due_s()

    def wait(self) -> None:
        """Wait until the next frames are due or the engine is idle."""
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
