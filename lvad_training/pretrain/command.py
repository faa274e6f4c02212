"""The command ``lvad-train pretrain``."""

import argparse
import json
import shlex
import sys
import typing
from pathlib import Path

from lvad_perception.errors import MissingDependencyError
from lvad_training.pretrain.recipe import Method, load_pretrain_recipe
from lvad_training.recipe.presets import PRESETS


def add_pretrain(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add it to the command line's sub-parsers."""
    parser = commands.add_parser(
        "pretrain",
        help="pretrain the backbone on driving images or videos without labels",
        description="Pretrain the backbone on a folder of images or videos, without labels. The result is a file for "
        "model.backbone.weights of a recipe; a page beside it shows the nearest neighbours of some frames. "
        "With several GPUs: accelerate launch -m lvad_training.cli pretrain …",
        epilog="example: lvad-train pretrain --method moco_v2 --data /data/drives --out runs/pretrain",
    )
    parser.add_argument("--method", choices=typing.get_args(Method), help="default: the recipe's, else moco_v2")
    parser.add_argument("--data", type=Path, help="folder of images or videos, or one video")
    parser.add_argument("--recipe", type=Path, help="recipe file (YAML), see config/pretrain.yaml (default: none)")
    parser.add_argument("--preset", choices=sorted(PRESETS), help="whose backbone (default: the recipe's, else r50)")
    parser.add_argument("--steps", type=int, help="optimiser steps (default: the recipe's, else 20000)")
    parser.add_argument("--out", type=Path, help="folder to write (default: the recipe's, else runs/pretrain)")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C", help="override one key of the recipe")
    parser.add_argument("--resume", action="store_true", help="continue the run in the output folder")
    parser.add_argument("--overwrite", action="store_true", help="start again although the output folder holds a run")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    parser.set_defaults(run=_pretrain)


def _pretrain(options: argparse.Namespace) -> int:
    given = {
        "method": options.method,
        "preset": options.preset,
        "data.root": options.data,
        "train.steps": options.steps,
        "output": options.out,
    }
    overrides = [
        f"{key}={json.dumps(value if isinstance(value, int) else str(value))}"
        for key, value in given.items()
        if value is not None
    ]
    recipe = load_pretrain_recipe(options.recipe, [*overrides, *options.set])
    try:
        from lvad_training.pretrain.training import pretrain
    except ModuleNotFoundError as err:
        if (err.name or "").partition(".")[0] != "lightly":
            raise
        raise MissingDependencyError(
            "pretraining needs the library lightly; install it with pip install 'lvad_perception[pretrain]'"
        ) from err
    from lvad_training.training import stages

    words = shlex.join(["lvad-train", *sys.argv[1:]])
    path = pretrain(
        recipe, resume=options.resume, overwrite=options.overwrite, progress=not options.quiet, command=words
    )
    stages.close()
    print(f"backbone: {path}\nuse it:   lvad-train run RECIPE --set model.backbone.weights={path}")
    return 0
