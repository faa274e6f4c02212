"""The GPU benchmark without a GPU: its processes, its tables, and every part's code at tiny sizes on the CPU."""

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

from lvad_perception.types import RawOutputs

ROOT = Path(__file__).resolve().parents[2]

# Parts to be run by the benchmark, by name: the body of a test that has measured something.
PARTS = {
    "measures": "note('a note')",
    "hangs": "print(subprocess.Popen(['sleep', '60']).pid, file=open(job.data, 'w')); time.sleep(60)",
    "dies": "os.kill(os.getpid(), signal.SIGSEGV)",
    "raises": "raise RuntimeError('no such kernel\\nwith details')",
    "lacks": "pytest.skip('no tensorrt; pip install tensorrt')",
}
HEAD = "import os, signal, subprocess, time\nimport pytest\n"


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    """The folder ``benchmarks`` belongs to no installed package."""
    monkeypatch.syspath_prepend(str(ROOT))


@pytest.fixture
def make_job(tmp_path):
    from benchmarks.gpu.__main__ import Job

    def make(*, limit_s=60.0, **changes):
        job = Job("part", "cpu", ("tiny", "r50"), None, str(tmp_path), time.monotonic() + limit_s)
        return replace(job, **changes)

    return make


@pytest.fixture
def run_tests(tmp_path):
    """Runs tests as the benchmark would run a part."""
    from benchmarks.gpu.__main__ import run_part

    def run(source, job, *, limit_s=60.0):
        (tmp_path / "conftest.py").write_text("from benchmarks.gpu.conftest import *\n")
        (tmp_path / "test_part.py").write_text(HEAD + source)
        return run_part(job, limit_s, tmp_path / "test_part.py")

    return run


@pytest.fixture
def supervise(make_job, run_tests):
    """Runs one of ``PARTS`` as the benchmark would: a test that measures, then the part's."""

    def run(part, *, limit_s=60.0, data=None):
        source = (
            "@pytest.mark.gpu('part', 'speed')\ndef test_speed(row):\n    row(ms=1.5)\n\n"
            f"@pytest.mark.gpu('part', 'more')\ndef test_more(job, row, note):\n    {PARTS[part]}\n"
        )
        return run_tests(source, make_job(limit_s=limit_s, data=data), limit_s=limit_s)

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
    result = supervise("hangs", limit_s=15.0, data=str(tmp_path / "pid"))
    assert time.monotonic() - began < 40
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
        ("dies", "failed", f"its process was killed by {signal.Signals(signal.SIGSEGV).name}"),
        ("raises", "failed", "RuntimeError: no such kernel"),
    ],
)
def test_a_part_that_fails_gives_the_reason_and_keeps_its_rows(supervise, part, outcome, reason) -> None:
    result = supervise(part)
    assert (result.outcome, result.reason) == (outcome, reason)
    assert result.tables["speed"] == [{"ms": 1.5}]


def test_a_part_of_which_nothing_could_run_is_skipped_with_the_reason(run_tests, make_job) -> None:
    source = f"@pytest.mark.gpu('part', 'speed')\ndef test_speed():\n    {PARTS['lacks']}\n"
    result = run_tests(source, make_job())
    assert (result.outcome, result.reason) == ("skipped", "no tensorrt; pip install tensorrt")


def test_a_row_that_cannot_be_measured_gives_the_reason(run_tests, make_job) -> None:
    source = """
@pytest.mark.gpu("part", "t", cases=("batch", (1, 2, 4, 8), (1, 2, 4)))
def test_batch(row, batch):
    if batch == 2:
        raise MemoryError("CUDA out of memory")
    if batch == 4:
        pytest.skip("no CUDA")
    row(ms=2.0)

@pytest.mark.gpu("part", "t", without=("r50",), needs_s=100)
def test_preset(preset):
    pytest.fail("it was run")

@pytest.mark.gpu("another part", "t")
def test_other():
    pytest.fail("it was run")
"""
    result = run_tests(source, make_job(limit_s=50.0))
    assert result.outcome == "failed"
    rows = result.tables["t"]
    assert rows[:3] == [
        {"batch": 1, "ms": 2.0},
        {"batch": 2, "outcome": "failed: MemoryError: CUDA out of memory"},
        {"batch": 4, "outcome": "skipped: no CUDA"},
    ]
    (left_out,) = rows[3:]
    assert left_out["preset"] == "tiny"
    assert left_out["outcome"].endswith("s left, it needs about 100 s")


def test_tables_take_rows_of_different_columns() -> None:
    from benchmarks.gpu.__main__ import markdown_table

    rows = [{"name": "a|b", "outcome": "failed: x\ny"}, {"name": "c", "ms": 1.23456, "agrees": True, "none": None}]
    assert markdown_table(rows).splitlines() == [
        "| name | ms | agrees | none | outcome |",
        "|---|---|---|---|---|",
        "| a\\|b |  |  |  | failed: x y |",
        "| c | 1.235 | yes |  |  |",
    ]


def test_outputs_are_compared_within_the_tolerance_of_their_precision() -> None:
    from benchmarks.gpu.subjects import compared

    random = np.random.default_rng(0)
    corner = np.stack([np.arange(5) * 60.0, np.zeros(5)], axis=1)
    boxes = np.tile(np.concatenate([corner, corner + 50], axis=1).astype(np.float32), (2, 1, 1))
    wanted = RawOutputs(
        boxes=boxes,
        scores=np.tile(np.float32([0.9, 0.8, 0.7, 0.6, 0.1]), (2, 1)),
        labels=np.tile(np.arange(5, dtype=np.int32), (2, 1)),
        semantic=random.integers(0, 19, (2, 8, 8), np.uint8),
        drivable=random.integers(0, 3, (2, 8, 8), np.uint8),
        semantic_confidence=None,
    )
    same = compared([wanted], [wanted], "fp32")
    assert same["agrees"] is True
    assert "16 boxes within 0 px" in same["difference"]

    semantic = wanted.semantic.copy()
    semantic[0, 0] = 99  # one of 16 rows
    found = replace(wanted, boxes=boxes + np.float32(0.5), semantic=semantic)
    apart = compared([found], [wanted], "fp16")
    assert apart["agrees"] is False
    assert "boxes within 0.5 px" in apart["difference"]
    assert "93.750 % of mask pixels equal" in apart["difference"]
    assert compared([replace(found, semantic=wanted.semantic)], [wanted], "fp16")["agrees"] is True


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


def test_without_a_gpu_a_part_is_skipped_with_the_reason(run_tests, make_job, monkeypatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    source = "@pytest.mark.gpu('part', 'speed')\ndef test_speed(row):\n    row(ms=1.5)\n"
    result = run_tests(source, make_job(device="cuda"))
    assert result.outcome == "skipped"
    assert "torch finds no CUDA GPU here; --cpu tries the code" in result.reason


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
