"""``lvad-train demo``: runs the whole system end to end as commands, which it prints."""

import math
import shlex
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lvad_perception.command_line import STATUS_INCOMPLETE
from lvad_perception.datasets.bdd100k import Bdd100kSplit, find_splits, open_split
from lvad_perception.errors import ConfigError, DatasetError, LvadError
from lvad_perception.files import write_whole
from lvad_perception.media.images import read_image
from lvad_perception.types import Size
from lvad_training.training.environment import read_environments
from lvad_training.training.runs import CURVE, read_curve

NETWORK_PIXELS = 384 * 640
"""Area of the network input, as in the preset."""
BATCH = 8

START = "shipped/edge"
RATE_FROM_SCRATCH, RATE_ON_OWN_DATA, RATE_ON_RENDERED = 1e-3, 6e-4, 1e-4
"""Learning rates: the shipped checkpoint was trained on the rendered set already, so its rate is small."""
VAL_FRAMES = 200
"""Frames of the validation split that are evaluated, in torch and as a bag."""

TIMED_STEPS, UNTIMED_STEPS = 10, 3
"""Steps of the timing run, and how many of them at its beginning only warm up."""
MOST_STEPS, FEWEST_STEPS = 1000, 20
BUDGET_S = 330.0
"""Planned duration of the demo in seconds."""
REST_S = 45.0
"""Seconds after the training that do not depend on the number of frames: starts of programs, export, report."""


class DemoError(LvadError):
    """A command of the demo failed; its own message gives the cause."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Length of the demo's training.

    Attributes:
        steps: optimiser steps.
        training_s: seconds for these steps.
        rest_s: seconds for evaluation, export, replay and report.
    """

    steps: int
    training_s: float
    rest_s: float


def demo(out: Path, *, data: Path | None, images: int, steps: int | None, seed: int, from_scratch: bool) -> None:
    """Render or take a data set, train, export, replay a bag of the validation split, and report.

    Args:
        out: folder for all output.
        data: a data set in BDD100K's layout, or None to render one of ``images`` images.
        images: size of the rendered set.
        steps: optimiser steps; None for as many as fit into ``BUDGET_S``, by the measured time of the first ones.
        seed: of rendering and training.
        from_scratch: start from random weights instead of the shipped checkpoint.

    Raises:
        DemoError: a command failed.
        DatasetError: the data set has no training images.
        ConfigError: ``out`` cannot be written to.
    """
    started = time.monotonic()
    given = data is not None
    if data is None:
        data = out / "data"
        _run("lvad-train", "data", "sample", data, "--images", images, "--seed", seed)
    rate = RATE_FROM_SCRATCH if from_scratch else RATE_ON_OWN_DATA if given else RATE_ON_RENDERED
    train_split, val_split = _splits(data)
    recipe = out / "recipe.yaml"
    measured = open_split(data, val_split)
    content = _recipe(data, train_split, measured, out, seed, rate, from_scratch)
    if steps is None:
        _write(recipe, content, TIMED_STEPS, out)
        timing = out / "timing"
        print(f"\nTiming: {TIMED_STEPS} steps, to plan the training")
        unmeasured = ("--set", "data.val_split=none", "--set", f"output={timing}")
        _run("lvad-train", "run", recipe, "--overwrite", "--quiet", *unmeasured)
        plan = plan_training(
            _step_s(timing), elapsed_s=time.monotonic() - started, frames=min(VAL_FRAMES, len(measured))
        )
        _report(plan, timing)
        steps = plan.steps
    _write(recipe, content, steps, out)
    model, bag, predicted = out / "model.onnx", out / "bag", out / "predicted"
    video, report = out / "overlay.mp4", out / "report.html"
    commands = [
        _run("lvad-train", "run", recipe, "--overwrite"),
        _run("lvad-train", "export", out / "run" / "model.pt", model),
        _run(
            *("lvad-perception", "bag", "from-dataset", data, "--split", val_split),
            *("--limit", VAL_FRAMES, "--output", bag, "--overwrite"),
        ),
        _run(
            *("lvad-perception", "replay", bag, "--model", model),
            *("--output", predicted, "--overwrite", "--overlay-video", video),
        ),
        _run("lvad-perception", "evaluate", predicted, "--json", out / "bag_metrics.json"),
    ]
    shown = [word for line in commands for word in ("--command", line)]
    _run("lvad-perception", "report", predicted, "--training", out / "run", "--output", report, *shown, quiet=True)
    minutes = (time.monotonic() - started) / 60
    print(f"\nDone in {minutes:.1f} minutes. Look at:")
    for path, what in (
        (report, "curves, tables and overlays; open it in a browser"),
        (video, "the validation split with the predictions drawn in"),
        (model, "the model file: ros2 launch lvad_perception camera.launch.py model:=…"),
        (predicted, "the replayed bag, for Foxglove or ros2 bag play"),
        (out / "run" / "tensorboard", "tensorboard --logdir …"),
    ):
        print(f"  {path}  {what}")


