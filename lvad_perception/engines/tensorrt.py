"""TensorRT runtime for engine files that TensorRT's builder or torch2trt built.

It supports TensorRT 8.6 to 11 and was written from the sources of their Python bindings. They differ in the size of a
context's memory: ``device_memory_size`` up to 10.0, ``device_memory_size_v2`` from 10.1 on.
"""

from pathlib import Path
from typing import Any, Final

import numpy as np

from lvad_perception.engines.base import SLOTS, Engine, Pending
from lvad_perception.engines.cuda import Cuda, Pipeline
from lvad_perception.engines.failures import device_failure, engine_failure
from lvad_perception.engines.graph import check_graph, first_line
from lvad_perception.engines.tensorrt_file import REBUILD, EngineFile, Target, read_engine_file
from lvad_perception.errors import EngineError, MissingDependencyError
from lvad_perception.manifest import INPUT_NAME
from lvad_perception.types import UInt8

_TYPES: Final = {"UINT8": "uint8", "FLOAT": "float32", "INT32": "int32"}
"""TensorRT's name of an element type of inputs and outputs -> numpy's."""
_Tensors = dict[str, tuple[str, tuple[int, ...]]]


class TensorRtEngine(Engine):
    """A TensorRT engine file on the CUDA device.

    It is asynchronous: the network is one CUDA graph, and the copies of one inference overlap the network of the other
    (``cuda.Pipeline``). Its precision is that of the build, "fp32" where the file has none. Its memory is the size of
    the plan, which is about that of the weights, plus scratch memory and buffers.
    """

    def __init__(self, path: Path, *, device: Cuda | None = None) -> None:
        """Load an engine and run it once on a black image.

        Args:
            path: ``.engine``, ``.plan`` or torch2trt's ``.pth``; see ``tensorrt_file``.
            device: the first CUDA device when None.

        Raises:
            ModelFileError: truncated, of another kind, without manifest, or its tensors do not fit the manifest.
            VocabularyMismatchError: the model has an unknown task or other drivable classes.
            EngineError: built for another TensorRT or GPU, there is no GPU, or TensorRT cannot load it.
            MissingDependencyError: TensorRT or torch is not installed.
        """
        file = read_engine_file(path)
        trt = import_tensorrt(str(path))
        self._cuda = device or Cuda()
        here = Target(trt.__version__, self._cuda.name, self._cuda.capability)
        _check_target(file, here, path)
        self._log = make_log(trt)
        self._runtime, self._engine = _load(trt, self._log, file, here, path)
        self._context = self._engine.create_execution_context()
        if self._context is None:
            raise EngineError(
                f"{path}: TensorRT cannot make an execution context ({self._log.text()}); free memory on {here.gpu}"
            )
        tensors = _tensors(trt, self._engine)
        check_graph(*tensors, file.manifest, source=str(path), remedy=f"{REBUILD} {path.name}")
        try:
            source = self._bind(INPUT_NAME, *tensors[0][INPUT_NAME])
            outputs = [(tensors[1][name][1], tensors[1][name][0]) for name in file.manifest.output_names]
            self._results = [self._bind(name, *tensors[1][name]) for name in file.manifest.output_names]
            self._log.clear()
            network, how = self._cuda.record(self._enqueue)
            self._log.clear()  # a failed recording is no error
            self._pipeline = Pipeline(self._cuda, source, network, outputs)
            black = np.zeros(tensors[0][INPUT_NAME][1], np.uint8)
            self._pipeline.submit(0, black).result()
        except RuntimeError as err:  # of torch, or of _enqueue
            if (failure := device_failure(err)) is not None:
                raise failure from err
            raise EngineError(
                f"{path} failed on the first image ({first_line(err)}); free memory on {here.gpu}, or {REBUILD} "
                f"{path.name}"
            ) from err
        # The network's own input and outputs are as large as those of one slot.
        memory = len(file.plan) + _context_bytes(self._engine) + self._pipeline.buffer_bytes * (SLOTS + 1) // SLOTS
        precision = (file.precision or "unknown precision").upper()
        super().__init__(
            manifest=file.manifest,
            description=f"TensorRT {here.tensorrt}, {here.gpu}, {precision}, {how}",
            precision=file.precision or "fp32",
            device_memory_bytes=memory,
        )

    def _submit(self, slot: int, images: UInt8) -> Pending[list[Any]]:
        try:
            return self._pipeline.submit(slot, images)
        except RuntimeError as err:  # of torch, or of _enqueue
            raise engine_failure("TensorRT", err, remedy="restart the process") from err

    def _close(self) -> None:
        # The graph uses the context, the context the engine, the engine the runtime: they are freed in this order.
        self._pipeline.close()
        self._context = self._engine = self._runtime = None
        del self._results, self._cuda

    def _bind(self, name: str, dtype: str, shape: tuple[int, ...]) -> Any:
        """A device tensor for an input or output; bound once, since the CUDA graph contains its address."""
        tensor = self._cuda.tensor(shape, dtype)
        self._context.set_tensor_address(name, tensor.data_ptr())
        return tensor

    def _enqueue(self) -> list[Any]:
        if not self._context.execute_async_v3(self._cuda.compute.cuda_stream):
            raise RuntimeError(self._log.text())
        return self._results


