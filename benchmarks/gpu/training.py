"""Training steps on batches that are in memory already: the step alone, its memory, and the share of the losses."""

import gc
import time
from collections.abc import Iterator
from itertools import chain, islice, repeat

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from benchmarks.gpu.job import Cells, Job, Recorder
from benchmarks.gpu.subjects import preset_recipe, synthetic_batch
from benchmarks.gpu.timing import synchronise
from lvad_training.build import build_criterion, build_model
from lvad_training.recipe.schema import Recipe
from lvad_training.samples import Batch, Outputs
from lvad_training.training import loop
from lvad_training.training.loop import StepReport
from lvad_training.training.schedule import optimizer_and_schedule

BATCH, BATCH_R50 = 32, 8
"""Images per step, halved until they fit into the memory."""
WARM_UP_STEPS = 4
MOST_STEPS = 30


def run(recorder: Recorder) -> None:
    """Every preset in the part's precision, each in an equal share of the time left."""
    job = recorder.job
    precision = job.part.removeprefix("train-")
    torch.set_float32_matmul_precision("high")
    recorder.note(
        "Synthetic batches with 19 boxes an image. `loss %` is the criterion's share (matching included, which runs on "
        "the CPU), from three further steps that wait for the device before and after it."
    )
    for index, preset in enumerate(job.presets):
        seconds = 0.5 * recorder.time_left() / (len(job.presets) - index)
        recorder.measure(
            "Training steps",
            {
                "preset": preset,
                "precision": "fp32 in TF32" if precision == "fp32" and job.device == "cuda" else precision,
            },
            lambda preset=preset, seconds=seconds: _fitting(recorder, preset, precision, seconds),
            needs_s=4,
        )


def _fitting(recorder: Recorder, preset: str, precision: str, seconds: float) -> Cells:
    job = recorder.job
    size = 2 if job.small else BATCH_R50 if preset == "r50" else BATCH
    while True:
        try:
            return _measure(job, preset, precision, size, seconds)
        except torch.OutOfMemoryError:
            if size == 1:
                raise
        size //= 2  # outside the handler, whose exception would keep the tensors alive
        recorder.log(f"{preset}: out of memory, trying batch {size}")


def _measure(job: Job, preset: str, precision: str, size: int, seconds: float) -> Cells:
    recipe = preset_recipe(
        job, preset, train={"batch_size": size, "precision": "no" if precision == "fp32" else precision}
    )
    height, width = recipe.model.network_hw
    criterion = TimedCriterion(build_criterion(recipe.model, recipe.loss), job.device)
    batches = [synthetic_batch(size, (height, width), seed=seed) for seed in range(2)]
    if job.device == "cuda":
        gc.collect()  # the networks before this one sit in reference cycles
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        batches = [Batch(batch.names, batch.images.pin_memory(), batch.targets) for batch in batches]
    steps = training_steps(job, recipe, criterion, chain.from_iterable(repeat(batches)))
    for _ in islice(steps, 1 if job.small else WARM_UP_STEPS):
        pass
    times: list[float] = []
    until = time.perf_counter() + seconds
    for report in islice(steps, 2 if job.small else MOST_STEPS):
        times.append(report.step_s)
        if time.perf_counter() > until:
            break
    peak = torch.cuda.max_memory_allocated() / 2**30 if job.device == "cuda" else None
    criterion.seconds = []
    watched = [report.step_s for report in islice(steps, 3)]
    return {
        "size": f"{width}x{height}",
        "batch": size,
        "images/s": size / float(np.median(times)),
        "step ms, p50": 1e3 * float(np.median(times)),
        "step ms, p99": 1e3 * float(np.percentile(times, 99)),
        "loss %": 100 * float(np.median(criterion.seconds) / np.median(watched)),
        "peak GiB": peak,
        "steps": len(times),
    }


def training_steps(job: Job, recipe: Recipe, criterion: nn.Module, batches: Iterator[Batch]) -> Iterator[StepReport]:
    """The project's own loop over batches, set up as ``lvad_training.training.train`` does."""
    settings = recipe.train
    accelerator = Accelerator(mixed_precision=settings.precision, cpu=job.device == "cpu")
    torch.manual_seed(0)
    net = build_model(recipe.model).to(memory_format=torch.channels_last)
    criterion = criterion.to(accelerator.device)
    optimizer, scheduler = optimizer_and_schedule(net, settings)
    model, optimizer = accelerator.prepare(net, optimizer)
    return loop.train_steps(
        accelerator=accelerator,
        model=model,
        criterion=criterion,
        optimizer=optimizer,
        scheduler=scheduler,
        batches=batches,
        gradient_clip=settings.gradient_clip,
    )


class TimedCriterion(nn.Module):
    """A criterion to be watched: while ``seconds`` is a list, each call waits for the device and appends to it."""

    def __init__(self, criterion: nn.Module, device: str) -> None:
        super().__init__()
        self.criterion = criterion
        self.device = device
        self.seconds: list[float] | None = None

    def forward(self, outputs: Outputs, batch: Batch) -> dict[str, Tensor]:
        """As the criterion's."""
        if self.seconds is None:
            return self.criterion(outputs, batch)
        synchronise(self.device)
        began = time.perf_counter()
        terms = self.criterion(outputs, batch)
        synchronise(self.device)
        self.seconds.append(time.perf_counter() - began)
        return terms
