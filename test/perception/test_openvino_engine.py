"""OpenVINO, where it is installed, besides what ``test_onnx_file`` proves of both runtimes."""

import subprocess
import sys

import numpy as np
import pytest

from lvad_perception.engines.openvino import OpenVinoEngine
from lvad_perception.errors import EngineError

pytest.importorskip("openvino", reason="OpenVINO is not installed")


def test_nothing_is_copied(tiny_model_file, images_like):
    engine = OpenVinoEngine(tiny_model_file, threads=1)
    images = images_like(engine.manifest)
    first = engine.infer(images)
    second = engine.infer(images)
    assert first.semantic.ctypes.data == second.semantic.ctypes.data


def test_the_arithmetic_of_the_caller_stays(tiny_model_file, images_like):
    denormal = np.full(64, 1e-40, np.float32)
    engine = OpenVinoEngine(tiny_model_file, threads=1)
    engine.infer(images_like(engine.manifest))
    assert (denormal + denormal).min() > 0


def test_it_describes_itself(tiny_model_file):
    engine = OpenVinoEngine(tiny_model_file, threads=2)
    assert engine.description.startswith("OpenVINO 20")
    assert engine.description.endswith("CPU, 2 threads, FP32")
    assert (engine.precision, engine.device_memory_bytes) == ("fp32", None)


SIGNALLED = """
import gc, signal, sys
from pathlib import Path
from lvad_perception.engines.openvino import OpenVinoEngine

signal.signal(signal.SIGUSR1, lambda number, frame: print("handled"))
engines = [OpenVinoEngine(Path(sys.argv[1]), threads=1) for _ in range(2)]
for _ in range(2):
    engines.pop(0).close()
    gc.collect()
signal.raise_signal(signal.SIGUSR1)
"""


def test_signals_are_handled_after_engines_came_and_went(tiny_model_file):
    command = [sys.executable, "-c", SIGNALLED, str(tiny_model_file)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "handled\n"), done.stderr


def test_int8_of_a_file_that_is_not_quantised(tiny_model_file):
    with pytest.raises(EngineError, match=r"not in int8; quantise it with: lvad-perception quantize"):
        OpenVinoEngine(tiny_model_file, precision="int8")


def test_a_precision_that_the_cpu_has_not(monkeypatch, tiny_model_file):
    from lvad_perception.engines import openvino

    class Core:
        def get_property(self, device, name):
            return ["FP32", "INT8", "BIN"]

    with pytest.raises(
        EngineError, match="this CPU does not compute bf16 in OpenVINO, only fp32, int8; choose another"
    ):
        openvino.compile_network(Core(), None, threads=1, precision="bf16", source="m.onnx")
