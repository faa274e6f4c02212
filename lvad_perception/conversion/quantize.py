"""Model file -> the same model with INT8 convolutions for CPUs, written only when it agrees with the original."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from lvad_perception.conversion.calibration import folder_images, to_batches
from lvad_perception.conversion.lowering_int8 import in_int8
from lvad_perception.engines import open_engine
from lvad_perception.engines.agreement import TOLERANCES, Agreement, agree, copied
from lvad_perception.engines.base import Engine
from lvad_perception.engines.onnx import PRECISION_KEY
from lvad_perception.errors import ConfigError, EngineError, MissingDependencyError, ModelFileError
from lvad_perception.files import draft
from lvad_perception.types import RawOutputs, UInt8

CALIBRATION_IMAGES: Final = 64
CHECK_IMAGES: Final = 16


@dataclass(frozen=True, slots=True)
class Quantized:
    """What was written.

    Attributes:
        path: the quantised file.
        agreement: with the original, both in ONNX Runtime, on images that took no part in the calibration.
        calibration_images: how many scales were measured on; ``check_images``: how many were compared.
        size_bytes: of the file.
    """

    path: Path
    agreement: Agreement
    calibration_images: int
    check_images: int
    size_bytes: int

    def to_text(self) -> str:
        """Two lines for people."""
        return (
            f"{self.path}: INT8 convolutions, {self.size_bytes / 2**20:.1f} MiB, scales from {self.calibration_images} "
            f"images\n  agrees with the original on {self.check_images} other images: {self.agreement.to_text()}"
        )


def quantize(
    model: Path,
    output: Path,
    images: Path,
    *,
    calibration_images: int = CALIBRATION_IMAGES,
    check_images: int = CHECK_IMAGES,
    progress: Callable[[float, str], None] = lambda share, phase: None,
) -> Quantized:
    """Write a quantised copy of a model file, which ONNX Runtime and OpenVINO run in INT8.

    Args:
        model: an FP32 ``.onnx`` model file.
        output: the ``.onnx`` file to write.
        images: folder of images like those of the vehicle's cameras. Those that scales are measured on and those that
            are compared are different ones, both evenly spread over the sorted names.
        calibration_images: most images to measure scales on.
        check_images: most images to compare on.
        progress: told the share of the calibration that is done.

    Raises:
        EngineError: it differs from the original by more than INT8 may; nothing is written.
        ModelFileError, VocabularyMismatchError: the model file is none.
        ConfigError: impossible counts, fewer than two images, a model that is not FP32, an output that is none.
        DatasetError, ImageError: the folder has no images, or one cannot be decoded.
        MissingDependencyError: onnx is not installed.
    """
    if min(calibration_images, check_images) < 1:
        raise ConfigError("scales need at least 1 image, and so does the comparison; give 1 or more of each")
    if output.suffix != ".onnx" or output.resolve() == model.resolve():
        raise ConfigError(f"{output} cannot be the quantised file; name another one that ends in .onnx")
    reference = open_engine(model)
    try:
        if reference.precision != "fp32":
            raise ConfigError(f"{model} is in {reference.precision} already; give the FP32 file")
        batch_size = reference.manifest.batch_size
        found = folder_images(images, reference.manifest.input_hw, calibration_images + check_images)
        if len(found) < 2:
            raise ConfigError(f"{images} has a single image; scales and comparison need different ones")
        calibration, checked = _split(found, calibration_images, check_images)
        content = _quantised(model, to_batches(calibration, batch_size), progress)
        batches = to_batches(checked, batch_size)
        wanted = _run(reference, batches)
    finally:
        reference.close()
    try:
        with draft(output) as own:
            own.write_bytes(content)
            agreement = _judge(own, output, batches, wanted)
    except OSError as err:
        raise EngineError(f"{output} cannot be written ({err.strerror}); choose a folder with space") from err
    return Quantized(output, agreement, len(calibration), len(checked), len(content))


def _split(found: list[UInt8], calibration: int, check: int) -> tuple[list[UInt8], list[UInt8]]:
    """Images for the scales and, spread between them, for the comparison; at least one of each."""
    count = max(1, min(check, round(len(found) * check / (calibration + check))))
    places = {(2 * place + 1) * len(found) // (2 * count) for place in range(count)}
    chosen = [image for place, image in enumerate(found) if place in places]
    return [image for place, image in enumerate(found) if place not in places], chosen


def _quantised(model: Path, batches: list[UInt8], progress: Callable[[float, str], None]) -> bytes:
    """The content of the quantised file."""
    try:
        import onnx
    except ImportError as err:
        raise MissingDependencyError(
            "quantising rewrites the graph with the library onnx, which inference does not need; pip install onnx"
        ) from err
    result = in_int8(onnx.load(str(model)), batches, progress=progress)
    if not any(node.op_type == "QuantizeLinear" for node in result.graph.node):
        raise ModelFileError(f"{model} has no convolution that could be INT8; use it as it is")
    result.metadata_props.add(key=PRECISION_KEY, value="int8")
    content: bytes = result.SerializeToString()
    return content


def _judge(file: Path, output: Path, batches: list[UInt8], wanted: list[RawOutputs]) -> Agreement:
    engine = open_engine(file)
    try:
        tolerance = TOLERANCES["int8"]
        agreement = agree(_run(engine, batches), wanted, tolerance)
    finally:
        engine.close()
    if not agreement.within(tolerance):
        raise EngineError(
            f"{output}: not written, since it differs from the original on images: {agreement.to_text()}, where INT8 "
            f"may differ by {tolerance.boxes_px:g} px, {tolerance.scores:g} in scores and {1 - tolerance.masks:.0%} of "
            "mask pixels; give more images like those of the cameras, or use bf16"
        )
    return agreement


def _run(engine: Engine, batches: list[UInt8]) -> list[RawOutputs]:
    return [copied(engine.infer(batch)) for batch in batches]
