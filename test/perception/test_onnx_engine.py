"""ONNX Runtime, besides what ``test_onnx_file`` proves of both runtimes."""

import sys

import pytest

from lvad_perception.engines import open_engine
from lvad_perception.errors import MissingDependencyError

pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")


def test_it_describes_itself(tiny_model_file):
    engine = open_engine(tiny_model_file, threads=2)
    assert engine.description.startswith("ONNX Runtime ")
    assert engine.description.endswith("CPU, 2 threads, FP32")
    assert engine.manifest.batch_size == 2


def test_onnxruntime_not_installed(monkeypatch, tiny_model_file):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)  # importing it raises ImportError
    with pytest.raises(MissingDependencyError, match="install it with: pip install onnxruntime"):
        open_engine(tiny_model_file)