def import_tensorrt(source: str) -> Any:
    """The module ``tensorrt``, version 8.6 or newer.

    Args:
        source: the file or step that needs it, for messages.

    Raises:
        MissingDependencyError: not installed, or its libraries do not load.
        EngineError: too old.
    """
    try:
        import tensorrt
    except ImportError as err:
        raise MissingDependencyError(
            f"{source}: TensorRT cannot be imported ({first_line(err)}); on Jetson: sudo apt install tensorrt, in a "
            "virtual environment with --system-site-packages; elsewhere: pip install 'tensorrt>=10.2,<11'"
        ) from err
    if version_of(tensorrt) < (8, 6):
        raise EngineError(
            f"TensorRT {tensorrt.__version__} is older than 8.6, whose parser is the first to read these models; "
            "install JetPack 6 or newer"
        )
    return tensorrt


def version_of(trt: Any) -> tuple[int, int]:
    """(major, minor) of the module."""
    major, minor = str(trt.__version__).split(".")[:2]
    return int(major), int(minor)


def make_log(trt: Any) -> Any:
    """A ``tensorrt.ILogger`` whose ``text()`` is the cause of a failure.

    The cause is the first error, since later ones are its consequences; without an error it is the last warning, by
    which 8.6 reports that CUDA does not start.
    """
    severities = trt.ILogger.Severity

    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.error = self.warning = ""

        def log(self, severity: Any, msg: str) -> None:
            if severity in (severities.ERROR, severities.INTERNAL_ERROR):
                self.error = self.error or msg.strip()
            elif severity == severities.WARNING:
                self.warning = msg.strip()

        def text(self) -> str:
            return self.error or self.warning or "it gave no reason"

        def clear(self) -> None:
            self.error = self.warning = ""

    return Log()


def _load(trt: Any, log: Any, file: EngineFile, here: Target, path: Path) -> tuple[Any, Any]:
    # RoiAlign is a plugin of TensorRT's library; plans that use it do not load without this call. The caller has opened
    # the device: without one, 8.6 crashes the process when a Runtime is made.
    trt.init_libnvinfer_plugins(log, "")
    runtime = trt.Runtime(log)
    engine = runtime.deserialize_cuda_engine(file.plan)
    if engine is None:
        raise EngineError(
            f"{path} cannot be loaded by {here.to_text()} ({log.text()}); an engine runs only with the version and GPU "
            f"that built it: run lvad-perception optimize MODEL.onnx --output {path.name} on this machine"
        )
    return runtime, engine


def _check_target(file: EngineFile, here: Target, path: Path) -> None:
    """Raise EngineError if a plan was built for another version or GPU, before TensorRT reads it."""
    if file.target is not None and file.target != here:
        raise EngineError(
            f"{path} was built for {file.target.to_text()} and this is {here.to_text()}; "
            f"run lvad-perception optimize MODEL.onnx --output {path.name} on this machine"
        )


def _tensors(trt: Any, engine: Any) -> tuple[_Tensors, _Tensors]:
    """Inputs and outputs."""
    inputs: _Tensors = {}
    outputs: _Tensors = {}
    for name in (engine.get_tensor_name(index) for index in range(engine.num_io_tensors)):
        side = inputs if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT else outputs
        dtype = engine.get_tensor_dtype(name).name
        side[name] = (_TYPES.get(dtype, dtype.lower()), tuple(engine.get_tensor_shape(name)))
    return inputs, outputs


def _context_bytes(engine: Any) -> int:
    return int(engine.device_memory_size_v2 if hasattr(engine, "device_memory_size_v2") else engine.device_memory_size)
