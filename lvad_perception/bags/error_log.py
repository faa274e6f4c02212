"""Error log of a bag or data set: reports and counts messages and images that cannot be used."""

import sys
from collections import Counter
from collections.abc import Callable
from typing import Final

REPORTED_PER_SOURCE: Final = 20
"""Number of errors of one source that are reported one by one; further ones are only counted."""


def report_to_stderr(line: str) -> None:
    """Print a line on standard error, above the progress bar if there is one."""
    from tqdm import tqdm

    tqdm.write(line, file=sys.stderr)


class ErrorLog:
    """Counts errors and reports the first ones of each source, in bounded memory.

    Args:
        report: called with one line for each error.
    """

    def __init__(self, report: Callable[[str], None] = report_to_stderr) -> None:
        self._report = report
        self._counts: Counter[str] = Counter()
        self._calls: Counter[str] = Counter()
        self.last = ""
        """Reason of the latest error."""

    def add(self, source: str, item: str, reason: object, *, count: int = 1) -> None:
        """Count an error, and report it unless its source has had too many.

        Args:
            source: topic, or folder of a data set.
            item: which message or file of the source.
            reason: one sentence.
            count: number of messages or files; an error of more than one is always reported.
        """
        self.last = str(reason)
        self._counts[source] += count
        self._calls[source] += 1
        if self._calls[source] <= REPORTED_PER_SOURCE or count > 1:
            self._report(f"{source} {item}: {reason}")
        elif self._calls[source] == REPORTED_PER_SOURCE + 1:
            self._report(f"{source}: further problems are only counted")

    @property
    def total(self) -> int:
        """Errors of all sources."""
        return sum(self._counts.values())

    def of(self, source: str) -> int:
        """Errors of one source."""
        return self._counts[source]


def message_text(index: int, stamp_ns: int) -> str:
    """Name of a message in errors: its index on the topic, from 0, and its stamp in seconds as ROS prints it."""
    return f"message {index} at {stamp_ns // 1_000_000_000}.{stamp_ns % 1_000_000_000:09d}"
