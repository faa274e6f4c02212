"""The mailbox: received frames that wait for the worker, the newest one of each camera or a short queue.

On the vehicle a new frame replaces the one of its camera that still waits, so that the worker always takes the newest,
however slow the model is. For evaluation each camera has a short queue instead, and ``put`` blocks while it is full.

Threads: the executor's thread calls ``put`` and ``limit_rate``, the worker's calls ``take``, both call ``close``. The
condition ``_changed`` protects all state; it is notified of new frames, free room, changed rates and the end.
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
    """A received message.

    Attributes:
        camera: the camera's name.
        message: the message.
        received_s: time of reception, ``time.monotonic`` seconds.
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
    """A slot per camera for the frames between ``put`` and ``take``. Thread-safe.

    Args:
        min_interval_s: camera -> least time between two taken frames in seconds, 0 for no limit.
        queue_depth: None keeps only the newest frame of each camera; a number keeps that many in order, and ``put``
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
        """Add a message of a camera.

        Returns:
            True if it replaced an older one that had not been taken.
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
        """Wait for frames that are due and take them.

        Args:
            count: maximum number of frames. The cameras whose last frame was taken longest ago come first; frames of
                the others stay and may be replaced by newer ones.

        Returns:
            At least one frame; none once the mailbox is closed.
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
        """Wake all waiting threads; from now on ``take`` returns no frames and ``put`` does not block."""
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
