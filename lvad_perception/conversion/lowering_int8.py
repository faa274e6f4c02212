"""INT8 convolutions in an ONNX model, with scales that are measured on images and written into the file.

A pair of QuantizeLinear and DequantizeLinear precedes each convolution, on its input and on its weights. TensorRT reads
such pairs in all versions from 8.6 to 11, while its own calibrators were removed in 11. ONNX Runtime runs the same
file, so that the effect of the scales on the outputs is known before a build.
"""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from lvad_perception.conversion.lowering_half import output_products
from lvad_perception.conversion.lowering_norms import with_norms_folded
from lvad_perception.engines.onnx import create_session
from lvad_perception.machine import usable_cores
from lvad_perception.manifest import INPUT_NAME
from lvad_perception.types import Float32, Progress, UInt8

_LEAST_CHANNELS: Final = 32
"""Minimum input channels of an INT8 convolution: integer kernels take 32 channels at a time, and the stem, which has
fewer, cost more accuracy in INT8 than all other layers together."""
_LEVELS: Final = 127
_BINS: Final = 2048
_LEAST_SHARE: Final = 0.2
"""Smallest candidate for the range, as a share of the largest magnitude; the largest candidate is 1."""
_CANDIDATES: Final = 81
_LEAST_RANGE: Final = 1e-6
"""Lower bound of a range, so that the scale of a channel of zeros is not 0."""


def in_int8(model: Any, batches: Sequence[UInt8], *, progress: Progress) -> Any:
    """A copy of the model with INT8 convolutions; narrow ones and the last ones before the outputs stay FP32.

    Args:
        model: ``onnx.ModelProto`` in FP32.
        batches: images at the model's input size, uint8 [N, H, W, 3] each, at least one.
        progress: receives the progress of the measurement.
    """
    import onnx
    from onnx import numpy_helper

    result = with_norms_folded(model)
    graph = result.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    last = output_products(graph)
    chosen = [
        index
        for index, node in enumerate(graph.node)
        if node.op_type == "Conv"
        and index not in last
        and node.input[1] in weights
        and _input_channels(node, weights[node.input[1]]) >= _LEAST_CHANNELS
    ]
    ranges = measure_ranges(result, sorted({graph.node[index].input[0] for index in chosen}), batches, progress)
    nodes, made = [], set()
    for index, node in enumerate(graph.node):
        if index in chosen:
            data, weight = node.input[:2]
            array = numpy_helper.to_array(weights[weight])
            channels = np.abs(array).reshape(len(array), -1).max(axis=1)  # one scale per output channel
            operands = ((data, np.array(ranges[data], np.float32)), (weight, channels.astype(np.float32)))
            for position, (name, maximum) in enumerate(operands):
                if name not in made:
                    made.add(name)
                    pair, constants = _pair(name, maximum)
                    nodes += pair
                    graph.initializer.extend(constants)
                node.input[position] = f"{name}.dequantised"
        nodes.append(node)
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:], graph.value_info[:]
    graph.node.extend(copies)
    return result


def measure_ranges(model: Any, names: Sequence[str], batches: Sequence[UInt8], progress: Progress) -> dict[str, float]:
    """Run the model on images and find for each tensor the magnitude at which to clip its values.

    A smaller range clips more values, a larger one has coarser steps for all of them; the range with the least mean
    squared error over all images is chosen. The images run twice, first for the largest magnitudes, then for the
    histograms, so that one batch at a time is in memory.
    """
    import onnx

    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    known = {value.name for value in watched.graph.output}
    watched.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in known)
    session = create_session(watched.SerializeToString(), threads=usable_cores())
    maxima = dict.fromkeys(names, 0.0)
    counts = {name: np.zeros(_BINS) for name in names}
    for index, batch in enumerate([*batches, *batches] if names else ()):
        for name, array in zip(names, session.run(list(names), {INPUT_NAME: batch}), strict=True):
            if index < len(batches):
                maxima[name] = max(maxima[name], float(np.abs(array).max()))
            else:
                counts[name] += np.histogram(np.abs(array), _BINS, (0, max(maxima[name], _LEAST_RANGE)))[0]
        progress((index + 1) / (2 * len(batches)), "calibration")
    return {name: best_range(counts[name], max(maxima[name], _LEAST_RANGE)) for name in names}


def best_range(counts: npt.NDArray[np.float64], maximum: float) -> float:
    """The range, in (0, maximum], with the least mean squared error of values rounded to 127 steps of either sign.

    Args:
        counts: histogram of magnitudes over equal bins of [0, maximum], float64 [bins].
        maximum: the largest magnitude.
    """
    counts = counts.copy()
    counts[0] = 0  # zeros, half of the values after a ReLU, are exact in any range
    centres = (np.arange(len(counts)) + 0.5) / len(counts) * maximum
    ranges = np.linspace(_LEAST_SHARE, 1, _CANDIDATES) * maximum
    rounding = (ranges / _LEVELS) ** 2 / 12  # variance within a step
    clipped = np.maximum(centres[:, None] - ranges, 0) ** 2  # (bins, candidates)
    errors = counts @ np.where(centres[:, None] <= ranges, rounding, clipped)
    return float(ranges[errors.argmin()]) if counts.any() else maximum


def _input_channels(node: Any, weight: Any) -> int:
    groups = next((each.i for each in node.attribute if each.name == "group"), 1)
    return int(weight.dims[1] * groups)


def _pair(name: str, maximum: Float32 | np.float32) -> tuple[list[Any], list[Any]]:
    """QuantizeLinear, DequantizeLinear and their constants; per channel of axis 0 where ``maximum`` is an array."""
    from onnx import helper, numpy_helper

    scale = np.maximum(maximum, _LEAST_RANGE).astype(np.float32) / np.float32(_LEVELS)
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
