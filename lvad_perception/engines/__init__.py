"""Runtimes for model files: ``open_engine`` opens a file in the runtime of its kind, or in the requested one."""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from lvad_perception.engines.base import Engine
from lvad_perception.errors import ConfigError, EngineError, ModelFileError

__all__ = ["PRECISIONS", "RUNTIMES", "Engine", "open_engine"]

RUNTIMES: Final = ("auto", "onnxruntime", "openvino", "onnxruntime-cuda", "onnxruntime-tensorrt")
"""Runtimes of an ``.onnx`` file; every other kind of file has a single one."""
PRECISIONS: Final = ("fp32", "fp16", "bf16", "int8")

_OTHER_FILES: Final[Mapping[str, str]] = {
    ".engine": "TensorRT",
    ".plan": "TensorRT",
    ".pth": "TensorRT",
    ".pt2": "PyTorch",
}
_PROVIDERS: Final[Mapping[str, str]] = {
    "onnxruntime": "cpu",
    "onnxruntime-cuda": "cuda",
    "onnxruntime-tensorrt": "tensorrt",
}
_LOG: Final = logging.getLogger(__name__)


def open_engine(
    path: Path,
    *,
    threads: int | None = None,
    runtime: str | None = None,
    precision: str | None = None,
    log: Callable[[str], None] = _LOG.info,
) -> Engine:
    """Load a model file.

    Args:
        path: ``.onnx`` or ``.pt2`` that ``lvad-train export`` wrote; ``.engine``, ``.plan`` or torch2trt's ``.pth`` for
            TensorRT.
        threads: CPU threads for one inference; None uses one per core.
        runtime: one of ``RUNTIMES``. None is ONNX Runtime on the CPU for an ``.onnx`` file, which gives the same
            numbers wherever it is evaluated. "auto" takes the fastest of the installed CPU runtimes that agree with
            ONNX Runtime; it times them at the first start of a model on a machine and caches the choice.
        precision: one of ``PRECISIONS``; None is the file's own or, for ``.pt2``, the default of the device.
        log: receives the sentence in which "auto" states its choice and the reason.

    Raises:
        ModelFileError: the file is missing, truncated, of another kind, or does not fit its manifest.
        VocabularyMismatchError: the model has an unknown task or other drivable classes.
        EngineError: the runtime or the precision is not available on this machine or for this file.
        MissingDependencyError: the runtime is not installed.
        ConfigError: ``threads`` is below 1; no such runtime or precision.
    """
    path = Path(path)
    _check(path, threads, runtime, precision)
    if path.suffix == ".onnx":
        engine = _open_onnx(path, threads, runtime, precision, log)
    elif path.suffix == ".pt2":
        from lvad_perception.engines.pytorch import PyTorchEngine

        engine = PyTorchEngine(path, precision=precision, threads=threads)
    else:
        from lvad_perception.engines.tensorrt import TensorRtEngine

        engine = TensorRtEngine(path)
    if precision not in (None, engine.precision):
        used = engine.precision
        engine.close()
        raise EngineError(f"{path} computes in {used}, not in {precision}; leave the precision to the file")
    return engine


def _open_onnx(
    path: Path, threads: int | None, runtime: str | None, precision: str | None, log: Callable[[str], None]
) -> Engine:
    if runtime == "auto":
        from lvad_perception.engines.choice import fastest

        return fastest(path, threads=threads, precision=precision, log=log)
    if runtime == "openvino":
        from lvad_perception.engines.openvino import OpenVinoEngine

        return OpenVinoEngine(path, threads=threads, precision=precision)
    from lvad_perception.engines.onnx import OnnxEngine

    return OnnxEngine(path, threads=threads, provider=_PROVIDERS[runtime or "onnxruntime"], precision=precision)


def _check(path: Path, threads: int | None, runtime: str | None, precision: str | None) -> None:
    if threads is not None and threads < 1:
        raise ConfigError(f"{threads} threads cannot run a model; give 1 or more, or none to let the runtime choose")
    if runtime is not None and runtime not in RUNTIMES:
        raise ConfigError(f"there is no runtime {runtime}; choose one of {', '.join(RUNTIMES)}")
    if precision is not None and precision not in PRECISIONS:
        raise ConfigError(f"there is no precision {precision}; choose one of {', '.join(PRECISIONS)}")
    if path.is_dir():
        raise ModelFileError(f"{path} is a directory; name the .onnx file in it")
    if not path.exists():
        raise ModelFileError(f"{path} does not exist; write a model file with: lvad-train export CHECKPOINT {path}")
    if path.suffix not in (".onnx", *_OTHER_FILES):
        raise ModelFileError(f"{path} is no model file; give the .onnx file that lvad-train export writes")
    if runtime not in (None, "auto") and path.suffix in _OTHER_FILES:
        raise ConfigError(
            f"{path} runs in {_OTHER_FILES[path.suffix]} alone; leave the runtime out, or give the .onnx file"
        )
