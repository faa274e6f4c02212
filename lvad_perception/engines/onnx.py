"""ONNX Runtime on the CPU."""

import os
from pathlib import Path
from typing import Any, Final

from lvad_perception.errors import EngineError, MissingDependencyError, ModelFileError
from lvad_perception.manifest import INPUT_NAME, MANIFEST_KEY, Manifest
from lvad_perception.types import RawOutputs, UInt8

_REMEDY: Final = "export the model again with lvad-train export"
_OUTPUT_TYPES: Final = {
    "boxes": "tensor(float)",
    "scores": "tensor(float)",
    "labels": "tensor(int32)",
    "semantic": "tensor(uint8)",
    "drivable": "tensor(uint8)",
    "semantic_confidence": "tensor(uint8)",
}
_ERROR_LEVEL: Final = 3  # of ONNX Runtime's own log: what matters comes as an exception


class OnnxEngine:
    """A model file in an ONNX Runtime session; meets ``base.Engine``."""

    def __init__(self, path: Path, *, threads: int | None = None) -> None:
        """Load and check a model file.

        Args:
            path: an ``.onnx`` file with a manifest in its metadata.
            threads: CPU threads for one inference; None uses one per core.

        Raises:
            ModelFileError: truncated, not ONNX, without manifest, or its graph does not fit the manifest.
            VocabularyMismatchError: the model was trained on other classes.
            MissingDependencyError: ONNX Runtime is not installed.
        """
        try:
            import onnxruntime
        except ImportError as err:
            raise MissingDependencyError(
                f"{path}: ONNX Runtime is not installed; install it with: pip install onnxruntime"
            ) from err
        threads = threads or _cores()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = _ERROR_LEVEL
        try:
            session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        # ONNX Runtime has a dozen exception classes without a common base of their own.
        except Exception as err:
            raise ModelFileError(
                f"{path} cannot be loaded as an ONNX model ({_first_line(err)}); it is truncated or no ONNX file: "
                f"copy it again or {_REMEDY}"
            ) from err
        text = session.get_modelmeta().custom_metadata_map.get(MANIFEST_KEY)
        if text is None:
            raise ModelFileError(f"{path} carries no {MANIFEST_KEY} in its metadata; {_REMEDY}")
        self._manifest = Manifest.from_json(text, source=str(path))
        _check_graph(session, self._manifest, str(path))
        self._session: Any | None = session
        self._description = f"ONNX Runtime {onnxruntime.__version__}, CPU, {threads} thread{'s'[: threads != 1]}"

    @property
    def manifest(self) -> Manifest:
        """What the model file says of itself."""
        return self._manifest

    @property
    def description(self) -> str:
        """Runtime, version, device and threads."""
        return self._description

    @property
    def precision(self) -> str:
        """Always "fp32": as it was exported."""
        return "fp32"

    @property
    def device_memory_bytes(self) -> None:
        """None: it works in the memory of the process."""
        return None

    def infer(self, images: UInt8) -> RawOutputs:
        """Run the model on uint8 [N, H, W, 3], RGB, of the manifest's shape; see ``base.Engine``.

        Raises:
            EngineError: the runtime failed, or the engine is closed.
        """
        if self._session is None:
            raise EngineError("the engine is closed; open the model file again")
        names = self._manifest.output_names
        try:
            arrays = self._session.run(list(names), {INPUT_NAME: images})
        except Exception as err:
            raise EngineError(
                f"ONNX Runtime failed on an input of shape {images.shape} ({_first_line(err)}); "
                "check the free memory and that the model file fits this version"
            ) from err
        outputs = dict.fromkeys(_OUTPUT_TYPES)
        outputs.update(zip(names, arrays, strict=True))
        return RawOutputs(**outputs)

    def close(self) -> None:
        """Free the session; calling it again does nothing."""
        self._session = None


def _check_graph(session: Any, manifest: Manifest, source: str) -> None:
    """Raise ModelFileError unless inputs and outputs are exactly what the manifest promises."""
    batch, (height, width), count = manifest.batch_size, manifest.output_hw, manifest.max_detections
    shapes = {
        "boxes": [batch, count, 4],
        "scores": [batch, count],
        "labels": [batch, count],
        "semantic": [batch, height, width],
        "drivable": [batch, height, width],
        "semantic_confidence": [batch, height, width],
    }
    expected = {INPUT_NAME: ("tensor(uint8)", [batch, *manifest.input_hw, 3])}
    _check_tensors(session.get_inputs(), expected, "input", source)
    expected = {name: (_OUTPUT_TYPES[name], shapes[name]) for name in manifest.output_names}
    _check_tensors(session.get_outputs(), expected, "output", source)


def _check_tensors(tensors: Any, expected: dict[str, tuple[str, list[int]]], kind: str, source: str) -> None:
    found = {tensor.name: (tensor.type, tensor.shape) for tensor in tensors}
    if found.keys() != expected.keys():
        raise ModelFileError(
            f"{source}: its {kind}s are {', '.join(found)} but its manifest promises {', '.join(expected)}; {_REMEDY}"
        )
    for name, wanted in expected.items():
        if found[name] != wanted:
            raise ModelFileError(
                f"{source}: its {kind} {name} is {_spell(found[name])} but its manifest promises {_spell(wanted)}; "
                f"{_REMEDY}"
            )


def _spell(tensor: tuple[str, list[int]]) -> str:
    return f"{tensor[0].removeprefix('tensor(').removesuffix(')')} {tensor[1]}"


def _first_line(err: Exception) -> str:
    return (str(err).splitlines() or [type(err).__name__])[0]


def _cores() -> int:
    """Cores that this process may use; in a container fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
