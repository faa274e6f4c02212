"""What one camera's frames went through: counts, rates, ages and latencies, for diagnostics and the log."""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

LOG_PERIOD_S: Final = 5.0
"""A camera that sends only bad frames is reported so often, not with every frame."""
PARTS: Final = ("wait", "decode", "preprocess", "engine", "postprocess", "publish")
"""Where a frame's time goes between its reception and its published results, in order."""
_KEPT_FRAMES: Final = 300

Quantiles = tuple[float, float]
"""Median and 99th percentile, nearest rank."""


@dataclass(frozen=True, slots=True)
class Report:
    """A camera's state since the previous report; totals since activation.

    Attributes:
        input_hz: frames received a second.
        output_hz: frames whose results were published a second.
        silent_s: time since a frame was received, or since activation when none ever was.
        waiting_s: how long the camera has waited for a result since a frame that is to be processed came; None where
            it does not wait.
        newest_age_s: time since the stamp of the newest frame by the node's clock, or None before the first frame.
        received: frames in all.
        dropped: frames that a newer one replaced before they were processed, in all.
        corrupt: frames that could not be decoded, in all.
        failed: frames that were decoded but could not be processed or published, in all.
        jumps: times that the stamps jumped back, in all.
        newly_skipped: corrupt and failed frames since the previous report.
        newly_published: frames whose results were published since the previous report.
        newly_jumped: jumps since the previous report.
        last_problem: why the last corrupt or failed frame was left out, or empty.
        latency_ms: from reception to the published results over the last frames, or None.
        age_ms: from the header's stamp to the published results by the node's clock, or None.
        parts_ms: the latency's parts by name, in the order of ``PARTS``; only those that were measured.
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
        """Corrupt and failed frames in all."""
        return self.corrupt + self.failed


class CameraHealth:
    """Counters of one camera, written by the receiving and the working thread and read by the diagnostics.

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
        """A frame arrived.

        Args:
            replaced: it took the place of one that nobody had looked at.
            age_s: time from the header's stamp until now by the node's clock; None where it is not known.
            wanted: it is to be processed, because somebody subscribes to the results.
        """
        with self._lock:
            self._received += 1
            self._dropped += replaced
            self._last_received_s = self._clock()
            self._last_age_s = age_s
            if wanted and self._waiting_since_s is None:
                self._waiting_since_s = self._last_received_s

    def count_jump(self) -> None:
        """The stamps jumped back: a bag began again or a clock was set."""
        with self._lock:
            self._jumps += 1

    def count_skipped(self, problem: str, *, corrupt: bool = False) -> int:
        """A frame could not be processed.

        Args:
            problem: why, in one sentence.
            corrupt: the frame itself is bad, so that it could not even be decoded.

        Returns:
            How many have been skipped when it is time to say so in the log, else 0.
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
        """A frame's results were published.

        Args:
            received_s: when the frame arrived, ``time.monotonic`` seconds.
            age_s: time from the header's stamp until now by the node's clock; negative where the clocks disagree.
            parts_ms: where the time went, keys from ``PARTS``; a part that was not measured is missing.
        """
        with self._lock:
            self._published += 1
            self._waiting_since_s = None
            self._latencies_ms.append(1000 * (self._clock() - received_s))
            self._ages_ms.append(1000 * age_s)
            for part, spent_ms in parts_ms.items():
                self._parts_ms[part].append(spent_ms)

    def report(self) -> Report:
        """The state now; the next report's rates start here."""
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
    """None where there are no values."""
    ordered = sorted(values)
    if not ordered:
        return None
    return ordered[len(ordered) // 2], ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))]
