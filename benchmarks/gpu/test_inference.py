"""Inference on a GPU: agreement with the CPU, and the speed of torch, the PyTorch engine, ONNX Runtime and TensorRT."""

import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.gpu.__main__ import Job
from benchmarks.gpu.subjects import (
    DTYPES,
    Call,
    Cells,
    Deployed,
    compared,
    model_file,
    peak,
    preset_net,
    preset_recipe,
    raw_outputs,
    road_images,
    speed,
)
from lvad_perception.conversion.optimize import optimize
from lvad_perception.conversion.tensorrt_build import BuildOptions
from lvad_perception.engines.agreement import copied
from lvad_perception.engines.base import Engine
from lvad_perception.engines.onnx import OnnxEngine
from lvad_perception.engines.pytorch import PyTorchEngine
from lvad_perception.engines.tensorrt import TensorRtEngine, import_tensorrt
from lvad_perception.errors import LvadError
from lvad_perception.manifest import INPUT_NAME
from lvad_perception.types import RawOutputs, UInt8
from lvad_training.samples import Outputs

ABSOLUTE, RELATIVE, SHARE = 1e-3, 1e-3, 0.999
"""Tolerances of ``torch.isclose``, and the share of each raw output's values that must keep to them in fp32; not all,
since a box on the border between two pyramid levels may be pooled from either."""
COMPARED = 2
"""Images in each comparison."""
TORCH_S, ENGINE_S = 0.5, 1.5
"""Seconds to time a graph in torch; an engine."""

CASE = "mode, precision, batch"
EAGER = (
    CASE,
    [("eager", name, batch) for name in DTYPES for batch in (1, 2, 4, 8)],
    [("eager", "fp32", 1), ("eager", "bf16", 2)],
)
COMPILED = (  # the most telling first: compiling takes most of the time
    CASE,
    [("compiled", *case) for case in (("fp16", 1), ("bf16", 1), ("fp16", 8), ("fp32", 1), ("bf16", 8))],
    [("compiled", "bf16", 1)],
)
RECORDED = (CASE, [("eager, CUDA graph", "fp16", batch) for batch in (1, 8)], [("eager, CUDA graph", "bf16", 1)])
OPENED = ("precision, batch", [("fp16", 1), ("bf16", 1), ("fp16", 4), ("fp32", 1)], [("bf16", 1)])

# Level 2 of 5, here and below, builds in a fraction of the default's time.
PROVIDERS: dict[str, tuple[str, dict[str, Any]]] = {
    "CPU fp32": ("CPUExecutionProvider", {}),
    "CUDA fp32": ("CUDAExecutionProvider", {"device_id": 0}),
    "TensorRT fp16": (
        "TensorrtExecutionProvider",
        {"device_id": 0, "trt_fp16_enable": True, "trt_builder_optimization_level": 2},
    ),
}
BUILD = BuildOptions(level=2, workspace_bytes=2 << 30)

Graph = Callable[[Tensor], tuple[Tensor, ...]]


@pytest.fixture(autouse=True)
def no_gradients(monkeypatch):
    """No gradients, and products in TF32 unless the test changes that."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    torch.set_float32_matmul_precision("high")
    with torch.no_grad():
        yield


@pytest.mark.gpu("correctness", "{device} against the CPU in fp32")
@pytest.mark.parametrize("precision", DTYPES)
def test_cuda_computes_what_the_cpu_computes(job, row, monkeypatch, preset, precision):
    """In fp32, products not in TF32, at least 99.9 % of each raw output's values must be within 0.001 + 0.001 of the
    value; for the other precisions the distance of the decoded outputs is only reported."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    torch.set_float32_matmul_precision("highest")
    recipe = preset_recipe(job, preset)
    images = torch.from_numpy(road_images(COMPARED, recipe.model.network_hw))
    raw, decoded, weights = _on_cpu(job, preset)
    net, _ = preset_net(recipe)
    deployed = Deployed(net, recipe.model.max_detections, DTYPES[precision]).to(job.device)
    moved = images.to(job.device)
    cells = {"weights": weights, **compared([raw_outputs(deployed(moved))], [decoded], precision)}
    if precision == "fp32":
        found = _named(net(moved.permute(0, 3, 1, 2)))
        near = {
            name: float(torch.isclose(found[name], tensor, rtol=RELATIVE, atol=ABSOLUTE).float().mean())
            for name, tensor in raw.items()
        }
        worst = min(near, key=lambda name: near[name])
        assert near[worst] >= SHARE, f"only {near[worst]:.2%} of {worst} are within the tolerance; {cells}"
        cells |= {"agrees": True, "raw values within": f"{near[worst]:.3%} ({worst})"}
    row(**cells)


