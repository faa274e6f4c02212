"""What a part is told and how it tells its results: one JSON line per finding, written at once."""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

Cells = dict[str, Any]
"""Column -> text, number, or None for what does not apply."""


class Unavailable(Exception):
    """This machine lacks what was asked for; the message says what, and how to get it."""


@dataclass(frozen=True, slots=True)
class Job:
    """One part to run.

    Attributes:
        part: its name.
        module: whose ``run(recorder)`` asks its questions.
        limit_s: seconds until its process is ended.
        device: "cuda", or "cpu" for tiny sizes that only try the code.
        presets: architectures to ask about.
        data: data set in BDD100K's layout, or None.
        scratch: folder that the parts share and that is deleted at the end.
    """

    part: str
    module: str
    limit_s: float
    device: str
    presets: tuple[str, ...]
    data: str | None
    scratch: str

    @property
    def small(self) -> bool:
        """Whether sizes are tiny, since only the code is tried."""
        return self.device == "cpu"

    @property
    def findings(self) -> Path:
        """File of the part's findings."""
        return Path(self.scratch) / f"{self.part}.jsonl"

    def to_json(self) -> str:
        """For the part's command line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Job":
        """The inverse of ``to_json``."""
        facts = json.loads(text)
        return cls(**{**facts, "presets": tuple(facts["presets"])})


class Recorder:
    """Writes findings, says what happens with elapsed times, and knows how much time is left.

    Args:
        job: the part's job.
        started: ``time.monotonic()`` when its process was asked for.
    """

    MARGIN_S = 4.0
    """Kept back for writing and ending."""

    def __init__(self, job: Job, started: float) -> None:
        self.job = job
        self.started = started
        self._file = job.findings.open("a", buffering=1, encoding="utf-8")

    def time_left(self) -> float:
        """Seconds that a part may still use."""
        return self.started + self.job.limit_s - self.MARGIN_S - time.monotonic()

    def log(self, text: str) -> None:
        """Print a line with the part's elapsed time."""
        print(f"[{time.monotonic() - self.started:6.1f} s] {text}", flush=True)

    def row(self, table: str, **cells: Any) -> None:
        """Add a line to a table."""
        self._write({"table": table, "row": cells})
        self.log(f"{table}: " + ", ".join(f"{name} {_spell(value)}" for name, value in cells.items()))

    def note(self, text: str) -> None:
        """Add a sentence below the part's tables."""
        self._write({"note": text})
        self.log(text)

    def outcome(self, kind: str, reason: str) -> None:
        """Say how the whole part ended, "skipped" or "failed", and why."""
        self._write({"outcome": kind, "reason": reason})
        self.log(f"{kind}: {reason}")

    def measure(self, table: str, facts: Cells, function: Callable[[], Cells], *, needs_s: float = 2.0) -> Cells | None:
        """Add a line of ``facts`` and what ``function`` measured, or why there is nothing; failure stays in its line.

        Args:
            table: title of the table.
            facts: what is measured.
            function: measures; may raise anything.
            needs_s: with less time left than this the function is not called.

        Returns:
            What the function gave, or None.
        """
        left = self.time_left()
        if left < needs_s:
            self.row(table, **facts, outcome=f"not run: {max(0, left):.0f} s left, it needs about {needs_s:.0f} s")
            return None
        try:
            cells = function()
        except Unavailable as err:
            self.row(table, **facts, outcome=f"skipped: {err}")
        except Exception as err:  # whatever a library or a driver throws belongs into the table
            self.row(table, **facts, outcome=f"failed: {one_line(err)}")
        else:
            self.row(table, **facts, **cells)
            return cells
        return None

    def _write(self, finding: dict[str, Any]) -> None:
        self._file.write(json.dumps(finding) + "\n")


def one_line(err: BaseException) -> str:
    """Class and first telling line of an exception, at most 200 characters."""
    lines = [line.strip() for line in str(err).splitlines() if line.strip()]
    text = f"{type(err).__name__}: {lines[0]}" if lines else type(err).__name__
    return text if len(text) <= 200 else text[:199] + "…"


def _spell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
