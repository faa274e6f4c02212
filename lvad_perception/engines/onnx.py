"""ONNX Runtime: on the CPU, or with its CUDA or TensorRT execution provider where those are installed."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from lvad_perception.engines.base import usable_cores
from lvad_perception.engines.graph import OUTPUT_TYPES, REMEDY, Tensors, check_graph, first_line
from lvad_perception.errors import EngineError, MissingDependencyError, ModelFileError
from lvad_perception.manifest import INPUT_NAME, MANIFEST_KEY, Manifest
from lvad_perception.types import RawOutputs, UInt8

PRECISION_KEY: Final = "lvad_precision"
"""Metadata of a file that is not FP32: its precision."""

_PROVIDERS: Final[Mapping[str, str]] = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
_ELEMENT_TYPES: Final = {"float": "float32", "double": "float64"}  # the others are called as in numpy
_ERROR_LEVEL: Final = 3  # of ONNX Runtime's own log: what matters comes as an exception


class OnnxEngine:
    """A model file in an ONNX Runtime session; meets ``base.Engine``."""

    def __init__(
        self, path: Path, *, threads: int | None = None, provider: str = "cpu", precision: str | None = None
    ) -> None:
        """Load and check a model file.

        Args:
            path: an ``.onnx`` file with a manifest in its metadata.
            threads: CPU threads for one inference; None uses one per core.
            provider: "cpu", "cuda" or "tensorrt", an execution provider of the installed ONNX Runtime.
            precision: what to compute in; None is the file's own. Only "tensorrt" can lower it, to "fp16".

        Raises:
            ModelFileError: truncated, not ONNX, without manifest, or its graph does not fit the manifest.
            VocabularyMismatchError: the model was trained on other classes.
            MissingDependencyError: ONNX Runtime is not installed.
            EngineError: it has no such provider, the provider did not load, or it does not compute in this precision.
        """
        threads = threads or usable_cores()
        session = create_session(path, threads=threads, provider=provider, fp16=precision == "fp16")
        metadata = session.get_modelmeta().custom_metadata_map
        if MANIFEST_KEY not in metadata:
            raise ModelFileError(f"{path} carries no {MANIFEST_KEY} in its metadata; {REMEDY}")
        self._manifest = Manifest.from_json(metadata[MANIFEST_KEY], source=str(path))
        check_graph(_tensors(session.get_inputs()), _tensors(session.get_outputs()), self._manifest, source=str(path))
        self._precision: str = metadata.get(PRECISION_KEY, "fp32")
        if provider == "tensorrt" and precision == "fp16":
            self._precision = "fp16"
        if precision not in (None, self._precision):
            raise EngineError(
                f"ONNX Runtime computes {path} in {self._precision}, as it was written, not in {precision}; "
                "leave the precision to the file, or ask another runtime"
            )
        self._session: Any | None = session
        where = f"CPU, {threads} thread{'s'[: threads != 1]}" if provider == "cpu" else _PROVIDERS[provider]
        self._description = f"ONNX Runtime {_import().__version__}, {where}, {self._precision.upper()}"

    @property
    def manifest(self) -> Manifest:
        """What the model file says of itself."""
        return self._manifest

    @property
    def description(self) -> str:
        """Runtime, version, device, threads and precision."""
        return self._description

    @property
    def precision(self) -> str:
        """What it computes in: "fp32", "int8" for a quantised file, or "fp16" where TensorRT was asked for it."""
        return self._precision

    @property
    def device_memory_bytes(self) -> None:
        """None: it works in the memory of the process, or the provider does not say."""
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
                f"ONNX Runtime failed on an input of shape {images.shape} ({first_line(err)}); "
                "check the free memory and that the model file fits this version"
            ) from err
        outputs = dict.fromkeys(OUTPUT_TYPES)
        outputs.update(zip(names, arrays, strict=True))
        return RawOutputs(**outputs)

    def close(self) -> None:
        """Free the session; calling it again does nothing."""
        self._session = None


def session_options(threads: int) -> Any:
    """This project's ``onnxruntime.SessionOptions``; ``python -m benchmarks.cpu --options`` times the alternatives."""
    options = _import().SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _ERROR_LEVEL
    # Threads that wait for work at full load, as they do by default, take the cores from decoding and publishing.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # Denormal numbers stay: to take them for zero, ONNX Runtime changes the arithmetic of the calling thread for good.
    return options


def create_session(model: Path | bytes, *, threads: int, provider: str = "cpu", fp16: bool = False) -> Any:
    """An ``onnxruntime.InferenceSession`` with this project's options.

    Args:
        model: an ONNX file, or its content.
        threads: CPU threads for one inference.
        provider: "cpu", "cuda" or "tensorrt".
        fp16: let TensorRT compute in FP16.

    Raises:
        ModelFileError: not an ONNX file.
        MissingDependencyError: ONNX Runtime is not installed.
        EngineError: there is no such provider, or it did not load.
    """
    onnxruntime = _import()
    source = "the network" if isinstance(model, bytes) else str(model)
    name = _PROVIDERS[provider]
    if name not in onnxruntime.get_available_providers():
        raise EngineError(
            f"{source}: the installed ONNX Runtime has no {name}; install onnxruntime-gpu for this machine's CUDA, or "
            "choose another runtime"
        )
    try:
        session = onnxruntime.InferenceSession(
            model if isinstance(model, bytes) else str(model),
            session_options(threads),
            providers=_chain(provider, fp16=fp16),
        )
    # ONNX Runtime has a dozen exception classes without a common base of their own.
    except Exception as err:
        raise ModelFileError(
            f"{source} cannot be loaded as an ONNX model ({first_line(err)}); it is truncated or no ONNX file: "
            f"copy it again or {REMEDY}"
        ) from err
    if session.get_providers()[0] != name:  # it falls back to the CPU without an error
        raise EngineError(
            f"{source}: {name} did not load, which is for want of a CUDA, cuDNN or TensorRT library; "
            "install the versions that this ONNX Runtime was built for, or choose another runtime"
        )
    return session


def element_type(session_type: str) -> str:
    """ "tensor(float)" -> "float32", as numpy calls it."""
    name = session_type.removeprefix("tensor(").removesuffix(")")
    return _ELEMENT_TYPES.get(name, name)


def _chain(provider: str, *, fp16: bool) -> list[tuple[str, dict[str, str]]]:
    """The provider, then those that take what it leaves."""
    cuda = (_PROVIDERS["cuda"], {"use_tf32": "0"})  # TF32 keeps 11 bits of FP32's 24
    cpu: tuple[str, dict[str, str]] = (_PROVIDERS["cpu"], {})
    tensorrt = (_PROVIDERS["tensorrt"], {"trt_fp16_enable": "1" if fp16 else "0"})
    return {"cpu": [cpu], "cuda": [cuda, cpu], "tensorrt": [tensorrt, cuda, cpu]}[provider]


def _import() -> Any:
    try:
        import onnxruntime
    except ImportError as err:
        raise MissingDependencyError("ONNX Runtime is not installed; install it with: pip install onnxruntime") from err
    return onnxruntime


def _tensors(tensors: Any) -> Tensors:
    return {tensor.name: (element_type(tensor.type), tensor.shape) for tensor in tensors}
