"""INT8 for CPUs: a copy of a model file with quantised convolutions, written only when it agrees with the original."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from lvad_perception.conversion.calibration import folder_images, to_batches
from lvad_perception.conversion.comparison import compare_on, open_original
from lvad_perception.conversion.lowering_int8 import in_int8
from lvad_perception.engines import open_engine
from lvad_perception.engines.agreement import Agreement
from lvad_perception.engines.failures import write_failures
from lvad_perception.engines.onnx import PRECISION_KEY
from lvad_perception.errors import ConfigError, MissingDependencyError, ModelFileError
from lvad_perception.files import draft
from lvad_perception.types import Progress, UInt8

CALIBRATION_IMAGES: Final = 64
CHECK_IMAGES: Final = 16


@dataclass(frozen=True, slots=True)
class Quantized:
    """The result of ``quantize``.

    Attributes:
        path: the quantised file.
        agreement: with the original, both in ONNX Runtime, on images that were not used for the calibration.
        calibration_images: number of images for the calibration; ``check_images``: for the comparison.
        size_bytes: of the file.
    """

    path: Path
    agreement: Agreement
    calibration_images: int
    check_images: int
    size_bytes: int

    def to_text(self) -> str:
        """Two lines for a terminal."""
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
    progress: Progress = lambda share, phase: None,
) -> Quantized:
    """Write a quantised copy of a model file, which ONNX Runtime and OpenVINO run in INT8.

    Args:
        model: an FP32 ``.onnx`` model file.
        output: the ``.onnx`` file to write.
        images: folder of images like those of the vehicle's cameras. Different ones are used for the calibration and
            for the comparison, both evenly spread over the sorted names.
        calibration_images: maximum number of images for the calibration.
        check_images: maximum number of images for the comparison.
        progress: receives the progress of the calibration.

    Raises:
        EngineError: the quantised model differs from the original by more than the tolerance of INT8; nothing is
            written.
        ModelFileError, VocabularyMismatchError: ``model`` is no model file.
        ConfigError: impossible counts, fewer than two images, a model that is not FP32, an impossible output.
        DatasetError, ImageError: the folder has no images, or one cannot be decoded.
        MissingDependencyError: onnx is not installed.
    """
    if min(calibration_images, check_images) < 1:
        raise ConfigError("scales need at least 1 image, and so does the comparison; give 1 or more of each")
    if output.suffix != ".onnx" or output.resolve() == model.resolve():
        raise ConfigError(f"{output} cannot be the quantised file; name another one that ends in .onnx")
    with open_original(model) as original:
        manifest = original.manifest
        loaded = folder_images(images, manifest.input_hw, calibration_images + check_images)
        if len(loaded) < 2:
            raise ConfigError(f"{images} has a single image; scales and comparison need different ones")
        calibration, checked = _split(loaded, calibration_images, check_images)
        content = _quantised(model, to_batches(calibration, manifest.batch_size), progress)
        comparison = compare_on(original, checked, f"{len(checked)} images of {images}")
    with write_failures(output), draft(output) as own:
        own.write_bytes(content)
        agreement = comparison.check(
            open_engine(own),
            "int8",
            name="the quantised model",
            output=output,
            remedy="give more images like those of the cameras, or use bf16",
        )
    return Quantized(output, agreement, len(calibration), len(checked), len(content))


def _split(images: list[UInt8], calibration: int, check: int) -> tuple[list[UInt8], list[UInt8]]:
    """Images for the calibration and, spread between them, for the comparison; at least one of each."""
    count = max(1, min(check, round(len(images) * check / (calibration + check))))
    chosen = {(2 * index + 1) * len(images) // (2 * count) for index in range(count)}
    checked = [image for index, image in enumerate(images) if index in chosen]
    return [image for index, image in enumerate(images) if index not in chosen], checked


def _quantised(model: Path, batches: list[UInt8], progress: Progress) -> bytes:
    """Content of the quantised file."""
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
