"""An engine of one's own: ONNX's reference evaluator, which is slow and leaves no doubt what a file means.

Useful where two runtimes disagree and somebody has to be right.
"""

from pathlib import Path

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator

from lvad_perception.engines.base import Finished
from lvad_perception.errors import EngineError, ModelFileError
from lvad_perception.manifest import INPUT_NAME, MANIFEST_KEY, Manifest
from lvad_perception.types import RawOutputs, UInt8


# --8<-- [start:engine]
class ReferenceEngine:
    """An ``.onnx`` model file in ONNX's reference evaluator; meets ``engines.base.Engine``."""

    precision = "fp32"
    device_memory_bytes = None  # it works in the memory of the process

    def __init__(self, path: Path) -> None:
        """Load a model file.

        Raises:
            ModelFileError: not ONNX, or without manifest.
            VocabularyMismatchError: the model was trained on other classes.
        """
        try:
            model = onnx.load(str(path))
        except Exception as err:  # protobuf's errors have no public class
            raise ModelFileError(f"{path} is no ONNX file; write one with lvad-train export") from err
        metadata = {item.key: item.value for item in model.metadata_props}
        if MANIFEST_KEY not in metadata:
            raise ModelFileError(f"{path} carries no {MANIFEST_KEY}; write one with lvad-train export")
        self.manifest = Manifest.from_json(metadata[MANIFEST_KEY], source=str(path))
        self.description = f"ONNX {onnx.__version__} reference evaluator, FP32"
        self._evaluator: ReferenceEvaluator | None = ReferenceEvaluator(model)

    def infer(self, images: UInt8) -> RawOutputs:
        """Run the model on uint8 [N, H, W, 3], RGB, of the manifest's shape.

        Raises:
            EngineError: an operator failed, or the engine is closed.
        """
        if self._evaluator is None:
            raise EngineError("the engine is closed; open the model file again")
        names = self.manifest.output_names
        try:
            arrays = self._evaluator.run(list(names), {INPUT_NAME: images})
        except Exception as err:  # whatever an operator's numpy code raises
            raise EngineError(f"the reference evaluator failed ({err}); try ONNX Runtime on the same file") from err
        outputs: dict[str, np.ndarray | None] = dict.fromkeys(RawOutputs.__dataclass_fields__)
        return RawOutputs(**{**outputs, **dict(zip(names, arrays, strict=True))})

    def begin(self, images: UInt8) -> Finished[RawOutputs]:
        """The same for callers that fetch the result later; numpy computes in line, so it is there at once."""
        return Finished(self.infer(images))

    def close(self) -> None:
        """Free the model; calling it again does nothing."""
        self._evaluator = None


# --8<-- [end:engine]


# --8<-- [start:check]
def check(path: Path, images: UInt8) -> str:
    """How far the reference evaluator is from ONNX Runtime on a batch of letterboxed images.

    Args:
        path: a model file.
        images: uint8 [N, H, W, 3], RGB, as the manifest's ``input_hw``.
    """
    from lvad_perception.engines import open_engine
    from lvad_perception.engines.agreement import TOLERANCES, agree

    tolerance = TOLERANCES["fp32"]
    outputs = [engine.infer(images) for engine in (ReferenceEngine(path), open_engine(path))]
    agreement = agree([outputs[0]], [outputs[1]], tolerance)
    return f"{'agrees' if agreement.within(tolerance) else 'DISAGREES'}: {agreement.to_text()}"


# --8<-- [end:check]


# --8<-- [start:replay]
def replay_bag(model: Path, bag: Path, output: Path) -> None:
    """Replay a bag through the engine: from here on nothing knows which runtime it is."""
    from lvad_perception.bags.replay import replay
    from lvad_perception.perceiver import Perceiver

    with Perceiver(ReferenceEngine(model), score_threshold=0.0) as perceiver:
        replay(bag, perceiver, output)


# --8<-- [end:replay]
