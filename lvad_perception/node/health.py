"""Counters of one camera: frames, rates, ages and latencies, for diagnostics and the log.

Threads: the executor's thread counts received frames and makes reports, the worker's, decoders' and publisher's threads
count skipped and published ones. ``CameraHealth._lock`` protects all counters.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

LOG_PERIOD_S: Final = 5.0
"""Least time between two log messages about bad frames of a camera."""
PARTS: Final = ("wait", "decode", "preprocess", "engine", "postprocess", "publish")
"""The parts of a frame's latency from its reception to its published results, in order."""
_KEPT_FRAMES: Final = 300

Quantiles = tuple[float, float]
"""Median and 99th percentile, nearest rank."""


@dataclass(frozen=True, slots=True)
class Report:
    """A camera's state since the previous report; totals since activation.

    Attributes:
        input_hz: frames received a second.
        output_hz: frames whose results were published a second.
        silent_s: time since the last received frame, or since activation if there was none.
        waiting_s: time since the first frame that came after the last result and is to be processed; None without one.
        newest_age_s: time since the stamp of the newest frame by the node's clock, or None before the first frame.
        received: total of frames.
        dropped: total of frames that a newer one replaced before they were processed.
        corrupt: total of frames that could not be decoded.
        failed: total of frames that were decoded but could not be processed or published.
        jumps: how often the stamps jumped back.
        newly_skipped: corrupt and failed frames since the previous report.
        newly_published: frames whose results were published since the previous report.
        newly_jumped: jumps since the previous report.
        last_problem: reason of the last corrupt or failed frame, or empty.
        latency_ms: from reception to the published results over the last frames, or None without any.
        age_ms: from the header's stamp to the published results by the node's clock, or None without any.
        parts_ms: measured parts of the latency by name, in the order of ``PARTS``.
    """

    input_hz: float
    output_hz: float
    silent_s: float
    waiting_s: float | None
    newest_age_s: float | None
    received: int
    dropped: int
    corrupt: int
    failed: int
    jumps: int
    newly_skipped: int
    newly_published: int
    newly_jumped: int
    last_problem: str
    latency_ms: Quantiles | None
    age_ms: Quantiles | None
    parts_ms: Mapping[str, Quantiles]

    @property
    def skipped(self) -> int:
        """Total of corrupt and failed frames."""
        return self.corrupt + self.failed


class CameraHealth:
    """Counters of one camera. Thread-safe.

    Args:
        clock: seconds, monotonic; for tests.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._received = self._published = self._dropped = self._corrupt = self._failed = self._jumps = 0
        self._reported = (0, 0, 0, 0)  # received, published, skipped, jumps
        self._reported_s = self._last_received_s = clock()
        self._last_age_s: float | None = None
        self._waiting_since_s: float | None = None
        self._last_logged_s = float("-inf")
        self._last_problem = ""
        self._latencies_ms: deque[float] = deque(maxlen=_KEPT_FRAMES)
        self._ages_ms: deque[float] = deque(maxlen=_KEPT_FRAMES)
        self._parts_ms: dict[str, deque[float]] = {part: deque(maxlen=_KEPT_FRAMES) for part in PARTS}

    def count_received(self, *, replaced: bool, age_s: float | None = None, wanted: bool = True) -> None:
        """Count a received frame.

        Args:
            replaced: it replaced one in the mailbox that had not been taken.
            age_s: time from the header's stamp until now by the node's clock; None where it is not known.
            wanted: the results have a subscriber, so the frame is to be processed.
        """
        with self._lock:
            self._received += 1
            self._dropped += replaced
            self._last_received_s = self._clock()
            self._last_age_s = age_s
            if wanted and self._waiting_since_s is None:
                self._waiting_since_s = self._last_received_s

    def count_jump(self) -> None:
        """Count a jump back of the stamps: a bag has restarted or a clock was set."""
        with self._lock:
            self._jumps += 1

    def count_skipped(self, problem: str, *, corrupt: bool = False) -> int:
        """Count a frame that could not be processed.

        Args:
            problem: the reason, in one sentence.
            corrupt: the frame could not even be decoded.

        Returns:
            The total of skipped frames if it is time to log again, else 0.
        """
        with self._lock:
            self._corrupt += corrupt
            self._failed += not corrupt
            self._last_problem = problem
            self._waiting_since_s = None
            now = self._clock()
            if now - self._last_logged_s < LOG_PERIOD_S:
                return 0
            self._last_logged_s = now
            return self._corrupt + self._failed

    def count_published(self, *, received_s: float, age_s: float, parts_ms: Mapping[str, float]) -> None:
        """Count a frame whose results were published.

        Args:
            received_s: time of reception, ``time.monotonic`` seconds.
            age_s: time from the header's stamp until now by the node's clock; negative where the clocks disagree.
            parts_ms: measured parts of the latency, keys from ``PARTS``.
        """
        with self._lock:
            self._published += 1
            self._waiting_since_s = None
            self._latencies_ms.append(1000 * (self._clock() - received_s))
            self._ages_ms.append(1000 * age_s)
            for part, spent_ms in parts_ms.items():
                self._parts_ms[part].append(spent_ms)

    def report(self) -> Report:
        """The current state; rates and new counts refer to the time since the previous report."""
        with self._lock:
            now = self._clock()
            elapsed_s = max(now - self._reported_s, 1e-3)
            silent_s = now - self._last_received_s
            totals = (self._received, self._published, self._corrupt + self._failed, self._jumps)
            received, published, skipped, jumps = (
                total - before for total, before in zip(totals, self._reported, strict=True)
            )
            parts = {part: _quantiles(kept) for part, kept in self._parts_ms.items()}
            report = Report(
                input_hz=received / elapsed_s,
                output_hz=published / elapsed_s,
                silent_s=silent_s,
                waiting_s=None if self._waiting_since_s is None else now - self._waiting_since_s,
                newest_age_s=None if self._last_age_s is None else self._last_age_s + silent_s,
                received=self._received,
                dropped=self._dropped,
                corrupt=self._corrupt,
                failed=self._failed,
                jumps=self._jumps,
                newly_skipped=skipped,
                newly_published=published,
                newly_jumped=jumps,
                last_problem=self._last_problem,
                latency_ms=_quantiles(self._latencies_ms),
                age_ms=_quantiles(self._ages_ms),
                parts_ms={part: found for part, found in parts.items() if found is not None},
            )
            self._reported, self._reported_s = totals, now
        return report


def _quantiles(values: Iterable[float]) -> Quantiles | None:
    """Median and 99th percentile, or None without values."""
    ordered = sorted(values)
    if not ordered:
        return None
    return ordered[len(ordered) // 2], ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))]
