"""The check of a converted model: its outputs on images against those of the original in ONNX Runtime."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lvad_perception.conversion.calibration import to_batches
from lvad_perception.engines import open_engine
from lvad_perception.engines.agreement import TOLERANCES, Agreement, agree, infer_all
from lvad_perception.engines.base import Engine
from lvad_perception.errors import ConfigError, EngineError
from lvad_perception.types import RawOutputs, UInt8


@dataclass(frozen=True, slots=True)
class Comparison:
    """Images, and the outputs of the original model on them.

    Attributes:
        batches: images, uint8 [N, H, W, 3] each.
        reference: the original's outputs on each batch, in FP32 in ONNX Runtime.
        images: their number and origin, such as "8 images of DIR".
    """

    batches: Sequence[UInt8]
    reference: Sequence[RawOutputs]
    images: str

    def check(self, engine: Engine, precision: str, *, name: str, output: Path, remedy: str) -> Agreement:
        """Run the converted model and close it.

        Args:
            engine: the converted model.
            precision: key of ``TOLERANCES``.
            name: of the converted model, for the message; ``output``: the file to be written; ``remedy``: likewise.

        Raises:
            EngineError: its outputs differ by more than the tolerance of the precision.
        """
        try:
            outputs = infer_all(engine, self.batches)
        finally:
            engine.close()
        tolerance = TOLERANCES[precision]
        agreement = agree(outputs, self.reference, tolerance)
        if not agreement.within(tolerance):
            raise EngineError(
                f"{output}: not written, since {name} disagrees with ONNX Runtime in FP32 on {self.images}: "
                f"{agreement.to_text()}, where {precision.upper()} may differ by {tolerance.boxes_px:g} px, "
                f"{tolerance.scores:g} in scores and {1 - tolerance.masks:.2%} of mask pixels; {remedy}"
            )
        return agreement


@contextmanager
def open_original(model: Path) -> Iterator[Engine]:
    """The model file to be converted, in ONNX Runtime; closed when the block ends.

    Raises:
        ConfigError: it is not in FP32.
        ModelFileError, VocabularyMismatchError: it is no model file.
    """
    engine = open_engine(model)
    try:
        if engine.precision != "fp32":
            raise ConfigError(f"{model} is in {engine.precision} already; give the FP32 file that was exported")
        yield engine
    finally:
        engine.close()


def compare_on(original: Engine, images: Sequence[UInt8], source: str) -> Comparison:
    """Run the original on images, uint8 [H, W, 3] each at its input size; ``source`` names them in messages."""
    batches = to_batches(images, original.manifest.batch_size)
    return Comparison(batches, infer_all(original, batches), source)
