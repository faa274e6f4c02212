"""Folding of BatchNormalization into the weights of the convolution before it.

Export folds all but those after a convolution whose weights several pyramid levels share, each with its own norm.
Runtimes fold too, but neither into INT8 weights nor where an FP32 norm follows a product in FP16.
"""

from collections import Counter
from typing import Any

import numpy as np


def with_norms_folded(model: Any) -> Any:
    """A copy of the model in which each BatchNormalization after a convolution is part of its weights.

    Args:
        model: ``onnx.ModelProto`` in FP32.
    """
    import onnx
    from onnx import helper, numpy_helper

    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    norms = {node.input[0]: node for node in graph.node if node.op_type == "BatchNormalization"}
    read = Counter(name for node in graph.node for name in node.input) + Counter(out.name for out in graph.output)
    for node in list(graph.node):
        norm = norms.get(node.output[0])
        if node.op_type != "Conv" or norm is None or read[node.output[0]] > 1:
            continue
        if not {*node.input[1:], *norm.input[1:]} <= arrays.keys():
            continue
        scale, shift, mean, variance = (arrays[name] for name in norm.input[1:])
        epsilon = next((helper.get_attribute_value(a) for a in norm.attribute if a.name == "epsilon"), 1e-5)
        factor = scale / np.sqrt(variance + epsilon)
        weight, bias = arrays[node.input[1]], arrays[node.input[2]] if len(node.input) > 2 else 0.0
        folded = {
            "weight": weight * factor.reshape(-1, *[1] * (weight.ndim - 1)),
            "bias": (bias - mean) * factor + shift,
        }
        names = {kind: f"{norm.output[0]}.{kind}" for kind in folded}
        for kind, array in folded.items():
            graph.initializer.append(numpy_helper.from_array(np.asarray(array, np.float32), names[kind]))
        node.input[:] = [node.input[0], *names.values()]
        node.output[0] = norm.output[0]
        graph.node.remove(norm)
    del graph.value_info[:]  # some describe tensors that no longer exist
    used = {name for node in graph.node for name in node.input}
    remaining = [tensor for tensor in graph.initializer if tensor.name in used]
    copies = [onnx.TensorProto.FromString(tensor.SerializeToString()) for tensor in remaining]
    del graph.initializer[:]
    graph.initializer.extend(copies)
    return result
