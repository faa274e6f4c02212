"""The process that reads hostile inputs one by one: ``python -m benchmarks.hostile.child`` with a job as JSON.

It writes one line of JSON before each case and one after it, so that the parent process knows the running case after a
hang or a crash. Its address space is limited: a case that needs too much memory gets a MemoryError.
"""

import json
import os
import resource
import sys
import time
import traceback
import warnings
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

from lvad_perception.errors import LvadError

ADDRESS_SPACE: Final = 4 << 30
"""Bytes that a process may map in addition to those mapped after reading all valid examples."""
LONGEST_MESSAGE: Final = 2_000


class Job(NamedTuple):
    """Cases ``first``, ``first + step`` ... below ``stop`` of a kind and a seed."""

    kind: str
    seed: int
    first: int
    step: int
    stop: int
    materials: str
    scratch: str


def hostile_bytes(kind: Any, name: str, seed: int, index: int, examples: list[bytes], bombs: list[bytes]) -> bytes:
    """The input of a case, a function of kind, seed and index alone."""
    if index < len(bombs):
        return bombs[index]
    random = np.random.default_rng([seed, *name.encode(), index])
    return kind.mutate(examples[int(random.integers(len(examples)))], random, examples)


def main() -> None:
    """Read the cases of a job."""
    from benchmarks.hostile.kinds import KINDS, clear

    job = Job(*json.loads(sys.argv[1]))
    report = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # so that output of libraries does not disturb the report
    warnings.simplefilter("ignore")
    kind, materials, scratch = KINDS[job.kind], Path(job.materials), Path(job.scratch)
    os.environ["XDG_CACHE_HOME"] = str(scratch / "cache")
    examples = kind.examples(materials)
    bombs = kind.bombs(examples)
    read = kind.reader(materials)
    folder = scratch / "case"
    accepted = []
    for example in examples:  # also imports everything, before memory is limited
        clear(folder)
        accepted.append(_read(read, example, folder)[0] == "accepted")
    if not any(accepted):  # not all: a mask of one task is refused by the other
        raise SystemExit(f"none of the valid examples of {job.kind} was accepted")
    limit = _status("VmSize") + ADDRESS_SPACE
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for index in range(job.first, job.stop, job.step):
        data = hostile_bytes(kind, job.kind, job.seed, index, examples, bombs)
        clear(folder)
        report.write(json.dumps({"index": index}) + "\n")
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak of memory
        before, began = _status("VmRSS"), time.monotonic()
        outcome, what = _read(read, data, folder)
        result = {"outcome": outcome, "what": what, "seconds": time.monotonic() - began}
        report.write(json.dumps({**result, "memory": max(0, _status("VmHWM") - before)}) + "\n")


def _read(read: Any, data: bytes, folder: Path) -> tuple[str, str]:
    """ "accepted", "refused" with the message, "memory", or "traceback" with the error and the line that raised it."""
    try:
        read(data, folder)
    except LvadError as err:
        text = str(err)
        if not text or "\n" in text or len(text) > LONGEST_MESSAGE:
            return "traceback", f"{type(err).__name__} of {len(text)} characters, {text.count(chr(10)) + 1} lines"
        return "refused", text
    except MemoryError:
        return "memory", _place(sys.exc_info()[2])
    except Exception as err:
        return "traceback", f"{type(err).__name__}: {str(err)[:200]!r} in {_place(err.__traceback__)}"
    return "accepted", ""


def _place(trace: Any) -> str:
    own = [frame for frame in traceback.extract_tb(trace) if "/lvad_" in frame.filename]
    frame = own[-1] if own else traceback.extract_tb(trace)[-1]
    return f"{'/'.join(Path(frame.filename).parts[-2:])}:{frame.lineno} {frame.name}"


def _status(name: str) -> int:
    """A field of /proc/self/status, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) << 10
    raise KeyError(name)


if __name__ == "__main__":
    main()
