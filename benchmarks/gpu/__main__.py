"""Measure a GPU within eight minutes: agreement with the CPU, speed, memory, a short training.

Every part is a pytest process of its own over this folder's tests and is killed at its limit with all that it started.
The rows that it had measured are kept, and what failed or was skipped is a row with the reason. Writes gpu.md and
gpu.json into --out.

    python -m benchmarks.gpu --data /data/bdd100k --out docs/results/gpu
    python -m benchmarks.gpu --cpu --only correctness train-bf16
"""

import argparse
import contextlib
import json
import math
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lvad_perception.files import write_whole
from lvad_training.recipe.presets import PRESETS

FOLDER = Path(__file__).resolve().parent
ROOT = FOLDER.parents[1]
SMALLEST_FIRST = tuple(reversed(PRESETS))
CPU_PATIENCE = 6
"""With --cpu every limit is that many times longer."""


@dataclass(frozen=True, slots=True)
class Part:
    """A part of the benchmark, which runs in a process of its own.

    Attributes:
        name: for ``--only``; limit_s: seconds until the process is killed, its start included.
        tests: the file test_….py that has its tests.
        measures: for people.
    """

    name: str
    limit_s: int
    tests: str
    measures: str


# The limits together stay under eight minutes.
PARTS = (
    Part("environment", 20, "machine", "hardware, libraries, the measured peak of matrix products, the data set"),
    Part("correctness", 40, "inference", "CUDA against the CPU in fp32; how far bf16 and fp16 are from that"),
    Part("train-fp32", 30, "training", "training steps in fp32, products in TF32: images/s, memory, the losses' share"),
    Part("train-bf16", 30, "training", "training steps under bf16 autocast"),
    Part("train-fp16", 30, "training", "training steps under fp16 autocast with loss scaling"),
    Part("loader", 40, "training", "training fed by the data loader: images/s, time spent waiting for data"),
    Part("inference", 100, "inference", "the model file's graph in torch: eager, compiled, as a CUDA graph"),
    Part("engine", 45, "inference", "the .pt2 files in the PyTorch engine: host to host, agreement"),
    Part("onnxruntime", 40, "inference", "the model files in ONNX Runtime's CUDA and TensorRT providers"),
    Part("tensorrt", 50, "inference", "engines of TensorRT's own builder: build time, latency, agreement"),
    Part("fit", 55, "training", "a short training on --data, resumed after a kill, and its metrics"),
)


@dataclass(frozen=True, slots=True)
class Job:
    """The settings of one part, from ``__main__`` to the process that runs its tests.

    Attributes:
        part: name of the part to run; None runs all.
        device: "cuda", or "cpu" for tiny sizes that only try the code.
        presets: architectures to measure.
        data: data set in BDD100K's layout, or None.
        scratch: folder that the parts share.
        until: ``time.monotonic()`` at which the process is killed.
    """

    part: str | None = None
    device: str = "cuda"
    presets: tuple[str, ...] = SMALLEST_FIRST
    data: str | None = None
    scratch: str = ""
    until: float = math.inf

    MARGIN_S = 4.0
    """Kept back for writing and ending."""

    @property
    def small(self) -> bool:
        """Whether to use tiny sizes: on the CPU the run only tests the code."""
        return self.device == "cpu"

    @property
    def findings(self) -> Path:
        """File of the part's results, a JSON object in each line."""
        return Path(self.scratch) / f"{self.part}.jsonl"

    def time_left(self) -> float:
        """Seconds that the part may still use."""
        return self.until - self.MARGIN_S - time.monotonic()

    def to_json(self) -> str:
        """For pytest's command line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Job":
        """The inverse of ``to_json``."""
        settings = json.loads(text)
        return cls(**{**settings, "presets": tuple(settings["presets"])})


@dataclass(slots=True)
class Result:
    """The result of a part.

    Attributes:
        outcome: "done", "skipped", "failed" or "ended at its limit"; reason: why, or empty.
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


def main(arguments: list[str] | None = None) -> int:
    """Run the parts one after the other; 0 when none failed, 1 otherwise."""
    options = _parser().parse_args(arguments)
    if options.list:
        for part in PARTS:
            print(f"{part.name:<12} {part.limit_s:>4} s  {part.measures}")
        print(f"{'together':<12} {sum(part.limit_s for part in PARTS):>4} s")
        return 0
    if options.data is not None and not options.data.is_dir():
        print(f"error: {options.data}: no such folder; give a data set in BDD100K's layout", file=sys.stderr)
        return 2
    if find_spec("pytest") is None:
        print("error: pytest is not installed, which runs the parts; pip install pytest", file=sys.stderr)
        return 2
    command = shlex.join(["python", "-m", "benchmarks.gpu", *(sys.argv[1:] if arguments is None else arguments)])
    markdown, data = options.out / "gpu.md", options.out / "gpu.json"
    results: dict[str, Result] = {}
    with tempfile.TemporaryDirectory(prefix="lvad-gpu-") as scratch:
        for part in PARTS:
            if part.name not in options.only:
                continue
            limit_s = part.limit_s * (CPU_PATIENCE if options.cpu else 1)
            print(f"\n== {part.name}: {part.measures} (at most {limit_s} s)", flush=True)
            job = Job(
                part=part.name,
                device="cpu" if options.cpu else "cuda",
                presets=tuple(options.presets),
                data=None if options.data is None else str(options.data.resolve()),
                scratch=scratch,
                until=time.monotonic() + limit_s,
            )
            try:
                result = results[part.name] = run_part(job, limit_s, FOLDER / f"test_{part.tests}.py")
            except KeyboardInterrupt:
                print("interrupted; the tables hold the parts that had ended", file=sys.stderr)
                return 130
            print(f"   {result.outcome} after {result.seconds:.1f} s {result.reason}".rstrip(), flush=True)
            content = {
                "command": command,
                "on_cpu": options.cpu,
                "parts": {name: asdict(each) for name, each in results.items()},
            }
            write_whole(data, json.dumps(content, indent=1) + "\n")
            write_whole(markdown, to_markdown(command, results, on_cpu=options.cpu))
    print(f"\n{summary(results)}\nwritten: {markdown} and {data}")
    return 1 if any(result.outcome in ("failed", "ended at its limit") for result in results.values()) else 0


