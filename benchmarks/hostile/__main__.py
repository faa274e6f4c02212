"""Test both packages with mutated messages, images, bags, labels, masks, recipes, checkpoints and model files.

Every case is a valid file or message with random changes, reproducible from a seed, or a bomb: a small input that
expands to gigabytes. The package must accept it or refuse it with one sentence; a traceback, a crash, a hang, memory
beyond the limit, and images of a bag that are lost without being counted and reported are failures. Linux only.

    python -m benchmarks.hostile --seed 0 --count 100000
    python -m benchmarks.hostile --kind png --index 1234 --keep failing        # one case again
"""

import argparse
import json
import os
import selectors
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from benchmarks.hostile.child import Job, hostile_bytes
from benchmarks.hostile.kinds import KINDS
from benchmarks.hostile.materials import make_materials
from lvad_perception.machine import usable_cores

CHILD: Final = ("-m", "benchmarks.hostile.child")
PATIENCE_S: Final = 20.0
"""Seconds after which a case counts as a hang."""
START_S: Final = 120.0
MEMORY: Final = 1 << 30
"""Bytes that a case may use."""
FAILURES: Final = ("traceback", "crash", "hang", "memory", "uncounted")


@dataclass
class Tally:
    """Counts how the cases of one kind ended.

    Attributes:
        outcomes: outcome -> cases.
        failures: error and place -> indices of the cases.
        memory: most bytes that a case used; slowest: most seconds.
        seconds: of all cases together.
    """

    outcomes: Counter[str] = field(default_factory=Counter)
    failures: dict[str, list[int]] = field(default_factory=dict)
    memory: int = 0
    slowest: float = 0.0
    seconds: float = 0.0

    def add(self, index: int, outcome: str, what: str, seconds: float = 0.0, memory: int = 0) -> None:
        """Count a case."""
        if "UncountedLossError" in what:
            outcome = "uncounted"
        elif memory > MEMORY and outcome not in FAILURES:
            outcome, what = "memory", f"{memory >> 20} MiB, then {outcome} ({what[:100]})"
        self.outcomes[outcome] += 1
        if outcome in FAILURES:
            self.failures.setdefault(f"{outcome}: {what}", []).append(index)
        self.memory, self.slowest = max(self.memory, memory), max(self.slowest, seconds)
        self.seconds += seconds


class Watcher:
    """A child process with its job; after a crash or a hang it is restarted at the next case."""

    def __init__(self, job: Job, tally: Tally) -> None:
        self.job, self._tally, self._index, self._buffer = job, tally, -1, b""
        self._start()

    def _start(self) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, *CHILD, json.dumps(self.job)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment)
        self._deadline, self._index, self._buffer = time.monotonic() + START_S, -1, b""

    def read(self) -> None:
        """Read the child's reports."""
        assert self.process.stdout is not None
        *lines, self._buffer = (self._buffer + os.read(self.process.stdout.fileno(), 1 << 16)).split(b"\n")
        for line in lines:
            report = json.loads(line)
            if "index" in report:
                self._index, self._deadline = report["index"], time.monotonic() + PATIENCE_S
            else:
                self._tally.add(self._index, **report)
                self.job = self.job._replace(first=self._index + self.job.step)

    def done(self) -> bool:
        """Whether the job has finished. After a hang or a crash, count it and restart the child at the next case."""
        ended = self.process.poll()
        if ended is None and time.monotonic() < self._deadline:
            return False
        if ended is None:
            self.process.kill()
            self.process.wait()
        else:
            self.read()
        if ended == 0 or self.job.first >= self.job.stop:
            return True
        if self._index < self.job.first:  # between two cases, or before the first
            raise SystemExit(f"error: {self.job.kind}: the process ended with {ended} before case {self.job.first}")
        hung = ended is None
        self._tally.add(
            self._index, "hang" if hung else "crash", f"over {PATIENCE_S:g} s" if hung else f"status {ended}"
        )
        self.job = self.job._replace(first=self._index + self.job.step)
        if self.job.first >= self.job.stop:
            return True
        self._start()
        return False


