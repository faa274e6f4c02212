"""Conversion of an ONNX model to opset 17, the newest that TensorRT 8.6 documents.

Its parser does not refuse opset 18: it looks for the axes of ReduceMax, ReduceMean and their like in an attribute,
while opset 18 has them in an input, and so it silently reduces over all axes. ONNX's own version converter cannot
convert Split from 18 to 17.
"""

from collections.abc import Callable
from typing import Any, Final

from lvad_perception.errors import EngineError

OPSET: Final = 17
IR_VERSION: Final = 8
"""IR version of the ONNX release that introduced this opset."""
_REMEDY: Final = f"update TensorRT to 10 or newer, since 8.6 reads no opset above {OPSET}"


def in_opset_17(model: Any) -> Any:
    """The model in opset 17; the same object if it is in opset 17 or older.

    Raises:
        EngineError: it uses an operator or attribute that opset 17 lacks.
    """
    import onnx

    (current,) = (each.version for each in model.opset_import if each.domain in ("", "ai.onnx"))
    if current <= OPSET:
        return model
    result = onnx.ModelProto()
    result.CopyFrom(model)
    constants = {tensor.name: tensor for tensor in result.graph.initializer}
    for node in result.graph.node:
        # Operators that were not changed after 17 are the same in both.
        if onnx.defs.get_schema(node.op_type, current).since_version > OPSET:
            _REWRITES.get(node.op_type, _refuse)(node, constants)
    for each in result.opset_import:
        if each.domain in ("", "ai.onnx"):
            each.version = OPSET
    result.ir_version = min(model.ir_version, IR_VERSION)
    return result


def _reduce(node: Any, constants: dict[str, Any]) -> None:
    """Move the axes from an input to an attribute."""
    import onnx

    _drop(node, "noop_with_empty_axes", 0)
    if len(node.input) > 1 and node.input[1]:
        if node.input[1] not in constants:
            raise EngineError(f"{node.op_type} -> {node.output[0]} computes its axes; {_REMEDY}")
        axes = onnx.numpy_helper.to_array(constants[node.input[1]]).tolist()
        node.attribute.append(onnx.helper.make_attribute("axes", axes))
    del node.input[1:]


def _split(node: Any, _constants: dict[str, Any]) -> None:
    """Drop the number of parts: opset 17 always splits into as many equal parts as there are outputs."""
    for attribute in [each for each in node.attribute if each.name == "num_outputs"]:
        node.attribute.remove(attribute)


def _resize(node: Any, _constants: dict[str, Any]) -> None:
    _drop(node, "antialias", 0)
    _drop(node, "keep_aspect_ratio_policy", b"stretch")
    if any(each.name == "axes" for each in node.attribute):
        _refuse(node, {})


def _pad(node: Any, _constants: dict[str, Any]) -> None:
    if len(node.input) > 3:
        _refuse(node, {})


def _scatter(node: Any, _constants: dict[str, Any]) -> None:
    if any(each.name == "reduction" and each.s in (b"max", b"min") for each in node.attribute):
        _refuse(node, {})


def _drop(node: Any, name: str, default: int | bytes) -> None:
    """Remove an attribute that opset 17 lacks, if its value is opset 17's behaviour."""
    import onnx

    for attribute in [each for each in node.attribute if each.name == name]:
        if onnx.helper.get_attribute_value(attribute) != default:
            _refuse(node, {})
        node.attribute.remove(attribute)


def _refuse(node: Any, _constants: dict[str, Any]) -> None:
    raise EngineError(f"{node.op_type} -> {node.output[0]} cannot be written in opset {OPSET}; {_REMEDY}")


_REDUCTIONS: Final = ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "SumSquare")
_REWRITES: Final[dict[str, Callable[[Any, dict[str, Any]], None]]] = {
    **{f"Reduce{name}": _reduce for name in _REDUCTIONS},
    "Pad": _pad,
    "Resize": _resize,
    "ScatterElements": _scatter,
    "ScatterND": _scatter,
    "Split": _split,
}
"""Rewrites of the operators that opset 18 changed, where opset 17 has an equivalent."""
