"""ONNX's reference evaluator as an engine: slow numpy code that defines the meaning of a file.

Useful as the arbiter where two runtimes disagree.
"""

from pathlib import Path
from typing import Any

import onnx
from onnx.reference import ReferenceEvaluator

from lvad_perception.engines.base import Engine, Pending
from lvad_perception.errors import EngineError, ModelFileError
from lvad_perception.manifest import INPUT_NAME, MANIFEST_KEY, Manifest
from lvad_perception.types import UInt8


# --8<-- [start:engine]
class ReferenceEngine(Engine):
    """An ``.onnx`` model file in ONNX's reference evaluator."""

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
        self._evaluator: ReferenceEvaluator | None = ReferenceEvaluator(model)
        super().__init__(
            manifest=Manifest.from_json(metadata[MANIFEST_KEY], source=str(path)),
            description=f"ONNX {onnx.__version__} reference evaluator, FP32",
            precision="fp32",
        )

    def _submit(self, slot: int, images: UInt8) -> Pending[list[Any]]:
        """Numpy computes here, so the result is finished when this returns; its arrays are new ones in every call."""
        assert self._evaluator is not None
        try:
            arrays = self._evaluator.run(list(self.manifest.output_names), {INPUT_NAME: images})
        except Exception as err:  # an operator's numpy code may raise anything
            raise EngineError(f"the reference evaluator failed ({err}); try ONNX Runtime on the same file") from err
        return Pending.finished(arrays)

    def _close(self) -> None:
        self._evaluator = None


# --8<-- [end:engine]


# --8<-- [start:check]
def check(path: Path, images: UInt8) -> str:
    """Compare the reference evaluator with ONNX Runtime on a batch of letterboxed images.

    Args:
        path: a model file.
        images: uint8 [N, H, W, 3], RGB, H x W the manifest's ``input_hw``.
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
    """Replay a bag with the engine; the perceiver takes any of them."""
    from lvad_perception.bags.replay import replay
    from lvad_perception.perceiver import Perceiver

    with Perceiver(ReferenceEngine(model), score_threshold=0.0) as perceiver:
        replay(bag, perceiver, output)


# --8<-- [end:replay]
