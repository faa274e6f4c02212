"""Any ONNX network on random input."""

import pytest

from lvad_perception.engines.onnx import OnnxEngine
from lvad_perception.engines.plain import open_plain, runtime_of
from lvad_perception.errors import ConfigError, EngineError, ModelFileError

onnx = pytest.importorskip("onnx", reason="onnx is not installed")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")


@pytest.fixture(params=["onnxruntime", "openvino"])
def runtime(request):
    if request.param == "openvino":
        pytest.importorskip("openvino", reason="OpenVINO is not installed")
    return request.param


@pytest.fixture
def network(tmp_path):
    """``network(node, inputs)``: one node; inputs: name -> (ONNX element type, shape)."""
    from onnx import TensorProto, helper

    def write(node, inputs, kind="FLOAT"):
        path = tmp_path / "other.onnx"
        graph = helper.make_graph(
            [helper.make_node(node, list(inputs), ["y"])],
            "other",
            [
                helper.make_tensor_value_info(name, getattr(TensorProto, dtype), shape)
                for name, (dtype, shape) in inputs.items()
            ],
            [helper.make_tensor_value_info("y", getattr(TensorProto, kind), None)],
        )
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), str(path))
        return path

    return write


@pytest.mark.parametrize(
    ("node", "inputs", "kind"),
    [
        ("Mul", {"a": ("FLOAT", [3, 4]), "b": ("FLOAT", [4])}, "FLOAT"),
        ("Gather", {"a": ("FLOAT", [3, 2]), "i": ("INT64", [5])}, "FLOAT"),  # valid indices
        ("Not", {"a": ("BOOL", [3])}, "BOOL"),
        ("Identity", {"a": ("UINT8", ["n", 4])}, "UINT8"),
    ],
)
def test_every_kind_of_input_is_filled(network, runtime, node, inputs, kind):
    plain = open_plain(network(node, inputs, kind), runtime=runtime, threads=1, precision="fp32")
    assert plain.name == "other.onnx"
    assert plain.batch_size == (1 if node == "Identity" else 3)
    assert plain.timed_ms() > 0


def test_an_open_side_beyond_the_first(network, runtime):
    path = network("Relu", {"x": ("FLOAT", [1, 3, "h", "w"])})
    with pytest.raises(ConfigError, match=r"other\.onnx: its input x has the shape .* export it with a fixed size"):
        open_plain(path, runtime=runtime, threads=1, precision="fp32")


def test_a_type_that_cannot_be_filled(network):
    path = network("Identity", {"x": ("STRING", [1])}, "STRING")
    with pytest.raises(ConfigError, match="its input x of type string cannot be filled; compare a network of numbers"):
        open_plain(path, runtime="onnxruntime", threads=1, precision="fp32")


def test_input_that_the_network_refuses(network, runtime):
    path = network("MatMul", {"a": ("FLOAT", ["n", 3]), "b": ("FLOAT", ["m", 3])})
    with pytest.raises((EngineError, ModelFileError), match=r"other\.onnx cannot run on random input \("):
        open_plain(path, runtime=runtime, threads=1, precision="fp32")


def test_a_file_of_another_kind(tmp_path, runtime):
    (tmp_path / "x.onnx").write_bytes(b"\xff no model")
    with pytest.raises(ModelFileError, match=r"x\.onnx cannot be loaded as an ONNX model"):
        open_plain(tmp_path / "x.onnx", runtime=runtime, threads=1, precision="fp32")


def test_the_runtime_of_an_engine(tiny_model_file, fake_engine):
    assert runtime_of(OnnxEngine(tiny_model_file, threads=1)) == "onnxruntime"
    assert runtime_of(fake_engine) is None
