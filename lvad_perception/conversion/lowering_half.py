"""FP16 in an ONNX model, by casts in the file itself, so that every builder computes the same.

Products (convolutions and matrix products) become FP16, and so do the operators that only move, add or clip their
results. The rest stays FP32: norms, softmax, sampling, and all arithmetic of boxes, since FP16 has a resolution of one
pixel beyond 1024. The last product before each output stays FP32 too: its rounding would go straight into a box, and it
costs little.
"""

from collections.abc import Iterator
from typing import Any, Final

import numpy as np

from lvad_perception.conversion.lowering_norms import with_norms_folded

_PRODUCTS: Final = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
_FOLLOWERS: Final = frozenset(
    {"Add", "AveragePool", "Clip", "Concat", "Expand", "Flatten", "GlobalAveragePool", "HardSigmoid", "HardSwish"}
    | {"Identity", "LeakyRelu", "MaxPool", "Mul", "Relu", "Reshape", "Resize", "Sigmoid", "Slice", "Split", "Squeeze"}
    | {"Transpose", "Unsqueeze"}
)
"""Operators in FP16 when all their computed inputs are."""
_SHAPE_INPUTS: Final = {"Resize": frozenset({1, 2})}
"""Float inputs that are no data: the region and the scales of Resize, which ONNX requires in FP32."""


def in_half(model: Any) -> Any:
    """A copy of the model in FP16 where that is safe; its inputs and outputs keep their types.

    Args:
        model: ``onnx.ModelProto`` without subgraphs; convolutions that read a DequantizeLinear stay as they are.
    """
    import onnx

    model = with_norms_folded(model)
    typed = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    result = onnx.ModelProto()
    result.CopyFrom(model)
    del result.graph.node[:], result.graph.value_info[:], result.graph.initializer[:]
    result.graph.node.extend(_Rewriter(typed).nodes())
    used = {name for node in result.graph.node for name in node.input}
    for tensor in model.graph.initializer:
        if tensor.name in used:
            result.graph.initializer.append(tensor)
        if tensor.name + _HALF in used:
            result.graph.initializer.append(_half_constant(tensor))
    return result


_HALF: Final = ".half"
_FLOAT: Final = ".float"


class _Rewriter:
    """Walks the nodes in order and decides the type of each; casts each tensor at most once."""

    def __init__(self, model: Any) -> None:
        from onnx import TensorProto, numpy_helper

        self.graph = model.graph
        self.outputs = {value.name for value in self.graph.output}
        self.constants = {tensor.name: tensor for tensor in self.graph.initializer}
        infos = [*self.graph.input, *self.graph.value_info, *self.graph.output]
        self.floats = {info.name for info in infos if info.type.tensor_type.elem_type == TensorProto.FLOAT}
        self.floats |= {name for name, tensor in self.constants.items() if tensor.data_type == TensorProto.FLOAT}
        maximum = float(np.finfo(np.float16).max)
        self.fitting = {
            name
            for name in self.constants.keys() & self.floats
            if np.abs(numpy_helper.to_array(self.constants[name])).max(initial=0) <= maximum
        }
        self.half: set[str] = set()
        self.casts: set[str] = set()
        self.dequantised = {
            name for node in self.graph.node if node.op_type == "DequantizeLinear" for name in node.output
        }
        self.last_products = output_products(self.graph)

    def nodes(self) -> Iterator[Any]:
        """The rewritten nodes, in order."""
        import onnx

        for index, node in enumerate(self.graph.node):
            changed = onnx.NodeProto()
            changed.CopyFrom(node)
            becomes_half = self._becomes_half(node, index)
            for position, name in enumerate(node.input):
                if name not in self.floats or position in _SHAPE_INPUTS.get(node.op_type, ()):
                    continue
                if becomes_half and name not in self.half:
                    if name not in self.constants:
                        yield from self._cast(name, name + _HALF, onnx.TensorProto.FLOAT16)
                    changed.input[position] = name + _HALF
                elif not becomes_half and name in self.half:
                    yield from self._cast(name, name + _FLOAT, onnx.TensorProto.FLOAT)
                    changed.input[position] = name + _FLOAT
            yield from self._keep_output_types(changed, node, becomes_half)

    def _keep_output_types(self, changed: Any, node: Any, becomes_half: bool) -> Iterator[Any]:
        """The node, followed by casts of those of its outputs that are outputs of the graph, back to FP32."""
        import onnx

        casts = []
        for position, name in enumerate(node.output):
            if becomes_half and name in self.floats:
                self.half.add(name)
                if name in self.outputs:
                    changed.output[position] = name + _HALF
                    casts.append(onnx.helper.make_node("Cast", [name + _HALF], [name], to=onnx.TensorProto.FLOAT))
        yield changed
        yield from casts

    def _becomes_half(self, node: Any, index: int) -> bool:
        data = [
            name
            for position, name in enumerate(node.input)
            if name in self.floats and position not in _SHAPE_INPUTS.get(node.op_type, ())
        ]
        computed = [name for name in data if name not in self.constants]
        if not computed or any(name in self.constants and name not in self.fitting for name in data):
            return False
        if node.op_type in _PRODUCTS:
            return index not in self.last_products and not self.dequantised.intersection(data)
        return node.op_type in _FOLLOWERS and all(name in self.half for name in computed)

    def _cast(self, name: str, target: str, dtype: int) -> Iterator[Any]:
        import onnx

        if target not in self.casts:
            self.casts.add(target)
            yield onnx.helper.make_node("Cast", [name], [target], name=f"cast {target}", to=dtype)


def output_products(graph: Any) -> set[int]:
    """Indices of the products with no other product between them and an output."""
    producers = {name: index for index, node in enumerate(graph.node) for name in node.output}
    waiting = [value.name for value in graph.output]
    seen: set[str] = set()
    products: set[int] = set()
    while waiting:
        name = waiting.pop()
        if name in seen or name not in producers:
            continue
        seen.add(name)
        node = graph.node[producers[name]]
        if node.op_type in _PRODUCTS:
            products.add(producers[name])
        else:
            waiting.extend(node.input)
    return products


def _half_constant(tensor: Any) -> Any:
    from onnx import numpy_helper

    return numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name + _HALF)
