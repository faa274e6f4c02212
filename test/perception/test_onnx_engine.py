"""ONNX Runtime; ``test_onnx_file`` tests both runtimes."""

import sys

import pytest

from lvad_perception.engines import open_engine
from lvad_perception.errors import MissingDependencyError, ModelFileError

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


@pytest.fixture
def change_model(tmp_path, tiny_model_file):
    """A function that changes the tiny model and returns the file."""
    import onnx

    def change(do):
        model = onnx.load(str(tiny_model_file))
        do(model)
        path = tmp_path / "changed.onnx"
        path.write_bytes(model.SerializeToString())
        return path

    return change


def newer_ir(model):
    model.ir_version = 99


def newer_opset(model):
    model.opset_import[0].version = 99


def unknown_operator(model):
    model.opset_import.add(domain="com.example", version=1)
    model.graph.node[0].domain = "com.example"


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_metadata_that_are_not_utf_8(tmp_path, tiny_model_file, runtime):
    pytest.importorskip(runtime, reason=f"{runtime} is not installed")
    path = tmp_path / "changed.onnx"
    path.write_bytes(tiny_model_file.read_bytes().replace(b'"network_hw"', b'"netwo\xffk_hw"'))
    with pytest.raises(ModelFileError, match=r"changed\.onnx.*; export the model again with lvad-train export"):
        open_engine(path, runtime=runtime)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            newer_ir,
            r"changed\.onnx is written in ONNX IR version 99, and ONNX Runtime [\d.]+ reads up to \d+; update it ",
        ),
        (
            newer_opset,
            r"changed\.onnx is written in opset 99, and ONNX Runtime [\d.]+ knows up to \d+; update it with pip",
        ),
        (
            unknown_operator,
            r"uses the operator com\.example:Gather, which ONNX Runtime [\d.]+ does not have; export the",
        ),
    ],
)
def test_a_file_of_a_newer_version_is_not_called_damaged(change_model, change, sentence):
    with pytest.raises(ModelFileError, match=sentence) as caught:
        open_engine(change_model(change), runtime="onnxruntime")
    assert "truncated" not in str(caught.value)
    assert "export the model again with lvad-train export" in str(caught.value)
    assert change is unknown_operator or "pip install --upgrade onnxruntime" in str(caught.value)
