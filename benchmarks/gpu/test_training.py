"""Training on a GPU: steps in memory, steps fed by the loader, and a short run of ``lvad-train run``."""

import gc
import itertools
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from benchmarks.gpu.__main__ import Job
from benchmarks.gpu.subjects import DTYPES, SMALL_HW, Cells, preset_recipe, synthetic_batch
from lvad_perception.datasets.bdd100k import find_splits
from lvad_perception.errors import DatasetError
from lvad_perception.machine import usable_cores
from lvad_perception.metrics import Evaluator, Metrics
from lvad_perception.profiling.statistics import median, p99
from lvad_training.build import build_criterion, build_model
from lvad_training.checkpoints import load_checkpoint, load_weights
from lvad_training.data.batches import evaluation_batches, training_batches
from lvad_training.recipe.config import parse_recipe, recipe_to_dict
from lvad_training.recipe.schema import Recipe
from lvad_training.sample_set.write import render_sample_set
from lvad_training.samples import Batch, Outputs
from lvad_training.training import loop
from lvad_training.training.loop import StepReport
from lvad_training.training.runs import CHECKPOINT, CURVE
from lvad_training.training.schedule import optimizer_and_schedule

BATCH, BATCH_R50 = 32, 8
"""Images per step, halved until they fit into the memory."""
WARM_UP_STEPS, MOST_STEPS = 4, 30

FED_PRESET = "tiny"
"""The preset with the shortest step, which needs the most images a second."""
FED_STEPS = 60
RENDERED_IMAGES, RENDERED_HW = 160, (720, 1280)

RECIPE = Path(__file__).parents[2] / "config" / "train_edge.yaml"
PROBE_STEPS, MOST_FIT_STEPS = 12, 2000
EVALUATION_SHARE = 0.25
"""Share of the time left that is kept for measuring the result."""


@pytest.fixture(autouse=True)
def products_in_tf32():
    """Let fp32 products on CUDA be in TF32."""
    torch.set_float32_matmul_precision("high")


@pytest.mark.gpu("train-{precision}", "Training steps", needs_s=4)
@pytest.mark.parametrize("precision", DTYPES)
def test_training_steps(job, row, share_s, preset, precision):
    """Synthetic batches with 19 boxes an image; fp32 is in TF32. `loss %` is the criterion's share (matching included,
    which runs on the CPU), from three further steps that wait for the device before and after it."""
    size = 2 if job.small else BATCH_R50 if preset == "r50" else BATCH
    while True:
        try:
            return row(**_steps(job, preset, precision, size, 0.5 * share_s))
        except torch.OutOfMemoryError:
            if size == 1:
                raise
        size //= 2  # outside the handler, whose exception would keep the tensors alive
        print(f"{preset}: out of memory, trying batch {size}")


@pytest.mark.gpu("loader", "Data loader alone", needs_s=5)
def test_loader_alone(job, row):
    """Images a second for a consumer that does nothing, from the first batch on."""
    recipe, cells = _fed_recipe(job)
    until = time.perf_counter() + 0.3 * job.time_left()
    began = time.perf_counter()
    batches = iter(training_batches(recipe, first=0, last=3 if job.small else FED_STEPS, process=0, processes=1))
    next(batches)
    first_s, began, count = time.perf_counter() - began, time.perf_counter(), 0
    for _ in batches:
        count += 1
        if time.perf_counter() > until:
            break
    rate = recipe.train.batch_size * count / (time.perf_counter() - began)
    row(**cells, **{"images/s": rate, "first batch after s": first_s, "batches": count + 1})


