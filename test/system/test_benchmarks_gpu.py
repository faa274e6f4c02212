"""The GPU benchmark without a GPU: its supervision, its tables, and every part's code at tiny sizes on the CPU."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]

# Parts for the supervisor, by name; each is a module of its own with a function ``run(recorder)``.
PARTS = {
    "measures": "recorder.row('speed', ms=1.5)\n    recorder.note('a note')",
    "hangs": "import subprocess, time\n    recorder.row('speed', ms=1.5)\n"
    "    print(subprocess.Popen(['sleep', '60']).pid, file=open(recorder.job.data, 'w'))\n    time.sleep(60)",
    "dies": "import os, signal\n    recorder.row('speed', ms=1.5)\n    os.kill(os.getpid(), signal.SIGSEGV)",
    "raises": "raise RuntimeError('no such kernel\\nwith details')",
    "lacks": "from benchmarks.gpu.job import Unavailable\n    raise Unavailable('no tensorrt; pip install tensorrt')",
}


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    """The folder ``benchmarks`` belongs to no installed package."""
    monkeypatch.syspath_prepend(str(ROOT))


@pytest.fixture
def make_job(tmp_path):
    from benchmarks.gpu.job import Job

    def make(part="part", *, limit_s=60.0, data=None):
        return Job(part, f"part_{part}", limit_s, "cpu", ("tiny",), data, str(tmp_path))

    return make


@pytest.fixture
def supervise(make_job, tmp_path, monkeypatch):
    """Runs one of ``PARTS`` as the benchmark would."""
    from benchmarks.gpu.supervise import run_part

    def run(part, **changes):
        (tmp_path / f"part_{part}.py").write_text(f"def run(recorder):\n    {PARTS[part]}\n")
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(ROOT)]))
        return run_part(make_job(part, **changes))

    return run


def command(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=560,
    )


def test_a_part_that_ends_is_done(supervise) -> None:
    result = supervise("measures")
    assert (result.outcome, result.tables, result.notes) == ("done", {"speed": [{"ms": 1.5}]}, ["a note"])


def test_a_part_is_ended_at_its_limit_with_its_processes_and_keeps_its_rows(supervise, tmp_path) -> None:
    began = time.monotonic()
    result = supervise("hangs", limit_s=3.0, data=str(tmp_path / "pid"))
    assert time.monotonic() - began < 20
    assert result.outcome == "ended at its limit"
    assert result.tables == {"speed": [{"ms": 1.5}]}
    assert not _runs(int((tmp_path / "pid").read_text()))


def _runs(pid: int) -> bool:
    """Whether a process exists and is no zombie, waiting a moment for a kill to take effect."""
    for _ in range(50):
        state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False)
        if state.stdout.strip()[:1] in ("", "Z"):
            return False
        time.sleep(0.1)
    return True


@pytest.mark.parametrize(
    ("part", "outcome", "reason"),
    [
        ("dies", "failed", f"its process was ended by {signal.Signals(signal.SIGSEGV).name}"),
        ("raises", "failed", "RuntimeError: no such kernel"),
        ("lacks", "skipped", "no tensorrt; pip install tensorrt"),
    ],
)
def test_how_a_part_ended_is_said(supervise, part, outcome, reason) -> None:
    result = supervise(part)
    assert (result.outcome, result.reason) == (outcome, reason)


def test_a_line_that_cannot_be_measured_says_why(make_job) -> None:
    from benchmarks.gpu.job import Recorder, Unavailable

    def fail():
        raise MemoryError("CUDA out of memory")

    def lack():
        raise Unavailable("no CUDA")

    job = make_job(limit_s=30.0)
    recorder = Recorder(job, time.monotonic())
    assert recorder.measure("t", {"batch": 1}, lambda: {"ms": 2.0}) == {"ms": 2.0}
    assert recorder.measure("t", {"batch": 2}, fail) is None
    assert recorder.measure("t", {"batch": 4}, lack) is None
    assert recorder.measure("t", {"batch": 8}, pytest.fail, needs_s=100) is None
    rows = [json.loads(line)["row"] for line in job.findings.read_text().splitlines()]
    assert rows[:3] == [
        {"batch": 1, "ms": 2.0},
        {"batch": 2, "outcome": "failed: MemoryError: CUDA out of memory"},
        {"batch": 4, "outcome": "skipped: no CUDA"},
    ]
    assert rows[3]["outcome"].startswith("not run: ")


def test_tables_take_rows_of_different_columns() -> None:
    from benchmarks.gpu.report import markdown_table

    rows = [{"name": "a|b", "outcome": "failed: x\ny"}, {"name": "c", "ms": 1.23456, "agrees": True, "none": None}]
    assert markdown_table(rows).splitlines() == [
        "| name | ms | agrees | none | outcome |",
        "|---|---|---|---|---|",
        "| a\\|b |  |  |  | failed: x y |",
        "| c | 1.235 | yes |  |  |",
    ]


def test_differences_are_those_of_the_outputs() -> None:
    from benchmarks.gpu.differences import difference

    random = np.random.default_rng(0)
    corner = random.uniform(0, 50, (2, 5, 2)).astype(np.float32)
    wanted = {
        "boxes": np.concatenate([corner, corner + 10], axis=2),
        "scores": -np.sort(-random.uniform(0, 1, (2, 5)).astype(np.float32), axis=1),
        "labels": np.tile(np.arange(5, dtype=np.int32), (2, 1)),
        "semantic": random.integers(0, 19, (2, 8, 8), np.uint8),
        "drivable": random.integers(0, 3, (2, 8, 8), np.uint8),
    }
    same = difference(wanted, wanted)
    assert (same.scores, same.boxes_px_p99, same.semantic, same.drivable) == (0, 0, 1, 1)

    found = {name: array.copy() for name, array in wanted.items()}
    found["boxes"] += np.float32(0.5)
    found["scores"][1] -= np.float32(0.25)
    found["semantic"][0, 0] = 99  # one of eight rows of one image
    changed = difference(found, wanted)
    assert changed.boxes_px_p50 == pytest.approx(0.5, abs=1e-4)
    assert changed.scores == pytest.approx(0.25)
    assert changed.semantic == pytest.approx(7 / 8)
    assert changed.drivable == 1

    masks_only = difference({"semantic": found["semantic"]}, {"semantic": wanted["semantic"]})
    assert (masks_only.scores, masks_only.boxes_px_p50, masks_only.drivable) == (None, None, None)


def test_all_limits_together_stay_under_eight_minutes() -> None:
    result = command("--list")
    assert result.returncode == 0, result.stderr
    total = result.stdout.splitlines()[-1]
    assert total.startswith("together")
    assert 0 < int(total.split()[1]) <= 480


def test_a_missing_data_set_is_one_sentence(tmp_path) -> None:
    result = command("--data", tmp_path / "nowhere")
    assert result.returncode == 2
    assert "no such folder; give a data set in BDD100K's layout" in result.stderr
    assert "Traceback" not in result.stderr


def test_without_a_gpu_a_part_is_skipped_with_the_reason(make_job, monkeypatch) -> None:
    import torch

    from benchmarks.gpu import child

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    job = replace(make_job(), device="cuda")
    assert child.main(job.to_json(), repr(time.monotonic())) == 0
    finding = json.loads(job.findings.read_text())
    assert finding["outcome"] == "skipped"
    assert "torch finds no CUDA GPU here; --cpu tries the code" in finding["reason"]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_parts_run_on_a_cpu(tmp_path, small_split) -> None:
    parts = ("correctness", "train-bf16", "loader", "engine", "fit")
    result = command("--cpu", "--presets", "tiny", "--data", small_split, "--out", tmp_path, "--only", *parts)
    assert result.returncode == 0, result.stdout + result.stderr
    found = json.loads((tmp_path / "gpu.json").read_text())["parts"]
    assert list(found) == list(parts)
    for name, part in found.items():
        assert part["outcome"] == "done", (name, part)
        failed = [row for table in part["tables"].values() for row in table if "outcome" in row]
        assert not failed, (name, failed)
    (compared, *_) = found["correctness"]["tables"]["cpu against the CPU in fp32"]
    assert compared["agrees"] is True
    (ran,) = found["engine"]["tables"]["PyTorch engine"]
    assert ran["precision"] == "bf16"
    assert {"agrees", "p50 ms", "opened in s"} <= ran.keys()
    (trained,) = found["fit"]["tables"]["Short training"]
    assert trained["val images"] == 8
    text = (tmp_path / "gpu.md").read_text()
    assert "the code was tried, nothing was measured" in text
    assert text.index("## correctness") < text.index("## train-bf16") < text.index("## fit")
