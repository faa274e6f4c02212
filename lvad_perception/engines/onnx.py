"""ONNX Runtime: on the CPU, or with its CUDA or TensorRT execution provider where those are installed."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from lvad_perception.engines.base import Engine, Pending, on_cpu
from lvad_perception.engines.failures import device_failure, engine_failure
from lvad_perception.engines.graph import REMEDY, Tensors, first_line, read_manifest
from lvad_perception.engines.onnx_parts import refuse_external_data
from lvad_perception.errors import EngineError, MissingDependencyError, ModelFileError, one_line
from lvad_perception.machine import usable_cores
from lvad_perception.manifest import INPUT_NAME
from lvad_perception.types import UInt8

PRECISION_KEY: Final = "lvad_precision"
"""Metadata key of the precision of a file that is not FP32."""

_PROVIDERS: Final[Mapping[str, str]] = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
_ELEMENT_TYPES: Final = {"float": "float32", "double": "float64"}  # the other names are numpy's
# Messages of ONNX Runtime; the numbers are the file's version and the highest supported one.
_NEWER_IR: Final = re.compile(r"Unsupported model IR version: (\d+), max supported IR version: (\d+)")
_NEWER_OPSET: Final = re.compile(
    r"Opset (\d+) is under development .*official support for domain \S+ is till opset (\d+)"
)
_UNKNOWN_OPERATOR: Final = re.compile(r"(\S+)\(-?\d+\) is not a registered function/op")
_ERROR_LEVEL: Final = 3  # of ONNX Runtime's own log; failures that matter are raised


class OnnxEngine(Engine):
    """A model file in an ONNX Runtime session.

    It is synchronous: ``submit`` returns when the result is computed. Its precision is the file's own, or "fp16" where
    that was requested from TensorRT. The memory that it holds on a device is not known.
    """

    def __init__(
        self, path: Path, *, threads: int | None = None, provider: str = "cpu", precision: str | None = None
    ) -> None:
        """Load and check a model file.

        Args:
            path: an ``.onnx`` file with a manifest in its metadata.
            threads: CPU threads for one inference; None uses one per core.
            provider: "cpu", "cuda" or "tensorrt", an execution provider of the installed ONNX Runtime.
            precision: None is the file's own; only "tensorrt" can lower it, to "fp16".

        Raises:
            ModelFileError: truncated, not ONNX, of a newer ONNX, in more than one file, without manifest, or its graph
                does not fit the manifest.
            VocabularyMismatchError: the model has an unknown task or other drivable classes.
            MissingDependencyError: ONNX Runtime is not installed.
            EngineError: the provider is missing or did not load, or it does not compute in this precision.
        """
        threads = threads or usable_cores()
        refuse_external_data(path)
        session = create_session(path, threads=threads, provider=provider, fp16=precision == "fp16")
        try:
            metadata = session.get_modelmeta().custom_metadata_map
        except UnicodeDecodeError as err:
            raise ModelFileError(f"{path}: its metadata is not UTF-8 ({err.reason}); {REMEDY}") from err
        manifest = read_manifest(metadata, _tensors(session.get_inputs()), _tensors(session.get_outputs()), path=path)
        used: str = metadata.get(PRECISION_KEY, "fp32")
        if provider == "tensorrt" and precision == "fp16":
            used = "fp16"
        if precision not in (None, used):
            raise EngineError(
                f"ONNX Runtime computes {path} in {used}, as it was written, not in {precision}; "
                "leave the precision to the file, or ask another runtime"
            )
        where = on_cpu(threads) if provider == "cpu" else _PROVIDERS[provider]
        self._session: Any = session
        super().__init__(
            manifest=manifest,
            description=f"ONNX Runtime {_import().__version__}, {where}, {used.upper()}",
            precision=used,
        )

    def _submit(self, slot: int, images: UInt8) -> Pending[list[Any]]:
        try:
            arrays: list[Any] = self._session.run(list(self.manifest.output_names), {INPUT_NAME: images})
        except Exception as err:
            remedy = "check the free memory and that the model file fits this version"
            raise engine_failure("ONNX Runtime", err, remedy=remedy) from err
        return Pending.finished(arrays)

    def _close(self) -> None:
        self._session = None


def session_options(threads: int) -> Any:
    """This project's ``onnxruntime.SessionOptions``; ``python -m benchmarks.cpu --options`` times the alternatives."""
    options = _import().SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _ERROR_LEVEL
    # Threads spin while they wait for work within an inference, but not between inferences, where they would keep cores
    # from decoding and publishing.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    # Flushing denormals to zero would change the floating-point mode of the calling thread for good.
    return options


def create_session(model: Path | bytes, *, threads: int, provider: str = "cpu", fp16: bool = False) -> Any:
    """An ``onnxruntime.InferenceSession`` with this project's options.

    Args:
        model: an ONNX file, or its content.
        threads: CPU threads for one inference.
        provider: "cpu", "cuda" or "tensorrt".
        fp16: let TensorRT compute in FP16.

    Raises:
        ModelFileError: not an ONNX file, or one of a newer version or with unknown operators.
        MissingDependencyError: ONNX Runtime is not installed.
        EngineError: the provider is missing or did not load.
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
        if (failure := device_failure(err)) is not None:
            raise failure from err
        raise ModelFileError(f"{source} {_load_failure(err, onnxruntime.__version__)}") from err
    if session.get_providers()[0] != name:  # ONNX Runtime falls back to the CPU without an error
        raise EngineError(
            f"{source}: {name} did not load, since a CUDA, cuDNN or TensorRT library is missing; "
            "install the versions that this ONNX Runtime was built for, or choose another runtime"
        )
    return session


def _load_failure(err: Exception, version: str) -> str:
    """The reason why a file was not loaded, with its remedy."""
    text = str(err)
    if match := _NEWER_IR.search(text):
        written, supported = f"is written in ONNX IR version {match[1]}", f"reads up to {match[2]}"
    elif match := _NEWER_OPSET.search(text):
        written, supported = f"is written in opset {match[1]}", f"knows up to {match[2]}"
    elif match := _UNKNOWN_OPERATOR.search(text):
        return f"uses the operator {one_line(match[1])}, which ONNX Runtime {version} does not have; {REMEDY}"
    else:
        return (
            f"cannot be loaded as an ONNX model ({first_line(err)}); it is truncated or no ONNX file: "
            f"copy it again or {REMEDY}"
        )
    return (
        f"{written}, and ONNX Runtime {version} {supported}; update it with pip install --upgrade onnxruntime, or "
        f"{REMEDY}, with an onnx no newer than this ONNX Runtime"
    )


def element_type(session_type: str) -> str:
    """Numpy's name of ONNX Runtime's type: "tensor(float)" -> "float32"."""
    name = session_type.removeprefix("tensor(").removesuffix(")")
    return _ELEMENT_TYPES.get(name, name)


def _chain(provider: str, *, fp16: bool) -> list[tuple[str, dict[str, str]]]:
    """The provider and its fallbacks for operators that it lacks."""
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
