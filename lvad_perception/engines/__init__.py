"""Loaded models: ``open_engine`` picks the runtime by the file's suffix; all of them meet ``base.Engine``."""

from pathlib import Path

from lvad_perception.engines.base import Engine
from lvad_perception.errors import ConfigError, EngineError, ModelFileError

__all__ = ["Engine", "open_engine"]

_OTHER_RUNTIMES = {
    ".engine": "a TensorRT engine",
    ".plan": "a TensorRT engine",
    ".pth": "a torch2trt or PyTorch file",
    ".pt2": "an exported PyTorch program",
}


def open_engine(path: Path, *, threads: int | None = None) -> Engine:
    """Load a model file.

    Args:
        path: the ``.onnx`` file that ``lvad-train export`` wrote.
        threads: CPU threads for one inference; None leaves the choice to the runtime.

    Raises:
        ModelFileError: the file is missing, truncated, of another kind, or does not fit its manifest.
        VocabularyMismatchError: the model was trained on other classes.
        EngineError: this version has no runtime for the file.
        MissingDependencyError: the runtime is not installed.
        ConfigError: ``threads`` is below 1.
    """
    if threads is not None and threads < 1:
        raise ConfigError(f"{threads} threads cannot run a model; give 1 or more, or none to let the runtime choose")
    path = Path(path)
    if path.is_dir():
        raise ModelFileError(f"{path} is a directory; name the .onnx file in it")
    if not path.exists():
        raise ModelFileError(f"{path} does not exist; write a model file with: lvad-train export CHECKPOINT {path}")
    if path.suffix == ".onnx":
        from lvad_perception.engines.onnx import OnnxEngine

        return OnnxEngine(path, threads=threads)
    if path.suffix in _OTHER_RUNTIMES:
        raise EngineError(
            f"{path} is {_OTHER_RUNTIMES[path.suffix]}, which this version cannot run; use the .onnx model file instead"
        )
    raise ModelFileError(f"{path} is no model file; give the .onnx file that lvad-train export writes")
