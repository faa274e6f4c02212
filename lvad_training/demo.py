"""The whole system end to end: a runner of the commands that a person would type, which it prints."""

import math
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml

from lvad_perception.bdd100k import find_splits, open_split, read_image
from lvad_perception.errors import ConfigError, DatasetError, LvadError
from lvad_perception.types import Size
from lvad_training.files import write_whole

NETWORK_PIXELS = 256 * 448
"""Area of the network input that the demo trains at, which a CPU can train on in minutes."""

START = "shipped/tiny"
RATE_FROM_SCRATCH, RATE_ON_OWN_DATA, RATE_ON_RENDERED = 8e-4, 4e-4, 1e-4
"""Learning rates: the shipped checkpoint knows the rendered set already and need not move far."""
BAG_FRAMES = 200


class DemoError(LvadError):
    """A command of the demo failed; it has said why."""


def demo(out: Path, *, data: Path | None, images: int, steps: int, seed: int, from_scratch: bool) -> None:
    """Render or take a data set, train, export, replay a bag of the validation split, and report.

    Args:
        out: folder for everything that is written.
        data: a data set in BDD100K's layout, or None to render one of ``images`` images.
        images: size of the rendered set.
        steps: optimiser steps.
        seed: of rendering and training.
        from_scratch: start from random weights rather than the shipped checkpoint.

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
    content = _recipe(data, train_split, val_split, out, steps, seed, rate, from_scratch)
    try:
        write_whole(recipe, yaml.safe_dump(content, sort_keys=False))
    except OSError as err:
        raise ConfigError(f"--out {out}: cannot be written to ({err.strerror}); name another folder") from err
    model, bag, predicted = out / "model.onnx", out / "bag", out / "predicted"
    video, report = out / "overlay.mp4", out / "report.html"
    commands = [
        _run("lvad-train", "run", recipe, "--overwrite"),
        _run("lvad-train", "export", out / "run" / "model.pt", model),
        _run(
            *("lvad-perception", "bag", "from-bdd100k", data, "--split", val_split),
            *("--limit", BAG_FRAMES, "--output", bag, "--overwrite"),
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


def fit_network_size(source_hw: Size, pixels: int) -> Size:
    """The network size, multiples of 32, of about ``pixels`` pixels whose aspect ratio is closest to the source's."""
    sides = range(32, 4096, 32)
    fitting = [(h, w) for h in sides for w in sides if 0.8 * pixels <= h * w <= 1.1 * pixels]
    return min(fitting, key=lambda size: abs(math.log(size[1] / size[0] * source_hw[0] / source_hw[1])))


def _splits(data: Path) -> tuple[str, str]:
    """Names of the training and validation split: train and val, or what comes nearest."""
    found = find_splits(data)
    train = "train" if "train" in found else found[0] if found else None
    if train is None:
        raise DatasetError(f"{data}: no images found; give a folder in BDD100K's layout (images/…, labels/…)")
    others = [name for name in ("val", "test", *found) if name in found and name != train]
    return train, others[0] if others else train


def _recipe(
    data: Path, train_split: str, val_split: str, out: Path, steps: int, seed: int, rate: float, from_scratch: bool
) -> dict[str, Any]:
    first = read_image(open_split(data, train_split).image_path(0))
    network_hw = fit_network_size((first.shape[0], first.shape[1]), NETWORK_PIXELS)
    return {
        "preset": "tiny",
        "data": {"root": str(data), "train_split": train_split, "val_split": val_split},
        "model": {"network_hw": list(network_hw)},
        "train": {
            "steps": steps,
            "learning_rate": rate,
            "weight_decay": 0.02,
            "warmup_steps": min(50, steps // 5),
            "precision": "bf16",
            "seed": seed,
            "start_from": None if from_scratch else START,
        },
        "output": str(out / "run"),
    }


def _run(program: str, *arguments: object, quiet: bool = False) -> str:
    """Run a command of this package in a process of its own, as a person would; returns its command line."""
    words = [str(argument) for argument in arguments]
    line = shlex.join([program, *words])
    print(f"\n$ {shlex.join([program, *words[:6]]) + ' …' if quiet else line}", flush=True)
    module = {"lvad-train": "lvad_training.cli", "lvad-perception": "lvad_perception.cli"}[program]
    status = subprocess.run([sys.executable, "-m", module, *words], check=False).returncode
    if status != 0:
        raise DemoError(f"{program} {words[0]} ended with status {status}; its message above says why")
    return line