@pytest.mark.gpu("inference", "Networks")
def test_work_of_a_network(job, row, preset):
    """GFLOP of a run at batch 1, 2 per multiply-add, as torch.utils.flop_counter counts."""
    graph, images = _deployed(job, preset, "fp32", 1)
    millions = sum(parameter.numel() for parameter in graph.parameters()) / 1e6
    size = f"{images.shape[2]}x{images.shape[1]}"
    row(size=size, GFLOP=_gflop(job, preset), **{"parameters, million": millions})


@pytest.mark.gpu("inference", "Inference in torch", cases=EAGER)
def test_eager(job, row, preset, mode, precision, batch):
    """Images are on the device; fp32 is in TF32. `peak %` is the throughput as a share of the peak of matrix products
    measured in the same precision."""
    graph, images = _deployed(job, preset, precision, batch)
    row(**_timed(job, preset, precision, batch, lambda: graph(images)))


@pytest.mark.gpu("inference", "Inference in torch", cases=COMPILED, needs_s=18)
def test_compiled(job, row, preset, mode, precision, batch):
    """Replayed as a CUDA graph, the host's time is left out, and the kernels' remains. Differences are to eager in the
    same precision."""
    graph, images = _deployed(job, preset, precision, batch)
    torch._dynamo.reset()  # or a second network would count as a recompilation of the first
    # The compiler's C++ takes a CPU minutes.
    program = torch.compile(graph, backend="aot_eager" if job.small else "inductor", dynamic=False)
    row(**_compared_and_timed(job, preset, precision, batch, lambda: program(images)))
    call = record(program, images)
    row(mode=f"{mode}, CUDA graph", **_compared_and_timed(job, preset, precision, batch, call))


# Last in its part: a recording that fails may leave CUDA unable to record.
@pytest.mark.gpu("inference", "Inference in torch", cases=RECORDED)
def test_eager_as_a_cuda_graph(job, row, preset, mode, precision, batch):
    """The eager graph replayed as a CUDA graph, without the compiler."""
    call = record(*_deployed(job, preset, precision, batch))
    row(**_compared_and_timed(job, preset, precision, batch, call))


@pytest.mark.gpu("engine", "PyTorch engine", cases=OPENED, needs_s=15)
def test_pytorch_engine(job, row, preset, precision, batch):
    """Times by the host's clock around `infer`: the copy in, one CUDA graph, the copies out. Differences are to the
    same file in FP32 on the CPU."""
    path = model_file(job, preset, suffix=".pt2", batch=batch)
    torch._dynamo.reset()
    began = time.perf_counter()
    engine = PyTorchEngine(path, device=job.device, precision=precision)
    cells: Cells = {"opened in s": time.perf_counter() - began}
    try:
        cells |= engine_speed(job, engine)
        if batch == 1:
            cells |= compared(_infer(engine, _images(job, preset)), _of_pt2_on_cpu(job, preset), precision)
    finally:
        engine.close()
    row(**cells)


