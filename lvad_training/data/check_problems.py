"""Problems that ``lvad-train data check`` reports, and sentences that the checks of all data sets share."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from lvad_perception.datasets.split import Split

Severity = Literal["error", "warning"]

_NAMES_SHOWN: Final = 5


@dataclass(frozen=True, slots=True)
class Problem:
    """A problem of a file or folder.

    Attributes:
        severity: "error" where training would fail, "warning" where it clips, skips or ignores.
        file: the file or folder.
        message: what is wrong and what the consequence is.
    """

    severity: Severity
    file: str
    message: str


def plural(count: int, word: str, words: str | None = None) -> str:
    """A count with its noun: "1 error", "1,200 errors"."""
    return f"{count:,} {word if count == 1 else words or word + 's'}"


def listed(names: Sequence[str]) -> str:
    """The first names, and the number of the others."""
    more = len(names) - _NAMES_SHOWN
    return ", ".join(names[:_NAMES_SHOWN]) + (f" and {more:,} more" if more > 0 else "")


def not_evaluated(split: str) -> str:
    """Continues a sentence that a split has no annotation with the consequence for evaluation."""
    return (
        f", and a model that has split '{split}' as data.val_split is trained but not evaluated; bring the split's "
        "labels or name another split"
    )


def repeated_names(splits: Sequence[Split]) -> Iterator[Problem]:
    """Frames in two splits: BDD100K's 10k and 100k sets are divided differently, so validation images can leak."""
    names = {split.name: {split.name_of(i) for i in range(len(split))} for split in splits}
    for one, other in itertools.combinations(names, 2):
        if both := sorted(names[one] & names[other]):
            message = (
                f"{plural(len(both), 'frame')} in both '{one}' and '{other}': {listed(both)}; "
                "scores on the one flatter when the other was trained on"
            )
            yield Problem("warning", str(splits[0].root), message)