def plan_training(step_s: float, *, elapsed_s: float, frames: int) -> Plan:
    """Plan as many steps as fit into the budget.

    Args:
        step_s: seconds of one step of ``BATCH`` images.
        elapsed_s: seconds since the demo began.
        frames: frames of the validation split, which are evaluated in torch and replayed.
    """
    # Evaluating, replaying and drawing a frame takes about as long as training on it.
    rest_s = REST_S + frames * step_s / BATCH
    steps = int((BUDGET_S - elapsed_s - rest_s) / step_s)
    steps = max(FEWEST_STEPS, min(MOST_STEPS, steps))
    return Plan(steps, steps * step_s, rest_s)


def _step_s(folder: Path) -> float:
    """Median seconds per step of the run in a folder, waiting for data included."""
    return statistics.median(float(step["step_s"]) for step in read_curve(folder / CURVE)[UNTIMED_STEPS:])


def _report(plan: Plan, timing: Path) -> None:
    environment = read_environments(timing)[-1]
    end = time.strftime("%H:%M", time.localtime(time.time() + plan.training_s + plan.rest_s))
    print(
        f"\nA step of {BATCH} images takes {plan.training_s / plan.steps:.2f} s in {environment.precision_text} on "
        f"{environment.hardware}.\nPlan: {plan.steps} steps in {plan.training_s / 60:.1f} minutes, then evaluation, "
        f"export, replay and report in about {plan.rest_s / 60:.1f}; expected end: {end}. --steps N (with make: "
        'ARGS="--steps N") trains longer or shorter.',
        flush=True,
    )


def fit_network_size(source_hw: Size, pixels: int) -> Size:
    """The network size, multiples of 32, of about ``pixels`` pixels whose aspect ratio is closest to the source's."""
    sides = range(32, 4096, 32)
    fitting = [(h, w) for h in sides for w in sides if 0.8 * pixels <= h * w <= 1.1 * pixels]
    return min(fitting, key=lambda size: abs(math.log(size[1] / size[0] * source_hw[0] / source_hw[1])))


def _splits(data: Path) -> tuple[str, str]:
    """Names of the training and validation split: train and val, or the closest substitutes."""
    splits = find_splits(data)
    train = "train" if "train" in splits else splits[0] if splits else None
    if train is None:
        raise DatasetError(f"{data}: no images found; give a folder in BDD100K's layout (images/…, labels/…)")
    others = [name for name in ("val", "test", *splits) if name in splits and name != train]
    return train, others[0] if others else train


def _recipe(
    data: Path, train_split: str, measured: Bdd100kSplit, out: Path, seed: int, rate: float, from_scratch: bool
) -> dict[str, Any]:
    """The recipe without its number of steps."""
    first = read_image(open_split(data, train_split).image_path(0))
    network_hw = fit_network_size((first.shape[0], first.shape[1]), NETWORK_PIXELS)
    return {
        "preset": "edge",
        "data": {"root": str(data), "train_split": train_split, "val_split": measured.name, **_val_only(measured)},
        "model": {"network_hw": list(network_hw)},
        "train": {
            "batch_size": BATCH,
            "learning_rate": rate,
            "weight_decay": 0.02,
            "seed": seed,
            "start_from": None if from_scratch else START,
            "batch_norm": "batch",
        },
        "output": str(out / "run"),
    }


def _val_only(split: Bdd100kSplit) -> dict[str, Any]:
    """``data.val_only`` with the first ``VAL_FRAMES`` frames of a larger validation split; empty for a smaller one."""
    if len(split) <= VAL_FRAMES:
        return {}
    return {"val_only": [split.name_of(index) for index in range(VAL_FRAMES)]}


def _write(path: Path, content: dict[str, Any], steps: int, out: Path) -> None:
    """Write the recipe with a number of steps."""
    train = {"steps": steps, "warmup_steps": min(50, steps // 5), **content["train"]}
    try:
        write_whole(path, yaml.safe_dump({**content, "train": train}, sort_keys=False))
    except OSError as err:
        raise ConfigError(f"--out {out}: cannot be written to ({err.strerror}); name another folder") from err


def _run(program: str, *arguments: object, quiet: bool = False) -> str:
    """Run a command of this package in a process of its own and return its command line."""
    words = [str(argument) for argument in arguments]
    line = shlex.join([program, *words])
    print(f"\n$ {shlex.join([program, *words[:6]]) + ' …' if quiet else line}", flush=True)
    module = {"lvad-train": "lvad_training.cli", "lvad-perception": "lvad_perception.cli"}[program]
    status = subprocess.run([sys.executable, "-m", module, *words], check=False).returncode
    if status not in (0, STATUS_INCOMPLETE):  # the command reported what is left out; the demo goes on
        raise DemoError(f"{program} {words[0]} ended with status {status}; its message above says why")
    return line
