"""Operations and memory traffic of an ONNX graph, counted from its static shapes."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lvad_perception.errors import MissingDependencyError, ModelFileError

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class GraphCost:
    """Cost of the convolutions and matrix products of one run; all other operators are assumed to be fused into them.

    Attributes:
        flop: floating-point operations, 2 per multiply-add.
        elements: elements of inputs, weights and outputs, counted for each product that reads or writes them.
        weights: elements of the graph's constants.
        by_operator: operator -> its part of ``flop``.
    """

    flop: int
    elements: int
    weights: int
    by_operator: dict[str, int]


def graph_cost(path: Path) -> GraphCost:
    """Count the cost of a model file.

    Raises:
        MissingDependencyError: the library onnx is not installed.
        ModelFileError: it cannot be read, or a product has a dimension that is not fixed.
    """
    try:
        import onnx
        from onnx import inliner, shape_inference
    except ImportError as err:
        raise MissingDependencyError(
            "counting a graph needs the library onnx, which inference does not; pip install onnx"
        ) from err
    try:
        model = onnx.load(str(path))
        if model.functions:
            model = inliner.inline_local_functions(model)
        model = shape_inference.infer_shapes(model, data_prop=True)
    except Exception as err:  # of protobuf and of onnx, without a common base
        raise ModelFileError(f"{path} cannot be read as an ONNX model ({err}); export it again") from err
    shapes = _shapes(model.graph)
    flop: Counter[str] = Counter()
    elements = 0
    for node in model.graph.node:
        if node.op_type in _COUNTS:
            try:
                tensors = [shapes[name] for name in (*node.input, *node.output) if name]
                flop[node.op_type] += _COUNTS[node.op_type](
                    node, [shapes[name] for name in node.input if name], shapes[node.output[0]]
                )
            except KeyError as err:
                raise ModelFileError(
                    f"{path}: the size of {err} is not fixed, so {node.op_type} cannot be counted; "
                    "export the model with static shapes"
                ) from err
            elements += sum(map(math.prod, tensors))
    weights = sum(math.prod(constant.dims) for constant in model.graph.initializer)
    return GraphCost(sum(flop.values()), elements, weights, dict(flop.most_common()))


def _shapes(graph: Any) -> dict[str, Shape]:
    """Name -> shape of every tensor with static shape."""
    shapes = {constant.name: tuple(constant.dims) for constant in graph.initializer}
    for info in (*graph.input, *graph.value_info, *graph.output):
        dims = info.type.tensor_type.shape.dim
        if info.type.tensor_type.HasField("shape") and all(dim.HasField("dim_value") for dim in dims):
            shapes[info.name] = tuple(dim.dim_value for dim in dims)
    for node in graph.node:
        if node.op_type == "Constant":
            shapes.update((node.output[0], tuple(item.t.dims)) for item in node.attribute if item.name == "value")
    return shapes


def _attribute(node: Any, name: str, default: Any) -> Any:
    from onnx import helper

    return next((helper.get_attribute_value(item) for item in node.attribute if item.name == name), default)


def _convolution(_node: Any, inputs: Sequence[Shape], output: Shape) -> int:
    return 2 * math.prod(output) * math.prod(inputs[1][1:])  # weights (Cout, Cin / groups, kernel)


def _transposed_convolution(_node: Any, inputs: Sequence[Shape], _output: Shape) -> int:
    return 2 * math.prod(inputs[0]) * math.prod(inputs[1][1:])  # weights (Cin, Cout / groups, kernel)


def _product(_node: Any, inputs: Sequence[Shape], output: Shape) -> int:
    return 2 * math.prod(output) * inputs[0][-1]


def _gemm(node: Any, inputs: Sequence[Shape], output: Shape) -> int:
    return 2 * math.prod(output) * inputs[0][0 if _attribute(node, "transA", 0) else 1]


def _einsum(node: Any, inputs: Sequence[Shape], _output: Shape) -> int:
    """Every label of the equation is a loop, with one multiply-add per operand beyond the first."""
    terms = _attribute(node, "equation", b"").decode().replace(" ", "").partition("->")[0].split(",")
    sizes: dict[str, int] = {}
    for term, shape in zip(terms, inputs, strict=True):
        sizes.update(zip(term, shape, strict=True))
    return 2 * (len(inputs) - 1) * math.prod(sizes.values())


_COUNTS = {
    "Conv": _convolution,
    "ConvTranspose": _transposed_convolution,
    "MatMul": _product,
    "Gemm": _gemm,
    "Einsum": _einsum,
}
