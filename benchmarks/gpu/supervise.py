"""A part in a process of its own: started, watched, ended at its limit with everything that it had started."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from typing import Any

from benchmarks.gpu.job import Job


@dataclass(frozen=True, slots=True)
class Part:
    """A part's name, its limit in seconds, its module in this package and what it asks."""

    name: str
    limit_s: int
    module: str
    asks: str


@dataclass(slots=True)
class Result:
    """What became of a part.

    Attributes:
        outcome: "done", "skipped", "failed" or "ended at its limit".
        reason: why, or empty.
        limit_s: seconds that it had; seconds: that it took.
        tables: title -> rows, each column -> value.
        notes: sentences to show below the tables.
    """

    outcome: str
    reason: str
    limit_s: float
    seconds: float
    tables: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def run_part(job: Job) -> Result:
    """Run a part to its end or its limit and gather its findings; never raises for what the part does."""
    started = time.monotonic()
    command = [sys.executable, "-m", "benchmarks.gpu.child", job.to_json(), repr(started)]
    process = subprocess.Popen(command, start_new_session=True)  # its own group: its workers end with it
    outcome, reason = "done", ""
    try:
        status = process.wait(job.limit_s)
        if status != 0:
            outcome = "failed"
            reason = (
                f"its process was ended by {_signal(-status)}" if status < 0 else f"its process ended with {status}"
            )
    except subprocess.TimeoutExpired:
        outcome, reason = "ended at its limit", f"of {job.limit_s:g} s; what it had measured is kept"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    result = Result(outcome, reason, job.limit_s, time.monotonic() - started)
    _gather(job, result)
    return result


def _gather(job: Job, result: Result) -> None:
    if not job.findings.exists():
        return
    for line in job.findings.read_text(encoding="utf-8").splitlines():
        try:
            finding = json.loads(line)
        except ValueError:  # cut off when the process was ended
            continue
        if "row" in finding:
            result.tables.setdefault(finding["table"], []).append(finding["row"])
        elif "note" in finding:
            result.notes.append(finding["note"])
        else:
            result.outcome, result.reason = finding["outcome"], finding["reason"]


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