@pytest.mark.gpu(
    "onnxruntime",
    "ONNX Runtime, batch 1",
    cases=("provider", ["CUDA fp32", "TensorRT fp16"], ["CPU fp32"]),
    needs_s=5,
)
def test_onnx_runtime_provider(job, row, preset, provider):
    """Times by the host's clock around one synchronous run, the image on the device before and the outputs left there.
    Differences are to ONNX Runtime's CPU provider on the same file."""
    onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed; pip install onnxruntime-gpu")
    onnxruntime.set_default_logger_severity(3)
    if job.device == "cuda" and hasattr(onnxruntime, "preload_dlls"):
        onnxruntime.preload_dlls()  # CUDA's and cuDNN's libraries from the packages that came with torch
    name, options = PROVIDERS[provider]
    if name not in onnxruntime.get_available_providers():
        pytest.skip(f"this onnxruntime has no {name}; pip install onnxruntime-gpu for this CUDA")
    chain = [(name, options)]
    if provider.startswith("TensorRT"):
        chain.append(PROVIDERS["CUDA fp32"])  # for what TensorRT does not take
    wanted = _of_onnx_on_cpu(job, preset)
    began = time.perf_counter()
    session = onnxruntime.InferenceSession(str(model_file(job, preset)), providers=chain)
    opened_s = time.perf_counter() - began
    if session.get_providers()[0] != name:  # it falls back without an error when a library is missing
        pytest.skip(f"{name} did not load, probably for want of a CUDA, cuDNN or TensorRT library")
    names = [output.name for output in session.get_outputs()]
    images = _images(job, preset)
    found = [RawOutputs(**dict(zip(names, session.run(names, {INPUT_NAME: image}), strict=True))) for image in images]
    binding = session.io_binding()
    place = "cuda" if job.device == "cuda" else "cpu"
    binding.bind_ortvalue_input(INPUT_NAME, onnxruntime.OrtValue.ortvalue_from_numpy(images[0], place, 0))
    for output in names:
        binding.bind_output(output, place, 0)
    times = speed(
        lambda: session.run_with_iobinding(binding), batch=1, seconds=ENGINE_S, on_device=False, small=job.small
    )
    row(**{"opened in s": opened_s, **times, **compared(found, wanted, provider.split()[1])})


@pytest.mark.gpu(
    "tensorrt",
    "TensorRT engines",
    cases=("precision, batch", [("fp16", 1)], [("fp16", 1)]),
    without=("r50",),  # its engine takes longer to build than this part has
    needs_s=10,
)
def test_tensorrt_engine(job, row, note, preset, precision, batch):
    """Times by the host's clock around `infer`: the copy in, one CUDA graph, the copies out. Differences are to ONNX
    Runtime on the CPU in FP32; beyond the tolerance the build fails."""
    if job.small:
        pytest.skip("TensorRT needs CUDA")
    try:
        tensorrt = import_tensorrt("this part")
    except LvadError as err:
        pytest.skip(str(err))
    note(f"TensorRT {tensorrt.__version__}, builder optimization level {BUILD.level}.")
    result = optimize(
        model_file(job, preset),
        Path(job.scratch) / f"{preset}.engine",
        precision=precision,
        check_images=COMPARED,
        options=BUILD,
        cache_dir=Path(job.scratch),
        rebuild=True,
    )
    engine = TensorRtEngine(result.path)
    try:
        row(**{"built in s": result.built_s, **engine_speed(job, engine), "difference": result.agreement.to_text()})
    finally:
        engine.close()


def engine_speed(job: Job, engine: Engine) -> Cells:
    """Latency and throughput of an engine from images to outputs in host memory, and the memory that it holds."""
    batch = engine.manifest.batch_size
    images = road_images(batch, engine.manifest.input_hw, seed=1)
    times = speed(lambda: engine.infer(images), batch=batch, seconds=ENGINE_S, on_device=False, small=job.small)
    memory = engine.device_memory_bytes
    return {**times, "MB": None if memory is None else memory / 1e6}


