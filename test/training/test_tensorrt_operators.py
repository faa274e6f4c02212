"""The exported graph against what TensorRT 8.6 and 10 document for their ONNX parser, operator by operator.

The documents are kept as data in ``test/data/tensorrt_operators.json``. A restriction that they state in words is
checked by a function of ``RULES``; one without such a function is a violation, so that none is overlooked.

Every shape must be known before the engine runs: one that depends on data cannot be recorded as a CUDA graph.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from lvad_perception.conversion.lowering import lower
from lvad_perception.manifest import Manifest
from lvad_training.build import build_model, task_classes
from lvad_training.decoding.camera import CameraFrame
from lvad_training.export.model_file import ModelFileGraph, write_onnx
from lvad_training.recipe.config import parse_recipe

from .conftest import SIZE_HW, SMALL_CONVOLUTIONS, small_recipe

onnx = pytest.importorskip("onnx", reason="the extra export is not installed")
pytest.importorskip("onnxscript", reason="the extra export is not installed")

DOCUMENTED = json.loads((Path(__file__).resolve().parents[1] / "data/tensorrt_operators.json").read_text())
CAMERA_HW = (108, 192)
_NAMES = {1: "FP32", 2: "UINT8", 3: "INT8", 6: "INT32", 7: "INT64", 9: "BOOL", 10: "FP16", 11: "DOUBLE"}
_CAST_DOWN = {"8.6": {"INT64": "INT32", "DOUBLE": "FP32"}, "10.1": {"DOUBLE": "FP32"}}
_DATA_INPUT = {"Where": 1}
"""Place of the input whose type the table speaks of, where it is not the first one."""


class Graph:
    """A graph with the types, shapes and constants of its tensors, as ONNX infers them."""

    def __init__(self, model: onnx.ModelProto) -> None:
        inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph
        self.nodes = inferred.node
        self.opset = max(each.version for each in model.opset_import if each.domain in ("", "ai.onnx"))
        infos = [*inferred.input, *inferred.value_info, *inferred.output]
        self.inputs, self.outputs = ({each.name for each in side} for side in (inferred.input, inferred.output))
        self.types = {info.name: info.type.tensor_type.elem_type for info in infos}
        self.types |= {tensor.name: tensor.data_type for tensor in inferred.initializer}
        self.shapes = {
            info.name: [
                side.dim_value if side.HasField("dim_value") else None for side in info.type.tensor_type.shape.dim
            ]
            for info in infos
            if info.type.tensor_type.HasField("shape")
        }
        self.constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in inferred.initializer}
        self.shapes |= {name: list(array.shape) for name, array in self.constants.items()}

    def type(self, name: str) -> str:
        return _NAMES[self.types[name]]


def violations(model: onnx.ModelProto, version: str) -> Iterator[str]:
    """What a version's document does not allow, one sentence each."""
    document, graph = DOCUMENTED[version], Graph(model)
    oldest, newest = document["opsets"]
    if not oldest <= graph.opset <= newest:
        yield f"opset {graph.opset} is not in {oldest} to {newest}"
    for node in graph.nodes:
        where = f"{node.op_type} -> {node.output[0]}"
        entry = document["operators"].get(node.op_type)
        if node.domain or entry is None:
            yield f"{where}: no operator that it supports"
            continue
        for name in sorted({*node.input, *node.output} - {""}):
            shape = graph.shapes.get(name)
            if shape is None or not all(side is not None and side > 0 for side in shape):
                yield f"{where}: the shape of {name} is {shape}"
        for found in sorted(data_types(graph, node)):
            if _CAST_DOWN[version].get(found, found) not in entry["types"]:
                yield f"{where}: {found} is none of {', '.join(entry['types'])}"
        if "restrictions" in entry or node.op_type in UNWRITTEN:
            yield from (f"{where}: {reason}" for reason in RULES.get(node.op_type, unknown)(graph, node))
        yield from (f"{where}: {reason}" for reason in bytes_rule(graph, node))


