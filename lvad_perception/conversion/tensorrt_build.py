"""Build of a TensorRT plan from an ONNX file: by TensorRT's builder (8.6 to 11) or torch2trt's ONNX path (8.6 to 10).

Differences between the versions of TensorRT that are handled here:

* 8.6 needs a flag for networks with an explicit batch; 10 has no others, and 11 has no such flag.
* 10 has strongly typed networks, whose precision is the file's; 11 has no others and neither ``BuilderFlag.FP16`` nor
  ``BuilderFlag.INT8``. 8.6 has only these flags, which permit it to lower any layer; there each FP32 layer of the file
  gets a constraint to stay in FP32.
* ``IProgressMonitor`` exists since 10.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from lvad_perception.engines.tensorrt import import_tensorrt, make_log, version_of
from lvad_perception.errors import EngineError, MissingDependencyError
from lvad_perception.files import write_whole
from lvad_perception.manifest import INPUT_NAME, Manifest
from lvad_perception.types import Progress

_TORCH2TRT_WORKSPACE: Final = 1 << 30


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """Options of TensorRT's builder.

    Attributes:
        level: optimisation level, 0 to 5; TensorRT's default, 3, when None.
        workspace_bytes: maximum scratch memory of a layer; all of the device's when None.
        timing_cache: file of kernel timings, which the next build reuses; none when None.
    """

    level: int | None = None
    workspace_bytes: int | None = None
    timing_cache: Path | None = None


def build_plan(model: bytes, precision: str, options: BuildOptions, *, progress: Progress) -> bytes:
    """Build a plan with TensorRT's own builder.

    Args:
        model: content of an ONNX file whose types are those of the engine; see ``lowering``.
        precision: "fp32", "fp16" or "int8", the precision of the file.
        options: of the builder.
        progress: receives the progress of the build, from TensorRT 10 on.

    Raises:
        EngineError: there is no GPU, TensorRT refuses the file or builds nothing.
        MissingDependencyError: TensorRT is not installed.
        KeyboardInterrupt: during the build, from TensorRT 10 on.
    """
    trt = import_tensorrt("building an engine")
    log = make_log(trt)
    trt.init_libnvinfer_plugins(log, "")
    builder = _builder(trt, log)
    network, parser = _parse(trt, log, builder, model)
    config = builder.create_builder_config()
    _set_types(trt, config, network, precision)
    if options.level is not None:
        config.builder_optimization_level = options.level
    if options.workspace_bytes is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_bytes)
    _read_timings(config, options.timing_cache)
    monitor = _monitor(trt, progress)
    if monitor is not None:
        config.progress_monitor = monitor
    plan = builder.build_serialized_network(network, config)
    if monitor is not None and monitor.stopped is not None:
        raise monitor.stopped
    if plan is None:
        raise EngineError(
            f"TensorRT {trt.__version__} builds nothing ({log.text()}); free memory on the GPU, limit it with "
            "--workspace-mib, or choose another --precision"
        )
    _write_timings(config, options.timing_cache)
    del parser  # it owns the network's weights and must outlive the build
    return bytes(plan)


def build_with_torch2trt(
    model: bytes, manifest: Manifest, precision: str, *, device: str = "cuda"
) -> tuple[bytes, dict[str, Any]]:
    """Build a plan with torch2trt's ONNX path.

    torch2trt exports a torch module to ONNX, parses the file and builds. Here the file exists already, so the export is
    replaced by a function that writes it. torch2trt counts only float and bool tensors among the inputs, so the images
    are passed as bool; only their shape is used.

    Args:
        model: content of an ONNX file; its types are only hints to TensorRT here.
        manifest: of the file.
        precision: "fp32", "fp16" or "int8" (whose file has its own scales; torch2trt calibrates nothing).
        device: torch's name of the device for the build.

    Returns:
        The plan, and the state dict of torch2trt's ``TRTModule``.

    Raises:
        EngineError: TensorRT is 11 or newer, refuses the file or builds nothing.
        MissingDependencyError: TensorRT, torch, torch2trt or onnx-graphsurgeon is not installed.
    """
    trt = import_tensorrt("building with torch2trt")
    if version_of(trt) >= (11, 0):
        raise EngineError(
            f"torch2trt cannot build with TensorRT {trt.__version__}, whose precision flags are gone; "
            "name an --output that ends in .engine"
        )
    try:
        import onnx_graphsurgeon  # type: ignore[import-not-found]  # noqa: F401
        import torch
        from torch2trt import torch2trt
    except ImportError as err:
        raise MissingDependencyError(
            f"building a .pth file needs {err.name}; pip install onnx-graphsurgeon and, without build isolation, "
            "torch2trt from github.com/NVIDIA-AI-IOT/torch2trt, or name an --output that ends in .engine"
        ) from err

    class Net(torch.nn.Module):
        def forward(self, images: Any) -> Any:
            return tuple(images.new_zeros(1) for _ in manifest.output_names)

    log = make_log(trt)
    trt.init_libnvinfer_plugins(log, "")
    _parse(trt, log, _builder(trt, log), model)  # torch2trt ignores the errors of its parser
    images = torch.zeros((manifest.batch_size, *manifest.input_hw, 3), dtype=torch.bool, device=device)
    # "qat_mode": the file has its own scales.
    lowered = {"fp16_mode": precision != "fp32", "int8_mode": precision == "int8", "qat_mode": True}
    with _export_replaced_by(model):
        module = torch2trt(
            Net().eval(),
            [images],
            input_names=[INPUT_NAME],
            output_names=list(manifest.output_names),
            use_onnx=True,
            keep_network=False,
            max_workspace_size=_TORCH2TRT_WORKSPACE,
            **lowered,
        )
    if module.engine is None:
        raise EngineError(
            f"torch2trt with TensorRT {trt.__version__} builds nothing; free memory on the GPU, or name an --output "
            "that ends in .engine, whose build says why"
        )
    state = dict(module.state_dict())
    return bytes(state["engine"]), state


@contextmanager
def _export_replaced_by(model: bytes) -> Iterator[None]:
    """While the block runs, ``torch.onnx.export`` writes this file."""
    import torch

    def export(_module: Any, _inputs: Any, stream: Any, **_options: Any) -> None:
        stream.write(model)

    original: Any = torch.onnx.export
    setattr(torch.onnx, "export", export)  # noqa: B010  # a plain assignment fails the type checker
    try:
        yield
    finally:
        setattr(torch.onnx, "export", original)  # noqa: B010


def _builder(trt: Any, log: Any) -> Any:
    try:
        return trt.Builder(log)
    except (TypeError, RuntimeError) as err:  # how pybind11 reports a null pointer
        raise EngineError(
            f"TensorRT {trt.__version__} cannot start its builder ({log.text()}); check that nvidia-smi shows a GPU "
            "whose driver is new enough"
        ) from err


def _parse(trt: Any, log: Any, builder: Any, model: bytes) -> tuple[Any, Any]:
    """The network, and its parser, which owns the weights."""
    flags = 0
    if version_of(trt) < (10, 0):
        flags |= 1 << int(trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH)
    elif version_of(trt) < (11, 0):
        flags |= 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = builder.create_network(flags)
    parser = trt.OnnxParser(network, log)
    if not parser.parse(model):
        reasons = "; ".join(parser.get_error(index).desc() for index in range(parser.num_errors)) or log.text()
        raise EngineError(
            f"TensorRT {trt.__version__} cannot read the model ({reasons}); export it again with this version of "
            "lvad-train, or update TensorRT"
        )
    return network, parser


def _set_types(trt: Any, config: Any, network: Any, precision: str) -> None:
    """Make the builder keep the types of the file."""
    # TF32 is on by default and has only 10 bits of mantissa.
    config.clear_flag(trt.BuilderFlag.TF32)
    if version_of(trt) >= (10, 0) or precision == "fp32":
        return
    config.set_flag(trt.BuilderFlag.FP16)
    if precision == "int8":
        config.set_flag(trt.BuilderFlag.INT8)
    # Not OBEY_PRECISION_CONSTRAINTS, which fails at a layer without an FP32 kernel; the outputs are compared anyway.
    config.set_flag(trt.BuilderFlag.PREFER_PRECISION_CONSTRAINTS)
    untyped = {getattr(trt.LayerType, name) for name in ("CONSTANT", "SHAPE", "CAST", "QUANTIZE", "DEQUANTIZE")}
    quantised: set[str] = set()
    for layer in (network.get_layer(index) for index in range(network.num_layers)):
        outputs = [layer.get_output(index) for index in range(layer.num_outputs)]
        inputs = [layer.get_input(index) for index in range(layer.num_inputs)]
        if layer.type == trt.LayerType.DEQUANTIZE:
            quantised |= {output.name for output in outputs}
        if layer.type in untyped or any(tensor is not None and tensor.name in quantised for tensor in inputs):
            continue  # integer kernels read and write these
        if outputs and all(output.dtype == trt.DataType.FLOAT for output in outputs):
            layer.precision = trt.DataType.FLOAT
            for index in range(len(outputs)):
                layer.set_output_type(index, trt.DataType.FLOAT)


def _read_timings(config: Any, path: Path | None) -> None:
    if path is None:
        return
    data = path.read_bytes() if path.exists() else b""
    if not config.set_timing_cache(config.create_timing_cache(data), False):
        config.set_timing_cache(config.create_timing_cache(b""), False)  # the file is of another GPU or version


def _write_timings(config: Any, path: Path | None) -> None:
    if path is None:
        return
    with suppress(OSError):  # the next build measures again
        write_whole(path, bytes(config.get_timing_cache().serialize()))


def _monitor(trt: Any, progress: Progress) -> Any:
    """An ``IProgressMonitor`` that reports to ``progress``; None where TensorRT has none."""
    if not hasattr(trt, "IProgressMonitor"):
        return None

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        """Computes the progress over nested phases: the finished steps, plus the progress within the current step.

        TensorRT calls it from several threads; the lock protects ``_phases``. ``stopped`` is the exception of
        ``progress``, such as KeyboardInterrupt, which ``build_plan`` raises after TensorRT has cancelled the build.
        """

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.stopped: BaseException | None = None
            self._lock = threading.Lock()
            self._phases: dict[str, tuple[str | None, int, int]] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            with self._lock:
                self._phases[phase_name] = (parent_phase, num_steps, 0)

        def step_complete(self, phase_name: str, step: int) -> bool:
            """Returns False to cancel the build; TensorRT would only print an exception."""
            try:
                with self._lock:
                    parent, steps, _ = self._phases[phase_name]
                    self._phases[phase_name] = (parent, steps, step + 1)
                    share = self._share(phase_name)
                progress(share, phase_name)
            except BaseException as err:
                self.stopped = err
            return self.stopped is None

        def phase_finish(self, phase_name: str) -> None:
            with self._lock:
                self._phases.pop(phase_name, None)

        def _share(self, phase: str) -> float:
            parent, steps, done = self._phases[phase]
            share = min(1.0, done / max(1, steps))
            while parent in self._phases:
                parent, steps, done = self._phases[parent]
                share = min(1.0, (done + share) / max(1, steps))
            return share

    return Monitor()