@pytest.mark.gpu("loader", "Training from the loader", needs_s=5)
def test_training_from_the_loader(job, row):
    """The first quarter of the steps, in which workers and kernels start, is not counted."""
    recipe, cells = _fed_recipe(job)
    until = time.perf_counter() + 0.7 * job.time_left()
    criterion = build_criterion(recipe.model, recipe.loss)
    batches = iter(training_batches(recipe, first=0, last=3 if job.small else FED_STEPS, process=0, processes=1))
    reports = []
    for report in training_steps(job, recipe, criterion, batches):
        reports.append(report)
        if time.perf_counter() > until:
            break
    counted = reports[len(reports) // 4 :]
    total_s = sum(report.step_s for report in counted)
    row(
        **cells,
        **{
            "images/s": recipe.train.batch_size * len(counted) / total_s,
            "waiting for data %": 100 * sum(report.data_s for report in counted) / total_s,
            "step ms, p50": 1e3 * float(np.median([report.step_s for report in counted])),
            "steps": len(counted),
        },
    )


@pytest.mark.gpu("fit", "Short training", needs_s=15)
def test_short_training(job, row):
    """A probe, killed at its first checkpoint and resumed, measures the speed; a run uses the time; as many validation
    images as still fit measure the result."""
    if job.data is None:
        pytest.skip("no --data; give a data set in BDD100K's layout")
    root = Path(job.data)
    probe_steps = 2 if job.small else PROBE_STEPS
    _train(job, root, "probe", probe_steps, kill=True)
    began = time.perf_counter()
    reports = _train(job, root, "probe", probe_steps, resume=True)
    probe_s = time.perf_counter() - began
    assert [report["step"] for report in reports] == list(range(1, probe_steps + 1)), "the resumed curve has gaps"
    step_s = float(np.median([report["step_s"] for report in reports[-max(1, probe_steps // 3) :]]))
    overhead_s = max(0.0, probe_s - step_s * probe_steps / 2)  # start of the command, workers, kernels, checkpoints
    room_s = (1 - EVALUATION_SHARE) * job.time_left() - overhead_s
    steps = 2 if job.small else min(MOST_FIT_STEPS, int(room_s / step_s))
    if steps < 1:
        pytest.skip(f"no time is left for a run: its start takes {overhead_s:.0f} s, a step {step_s:.2f} s")
    print(f"a step takes {step_s:.3f} s, {steps} of them fit")
    reports = _train(job, root, "run", steps)
    last = reports[-max(1, len(reports) // 10) :]
    row(
        recipe=RECIPE.name,
        data=job.data,
        steps=steps,
        **{
            "step ms, p50": 1e3 * float(np.median([report["step_s"] for report in reports])),
            "first loss": reports[0]["terms"]["total"],
            "last loss": float(np.mean([report["terms"]["total"] for report in last])),
        },
        **_evaluate(job, root, Path(job.scratch) / "run" / "model.pt"),
    )


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
    """A criterion that, while ``seconds`` is a list, waits for the device around each call and appends its time."""

    def __init__(self, criterion: nn.Module) -> None:
        super().__init__()
        self.criterion = criterion
        self.seconds: list[float] | None = None

    def forward(self, outputs: Outputs, batch: Batch) -> dict[str, Tensor]:
        """As the criterion's."""
        if self.seconds is None:
            return self.criterion(outputs, batch)
        _synchronise()
        began = time.perf_counter()
        terms = self.criterion(outputs, batch)
        _synchronise()
        self.seconds.append(time.perf_counter() - began)
        return terms


def training_split(root: Path) -> str:
    """ "train", or the first split that there is.

    Raises:
        DatasetError: there is none.
    """
    found = find_splits(root)
    if not found:
        raise DatasetError(f"{root}: no images found; give a folder in BDD100K's layout (images/…, labels/…)")
    return "train" if "train" in found else found[0]


def _synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _steps(job: Job, preset: str, precision: str, size: int, seconds: float) -> Cells:
    recipe = preset_recipe(
        job, preset, train={"batch_size": size, "precision": "no" if precision == "fp32" else precision}
    )
    height, width = recipe.model.network_hw
    criterion = TimedCriterion(build_criterion(recipe.model, recipe.loss))
    batches = [synthetic_batch(size, (height, width), seed=seed) for seed in range(2)]
    if job.device == "cuda":
        gc.collect()  # the networks before this one are in reference cycles
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        batches = [Batch(batch.names, batch.images.pin_memory(), batch.targets) for batch in batches]
    steps = training_steps(job, recipe, criterion, itertools.cycle(batches))
    for _ in itertools.islice(steps, 1 if job.small else WARM_UP_STEPS):
        pass
    times: list[float] = []
    until = time.perf_counter() + seconds
    for report in itertools.islice(steps, 2 if job.small else MOST_STEPS):
        times.append(1e3 * report.step_s)
        if time.perf_counter() > until and not job.small:
            break
    peak_memory = torch.cuda.max_memory_allocated() / 2**30 if job.device == "cuda" else None
    criterion.seconds = []
    watched = [report.step_s for report in itertools.islice(steps, 3)]
    times_ms = np.array(times)
    return {
        "size": f"{width}x{height}",
        "batch": size,
        "images/s": 1e3 * size / median(times_ms),
        "step ms, p50": median(times_ms),
        "step ms, p99": p99(times_ms),
        "loss %": 100 * float(np.median(criterion.seconds) / np.median(watched)),
        "peak GiB": peak_memory,
        "steps": len(times),
    }


def _fed_recipe(job: Job) -> tuple[Recipe, Cells]:
    """The recipe that reads --data, or rendered images of BDD100K's size, and the cells that say so."""
    if job.data:
        root, source = Path(job.data), job.data
    else:
        images, size_hw = (4, (72, 128)) if job.small else (RENDERED_IMAGES, RENDERED_HW)
        root, source = Path(job.scratch) / "rendered", f"{images} rendered images, {size_hw[1]}x{size_hw[0]}"
        if not root.exists():
            render_sample_set(root, images=images, seed=0, size_hw=size_hw, workers=1 if job.small else usable_cores())
    content = recipe_to_dict(preset_recipe(job, FED_PRESET, root=str(root)))
    content["data"] |= {"train_split": training_split(root), "workers": _workers(job)}
    content["train"] |= {"batch_size": 2 if job.small else BATCH, "precision": "bf16"}
    recipe = parse_recipe(content, [], source="the loader's recipe")
    cells = {"data": source, "preset": FED_PRESET, "workers": recipe.data.workers, "batch": recipe.train.batch_size}
    return recipe, cells


def _workers(job: Job) -> int:
    return 1 if job.small else max(1, min(16, usable_cores() - 1))


def _train(
    job: Job, root: Path, name: str, steps: int, *, kill: bool = False, resume: bool = False
) -> list[dict[str, Any]]:
    """Train into a folder of the scratch folder, by the command that a person would type; the curve's lines.

    ``kill`` ends it at its first checkpoint, which a probe writes after half of its steps; ``resume`` goes on from it.
    """
    output = Path(job.scratch) / name
    settings = {
        "data.root": root,
        "data.train_split": training_split(root),
        "data.val_split": "not-evaluated-here",  # BDD100K's 10,000 images would take longer than the training
        "data.workers": _workers(job),
        "train.steps": steps,
        "train.warmup_steps": min(60, steps // 5),
        "train.checkpoint_every": max(1, steps // 2) if kill or resume else steps,
        "output": output,
    }
    if job.small:
        settings |= {"model.network_hw": list(SMALL_HW), "train.batch_size": 2}
    words = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    command = [sys.executable, "-m", "lvad_training.cli", "run", str(RECIPE), *words, "--quiet"]
    process = subprocess.Popen([*command, "--resume" if resume else "--overwrite"])
    while kill and process.poll() is None:
        if (output / CHECKPOINT).exists():
            process.kill()
        time.sleep(0.02)
    status = process.wait()
    assert status in (0, -signal.SIGKILL if kill else 0), f"lvad-train run ended with {status}; see its message above"
    return [json.loads(line) for line in (output / CURVE).read_text(encoding="utf-8").splitlines()]


def _evaluate(job: Job, root: Path, model: Path) -> Cells:
    """The main metrics, percent, over as many validation images as there is time for."""
    found = find_splits(root)
    split = next((name for name in ("val", "test") if name in found), None) or training_split(root)
    checkpoint = load_checkpoint(model)
    batches = evaluation_batches(checkpoint.recipe, split, optional=False)
    assert batches is not None  # a missing split raised
    net = build_model(checkpoint.recipe.model)
    load_weights(net, checkpoint.weights, source=str(model))
    until = time.perf_counter() + 0.7 * job.time_left()
    count = 0

    def in_time(batch: list[Any]) -> bool:
        nonlocal count
        go_on = count == 0 or time.perf_counter() < until
        count += len(batch) if go_on else 0
        return go_on

    metrics = loop.evaluate(
        model=net.to(job.device),
        samples=itertools.takewhile(in_time, batches),
        evaluator=Evaluator(tasks=checkpoint.recipe.model.tasks),
        device=torch.device(job.device),
        max_detections=checkpoint.recipe.model.max_detections,
    )
    return {f"{split} images": count, **_headline(metrics)}


def _headline(metrics: Metrics) -> Cells:
    """Percent; None for a task that the images are not annotated for."""
    detection, semantic, drivable = metrics.detection, metrics.semantic, metrics.drivable
    return {
        "boxes AP": detection.scores.ap if detection else None,
        "AP50": detection.scores.ap50 if detection else None,
        "semantic mIoU": semantic.scores.mean_iou if semantic else None,
        "constant's": semantic.scores.constant_mean_iou if semantic else None,
        "drivable mIoU, official": drivable.official.mean_iou if drivable else None,
        "drivable constant's": drivable.official.constant_mean_iou if drivable else None,
    }
