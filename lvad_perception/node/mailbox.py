"""The frames between the thread that receives and the thread that works.

On the vehicle one frame a camera waits: one that arrives before the previous one was taken replaces it, so that what is
taken is the newest that has arrived, however slow the model is. For evaluation there is a short queue
a camera instead, and who puts a frame into a full one waits.
"""

import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

MessageT = TypeVar("MessageT")


@dataclass(frozen=True, slots=True)
class Frame(Generic[MessageT]):
    """A message and where and when it came from.

    Attributes:
        camera: the camera's name.
        message: as received.
        received_s: when it was received, ``time.monotonic`` seconds.
    """

    camera: str
    message: MessageT
    received_s: float


@dataclass(slots=True)
class _Slot(Generic[MessageT]):
    min_interval_s: float
    frames: deque[Frame[MessageT]] = field(default_factory=deque)
    taken_s: float = float("-inf")
    turn: int = -1

    @property
    def due_s(self) -> float:
        return self.taken_s + self.min_interval_s


class Mailbox(Generic[MessageT]):
    """One slot a camera. ``take`` blocks until a frame is due or the mailbox is closed.

    Args:
        min_interval_s: camera -> least time between two taken frames in seconds, 0 for no limit.
        queue_depth: None keeps the newest frame of each camera only; a number keeps so many, in order, and ``put``
            waits for room.
        clock: seconds, monotonic; for tests.
    """

    def __init__(
        self,
        min_interval_s: Mapping[str, float],
        *,
        queue_depth: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._slots = {camera: _Slot[MessageT](interval) for camera, interval in min_interval_s.items()}
        self._queue_depth = queue_depth
        self._clock = clock
        self._turns = itertools.count()
        self._changed = threading.Condition()
        self._closed = False

    def put(self, camera: str, message: MessageT) -> bool:
        """Leave a message of a camera.

        Returns:
            True when an older one, which nobody had taken, was thrown away for it.
        """
        frame = Frame(camera, message, self._clock())
        with self._changed:
            frames = self._slots[camera].frames
            replaced = False
            if self._queue_depth is None:
                replaced = bool(frames)
                frames.clear()
            else:
                while len(frames) >= self._queue_depth and not self._closed:
                    self._changed.wait()
            frames.append(frame)
            self._changed.notify_all()
        return replaced

    def take(self, count: int) -> list[Frame[MessageT]]:
        """Wait for frames that are due and take them; empty once the mailbox is closed.

        Args:
            count: at most so many. The others stay, open to be replaced by newer ones; the camera that has waited
                longest for its turn comes first.
        """
        with self._changed:
            while not self._closed:
                now = self._clock()
                taken = self._take_due(now, count)
                if taken:
                    self._changed.notify_all()  # there is room
                    return taken
                self._changed.wait(
                    min((slot.due_s - now for slot in self._slots.values() if slot.frames), default=None)
                )
        return []

    def limit_rate(self, camera: str, min_interval_s: float) -> None:
        """Change a camera's least time between two taken frames, in seconds; 0 for no limit."""
        with self._changed:
            self._slots[camera].min_interval_s = min_interval_s
            self._changed.notify_all()

    def close(self) -> None:
        """Wake whoever waits; from now on ``take`` returns nothing."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _take_due(self, now: float, count: int) -> list[Frame[MessageT]]:
        taken: list[Frame[MessageT]] = []
        while len(taken) < count:
            due = [slot for slot in self._slots.values() if slot.frames and slot.due_s <= now]
            if not due:
                break
            slot = min(due, key=lambda slot: slot.turn)
            taken.append(slot.frames.popleft())
            slot.taken_s, slot.turn = now, next(self._turns)
        return taken