def run_part(job: Job, limit_s: float, tests: Path) -> Result:
    """Run the part's tests to their end or the limit and gather their rows; never raises for what a test does."""
    began = time.monotonic()
    command = [sys.executable, "-m", "pytest", str(tests), "--gpu-job", job.to_json()]
    command += ["-c", str(ROOT / "pyproject.toml"), "-v", "-s", "--tb=short", "--no-header"]
    command += ["-p", "no:cacheprovider", "-W", "default"]
    process = subprocess.Popen(command, cwd=ROOT, start_new_session=True)
    ended = ""
    try:
        status = process.wait(limit_s)
    except subprocess.TimeoutExpired:
        status, ended = 0, "ended at its limit"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # its workers too
        process.wait()
    result = Result(ended or "done", "", limit_s, time.monotonic() - began)
    _gather(job, result)
    outcomes = [row.get("outcome", "") for rows in result.tables.values() for row in rows]
    failed = [outcome for outcome in outcomes if outcome.startswith("failed")]
    if ended:
        result.reason = f"of {limit_s:g} s; what it had measured is kept"
    elif status < 0:
        result.outcome, result.reason = "failed", f"its process was killed by {signal.Signals(-status).name}"
    elif status != 0:
        result.outcome = "failed"
        result.reason = failed[0].removeprefix("failed: ") if failed else f"pytest ended with {status}"
    elif outcomes and all(outcome.startswith("skipped") for outcome in outcomes):
        result.outcome, result.reason = "skipped", outcomes[0].removeprefix("skipped: ")
    return result


def to_markdown(command: str, results: dict[str, Result], *, on_cpu: bool) -> str:
    """Command and hardware first, then a line for each part, then their tables."""
    blocks = ["# Measurements on a GPU", f"```bash\n{command}\n```"]
    if on_cpu:
        blocks.append("**Tiny sizes on a CPU: the code was tried, nothing was measured.**")
    if "environment" in results:
        blocks += _tables(results["environment"])
    blocks.append(summary(results))
    for part in PARTS[1:]:
        if (result := results.get(part.name)) is not None:
            state = "" if result.outcome == "done" else f"\n\n**{result.outcome}** {result.reason}"
            blocks += [f"## {part.name}\n\n{part.measures[0].upper()}{part.measures[1:]}.{state}", *_tables(result)]
    return "\n\n".join(blocks) + "\n"


def summary(results: dict[str, Result]) -> str:
    """A line for each part: limit, time, rows measured and rows without a measurement, outcome."""
    lines = []
    for name, result in results.items():
        rows = [row for table in result.tables.values() for row in table]
        empty = sum("outcome" in row for row in rows)
        lines.append(
            {
                "part": name,
                "limit s": result.limit_s,
                "took s": round(result.seconds, 1),
                "measured": len(rows) - empty,
                "without result": empty,
                "outcome": f"{result.outcome} {result.reason}".strip(),
            }
        )
    return markdown_table(lines)


def markdown_table(rows: Sequence[dict[str, Any]]) -> str:
    """Rows that may have different columns as one table; "outcome" comes last."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    if "outcome" in columns:
        columns.append(columns.pop(columns.index("outcome")))
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(_cell(row.get(column)) for column in columns) + " |" for row in rows]
    return "\n".join(lines)


def _gather(job: Job, result: Result) -> None:
    """Read the part's file, whose last line may be cut off."""
    lines = job.findings.read_text(encoding="utf-8").splitlines() if job.findings.exists() else []
    for line in lines:
        with contextlib.suppress(ValueError):
            finding = json.loads(line)
            if "row" in finding:
                result.tables.setdefault(finding["table"], []).append(finding["row"])
            elif finding["note"] not in result.notes:
                result.notes.append(finding["note"])


def _tables(result: Result) -> list[str]:
    return [f"**{title}**\n\n{markdown_table(rows)}" for title, rows in result.tables.items()] + result.notes


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return str(value).replace("|", "\\|").replace("\n", " ")


def _parser() -> argparse.ArgumentParser:
    names = [part.name for part in PARTS]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("out/gpu"), help="folder of the tables (default: %(default)s)")
    parser.add_argument("--data", type=Path, help="data set in BDD100K's layout; rendered images without it")
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="PART", help="only these parts")
    parser.add_argument(
        "--presets", nargs="+", choices=SMALLEST_FIRST, default=SMALLEST_FIRST, metavar="PRESET", help="only these"
    )
    parser.add_argument("--cpu", action="store_true", help="tiny sizes on the CPU: tries the code, measures nothing")
    parser.add_argument("--list", action="store_true", help="show the parts and their limits")
    return parser


if __name__ == "__main__":
    sys.exit(main())