def data_types(graph: Graph, node: onnx.NodeProto) -> set[str]:
    """Types of the tensors that share the type of the operator's data; indices, shapes and conditions are none."""
    if node.op_type == "Cast":
        return {graph.type(node.input[0]), graph.type(node.output[0])}
    if node.op_type == "ConstantOfShape":
        return {graph.type(node.output[0])}
    schema = onnx.defs.get_schema(node.op_type, graph.opset)
    kind = schema.inputs[_DATA_INPUT.get(node.op_type, 0)].type_str
    places = list(zip(node.input, formal(schema.inputs, len(node.input)), strict=True))
    places += list(zip(node.output, formal(schema.outputs, len(node.output)), strict=True))
    return {graph.type(name) for name, each in places if name and each.type_str == kind}


def formal(parameters, count: int) -> list:
    """A schema's parameters for that many arguments: the last one repeats where it is variadic."""
    return [parameters[min(place, len(parameters) - 1)] for place in range(count)]


def attributes(node: onnx.NodeProto) -> dict:
    return {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}


def bytes_rule(graph: Graph, node: onnx.NodeProto) -> Iterator[str]:
    """UINT8 is for inputs and outputs only, and is cast from and to floats."""
    for name in node.input:
        if name and graph.type(name) == "UINT8" and not (node.op_type == "Cast" and name in graph.inputs):
            yield f"reads {name}, which is UINT8"
    for name in node.output:
        if graph.type(name) == "UINT8":
            if node.op_type != "Cast" or graph.type(node.input[0]) not in ("FP32", "FP16"):
                yield f"makes the UINT8 {name} from {graph.type(node.input[0])}"
            if name not in graph.outputs:
                yield f"makes the UINT8 {name}, which is no output"


def unknown(_graph: Graph, _node: onnx.NodeProto) -> Iterator[str]:
    yield "has a restriction that this test does not check"


def constant_input(place: int):
    def rule(graph: Graph, node: onnx.NodeProto) -> Iterator[str]:
        if len(node.input) > place and node.input[place] and node.input[place] not in graph.constants:
            yield f"its input {place} is no constant"

    return rule


def pool_rule(graph: Graph, node: onnx.NodeProto) -> Iterator[str]:
    given = attributes(node)
    if len(given["kernel_shape"]) not in (2, 3):
        yield "is neither 2D nor 3D"
    if any(step != 1 for step in given.get("dilations", [])):
        yield "is dilated"
    if len(node.output) > 1:
        yield "also makes indices"


def resize_rule(graph: Graph, node: onnx.NodeProto) -> Iterator[str]:
    given = {name: value.decode() if isinstance(value, bytes) else value for name, value in attributes(node).items()}
    allowed = {
        "mode": ("nearest", "linear"),
        "coordinate_transformation_mode": (
            *("half_pixel", "pytorch_half_pixel", "tf_half_pixel_for_nn", "asymmetric", "align_corners"),
        ),
        "nearest_mode": ("floor", "ceil", "round_prefer_floor", "round_prefer_ceil"),
        "keep_aspect_ratio_policy": ("stretch",),
        "antialias": (0,),
    }
    yield from (f"{name} is {given[name]}" for name in allowed if name in given and given[name] not in allowed[name])
    if "axes" in given:
        yield "has axes"


def topk_rule(graph: Graph, node: onnx.NodeProto) -> Iterator[str]:
    if attributes(node).get("sorted", 1) != 1:
        yield "is not sorted"
    count = graph.constants.get(node.input[1])
    if count is None or int(count.item()) >= 3840:
        yield f"K is {count}"


def reduce_rule(graph: Graph, node: onnx.NodeProto) -> Iterator[str]:
    yield from constant_input(1)(graph, node)
    if graph.opset < 18 and node.op_type != "ReduceSum" and len(node.input) > 1:
        yield "has its axes as an input"


def pair_rule(graph: Graph, node: onnx.NodeProto) -> Iterator[str]:
    zero = graph.constants.get(node.input[2]) if len(node.input) > 2 else None
    if zero is None or zero.any():
        yield "its zero point is not 0"


