"""TensorRT engines, from TensorRT's own builder or from torch2trt, in one runtime.

Written for TensorRT 8.6 to 11 after the sources of its Python bindings. What differs between them and is used here: the
context's memory is ``device_memory_size`` up to 10 and ``device_memory_size_v2`` from 10.1 on; tensors go by name and
``execute_async_v3`` in all of them.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np

from lvad_perception.engines.cuda import Buffer, Cuda
from lvad_perception.engines.graph import OUTPUT_TYPES, check_graph, first_line
from lvad_perception.engines.tensorrt_file import EngineFile, Target, read_engine_file
from lvad_perception.errors import EngineError, MissingDependencyError
from lvad_perception.manifest import INPUT_NAME, Manifest
from lvad_perception.types import RawOutputs, UInt8

_TYPES: Final = {"UINT8": "uint8", "FLOAT": "float32", "INT32": "int32"}
"""TensorRT's name of an element type -> numpy's, of those that inputs and outputs may have."""
_Tensors = dict[str, tuple[str, tuple[int, ...]]]


class TensorRtEngine:
    """An engine file on the CUDA device; meets ``base.Engine``.

    Input and outputs live in buffers that are allocated once, on the host page-locked; the copy in, the network and the
    copies out are one CUDA graph. The arrays that ``infer`` returns are these buffers: valid until the next call.
    """

    def __init__(self, path: Path, *, device: Cuda | None = None) -> None:
        """Load an engine and run it once on a black image.

        Args:
            path: ``.engine``, ``.plan`` or torch2trt's ``.pth``; see ``tensorrt_file``.
            device: the device; the first CUDA device when None.

        Raises:
            ModelFileError: truncated, of another kind, without manifest, or its tensors do not fit the manifest.
            VocabularyMismatchError: the model was trained on other classes.
            EngineError: built for another TensorRT or GPU, there is no GPU, or TensorRT cannot load it.
            MissingDependencyError: TensorRT or torch is not installed.
        """
        file = read_engine_file(path)
        trt = import_tensorrt(str(path))
        self._cuda: Cuda | None = device or Cuda()
        here = Target(trt.__version__, self._cuda.name, self._cuda.capability)
        _check_target(file, here, path)
        self._log = make_log(trt)
        self._runtime, self._engine = _load(trt, self._log, file, here, path)
        self._context = self._engine.create_execution_context()
        if self._context is None:
            raise EngineError(
                f"{path}: TensorRT cannot make an execution context ({self._log.text()}); free memory on {here.gpu}"
            )
        self._manifest = file.manifest
        tensors = _tensors(trt, self._engine)
        check_graph(*tensors, file.manifest, source=str(path))
        try:
            self._buffers = {name: self._bind(name, *tensor) for name, tensor in (tensors[0] | tensors[1]).items()}
            self._execute, how = self._prepare()
        except RuntimeError as err:  # of torch, or of _enqueue
            raise EngineError(
                f"{path} failed on the first image ({first_line(err)}); free memory on {here.gpu}, or build it again "
                f"with: lvad-perception optimize MODEL.onnx --output {path.name}"
            ) from err
        self._precision = file.precision or "fp32"
        self._memory = len(file.plan) + _context_bytes(self._engine)
        self._memory += sum(buffer.host.nbytes for buffer in self._buffers.values())
        precision = (file.precision or "unknown precision").upper()
        self._description = f"TensorRT {here.tensorrt}, {here.gpu}, {precision}, {how}"

    @property
    def manifest(self) -> Manifest:
        """What the model file says of itself."""
        return self._manifest

    @property
    def description(self) -> str:
        """Runtime, version, GPU, precision, and whether a CUDA graph is replayed."""
        return self._description

    @property
    def precision(self) -> str:
        """Of the build; "fp32" where the file does not say."""
        return self._precision

    @property
    def device_memory_bytes(self) -> int:
        """Of the plan, which is about the size of its weights, of scratch memory and of buffers."""
        return self._memory

    def infer(self, images: UInt8) -> RawOutputs:
        """Run the model on uint8 [N, H, W, 3], RGB, of the manifest's shape; see ``base.Engine``.

        Raises:
            EngineError: the device failed, the images are of another shape, or the engine is closed.
        """
        if self._cuda is None:
            raise EngineError("the engine is closed; open the engine file again")
        host = self._buffers[INPUT_NAME].host
        if images.shape != host.shape or images.dtype != host.dtype:
            raise EngineError(
                f"images of shape {images.shape} and type {images.dtype} do not fit this engine, whose input is uint8 "
                f"{host.shape}; give as many images as the model's batch size, at its input size"
            )
        np.copyto(host, images)
        try:
            self._execute()
        except RuntimeError as err:  # of torch, or of _enqueue
            raise EngineError(f"TensorRT failed to run ({first_line(err)}); restart the process") from err
        arrays = dict.fromkeys(OUTPUT_TYPES)
        arrays.update({name: self._buffers[name].host for name in self._manifest.output_names})
        return RawOutputs(**arrays)

    def close(self) -> None:
        """Free the device's memory; calling it again does nothing."""
        # The recording uses the context, the context the engine, the engine the runtime: in this order.
        self._execute, self._context, self._engine, self._runtime = _closed, None, None, None
        self._buffers.clear()
        self._cuda = None

    def _bind(self, name: str, dtype: str, shape: tuple[int, ...]) -> Buffer:
        assert self._cuda is not None
        buffer = self._cuda.buffer(shape, dtype)
        self._context.set_tensor_address(name, buffer.address)
        return buffer

    def _prepare(self) -> tuple[Callable[[], None], str]:
        """How to run once, as a CUDA graph where this network can be recorded, and what to call that."""
        cuda = self._cuda
        assert cuda is not None
        self._log.clear()
        cuda.run(self._enqueue)
        try:
            return cuda.record(self._enqueue), "CUDA graph"
        except RuntimeError:
            return lambda: cuda.run(self._enqueue), "no CUDA graph"

    def _enqueue(self) -> None:
        assert self._cuda is not None
        self._buffers[INPUT_NAME].upload()
        if not self._context.execute_async_v3(self._cuda.stream):
            raise RuntimeError(self._log.text())
        for name in self._manifest.output_names:
            self._buffers[name].download()


def import_tensorrt(source: str) -> Any:
    """The module ``tensorrt``, version 8.6 or newer.

    Args:
        source: what needs it, for messages.

    Raises:
        MissingDependencyError: not installed, or its libraries do not load.
        EngineError: too old.
    """
    try:
        import tensorrt
    except ImportError as err:
        raise MissingDependencyError(
            f"{source}: TensorRT cannot be imported ({first_line(err)}); on Jetson: sudo apt install tensorrt, in a "
            "virtual environment with --system-site-packages; elsewhere: pip install 'tensorrt>=10.0,<11'"
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
    """A logger for TensorRT that keeps what went wrong; ``text()`` is the cause.

    That is the first error, of which later ones are consequences; without one it is the last warning, as which 8.6
    reports that CUDA does not start.
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
    # RoiAlign is a plugin of TensorRT's own library; without this call its plans do not load. The device is known to be
    # there: without one, making a Runtime of 8.6 crashes the process.
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
    """Raise EngineError where a plan was built for another version or GPU, before TensorRT looks at it."""
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


def _closed() -> None:
    raise RuntimeError("the engine is closed")
