"""The benchmarks of the node: the soak's verdicts, and a few seconds of each."""

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
    return [verdict.name for verdict in judge(run) if not verdict.passed]


def test_a_flat_run_passes():
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
def test_growth_is_found(growing, name):
    assert failed(samples(**growing)) == [name]


def test_too_few_samples_fail():
    assert len(failed(samples(2))) == 4


@pytest.fixture
def run(ros_environment, tmp_path):
    """A function that runs a benchmark with arguments in an empty folder."""
    path = f"{ROOT}{os.pathsep}{ros_environment.get('PYTHONPATH', '')}"

    def run(name, *arguments):
        return subprocess.run(
            [sys.executable, "-m", f"benchmarks.{name}", *arguments],
            env={**ros_environment, "PYTHONPATH": path},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )

    return run


def test_a_few_seconds_of_soak(run, tiny_model_file, tmp_path):
    options = ["--minutes", "0.04", "--every", "0.6", "--size", "160x90", "--cameras", "2"]
    result = run("soak", "--model", str(tiny_model_file), *options)
    assert "| end after SIGINT [s] |" in result.stdout, result.stderr
    lines = (tmp_path / "soak.csv").read_text().splitlines()
    assert lines[0].startswith("seconds,memory_mb,files,threads,input_hz,boxes_hz,masks_hz,latency_ms")
    assert len(lines) >= 4
    assert "Traceback" not in result.stderr


def test_what_the_node_costs(run, tiny_model_file):
    options = ["--frames", "3", "--size", "160x90", "--starts", "0"]
    result = run("node_cost", "--model", str(tiny_model_file), *options)
    assert result.returncode == 0, result.stderr
    rows = [line.split("|")[1].strip() for line in result.stdout.splitlines() if line.startswith("|")]
    for name in ("detections: build", "segmentation: publish", "overlay/compressed: publish", "JPEG image: decode"):
        assert rows.count(name) == 1
    for name in ("callback", "decode", "preprocess", "engine", "postprocess", "publish", "whole node"):
        assert rows.count(name) == 2  # with an engine that takes no time, and with the model
    assert rows.count("engine alone, without ROS") == 1


def test_what_a_start_costs(package, run, tiny_model_file, monkeypatch):
    monkeypatch.setenv("PATH", package["PATH"])
    monkeypatch.setenv("ROS_DOMAIN_ID", package["ROS_DOMAIN_ID"])
    short = ["--size", "160x90", "--starts", "1", "--idle", "0.5"]
    options = [*short, "--only-starts", "--runtimes", "onnxruntime", "auto"]
    result = run("node_cost", "--model", str(tiny_model_file), *options)
    assert result.returncode == 0, result.stderr
    table = [line for line in result.stdout.splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table]
    assert rows[0] == ["runtime", "first result [s]", "least to greatest", "idle, % of a core", "memory [MB]"]
    assert [row[0] for row in rows[2:]] == ["onnxruntime", "auto"]
    for _, seconds, _, idle, memory in rows[2:]:
        assert 0.2 < float(seconds) < 60.0
        assert 0.0 <= float(idle) < 100.0
        assert 30.0 < float(memory) < 2000.0


def test_a_start_that_fails_is_told(package, run, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", package["PATH"])
    monkeypatch.setenv("ROS_DOMAIN_ID", package["ROS_DOMAIN_ID"])
    result = run("node_cost", "--model", str(tmp_path / "absent.onnx"), "--only-starts", "--runtimes", "onnxruntime")
    assert result.returncode == 1
    assert "node_cost: the launch gave no result; it said:" in result.stderr
    assert "absent.onnx does not exist" in result.stderr
