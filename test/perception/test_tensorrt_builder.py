"""The GPU benchmark's TensorRT part, with a fake TensorRT: its table, and when it is skipped."""

import json
import sys
import time
from dataclasses import replace

import pytest

pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("onnx", reason="onnx is not installed")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

from benchmarks.gpu import engine, tensorrt_builder
from benchmarks.gpu.job import Job, Recorder, Unavailable
from lvad_perception.conversion import optimize
from lvad_perception.engines import tensorrt

from .fake_cuda import FakeCuda


@pytest.fixture
def job(tmp_path):
    return Job("tensorrt", "benchmarks.gpu.tensorrt_builder", 60.0, "cuda", ("r50", "tiny"), None, str(tmp_path))


@pytest.fixture
def measure(job, tiny_model_file, use_tensorrt, monkeypatch):
    """Runs the part on the tiny model; its lines and its note."""
    use_tensorrt("10.3.0")
    for module in (optimize, tensorrt):
        monkeypatch.setattr(module, "Cuda", FakeCuda)
    monkeypatch.setattr(tensorrt_builder, "model_file", lambda job, preset: tiny_model_file)
    monkeypatch.setattr(engine, "SECONDS", 0.01)

    def run():
        tensorrt_builder.run(Recorder(job, time.monotonic()))
        return [json.loads(line) for line in job.findings.read_text().splitlines()]

    return run


def test_an_engine_is_built_timed_and_compared(measure):
    note, line = measure()  # of r50, which takes too long, there is none
    assert note["note"].startswith("TensorRT 10.3.0, builder optimization level 2.")
    row = line["row"]
    assert (line["table"], row["preset"], row["precision"], row["batch"]) == ("TensorRT engines", "tiny", "fp16", 1)
    assert row.keys() >= {"built in s", "p50 ms", "images/s", "MB", "difference"}
    assert "outcome" not in row


def test_a_build_that_fails_is_a_line_of_the_table(measure):
    sys.modules["tensorrt"].state.fail = True
    _, line = measure()
    assert line["row"]["outcome"].startswith("failed: EngineError: TensorRT 10.3.0 builds nothing")


@pytest.mark.parametrize(
    ("device", "reason"), [("cpu", "TensorRT needs CUDA"), ("cuda", "TensorRT cannot be imported")]
)
def test_without_gpu_or_tensorrt_the_part_is_skipped(job, monkeypatch, device, reason):
    monkeypatch.setitem(sys.modules, "tensorrt", None)  # importing it raises ImportError
    with pytest.raises(Unavailable, match=reason):
        tensorrt_builder.run(Recorder(replace(job, device=device), time.monotonic()))