def record(graph: Graph, images: Tensor) -> Call:
    """The graph's kernels as one CUDA graph; the call replays them on the same images and returns the outputs."""
    if images.device.type != "cuda":
        pytest.skip("CUDA graphs need CUDA")
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # libraries choose algorithms and allocate in their first calls
        for _ in range(3):
            graph(images)
    torch.cuda.current_stream().wait_stream(side)
    torch.cuda.synchronize()
    cuda_graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(cuda_graph):
        outputs = graph(images)

    def replay() -> tuple[Tensor, ...]:
        cuda_graph.replay()
        return outputs  # referenced here, so that their memory stays allocated

    return replay


def _compared_and_timed(job: Job, preset: str, precision: str, batch: int, call: Call) -> Cells:
    graph, images = _deployed(job, preset, precision, batch)
    difference = compared([raw_outputs(call())], [raw_outputs(graph(images))], precision)
    return {**_timed(job, preset, precision, batch, call), **difference}


def _timed(job: Job, preset: str, precision: str, batch: int, call: Call) -> Cells:
    times = speed(call, batch=batch, seconds=TORCH_S, on_device=not job.small, small=job.small)
    return {**times, "peak %": 100 * _gflop(job, preset) * times["images/s"] / peak(job, precision).gflops}


def _deployed(job: Job, preset: str, precision: str, batch: int) -> tuple[Deployed, Tensor]:
    images = road_images(batch, preset_recipe(job, preset).model.network_hw)
    return _network(job, preset, precision), torch.from_numpy(images).to(job.device)


@lru_cache(maxsize=4)  # the presets take turns, and making a network takes longer than measuring it
def _network(job: Job, preset: str, precision: str) -> Deployed:
    recipe = preset_recipe(job, preset)
    return Deployed(preset_net(recipe)[0], recipe.model.max_detections, DTYPES[precision]).to(job.device)


@lru_cache
def _gflop(job: Job, preset: str) -> float:
    graph, images = _deployed(job, preset, "fp32", 1)
    with FlopCounterMode(display=False) as counter:
        graph(images)
    return counter.get_total_flops() / 1e9


@lru_cache(maxsize=1)
def _on_cpu(job: Job, preset: str) -> tuple[dict[str, Tensor], RawOutputs, str]:
    """Raw and decoded outputs on the CPU in fp32, and the source of the weights."""
    recipe = preset_recipe(job, preset)
    net, weights = preset_net(recipe)
    images = torch.from_numpy(road_images(COMPARED, recipe.model.network_hw))
    deployed = Deployed(net, recipe.model.max_detections, torch.float32)
    return _named(net(images.permute(0, 3, 1, 2))), raw_outputs(deployed(images)), weights


@lru_cache
def _of_pt2_on_cpu(job: Job, preset: str) -> list[RawOutputs]:
    engine = PyTorchEngine(model_file(job, preset, suffix=".pt2"), device="cpu")
    return _infer(engine, _images(job, preset))


@lru_cache
def _of_onnx_on_cpu(job: Job, preset: str) -> list[RawOutputs]:
    return _infer(OnnxEngine(model_file(job, preset)), _images(job, preset))


def _infer(engine: Engine, images: list[UInt8]) -> list[RawOutputs]:
    return [copied(engine.infer(image)) for image in images]


def _images(job: Job, preset: str) -> list[UInt8]:
    """uint8 [1, H, W, 3] each."""
    return [image[None] for image in road_images(COMPARED, preset_recipe(job, preset).model.network_hw, seed=1)]


def _named(outputs: Outputs) -> dict[str, Tensor]:
    named = {}
    if outputs.detection is not None:
        named = {"class logits": outputs.detection.logits, "boxes": outputs.detection.boxes_xyxy}
    for task, masks in (("semantic", outputs.semantic), ("drivable", outputs.drivable)):
        if masks is not None:
            named |= {f"{task} logits": masks.logits, f"{task} masks": masks.masks}
    return {name: tensor.float().cpu() for name, tensor in named.items()}
