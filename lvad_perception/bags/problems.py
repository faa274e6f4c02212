"""What is wrong with single messages or images: told as it is met, counted, and the rest is processed."""

import sys
from collections import Counter
from collections.abc import Callable
from typing import Final

TOLD_PER_PLACE: Final = 20
"""So many problems of one topic are told one by one; what follows is only counted."""


def report_to_stderr(line: str) -> None:
    """Print a line on standard error, above a progress bar if there is one."""
    from tqdm import tqdm

    tqdm.write(line, file=sys.stderr)


class Problems:
    """Counts problems and tells the first ones of each place; memory does not grow with their number.

    Args:
        report: is handed one line a problem.
    """

    def __init__(self, report: Callable[[str], None] = report_to_stderr) -> None:
        self._report = report
        self._counts: Counter[str] = Counter()
        self._told: Counter[str] = Counter()
        self.last = ""
        """Reason of the problem that was met last."""

    def add(self, place: str, what: str, reason: object, *, count: int = 1) -> None:
        """Count a problem, and tell it while its place has not had too many.

        Args:
            place: topic, or folder of a data set.
            what: which message or file of it.
            reason: one sentence.
            count: how many messages or files it is about; more than one are told of in any case.
        """
        self.last = str(reason)
        self._counts[place] += count
        self._told[place] += 1
        if self._told[place] <= TOLD_PER_PLACE or count > 1:
            self._report(f"{place} {what}: {reason}")
        elif self._told[place] == TOLD_PER_PLACE + 1:
            self._report(f"{place}: further problems are only counted")

    @property
    def total(self) -> int:
        """Problems of all places."""
        return sum(self._counts.values())

    def of(self, place: str) -> int:
        """Problems of one place."""
        return self._counts[place]


def message_text(index: int, stamp_ns: int) -> str:
    """Which message: its index on its topic, from 0, and its stamp in seconds with nine decimals as ROS prints it."""
    return f"message {index} at {stamp_ns // 1_000_000_000}.{stamp_ns % 1_000_000_000:09d}"
