"""The GPU benchmark's TensorRT part, with a fake TensorRT: its table, and when it is skipped."""

import sys
from dataclasses import replace

import pytest

pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("onnx", reason="onnx is not installed")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

from benchmarks.gpu import test_inference as questions
from benchmarks.gpu.__main__ import Job
from lvad_perception.conversion import optimize
from lvad_perception.engines import tensorrt
from lvad_perception.errors import EngineError

from .fake_cuda import FakeCuda


@pytest.fixture
def job(tmp_path):
    return Job("tensorrt", "cuda", ("r50", "tiny"), None, str(tmp_path))


@pytest.fixture
def measure(job, tiny_model_file, use_tensorrt, monkeypatch):
    """Runs the part's test on the tiny model; its rows and notes."""
    use_tensorrt("10.3.0")
    for module in (optimize, tensorrt):
        monkeypatch.setattr(module, "Cuda", FakeCuda)
    monkeypatch.setattr(questions, "model_file", lambda job, preset: tiny_model_file)
    monkeypatch.setattr(questions, "ENGINE_S", 0.01)

    def run():
        rows, notes = [], []
        questions.test_tensorrt_engine(job, lambda **cells: rows.append(cells), notes.append, "tiny", "fp16", 1)
        return rows, notes

    return run


def test_an_engine_is_built_timed_and_compared(measure):
    (row,), (note,) = measure()
    assert note.startswith("TensorRT 10.3.0, builder optimization level 2.")
    assert row.keys() >= {"built in s", "p50 ms", "images/s", "MB", "difference"}
    (mark,) = questions.test_tensorrt_engine.pytestmark
    assert mark.args == ("tensorrt", "TensorRT engines")
    assert mark.kwargs["cases"][:2] == ("precision, batch", [("fp16", 1)])
    assert mark.kwargs["without"] == ("r50",)  # which takes too long


def test_a_build_that_fails_is_an_error(measure):
    sys.modules["tensorrt"].state.fail = True
    with pytest.raises(EngineError, match=r"TensorRT 10\.3\.0 builds nothing"):
        measure()


@pytest.mark.parametrize(
    ("device", "reason"), [("cpu", "TensorRT needs CUDA"), ("cuda", "TensorRT cannot be imported")]
)
def test_without_gpu_or_tensorrt_the_part_is_skipped(job, monkeypatch, device, reason):
    monkeypatch.setitem(sys.modules, "tensorrt", None)  # importing it raises ImportError
    with pytest.raises(pytest.skip.Exception, match=reason):
        questions.test_tensorrt_engine(replace(job, device=device), None, None, "tiny", "fp16", 1)
