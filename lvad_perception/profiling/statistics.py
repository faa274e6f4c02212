"""Median, 99th percentile, and ratio of two medians with its confidence interval."""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

Samples = npt.NDArray[np.float64]
"""Milliseconds, float64 [N]."""

_RESAMPLES: Final = 2000


@dataclass(frozen=True, slots=True)
class Ratio:
    """Ratio of two medians, and the limits of its 95 % bootstrap interval."""

    value: float
    low: float
    high: float

    def to_text(self) -> str:
        """ "0.51 [0.50, 0.52]"."""
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"

    def to_dict(self) -> dict[str, Any]:
        """Dict of numbers, ready for JSON."""
        return {"ratio_of_medians": self.value, "interval_95": [self.low, self.high]}


def median(values: Samples) -> float:
    """Median of samples."""
    return float(np.median(values))


def p99(values: Samples) -> float:
    """99th percentile of samples."""
    return float(np.percentile(values, 99))


def ratio_of_medians(ours: Samples, theirs: Samples) -> Ratio:
    """median(ours) / median(theirs) of paired samples, float64 [N] each, N >= 1.

    The bootstrap draws pairs, since load on the machine slows both samples of a pair.
    """
    pairs = np.random.default_rng(0).integers(0, len(ours), (_RESAMPLES, len(ours)))
    ratios = np.median(ours[pairs], axis=1) / np.median(theirs[pairs], axis=1)
    low, high = np.percentile(ratios, [2.5, 97.5])
    return Ratio(median(ours) / median(theirs), float(low), float(high))
