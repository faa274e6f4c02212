"""What is said of samples: median, 99th percentile, and how sure the ratio of two medians is."""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

Samples = npt.NDArray[np.float64]
"""Milliseconds, float64 [N]."""

_RESAMPLES: Final = 2000


@dataclass(frozen=True, slots=True)
class Ratio:
    """Ratio of two medians with its 95 % bootstrap interval, ``low`` to ``high``."""

    value: float
    low: float
    high: float

    def to_text(self) -> str:
        """ "0.51 [0.50, 0.52]"."""
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {"ratio_of_medians": self.value, "interval_95": [self.low, self.high]}


def median(values: Samples) -> float:
    """The middle sample."""
    return float(np.median(values))


def p99(values: Samples) -> float:
    """What 99 of 100 samples do not exceed."""
    return float(np.percentile(values, 99))


def ratio_of_medians(ours: Samples, theirs: Samples) -> Ratio:
    """median(ours) / median(theirs) of samples that were taken in pairs, float64 [N] each, N >= 1.

    Pairs are drawn together, so that what slowed both at a time counts as one observation.
    """
    pairs = np.random.default_rng(0).integers(0, len(ours), (_RESAMPLES, len(ours)))
    ratios = np.median(ours[pairs], axis=1) / np.median(theirs[pairs], axis=1)
    low, high = np.percentile(ratios, [2.5, 97.5])
    return Ratio(median(ours) / median(theirs), float(low), float(high))
