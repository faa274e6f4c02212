"""ONNX Runtime: on the CPU, or with its CUDA or TensorRT execution provider where those are installed."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from lvad_perception.engines.base import Engine, Pending
from lvad_perception.engines.failures import device_failure, engine_failure
from lvad_perception.engines.graph import REMEDY, Tensors, check_graph, first_line
from lvad_perception.engines.onnx_parts import refuse_external_data
from lvad_perception.errors import EngineError, MissingDependencyError, ModelFileError, one_line
from lvad_perception.machine import usable_cores
from lvad_perception.manifest import INPUT_NAME, MANIFEST_KEY, Manifest
from lvad_perception.types import UInt8

PRECISION_KEY: Final = "lvad_precision"
"""Metadata of a file that is not FP32: its precision."""

_PROVIDERS: Final[Mapping[str, str]] = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
_ELEMENT_TYPES: Final = {"float": "float32", "double": "float64"}  # the others are called as in numpy
# In ONNX Runtime's words; the numbers are the file's and the highest that it takes.
_NEWER_IR: Final = re.compile(r"Unsupported model IR version: (\d+), max supported IR version: (\d+)")
_NEWER_OPSET: Final = re.compile(
    r"Opset (\d+) is under development .*official support for domain \S+ is till opset (\d+)"
)
_UNKNOWN_OPERATOR: Final = re.compile(r"(\S+)\(-?\d+\) is not a registered function/op")
_ERROR_LEVEL: Final = 3  # of ONNX Runtime's own log: what matters comes as an exception


class OnnxEngine(Engine):
    """A model file in an ONNX Runtime session.

    It computes in line: ``begin`` returns when it has run. Its precision is the file's own, or "fp16" where TensorRT
    was asked for it. It does not say what memory it holds.
    """

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
            ModelFileError: truncated, not ONNX, of a newer ONNX, in more than one file, without manifest, or its graph
                does not fit the manifest.
            VocabularyMismatchError: the model has an unknown task or other drivable classes.
            MissingDependencyError: ONNX Runtime is not installed.
            EngineError: it has no such provider, the provider did not load, or it does not compute in this precision.
        """
        threads = threads or usable_cores()
        refuse_external_data(path)
        session = create_session(path, threads=threads, provider=provider, fp16=precision == "fp16")
        try:
            metadata = session.get_modelmeta().custom_metadata_map
        except UnicodeDecodeError as err:
            raise ModelFileError(f"{path}: its metadata is not UTF-8 ({err.reason}); {REMEDY}") from err
        if MANIFEST_KEY not in metadata:
            raise ModelFileError(f"{path} carries no {MANIFEST_KEY} in its metadata; {REMEDY}")
        manifest = Manifest.from_json(metadata[MANIFEST_KEY], source=str(path))
        check_graph(_tensors(session.get_inputs()), _tensors(session.get_outputs()), manifest, source=str(path))
        used: str = metadata.get(PRECISION_KEY, "fp32")
        if provider == "tensorrt" and precision == "fp16":
            used = "fp16"
        if precision not in (None, used):
            raise EngineError(
                f"ONNX Runtime computes {path} in {used}, as it was written, not in {precision}; "
                "leave the precision to the file, or ask another runtime"
            )
        where = f"CPU, {threads} thread{'s'[: threads != 1]}" if provider == "cpu" else _PROVIDERS[provider]
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
    # Threads wait for the next part of an inference at full load, but no longer: between inferences, where they would
    # by default, they would take the cores from decoding and publishing.
    options.add_session_config_entry("session.force_spinning_stop", "1")
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
        ModelFileError: not an ONNX file, or one that this version does not know.
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
        if (failure := device_failure(err)) is not None:
            raise failure from err
        raise ModelFileError(f"{source} {_why_not(err, onnxruntime.__version__)}") from err
    if session.get_providers()[0] != name:  # it falls back to the CPU without an error
        raise EngineError(
            f"{source}: {name} did not load, which is for want of a CUDA, cuDNN or TensorRT library; "
            "install the versions that this ONNX Runtime was built for, or choose another runtime"
        )
    return session


def _why_not(err: Exception, version: str) -> str:
    """Why a file was not loaded, with the remedy of that cause."""
    text = str(err)
    if found := _NEWER_IR.search(text):
        is_of, reads = f"is written in ONNX IR version {found[1]}", f"reads up to {found[2]}"
    elif found := _NEWER_OPSET.search(text):
        is_of, reads = f"is written in opset {found[1]}", f"knows up to {found[2]}"
    elif found := _UNKNOWN_OPERATOR.search(text):
        return f"uses the operator {one_line(found[1])}, which ONNX Runtime {version} does not have; {REMEDY}"
    else:
        return (
            f"cannot be loaded as an ONNX model ({first_line(err)}); it is truncated or no ONNX file: "
            f"copy it again or {REMEDY}"
        )
    return (
        f"{is_of}, and ONNX Runtime {version} {reads}; update it with pip install --upgrade onnxruntime, or {REMEDY}, "
        "by an onnx of the same time as this ONNX Runtime"
    )


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
