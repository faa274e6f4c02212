"""Engines from TensorRT's own builder, without torch2trt: built from the model files, timed, compared.

Written for TensorRT 8.6 to 11 after NVIDIA's Python API documentation. Up to 10 the builder chooses FP16 where the flag
allows it; 11 only knows strongly typed networks, whose precision is the file's: there the file is converted first.
"""

import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.job import Cells, Job, Recorder, Unavailable
from benchmarks.gpu.onnx_providers import cpu_outputs, largest
from benchmarks.gpu.subjects import model_file
from benchmarks.gpu.timing import Stopwatch

LEFT_OUT = ("r50",)
"""Its engine takes longer to build than this part has."""
LEVEL = 2
"""Of the builder's effort, 0 to 5; its default 3 takes longer than this part has."""
WORKSPACE_BYTES = 2 << 30
SECONDS = 1.5


class BuildError(Exception):
    """TensorRT refused the file or built nothing; the message is its own."""


def run(recorder: Recorder) -> None:
    """An FP16 engine of each small preset: time to build, latency, and its distance from ONNX Runtime on the CPU."""
    if recorder.job.small:
        raise Unavailable("TensorRT needs CUDA")
    try:
        import tensorrt
    except ImportError as err:
        raise Unavailable("tensorrt cannot be imported; pip install tensorrt for this CUDA version") from err
    recorder.note(
        f"TensorRT {tensorrt.__version__}, FP16, batch 1, builder optimization level {LEVEL}. Images and outputs stay "
        "on the device. Differences are to ONNX Runtime's CPU provider on the same file."
    )
    for preset in recorder.job.presets:
        if preset not in LEFT_OUT:
            facts = {"preset": preset, "precision": "fp16"}
            recorder.measure("TensorRT engines", facts, lambda p=preset: _measure(recorder, p), needs_s=10)


def _measure(recorder: Recorder, preset: str) -> Cells:
    import tensorrt as trt

    images, wanted = cpu_outputs(recorder, preset)
    path = model_file(recorder.job, preset)
    recorder.say(f"{preset}: building an engine")
    logger = trt.Logger(trt.Logger.ERROR)
    trt.init_libnvinfer_plugins(logger, "")
    began = time.perf_counter()
    plan = _build(trt, logger, _typed_file(recorder.job, trt, path))
    built_s = time.perf_counter() - began
    engine = _Engine(trt, logger, plan)
    found = []
    for image in images:
        engine.load(torch.from_numpy(image))
        engine()
        found.append(engine.outputs())
    cells = {"built in s": built_s, "MB": len(bytes(plan)) / 1e6, **largest(found, wanted)}
    with torch.cuda.stream(engine.stream):  # so that the clock's events are in the engine's stream
        return {**cells, **Stopwatch(events=True, quick=False).speed(engine, batch=1, seconds=SECONDS)}


def _build(trt: Any, logger: Any, path: Path) -> Any:
    """Model file -> serialised engine."""
    builder = trt.Builder(logger)
    explicit = getattr(trt.NetworkDefinitionCreationFlag, "EXPLICIT_BATCH", None)  # the only kind from 10 on
    network = builder.create_network(0 if explicit is None else 1 << int(explicit))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(path)):
        errors = "; ".join(str(parser.get_error(index)) for index in range(parser.num_errors))
        raise BuildError(f"the parser refuses {path.name}: {errors}")
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, WORKSPACE_BYTES)
    config.builder_optimization_level = LEVEL
    if hasattr(trt.BuilderFlag, "FP16"):
        config.set_flag(trt.BuilderFlag.FP16)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise BuildError(f"nothing was built from {path.name}; TensorRT's own messages above say why")
    return plan


def _typed_file(job: Job, trt: Any, path: Path) -> Path:
    """The file itself, or one whose products are in FP16 where TensorRT takes the precision from the file."""
    return path if hasattr(trt.BuilderFlag, "FP16") else half_file(path, Path(job.scratch) / f"{path.stem}.fp16.onnx")


def half_file(path: Path, target: Path) -> Path:
    """Write the model with its products in float16; box arithmetic, norms, sampling and all outputs stay as they were.

    Half precision counts pixels beyond 1024 in whole ones, so boxes must not pass through it.
    """
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    model = onnx.load(str(path))
    kept = sorted({node.op_type for node in model.graph.node} - {"Conv", "Relu", "MaxPool", "MatMul", "Gemm"})
    onnx.save(convert_float_to_float16(model, keep_io_types=True, op_block_list=kept), str(target))
    return target


class _Engine:
    """An engine with its buffers; calling it queues one run on its stream."""

    def __init__(self, trt: Any, logger: Any, plan: Any) -> None:
        self._runtime = trt.Runtime(logger)
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise BuildError("the engine cannot be loaded again; TensorRT's own messages above say why")
        self._context = self._engine.create_execution_context()
        self.stream = torch.cuda.Stream()
        dtypes = {trt.float32: torch.float32, trt.int32: torch.int32, trt.uint8: torch.uint8}
        self._outputs: dict[str, torch.Tensor] = {}
        for index in range(self._engine.num_io_tensors):
            name = self._engine.get_tensor_name(index)
            shape = tuple(self._engine.get_tensor_shape(name))
            buffer = torch.zeros(shape, dtype=dtypes[self._engine.get_tensor_dtype(name)], device="cuda")
            self._context.set_tensor_address(name, buffer.data_ptr())
            if self._engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT:
                self._input = buffer
            else:
                self._outputs[name] = buffer
        torch.cuda.synchronize()  # the buffers are zeroed on another stream

    def load(self, image: torch.Tensor) -> None:
        """Put an image uint8 [1, H, W, 3] into the input buffer."""
        self._input.copy_(image)
        torch.cuda.synchronize()

    def __call__(self) -> None:
        if not self._context.execute_async_v3(self.stream.cuda_stream):
            raise BuildError("the engine failed to run; TensorRT's own messages above say why")

    def outputs(self) -> dict[str, Any]:
        """The outputs of the last run as arrays."""
        self.stream.synchronize()
        return {name: buffer.cpu().numpy() for name, buffer in self._outputs.items()}