def run_kind(name: str, *, count: int, seed: int, workers: int, folder: Path) -> Tally:
    """Run ``count`` cases of a kind in ``workers`` processes."""
    tally = Tally()
    jobs = [Job(name, seed, i, workers, count, str(folder), str(folder / f"scratch{i}")) for i in range(workers)]
    watchers = {watcher.process.stdout: watcher for watcher in (Watcher(job, tally) for job in jobs)}
    while watchers:
        with selectors.DefaultSelector() as selector:
            for stream in watchers:
                selector.register(stream, selectors.EVENT_READ)  # type: ignore[arg-type]
            for key, _ in selector.select(1.0):
                watchers[key.fileobj].read()  # type: ignore[index]
        for stream, watcher in list(watchers.items()):
            if watcher.done():
                del watchers[stream]
            elif watcher.process.stdout is not stream:
                watchers[watcher.process.stdout] = watchers.pop(stream)
    return tally


def main(arguments: list[str] | None = None) -> int:
    """Run all kinds and print the table; 0 when nothing failed, 1 otherwise."""
    options = _parser().parse_args(arguments)
    tallies: dict[str, Tally] = {}
    with tempfile.TemporaryDirectory(prefix="lvad-hostile-") as scratch:
        folder = Path(scratch)
        make_materials(folder)
        if options.index is not None:
            return _one(options, folder)
        for name in options.kind or KINDS:
            count = max(
                len(KINDS[name].bombs(KINDS[name].examples(folder))) + 1, round(options.count * KINDS[name].share / 100)
            )
            tallies[name] = run_kind(name, count=count, seed=options.seed, workers=options.workers, folder=folder)
            _print_row(name, tallies[name])
            if options.keep:
                _keep(name, tallies[name], options, folder)
    if options.json:
        options.json.write_text(json.dumps({name: vars(tally) for name, tally in tallies.items()}, indent=1) + "\n")
    failed = sum(tally.outcomes[outcome] for tally in tallies.values() for outcome in FAILURES)
    print(f"{sum(sum(tally.outcomes.values()) for tally in tallies.values())} cases, {failed} failed")
    return 1 if failed else 0


def _print_row(name: str, tally: Tally) -> None:
    counts = " ".join(f"{outcome} {tally.outcomes[outcome]}," for outcome in ("accepted", "refused", *FAILURES))
    print(
        f"{name}: {counts} most memory {tally.memory >> 20} MiB, slowest {tally.slowest:.2f} s, "
        f"{tally.seconds:.0f} s in all"
    )
    for what, indices in sorted(tally.failures.items(), key=lambda item: -len(item[1])):
        print(f"    {len(indices)} x {what}; --kind {name} --index {indices[0]}", flush=True)


def _one(options: argparse.Namespace, folder: Path) -> int:
    """Run one case in this process, with its traceback."""
    from benchmarks.hostile.kinds import clear

    (name,) = options.kind
    data = _data(name, options, options.index, folder)
    if options.keep:
        options.keep.mkdir(parents=True, exist_ok=True)
        (options.keep / f"{name}-{options.index}").write_bytes(data)
    clear(folder / "case")
    KINDS[name].reader(folder)(data, folder / "case")
    print("accepted")
    return 0


def _data(name: str, options: argparse.Namespace, index: int, folder: Path) -> bytes:
    examples = KINDS[name].examples(folder)
    return hostile_bytes(KINDS[name], name, options.seed, index, examples, KINDS[name].bombs(examples))


def _keep(name: str, tally: Tally, options: argparse.Namespace, folder: Path) -> None:
    options.keep.mkdir(parents=True, exist_ok=True)
    for indices in tally.failures.values():
        (options.keep / f"{name}-{indices[0]}").write_bytes(_data(name, options, indices[0], folder))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hostile", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seed", type=int, default=0, help="seed of the inputs (default: %(default)s)")
    parser.add_argument("--count", type=int, default=100_000, help="inputs of all kinds (default: %(default)s)")
    parser.add_argument("--kind", nargs="+", choices=sorted(KINDS), help="only these kinds")
    parser.add_argument("--index", type=int, help="only this case of the one --kind, in this process")
    parser.add_argument("--workers", type=int, default=usable_cores(), help="processes (default: %(default)s)")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="write one input of each failure there")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the counts")
    return parser


if __name__ == "__main__":
    sys.exit(main())
