"""The networks, images and model files that the GPU benchmark measures, and how it times and compares them."""

import time
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.gpu.__main__ import Job
from lvad_perception.engines.agreement import TOLERANCES, agree
from lvad_perception.errors import CheckpointError
from lvad_perception.machine import usable_cores
from lvad_perception.manifest import Manifest
from lvad_perception.profiling.roofline import Machine, measure_cuda, measure_machine
from lvad_perception.profiling.statistics import median, p99
from lvad_perception.types import RawOutputs, Size, UInt8
from lvad_training.build import boxes_per_image, build_model, task_classes
from lvad_training.checkpoints import load_checkpoint, load_weights, resolve_start
from lvad_training.export.graph import ModelFileGraph
from lvad_training.export.model_file import FORMATS
from lvad_training.model.multitask import MultiTaskNet
from lvad_training.recipe.config import parse_recipe
from lvad_training.recipe.schema import Recipe
from lvad_training.samples import Batch, Targets

Call = Callable[[], Any]
Cells = dict[str, Any]
"""Column -> text, number, or None for what does not apply."""

SMALL_HW = (64, 96)
"""Network size on the CPU, where only the code is tried."""
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
BOXES_PER_IMAGE = 19
"""About det_20's average over the training split."""
_OUTPUTS = ("boxes", "scores", "labels", "semantic", "semantic_confidence", "drivable")


def preset_recipe(job: Job, preset: str, *, root: str = "unused", train: dict[str, object] | None = None) -> Recipe:
    """The preset's recipe; on the CPU at a tiny network size."""
    model = {"network_hw": list(SMALL_HW)} if job.small else {}
    content = {"preset": preset, "data": {"root": root}, "model": model, "train": train or {}}
    return parse_recipe(content, [], source=f"the preset {preset}")


def preset_net(recipe: Recipe) -> tuple[MultiTaskNet, str]:
    """The network and the source of its weights: the shipped checkpoint where one fits, otherwise "random"."""
    torch.manual_seed(0)
    net = build_model(recipe.model)
    try:
        path = resolve_start(f"shipped/{recipe.preset}")
        load_weights(net, load_checkpoint(path).weights, source=str(path))
    except CheckpointError:
        return net, "random"
    return net, f"shipped/{recipe.preset}"


