"""A short training with the command that a person would type, as long as the time allows, and what it learned."""

import json
import subprocess
import sys
import time
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.gpu.job import Cells, Recorder, Unavailable
from benchmarks.gpu.loader import training_split
from benchmarks.gpu.subjects import SMALL_HW
from lvad_perception.datasets.bdd100k import find_splits
from lvad_perception.machine import usable_cores
from lvad_perception.metrics import Evaluator, Metrics
from lvad_training.build import build_model
from lvad_training.checkpoints import load_checkpoint, load_weights
from lvad_training.data.batches import evaluation_batches
from lvad_training.training import loop

RECIPE = Path(__file__).parents[2] / "config" / "train_edge.yaml"
PROBE_STEPS, MOST_STEPS = 12, 2000
EVALUATION_SHARE = 0.25
"""Of the time left goes to measuring what was learned."""


class TrainingError(Exception):
    """``lvad-train run`` failed; it has said why above."""


def run(recorder: Recorder) -> None:
    """A probe tells the speed, a run uses the time, the validation images that still fit measure it."""
    job = recorder.job
    if job.data is None:
        raise Unavailable("no --data; give a data set in BDD100K's layout")
    recorder.measure("Short training", {"recipe": RECIPE.name, "data": job.data}, lambda: _fit(recorder), needs_s=15)


def _fit(recorder: Recorder) -> Cells:
    job = recorder.job
    root = Path(str(job.data))
    probe_steps = 2 if job.small else PROBE_STEPS
    began = time.perf_counter()
    reports = _train(recorder, root, "probe", probe_steps)
    probe_s = time.perf_counter() - began
    step_s = float(np.median([report["step_s"] for report in reports[len(reports) // 3 :]]))
    overhead_s = max(0.0, probe_s - step_s * probe_steps)  # start of the command, workers, kernels, checkpoints
    room_s = (1 - EVALUATION_SHARE) * recorder.time_left() - overhead_s
    steps = 2 if job.small else min(MOST_STEPS, int(room_s / step_s))
    if steps < 1:
        raise Unavailable(f"no time is left for a run: its start takes {overhead_s:.0f} s, a step {step_s:.2f} s")
    recorder.log(f"a step takes {step_s:.3f} s, {steps} of them fit")
    reports = _train(recorder, root, "run", steps)
    last = reports[-max(1, len(reports) // 10) :]
    return {
        "steps": steps,
        "step ms, p50": 1e3 * float(np.median([report["step_s"] for report in reports])),
        "first loss": reports[0]["terms"]["total"],
        "last loss": float(np.mean([report["terms"]["total"] for report in last])),
        **_evaluate(recorder, root, Path(job.scratch) / "run" / "model.pt"),
    }


def _train(recorder: Recorder, root: Path, name: str, steps: int) -> list[dict[str, Any]]:
    """Train into a folder of the scratch folder; returns the curve's lines."""
    job = recorder.job
    output = Path(job.scratch) / name
    settings = {
        "data.root": root,
        "data.train_split": training_split(root),
        "data.val_split": "not-evaluated-here",  # BDD100K's 10,000 images would take longer than the training
        "data.workers": 1 if job.small else max(1, min(16, usable_cores() - 1)),
        "train.steps": steps,
        "train.warmup_steps": min(60, steps // 5),
        "train.checkpoint_every": steps,
        "output": output,
    }
    if job.small:
        settings |= {"model.network_hw": list(SMALL_HW), "train.batch_size": 2}
    words = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    command = [sys.executable, "-m", "lvad_training.cli", "run", str(RECIPE), *words, "--overwrite", "--quiet"]
    recorder.log("lvad-train run " + " ".join(command[4:]))
    status = subprocess.run(command, check=False).returncode
    if status != 0:
        raise TrainingError(f"lvad-train run ended with status {status}; its message above says why")
    return [json.loads(line) for line in (output / "losses.jsonl").read_text(encoding="utf-8").splitlines()]


def _evaluate(recorder: Recorder, root: Path, model: Path) -> Cells:
    """The main metrics, percent, over as many validation images as there is time for."""
    job = recorder.job
    found = find_splits(root)
    split = next((name for name in ("val", "test") if name in found), None) or training_split(root)
    checkpoint = load_checkpoint(model)
    batches = evaluation_batches(checkpoint.recipe, split, optional=False)
    assert batches is not None  # a missing split raised
    net = build_model(checkpoint.recipe.model)
    load_weights(net, checkpoint.weights, source=str(model))
    until = time.perf_counter() + 0.7 * recorder.time_left()
    count = 0

    def in_time(batch: list[Any]) -> bool:
        nonlocal count
        go_on = count == 0 or time.perf_counter() < until
        count += len(batch) if go_on else 0
        return go_on

    metrics = loop.evaluate(
        model=net.to(job.device),
        samples=takewhile(in_time, batches),
        evaluator=Evaluator(tasks=checkpoint.recipe.model.tasks),
        device=torch.device(job.device),
        max_detections=checkpoint.recipe.model.max_detections,
    )
    return {f"{split} images": count, **_headline(metrics)}


def _headline(metrics: Metrics) -> Cells:
    """Percent; a task that the images are not annotated for has none."""
    detection, semantic, drivable = metrics.detection, metrics.semantic, metrics.drivable
    return {
        "boxes AP": detection.scores.ap if detection else None,
        "AP50": detection.scores.ap50 if detection else None,
        "semantic mIoU": semantic.scores.mean_iou if semantic else None,
        "constant's": semantic.scores.constant_mean_iou if semantic else None,
        "drivable mIoU, official": drivable.official.mean_iou if drivable else None,
        "drivable constant's": drivable.official.constant_mean_iou if drivable else None,
    }
