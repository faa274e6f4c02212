"""The engine class of each file, and refusals."""

import sys
from types import SimpleNamespace

import pytest

from lvad_perception.engines import PRECISIONS, RUNTIMES, open_engine
from lvad_perception.errors import ConfigError, EngineError, ModelFileError

pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")


class Opened:
    """A fake engine of another device."""

    def __init__(self, path, **options):
        self.path, self.options, self.precision, self.closed = path, options, "fp16", False
        Opened.last = self

    def close(self):
        self.closed = True


@pytest.fixture
def other_devices(monkeypatch):
    """TensorRT's and PyTorch's engine classes, replaced."""
    for module, name in (("tensorrt", "TensorRtEngine"), ("pytorch", "PyTorchEngine")):
        monkeypatch.setitem(sys.modules, f"lvad_perception.engines.{module}", SimpleNamespace(**{name: Opened}))


@pytest.mark.parametrize("suffix", [".engine", ".plan", ".pth"])
@pytest.mark.parametrize("runtime", [None, "auto"])
def test_tensorrt_runs_its_own_files(other_devices, tmp_path, suffix, runtime):
    path = tmp_path / f"model{suffix}"
    path.touch()
    engine = open_engine(path, runtime=runtime)
    assert (engine.path, engine.options) == (path, {})


def test_pytorch_gets_threads_and_precision(other_devices, tmp_path):
    path = tmp_path / "model.pt2"
    path.touch()
    assert open_engine(path, threads=3, precision="fp16").options == {"threads": 3, "precision": "fp16"}


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_a_runtime_that_cannot_run_the_file(other_devices, tmp_path, runtime):
    path = tmp_path / "model.engine"
    path.touch()
    with pytest.raises(ConfigError, match=r"model\.engine runs in TensorRT alone; leave the runtime out, or give the"):
        open_engine(path, runtime=runtime)


def test_an_engine_of_another_precision_is_closed_and_refused(other_devices, tmp_path):
    path = tmp_path / "model.engine"
    path.touch()
    with pytest.raises(
        EngineError, match=r"model\.engine computes in fp16, not in int8; leave the precision to the file"
    ):
        open_engine(path, precision="int8")
    assert Opened.last.closed


def test_names_that_there_are_none_of(tiny_model_file):
    with pytest.raises(ConfigError, match="there is no runtime tvm; choose one of auto, onnxruntime, openvino, "):
        open_engine(tiny_model_file, runtime="tvm")
    with pytest.raises(ConfigError, match="there is no precision fp8; choose one of fp32, fp16, bf16, int8"):
        open_engine(tiny_model_file, precision="fp8")


@pytest.mark.parametrize("precision", [name for name in PRECISIONS if name != "fp32"])
def test_onnx_runtime_computes_on_the_cpu_as_the_file_was_written(tiny_model_file, precision):
    with pytest.raises(EngineError, match=rf"computes .*tiny\.onnx in fp32, as it was written, not in {precision}"):
        open_engine(tiny_model_file, precision=precision)
    assert open_engine(tiny_model_file, precision="fp32").precision == "fp32"


@pytest.mark.parametrize("runtime", [name for name in RUNTIMES if name.startswith("onnxruntime-")])
def test_a_provider_that_is_not_installed(tiny_model_file, runtime):
    import onnxruntime

    provider = {"onnxruntime-cuda": "CUDAExecutionProvider", "onnxruntime-tensorrt": "TensorrtExecutionProvider"}
    if provider[runtime] in onnxruntime.get_available_providers():
        pytest.skip(f"this ONNX Runtime has the {provider[runtime]}")
    with pytest.raises(EngineError, match=rf"has no {provider[runtime]}; install onnxruntime-gpu"):
        open_engine(tiny_model_file, runtime=runtime)


def test_a_missing_file(tmp_path):
    with pytest.raises(ModelFileError, match=r"gone\.onnx does not exist; write a model file with: lvad-train"):
        open_engine(tmp_path / "gone.onnx")


def test_a_directory(tmp_path):
    with pytest.raises(ModelFileError, match=r"is a directory; name the \.onnx file in it"):
        open_engine(tmp_path)


def test_another_suffix(tmp_path):
    path = tmp_path / "checkpoint.safetensors"
    path.touch()
    with pytest.raises(ModelFileError, match=r"is no model file; give the \.onnx file"):
        open_engine(path)


def test_no_threads(tiny_model_file):
    with pytest.raises(ConfigError, match="0 threads cannot run a model"):
        open_engine(tiny_model_file, threads=0)
