"""The newest frame of each camera, between the thread that receives and the thread that works.

Nothing is queued: a frame that arrives before the previous one was taken replaces it, so that what is processed is
never older than it must be, however slow the model is.
"""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
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
    frame: Frame[MessageT] | None = None
    due_s: float = float("-inf")


class Mailbox(Generic[MessageT]):
    """One slot a camera. ``put`` never blocks; ``take`` blocks until a frame is due or the mailbox is closed.

    Args:
        min_interval_s: camera -> least time between two taken frames in seconds, 0 for no limit.
        clock: seconds, monotonic; for tests.
    """

    def __init__(self, min_interval_s: Mapping[str, float], *, clock: Callable[[], float] = time.monotonic) -> None:
        self._slots = {camera: _Slot[MessageT](interval) for camera, interval in min_interval_s.items()}
        self._clock = clock
        self._changed = threading.Condition()
        self._closed = False

    def put(self, camera: str, message: MessageT) -> bool:
        """Leave the newest message of a camera.

        Returns:
            True when an older one, which nobody had taken, was thrown away for it.
        """
        frame = Frame(camera, message, self._clock())
        with self._changed:
            slot = self._slots[camera]
            replaced = slot.frame is not None
            slot.frame = frame
            self._changed.notify()
        return replaced

    def take(self) -> list[Frame[MessageT]]:
        """Wait for frames that are due and take them, at most one a camera; empty once the mailbox is closed."""
        with self._changed:
            while not self._closed:
                now = self._clock()
                waiting = [slot for slot in self._slots.values() if slot.frame is not None]
                due = [slot for slot in waiting if slot.due_s <= now]
                if due:
                    return [self._empty(slot, now) for slot in due]
                self._changed.wait(min((slot.due_s - now for slot in waiting), default=None))
        return []

    def close(self) -> None:
        """Wake whoever waits in ``take``; from now on it returns nothing."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    @staticmethod
    def _empty(slot: _Slot[MessageT], now: float) -> Frame[MessageT]:
        frame = slot.frame
        assert frame is not None
        slot.frame = None
        slot.due_s = now + slot.min_interval_s
        return frame
