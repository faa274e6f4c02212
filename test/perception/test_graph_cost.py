"""FLOP and elements of graphs that can be counted by hand."""

import numpy as np
import pytest

from lvad_perception.errors import MissingDependencyError, ModelFileError
from lvad_perception.profiling.cost import graph_cost

onnx = pytest.importorskip("onnx", reason="onnx is not installed")


@pytest.fixture
def graph(tmp_path):
    """``graph(nodes, inputs, constants)`` writes an ONNX file whose output is "y"; inputs and constants by shape."""
    from onnx import TensorProto, helper, numpy_helper

    def write(nodes, inputs, constants=None):
        path = tmp_path / "g.onnx"
        made = [numpy_helper.from_array(np.zeros(shape, np.float32), name) for name, shape in (constants or {}).items()]
        content = helper.make_graph(
            [helper.make_node(*node[:3], **(node[3] if len(node) > 3 else {})) for node in nodes],
            "g",
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
            made,
        )
        onnx.save(helper.make_model(content, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), str(path))
        return path

    return write


@pytest.mark.parametrize(
    ("node", "inputs", "constants", "flop", "elements"),
    [
        # 3x3 over 2 -> 4 channels in 2 groups, padded: 4 x 8 x 8 outputs of 1 x 3 x 3 products each.
        (
            ("Conv", ["x", "w"], ["y"], {"group": 2, "pads": [1, 1, 1, 1]}),
            {"x": [1, 2, 8, 8]},
            {"w": (4, 1, 3, 3)},
            2 * 4 * 64 * 9,
            128 + 36 + 256,
        ),
        (
            ("ConvTranspose", ["x", "w"], ["y"], {"strides": [2, 2]}),
            {"x": [1, 3, 4, 4]},
            {"w": (3, 5, 2, 2)},
            2 * 48 * 20,
            48 + 60 + 5 * 64,
        ),
        (("MatMul", ["a", "b"], ["y"]), {"a": [6, 5, 7], "b": [7, 3]}, {}, 2 * 6 * 5 * 3 * 7, 210 + 21 + 90),
        (("Gemm", ["a", "w"], ["y"], {"transA": 1}), {"a": [7, 5]}, {"w": (7, 3)}, 2 * 5 * 3 * 7, 35 + 21 + 15),
        (
            ("Einsum", ["a", "b"], ["y"], {"equation": "bqc, bchw -> bqhw"}),
            {"a": [2, 3, 4], "b": [2, 4, 5, 6]},
            {},
            2 * 2 * 3 * 4 * 5 * 6,
            24 + 240 + 180,
        ),
    ],
)
def test_products(graph, node, inputs, constants, flop, elements):
    cost = graph_cost(graph([node], inputs, constants))
    assert (cost.flop, cost.elements, cost.by_operator) == (flop, elements, {node[0]: flop})
    assert cost.weights == sum(np.prod(shape) for shape in constants.values())


def test_what_is_no_product_costs_nothing(graph):
    cost = graph_cost(graph([("Relu", ["x"], ["r"]), ("MatMul", ["r", "w"], ["y"])], {"x": [4, 4]}, {"w": (4, 4)}))
    assert cost.by_operator == {"MatMul": 128}


def test_a_side_that_is_not_fixed(graph):
    path = graph([("MatMul", ["a", "w"], ["y"])], {"a": ["n", 4]}, {"w": (4, 4)})
    with pytest.raises(
        ModelFileError, match=r"g\.onnx: the size of 'a' is not fixed, so MatMul cannot be counted; exp"
    ):
        graph_cost(path)


def test_a_file_of_another_kind(tmp_path):
    (tmp_path / "x.onnx").write_bytes(b"\xff no model")
    with pytest.raises(ModelFileError, match=r"x\.onnx cannot be read as an ONNX model \(.*export it again"):
        graph_cost(tmp_path / "x.onnx")


def test_without_the_library(monkeypatch, tmp_path):
    import sys

    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(MissingDependencyError, match="needs the library onnx, which inference does not; pip install"):
        graph_cost(tmp_path / "x.onnx")


def test_it_counts_what_torch_counts(graph, tmp_path):
    """The exporter's graph of a small network against torch's own counter."""
    torch = pytest.importorskip("torch", reason="torch is not installed")
    pytest.importorskip("onnxscript", reason="onnxscript is not installed")
    from torch import nn
    from torch.utils.flop_counter import FlopCounterMode

    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, groups=8),
        nn.Flatten(2),
        nn.Linear(25, 7),
    ).eval()
    example = torch.zeros(2, 3, 13, 13)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(example)
    torch.onnx.export(net, (example,), tmp_path / "net.onnx", dynamo=True, verbose=False)
    assert graph_cost(tmp_path / "net.onnx").flop == counter.get_total_flops()
