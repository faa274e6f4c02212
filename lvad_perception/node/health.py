"""What one camera's frames went through: counts, rates and latencies, for diagnostics and the log."""

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

LOG_PERIOD_S: Final = 5.0
"""A camera that sends only bad frames is reported so often, not with every frame."""
_KEPT_LATENCIES: Final = 300


@dataclass(frozen=True, slots=True)
class Report:
    """A camera's state since the previous report; totals since activation.

    Attributes:
        input_hz: frames received a second.
        output_hz: frames whose results were published a second.
        silent_s: time since a frame was received, or since activation when none ever was.
        received: frames in all.
        dropped: frames that a newer one replaced before they were processed, in all.
        skipped: frames that could not be processed, in all.
        newly_skipped: of these, since the previous report.
        last_problem: why the last skipped frame was skipped, or empty.
        latency_ms: median and 99th percentile from reception to the published results over the last frames, or None.
        age_ms: median from the header's stamp to the published results by the node's clock, or None.
    """

    input_hz: float
    output_hz: float
    silent_s: float
    received: int
    dropped: int
    skipped: int
    newly_skipped: int
    last_problem: str
    latency_ms: tuple[float, float] | None
    age_ms: float | None


class CameraHealth:
    """Counters of one camera, written by the receiving and the working thread and read by the diagnostics."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._received = self._published = self._dropped = self._skipped = 0
        self._reported = (0, 0, 0)
        self._reported_s = self._last_received_s = clock()
        self._last_logged_s = float("-inf")
        self._last_problem = ""
        self._latencies_s: deque[float] = deque(maxlen=_KEPT_LATENCIES)
        self._ages_s: deque[float] = deque(maxlen=_KEPT_LATENCIES)

    def count_received(self, *, replaced: bool) -> None:
        """A frame arrived; ``replaced`` says that it took the place of one that nobody had looked at."""
        with self._lock:
            self._received += 1
            self._dropped += replaced
            self._last_received_s = self._clock()

    def count_skipped(self, problem: str) -> int:
        """A frame could not be processed.

        Returns:
            How many have been skipped when it is time to say so in the log, else 0.
        """
        with self._lock:
            self._skipped += 1
            self._last_problem = problem
            now = self._clock()
            if now - self._last_logged_s < LOG_PERIOD_S:
                return 0
            self._last_logged_s = now
            return self._skipped

    def count_published(self, *, received_s: float, age_s: float) -> None:
        """A frame's results were published.

        Args:
            received_s: when the frame arrived, ``time.monotonic`` seconds.
            age_s: time from the header's stamp until now by the node's clock; negative where the clocks disagree.
        """
        with self._lock:
            self._published += 1
            self._latencies_s.append(self._clock() - received_s)
            self._ages_s.append(age_s)

    def report(self) -> Report:
        """The state now; the next report's rates start here."""
        with self._lock:
            now = self._clock()
            elapsed_s = max(now - self._reported_s, 1e-3)
            received, published, skipped = self._reported
            latencies, ages = sorted(self._latencies_s), sorted(self._ages_s)
            report = Report(
                input_hz=(self._received - received) / elapsed_s,
                output_hz=(self._published - published) / elapsed_s,
                silent_s=now - self._last_received_s,
                received=self._received,
                dropped=self._dropped,
                skipped=self._skipped,
                newly_skipped=self._skipped - skipped,
                last_problem=self._last_problem,
                latency_ms=(_quantile_ms(latencies, 0.5), _quantile_ms(latencies, 0.99)) if latencies else None,
                age_ms=_quantile_ms(ages, 0.5) if ages else None,
            )
            self._reported = (self._received, self._published, self._skipped)
            self._reported_s = now
        return report


def _quantile_ms(sorted_s: list[float], quantile: float) -> float:
    """The nearest-rank quantile of sorted seconds, in milliseconds."""
    return 1000 * sorted_s[min(len(sorted_s) - 1, int(quantile * len(sorted_s)))]