class Deployed(nn.Module):
    """The model file's graph in one precision: convolutions and linear layers in it, the rest by autocast's rules.

    Args:
        net: the network; its weights are cast in place.
        max_detections: boxes per image.
        dtype: of convolutions and matrix products; float32 changes nothing.
    """

    def __init__(self, net: MultiTaskNet, max_detections: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.graph = ModelFileGraph(net, max_detections)
        self.dtype = dtype
        for module in net.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                module.to(dtype)
        self.eval().requires_grad_(False).to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """uint8 [N, H, W, 3] RGB -> the model file's outputs."""
        lower = self.dtype != torch.float32
        # Without autocast's cache: a CUDA graph must not refer to casts of another run.
        with torch.autocast(images.device.type, self.dtype if lower else None, enabled=lower, cache_enabled=False):
            return self.graph(images)


def road_images(count: int, size_hw: Size, *, seed: int = 0) -> UInt8:
    """uint8 [count, H, W, 3]: smooth colours with fine noise, as different from one another as photographs."""
    random = np.random.default_rng(seed)
    height, width = size_hw
    coarse = random.integers(0, 256, (count, height // 32 + 1, width // 32 + 1, 3), np.uint8)
    smooth = coarse.repeat(32, axis=1).repeat(32, axis=2)[:, :height, :width].astype(np.int16)
    return np.clip(smooth + random.integers(-12, 13, smooth.shape), 0, 255).astype(np.uint8)


def synthetic_batch(size: int, size_hw: Size, *, seed: int = 0) -> Batch:
    """A training batch that is annotated for every task, with as many boxes as a BDD100K image has."""
    random = np.random.default_rng(seed)
    height, width = size_hw
    images = torch.from_numpy(road_images(size, size_hw, seed=seed)).permute(0, 3, 1, 2).contiguous()

    def mask(classes: int) -> Tensor:
        coarse = random.integers(0, classes, (height // 32, width // 32), np.uint8)
        return torch.from_numpy(coarse.repeat(32, axis=0).repeat(32, axis=1))

    targets = []
    for _ in range(size):
        corner = random.uniform(0, 0.8, (BOXES_PER_IMAGE, 2))
        side = random.uniform(0.02, 0.2, (BOXES_PER_IMAGE, 2))
        boxes = np.concatenate([corner, corner + side], axis=1) * [width, height, width, height]
        labels = torch.from_numpy(random.integers(0, 10, BOXES_PER_IMAGE))
        targets.append(Targets(torch.from_numpy(boxes.astype(np.float32)), labels, mask(19), mask(3)))
    return Batch([f"synthetic {index}" for index in range(size)], images, targets)


def model_file(job: Job, preset: str, *, suffix: str = ".onnx", batch: int = 1) -> Path:
    """The preset's model file; the first call writes it, and the parts share it."""
    path = Path(job.scratch) / f"{preset}-{batch}{suffix}"
    if not path.exists():
        recipe = preset_recipe(job, preset)
        net, _ = preset_net(recipe)
        manifest = Manifest(
            network_hw=recipe.model.network_hw,
            batch_size=batch,
            max_detections=boxes_per_image(recipe.model),
            classes=task_classes(recipe.model),
            score_threshold=recipe.model.score_threshold,
            preset=preset,
            weights_sha256="0" * 64,
            created_by="benchmarks.gpu",
        )
        partial = path.with_name(f"partial-{path.name}")
        FORMATS[suffix].write(ModelFileGraph(net, recipe.model.max_detections).eval(), partial, manifest)
        partial.replace(path)
    return path


def raw_outputs(outputs: Sequence[Tensor]) -> RawOutputs:
    """The tensors of the model file's graph, of a network with every task, in host memory."""
    return RawOutputs(**{name: tensor.cpu().numpy() for name, tensor in zip(_OUTPUTS, outputs, strict=True)})


def compared(found: Sequence[RawOutputs], wanted: Sequence[RawOutputs], precision: str) -> Cells:
    """How far outputs are apart, and whether that is within the tolerance of their precision."""
    tolerance = TOLERANCES[precision]
    agreement = agree(found, wanted, tolerance)
    return {"agrees": agreement.within(tolerance), "difference": agreement.to_text()}


@cache
def peak(job: Job, precision: str) -> Machine:
    """The device's measured peak of matrix products; in fp32 by torch's setting, TF32 or not. On the CPU in fp32."""
    if job.small:
        return measure_machine(runtime="onnxruntime", precision="fp32", threads=usable_cores())
    return measure_cuda(precision)


def speed(call: Call, *, batch: int, seconds: float, on_device: bool, small: bool) -> Cells:
    """Latency of single calls, the device idle before each, and throughput of calls queued back to back.

    Args:
        call: what is timed.
        batch: images in a call.
        seconds: to spend, half on each; at least 20 and at most 500 single calls after 10 that are not counted.
        on_device: the call only queues work on CUDA: a latency is from its first kernel's launch to its last one's end
            between two events, gaps in which the GPU waits for the host included. Otherwise the call returns when it is
            done and the host's clock is read.
        small: two calls instead of many, where only the code is tried.
    """
    warm_up, fewest, most = (1, 2, 2) if small else (10, 20, 500)
    for _ in range(warm_up):
        call()
    times: list[float] = []
    until = time.perf_counter() + seconds / 2
    while len(times) < fewest or (len(times) < most and time.perf_counter() < until):
        times.append(_latency_ms(call, on_device))
    samples = np.array(times)
    calls = 2 if small else max(5, min(1000, round(500 * seconds / median(samples))))
    began = time.perf_counter()
    for _ in range(calls):
        call()
    if on_device:
        torch.cuda.synchronize()
    rate = batch * calls / (time.perf_counter() - began)
    return {"p50 ms": median(samples), "p99 ms": p99(samples), "images/s": rate, "calls": len(times)}


def _latency_ms(call: Call, on_device: bool) -> float:
    if not on_device:
        began = time.perf_counter()
        call()
        return 1e3 * (time.perf_counter() - began)
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    start.record()
    call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end)