def one_output(_graph: Graph, node: onnx.NodeProto) -> Iterator[str]:
    if len(node.output) > 1:
        yield "makes more than its first output"


RULES = {
    "AveragePool": pool_rule,
    "MaxPool": pool_rule,
    "Resize": resize_rule,
    "TopK": topk_rule,
    "Slice": constant_input(3),
    "Squeeze": constant_input(1),
    "Unsqueeze": constant_input(1),
    "Pad": constant_input(3),
    "LayerNormalization": one_output,
    "QuantizeLinear": pair_rule,
    "DequantizeLinear": pair_rule,
    "ReduceMax": reduce_rule,
    "ReduceMean": reduce_rule,
    "ReduceMin": reduce_rule,
    "ReduceProd": reduce_rule,
    "ReduceSum": reduce_rule,
}
UNWRITTEN = {"LayerNormalization", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum", "TopK"}
"""Restricted in one version's document: the same is asked of both."""


def edge_recipe():
    """The preset for vehicles at a small size."""
    content = {"preset": "edge", "data": {"root": "unused"}, "model": {"network_hw": list(SIZE_HW)}}
    return parse_recipe(content, [], source="test")


def convolutional_recipe():
    return small_recipe(model=SMALL_CONVOLUTIONS)


@pytest.fixture(
    scope="module",
    params=[(small_recipe, None), (small_recipe, CAMERA_HW), (edge_recipe, None), (convolutional_recipe, None)],
    ids=["letterboxed", "camera", "edge", "convolutional"],
)
def exported(request, tmp_path_factory):
    """Content of a model file of a network with all tasks, in batches of two."""
    make_recipe, camera_hw = request.param
    recipe = make_recipe()
    torch.manual_seed(5)
    net = build_model(recipe.model)
    camera = None if camera_hw is None else CameraFrame(camera_hw, SIZE_HW)
    graph = ModelFileGraph(net, 20, camera=camera).eval()
    manifest = Manifest(
        network_hw=SIZE_HW,
        batch_size=2,
        max_detections=20,
        classes=task_classes(recipe.model),
        score_threshold=0.3,
        preset="small",
        weights_sha256="0" * 64,
        created_by="test",
        camera_hw=camera_hw,
    )
    path = tmp_path_factory.mktemp("operators") / "model.onnx"
    write_onnx(graph, path, manifest)
    size_hw = camera_hw or SIZE_HW
    return path.read_bytes(), [np.random.default_rng(0).integers(0, 256, (2, *size_hw, 3), np.uint8)]


@pytest.mark.slow
@pytest.mark.parametrize("version", ["8.6", "10.1"])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_every_operator_is_documented(exported, version, precision):
    content, batches = exported
    lowered = onnx.load_from_string(lower(content, precision=precision, opset_17=version == "8.6", batches=batches))
    found = list(violations(lowered, version))
    assert not found, "\n" + "\n".join(found)


@pytest.mark.slow
def test_opset_17_says_the_same(exported):
    """What TensorRT 8.6 gets, run by ONNX Runtime operator by operator: what it fuses depends on the opset too."""
    content, (images,) = exported
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    wanted, found = (
        onnxruntime.InferenceSession(each, options, providers=["CPUExecutionProvider"]).run(None, {"images": images})
        for each in (content, lower(content, precision="fp32", opset_17=True))
    )
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.slow
def test_the_graph_is_what_the_test_believes(exported):
    """The test would say nothing of an empty graph."""
    used = {node.op_type for node in onnx.load_from_string(exported[0]).graph.node}
    assert used >= {"Conv", "TopK", "Resize", "Cast", "ReduceMax"}
    assert used >= {"MatMul", "RoiAlign", "LayerNormalization"} or used >= {"MatMul", "GatherElements", "Less"}
    assert not used & {"GridSample", "NonMaxSuppression", "NonZero", "ScatterND", "Loop", "If", "Scan"}


def small(op: str, inputs: dict, output: tuple, *, opset: int = 17, constants: dict | None = None, **given):
    """A model of one node."""
    h = onnx.helper
    constants = constants or {}
    outputs = ["y", "indices"] if op == "TopK" else ["y"]
    graph = h.make_graph(
        [h.make_node(op, [*inputs, *constants], outputs, **given)],
        "small",
        [h.make_tensor_value_info(name, *tensor) for name, tensor in inputs.items()],
        [h.make_tensor_value_info("y", *output)],
        [onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    return h.make_model(graph, opset_imports=[h.make_opsetid("", opset)], ir_version=9)


T = onnx.TensorProto
IMAGE = (T.FLOAT, [1, 2, 4, 4])


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (small("Relu", {"x": IMAGE}, IMAGE, opset=21), "opset 21 is not in"),
        (small("NonZero", {"x": (T.BOOL, [3])}, (T.INT64, [1, 3])), "BOOL is none of FP32"),
        (small("Det", {"x": (T.FLOAT, [2, 2])}, (T.FLOAT, [])), "no operator that it supports"),
        (small("Relu", {"x": (T.FLOAT, ["n", 2])}, (T.FLOAT, ["n", 2])), r"the shape of x is \[None, 2\]"),
        (small("Cast", {"x": (T.INT32, [2])}, (T.UINT8, [2]), to=T.UINT8), "makes the UINT8 y from INT32"),
        (
            small("Reshape", {"x": (T.UINT8, [4])}, (T.UINT8, [2, 2]), constants={"s": np.int64([2, 2])}),
            "UINT8 is none",
        ),
        (small("Identity", {"x": (T.UINT8, [4])}, (T.UINT8, [4])), "reads x, which is UINT8"),
        (small("TopK", {"x": (T.FLOAT, [9])}, (T.FLOAT, [2]), constants={"k": np.int64([2])}, sorted=0), "not sorted"),
        (small("TopK", {"x": (T.FLOAT, [5000])}, (T.FLOAT, [4000]), constants={"k": np.int64([4000])}), "K is"),
        (small("MaxPool", {"x": IMAGE}, (T.FLOAT, [1, 2, 2, 2]), kernel_shape=[2, 2], dilations=[2, 2]), "is dilated"),
        (
            small(
                *("Resize", {"x": IMAGE}, (T.FLOAT, [1, 2, 8, 8])),
                constants={"roi": np.float32([]), "scales": np.float32([1, 1, 2, 2])},
                mode="cubic",
            ),
            "mode is cubic",
        ),
        (small("CumSum", {"x": (T.FLOAT, [4])}, (T.FLOAT, [4]), constants={"a": np.int64(0)}), "does not check"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.parametrize("version", ["8.6", "10.1"])
def test_each_rule_can_fail(model, message, version):
    import re

    found = list(violations(model, version))
    assert any(re.search(message, each) for each in found), found


def test_axes_as_an_input_are_refused_where_8_reads_an_attribute():
    axes = {"axes": np.int64([1])}
    model = small("ReduceMax", {"x": (T.FLOAT, [2, 3])}, (T.FLOAT, [2]), opset=18, constants=axes, keepdims=0)
    assert not list(violations(model, "10.1"))
    assert list(violations(model, "8.6")) == ["opset 18 is not in 7 to 17"]
    assert not list(
        violations(onnx.load_from_string(lower(model.SerializeToString(), precision="fp32", opset_17=True)), "8.6")
    )


@pytest.mark.slow
def test_the_installed_tensorrt_builds_an_engine_that_agrees(exported, tmp_path):
    """The real thing, where there is a GPU. FP32 only: an untrained network's classes are too close for less."""
    pytest.importorskip("tensorrt", reason="tensorrt is not installed")
    if not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")
    from lvad_perception.conversion.optimize import optimize

    model = tmp_path / "model.onnx"
    model.write_bytes(exported[0])
    result = optimize(model, tmp_path / "model.engine", precision="fp32", cache_dir=tmp_path)
    assert result.path.exists()
    assert "CUDA graph" in result.description
