"""Training fed by the real data loader: does the step wait for decoding and augmentation?"""

import itertools
import time
from pathlib import Path

import numpy as np
import torch

from benchmarks.gpu.job import Cells, Job, Recorder
from benchmarks.gpu.subjects import preset_recipe
from benchmarks.gpu.training import training_steps
from lvad_perception.datasets.bdd100k import find_splits
from lvad_perception.errors import DatasetError
from lvad_perception.machine import usable_cores
from lvad_training.build import build_criterion
from lvad_training.data.batches import training_batches
from lvad_training.recipe.config import parse_recipe, recipe_to_dict
from lvad_training.recipe.schema import Recipe
from lvad_training.sample_set.write import render_sample_set

PRESET = "tiny"
"""The lightest step is the hardest to feed."""
BATCH = 32
RENDERED_IMAGES, RENDERED_HW = 160, (720, 1280)
MOST_STEPS = 60


def run(recorder: Recorder) -> None:
    """The loader alone, then training from it; on --data or on rendered images of BDD100K's size."""
    job = recorder.job
    torch.set_float32_matmul_precision("high")
    root, source = (Path(job.data), job.data) if job.data else _rendered(recorder)
    recipe = _recipe(job, root)
    facts = {"data": source, "preset": PRESET, "workers": recipe.data.workers, "batch": recipe.train.batch_size}
    recorder.measure("Data loader alone", facts, lambda: _alone(recorder, recipe), needs_s=5)
    recorder.measure("Training from the loader", facts, lambda: _training(recorder, recipe), needs_s=5)


def training_split(root: Path) -> str:
    """ "train", or the first split that there is.

    Raises:
        DatasetError: there is none.
    """
    found = find_splits(root)
    if not found:
        raise DatasetError(f"{root}: no images found; give a folder in BDD100K's layout (images/…, labels/…)")
    return "train" if "train" in found else found[0]


def _rendered(recorder: Recorder) -> tuple[Path, str]:
    job = recorder.job
    images, size_hw = (4, (72, 128)) if job.small else (RENDERED_IMAGES, RENDERED_HW)
    root = Path(job.scratch) / "rendered"
    recorder.log(f"rendering {images} images of {size_hw[1]}x{size_hw[0]}")
    render_sample_set(root, images=images, seed=0, size_hw=size_hw, workers=1 if job.small else usable_cores())
    return root, f"{images} rendered images, {size_hw[1]}x{size_hw[0]}"


def _recipe(job: Job, root: Path) -> Recipe:
    content = recipe_to_dict(preset_recipe(job, PRESET, root=str(root)))
    content["data"] |= {
        "train_split": training_split(root),
        "workers": 1 if job.small else max(1, min(16, usable_cores() - 1)),
    }
    content["train"] |= {"batch_size": 2 if job.small else BATCH, "precision": "bf16"}
    return parse_recipe(content, [], source="the loader's recipe")


def _alone(recorder: Recorder, recipe: Recipe) -> Cells:
    """Images a second of a consumer that does nothing, from the first batch on."""
    steps = 3 if recorder.job.small else MOST_STEPS
    until = time.perf_counter() + 0.3 * recorder.time_left()
    began = time.perf_counter()
    batches = iter(training_batches(recipe, first=0, last=steps, process=0, processes=1))
    next(batches)
    first_s, began, count = time.perf_counter() - began, time.perf_counter(), 0
    for _ in batches:
        count += 1
        if time.perf_counter() > until:
            break
    rate = recipe.train.batch_size * count / (time.perf_counter() - began)
    return {"images/s": rate, "first batch after s": first_s, "batches": count + 1}


def _training(recorder: Recorder, recipe: Recipe) -> Cells:
    """Steps from the loader; the first quarter, in which workers and kernels start, is not counted."""
    steps = 3 if recorder.job.small else MOST_STEPS
    until = time.perf_counter() + 0.7 * recorder.time_left()
    criterion = build_criterion(recipe.model, recipe.loss)
    batches = iter(training_batches(recipe, first=0, last=steps, process=0, processes=1))
    reports = []
    for report in training_steps(recorder.job, recipe, criterion, batches):
        reports.append(report)
        if time.perf_counter() > until:
            break
    counted = list(itertools.islice(reports, len(reports) // 4, None))
    total_s = sum(report.step_s for report in counted)
    return {
        "images/s": recipe.train.batch_size * len(counted) / total_s,
        "waiting for data %": 100 * sum(report.data_s for report in counted) / total_s,
        "step ms, p50": 1e3 * float(np.median([report.step_s for report in counted])),
        "steps": len(counted),
    }
