"""Lowering of a model file: an ONNX file in the precision and opset that a TensorRT builder needs.

The precision is written into the file, by casts and by quantisation pairs, instead of being left to a builder's flags.
Every builder then computes the same, and ONNX Runtime measures the loss before an engine is built.
"""

from collections.abc import Sequence
from typing import Final

from lvad_perception.conversion.lowering_half import in_half
from lvad_perception.conversion.lowering_int8 import in_int8
from lvad_perception.conversion.lowering_opset import in_opset_17
from lvad_perception.errors import ConfigError, MissingDependencyError, ModelFileError
from lvad_perception.types import Progress, UInt8

PRECISIONS: Final = ("fp32", "fp16", "int8")


def lower(
    model: bytes,
    *,
    precision: str,
    opset_17: bool = False,
    batches: Sequence[UInt8] = (),
    progress: Progress = lambda share, phase: None,
) -> bytes:
    """Rewrite a model file.

    Args:
        model: the content of an ``.onnx`` model file, in FP32.
        precision: one of ``PRECISIONS``. "int8" means INT8 convolutions in an FP16 model.
        opset_17: convert to opset 17, for TensorRT 8.6; otherwise keep the file's opset.
        batches: calibration images for INT8, uint8 [N, H, W, 3] at the model's input size.
        progress: receives the progress of the calibration.

    Returns:
        The content of an ``.onnx`` file with the same inputs, outputs and metadata.

    Raises:
        ConfigError: INT8 without calibration images.
        ModelFileError: not an ONNX file.
        EngineError: it uses an operator or attribute that opset 17 lacks.
        MissingDependencyError: onnx is not installed.
    """
    try:
        import onnx
    except ImportError as err:
        raise MissingDependencyError("optimize needs onnx to rewrite the model; pip install onnx") from err
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    if precision == "int8" and not batches:
        raise ConfigError("INT8 needs images to measure its scales on; name a folder with --calibration")
    try:
        result = onnx.load_from_string(model)
    except DecodeError as err:
        raise ModelFileError(
            "the model cannot be read as an ONNX file; export it again with lvad-train export"
        ) from err
    if precision == "int8":
        result = in_int8(result, batches, progress=progress)
    if precision != "fp32":
        result = in_half(result)
    if opset_17:
        result = in_opset_17(result)
    onnx.checker.check_model(result, full_check=True)
    return bytes(result.SerializeToString())
