"""An ONNX model whose convolutions are INT8, with scales measured on images and written into the file itself.

A QuantizeLinear and a DequantizeLinear stand before each convolution, on its input and on its weights. TensorRT reads
such pairs in all versions from 8.6 to 11, while its own calibrators are gone in 11; and what the scales do to the
outputs is known before any build, since ONNX Runtime runs the same file.
"""

import os
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np

from lvad_perception.engines.lowering_half import deciding_products
from lvad_perception.engines.onnx import create_session
from lvad_perception.manifest import INPUT_NAME
from lvad_perception.types import Float32, UInt8

_LEVELS: Final = 127
_KEPT_PERCENT: Final = 99.99
"""Of an input's values; the few beyond are clipped, so that the others get finer steps."""
_LEAST_RANGE: Final = 1e-6
"""A channel of zeros has a scale too."""


def in_int8(model: Any, batches: Sequence[UInt8], *, progress: Callable[[float, str], None]) -> Any:
    """A copy of the model with INT8 convolutions; the first, which sees pixels, and those that make outputs stay FP32.

    Args:
        model: ``onnx.ModelProto`` in FP32.
        batches: images at the model's input size, uint8 [N, H, W, 3] each, at least one.
        progress: told the share of the batches that was run.
    """
    import onnx
    from onnx import numpy_helper

    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    kept = deciding_products(graph)
    convolutions = [index for index, node in enumerate(graph.node) if node.op_type == "Conv"]
    chosen = [index for index in convolutions[1:] if index not in kept and graph.node[index].input[1] in weights]
    ranges = measure_ranges(model, sorted({graph.node[index].input[0] for index in chosen}), batches, progress)
    nodes, made = [], set()
    for index, node in enumerate(graph.node):
        if index in chosen:
            data, weight = node.input[:2]
            array = numpy_helper.to_array(weights[weight])
            channels = np.abs(array).reshape(len(array), -1).max(axis=1)  # one scale per output channel
            for place, name, most in ((0, data, np.float32(ranges[data])), (1, weight, channels.astype(np.float32))):
                if name not in made:
                    made.add(name)
                    pair, constants = _pair(name, most)
                    nodes += pair
                    graph.initializer.extend(constants)
                node.input[place] = f"{name}.dequantised"
        nodes.append(node)
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:], graph.value_info[:]
    graph.node.extend(copies)
    return result


def measure_ranges(
    model: Any, names: Sequence[str], batches: Sequence[UInt8], progress: Callable[[float, str], None]
) -> dict[str, float]:
    """Run the model on images -> for each tensor the magnitude that ``_KEPT_PERCENT`` of an image's values keep to.

    Of several batches the largest counts. One batch is in memory at a time.
    """
    import onnx

    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    known = {value.name for value in watched.graph.output}
    watched.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in known)
    session = create_session(watched.SerializeToString(), threads=os.cpu_count() or 1)
    ranges = dict.fromkeys(names, 0.0)
    if not names:
        return ranges
    for index, batch in enumerate(batches):
        for name, array in zip(names, session.run(list(names), {INPUT_NAME: batch}), strict=True):
            ranges[name] = max(ranges[name], float(np.percentile(np.abs(array), _KEPT_PERCENT)))
        progress((index + 1) / len(batches), "calibration")
    return ranges


def _pair(name: str, most: Float32 | np.float32) -> tuple[list[Any], list[Any]]:
    """The two nodes and their constants; per channel of axis 0 where ``most`` is an array."""
    from onnx import helper, numpy_helper

    scale = np.maximum(most, _LEAST_RANGE).astype(np.float32) / np.float32(_LEVELS)
    constants = [
        numpy_helper.from_array(scale, f"{name}.scale"),
        numpy_helper.from_array(np.zeros(scale.shape, np.int8), f"{name}.zero"),
    ]
    parameters = [f"{name}.scale", f"{name}.zero"]
    axis: dict[str, Any] = {"axis": 0} if scale.ndim else {}
    quantised, dequantised = f"{name}.quantised", f"{name}.dequantised"
    nodes = [
        helper.make_node("QuantizeLinear", [name, *parameters], [quantised], name=f"quantise {name}", **axis),
        helper.make_node(
            "DequantizeLinear", [quantised, *parameters], [dequantised], name=f"dequantise {name}", **axis
        ),
    ]
    return nodes, constants
