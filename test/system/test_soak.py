"""The soak's verdicts, and a few seconds of it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.soak import Sample, judge

ROOT = Path(__file__).resolve().parents[2]


def samples(count=60, **growing):
    """So many samples; ``memory_mb=20`` makes the memory grow by 20 over the run."""
    flat = {"memory_mb": 300.0, "files": 12, "threads": 15, "input_hz": 30.0, "boxes_hz": 30.0, "masks_hz": 90.0}
    flat |= {"latency_ms": 40.0, "latency_p99_ms": 60.0}
    noise = [0.3, -0.2, 0.1, -0.3, 0.2, -0.1]
    return [
        Sample(
            seconds=10.0 * index,
            **{
                name: value + growing.get(name, 0) * index / count + noise[index % 6] * ("_m" in name)
                for name, value in flat.items()
            },
        )
        for index in range(count)
    ]


def failed(run):
    return [verdict.name for verdict in judge(run) if not verdict.fine]


def test_a_flat_run_is_fine():
    assert failed(samples()) == []


def test_a_start_that_is_slow_does_not_count():
    run = samples()
    run[:5] = [Sample(**{**vars(sample), "latency_ms": 900.0, "memory_mb": 100.0}) for sample in run[:5]]
    assert failed(run) == []


@pytest.mark.parametrize(
    ("growing", "name"),
    [
        ({"memory_mb": 20.0}, "memory [MB]"),
        ({"latency_ms": 8.0}, "latency, median [ms]"),
        ({"files": 3}, "open files"),
        ({"threads": 3}, "threads"),
    ],
)
def test_what_grows_is_found(growing, name):
    assert failed(samples(**growing)) == [name]


def test_too_few_samples_say_nothing():
    assert len(failed(samples(2))) == 4


def test_a_few_seconds(ros_environment, tiny_model_file, tmp_path):
    command = [sys.executable, "-m", "benchmarks.soak", "--model", str(tiny_model_file), "--minutes", "0.04"]
    command += ["--every", "0.6", "--size", "160x90", "--cameras", "2", "--csv", str(tmp_path / "soak.csv")]
    path = f"{ROOT}{os.pathsep}{ros_environment.get('PYTHONPATH', '')}"
    environment = {**ros_environment, "PYTHONPATH": path}
    result = subprocess.run(
        command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert "| end after SIGINT [s] |" in result.stdout, result.stderr
    lines = (tmp_path / "soak.csv").read_text().splitlines()
    assert lines[0].startswith("seconds,memory_mb,files,threads,input_hz,boxes_hz,masks_hz,latency_ms")
    assert len(lines) >= 4
    assert "Traceback" not in result.stderr
