"""The commands that train: run and demo."""

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from lvad_perception.errors import EvaluationError
from lvad_training.commands.arguments import DATASET_HELP, Commands

if TYPE_CHECKING:
    from lvad_training.recipe.schema import Recipe

EXIT_NOT_EVALUATED = 1


def add_train_commands(commands: Commands) -> None:
    """Add them to the command line's sub-parsers."""
    _add_run(commands)
    _add_demo(commands)


def _add_run(commands: Commands) -> None:
    parser = commands.add_parser(
        "run",
        help="train a recipe, in one or several stages",
        description="Train a recipe and evaluate it: one training, or with a section stages teach, pseudo-label, adapt "
        "and finetune in turn. Stages that are up to date are skipped. "
        "Status 1: trained, but a model could not be measured. "
        "With several GPUs: accelerate launch -m lvad_training.cli run …",
        epilog="example: lvad-train run config/train_edge.yaml --set data.root=/data/bdd100k --set train.steps=2000",
    )
    parser.add_argument("recipe", type=Path, help="recipe file (YAML)")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C", help="override one key of the recipe")
    parser.add_argument("--stage", metavar="NAME", help="only teach-TASK, pseudo, adapt, finetune or evaluate")
    parser.add_argument("--resume", action="store_true", help="continue the run in the output folder")
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="start again although the output folder holds a run; of several stages, those whose inputs changed",
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from lvad_training.recipe.config import load_recipe

    return run_recipe(
        load_recipe(options.recipe, options.set),
        resume=options.resume,
        overwrite=options.overwrite,
        only=options.stage,
        progress=not options.quiet,
    )


def run_recipe(
    recipe: "Recipe", *, resume: bool, overwrite: bool, only: str | None = None, progress: bool = True
) -> int:
    """Run a recipe's stages as ``stages.run`` does, and print the model and its metrics; returns the exit status."""
    from lvad_training.training import stages
    from lvad_training.training.runs import METRICS, MODEL

    try:
        folder = stages.run(recipe, resume=resume, overwrite=overwrite, only=only, progress=progress)
    except EvaluationError as err:
        stages.close()  # all processes have this error
        print(f"lvad-train: error: {err}", file=sys.stderr)
        return EXIT_NOT_EVALUATED
    stages.close()
    if not (folder / MODEL).is_file():  # pseudo labels
        print(f"written: {folder}")
        return 0
    print(f"model: {folder / MODEL}")
    metrics = json.loads((folder / METRICS).read_text(encoding="utf-8"))
    if metrics is None:
        print(f"not evaluated: {recipe.data.root} has no split {recipe.data.val_split!r}")
    else:
        _print_metrics(metrics)
    return 0


def _print_metrics(plain: dict[str, object]) -> None:
    from lvad_perception.metrics import Metrics

    print(Metrics.from_dict(plain).to_text())


def _add_demo(commands: Commands) -> None:
    parser = commands.add_parser(
        "demo",
        help="the whole system end to end in six minutes",
        description="Render or take a data set, train, evaluate, export, convert to a bag, replay it, evaluate the "
        "bag, and write a report. Runs on a CPU.",
    )
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder to write (default: out)")
    parser.add_argument("--data", type=Path, help=f"{DATASET_HELP} (default: render one)")
    parser.add_argument("--images", type=int, default=400, help="images to render (default: 400)")
    parser.add_argument(
        "--steps", type=int, help="training steps (default: as many as fit into six minutes, by a short timing run)"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of rendering and training (default: 0)")
    parser.add_argument(
        "--from-scratch", action="store_true", help="start from random weights instead of the shipped checkpoint"
    )
    parser.set_defaults(run=_demo)


def _demo(options: argparse.Namespace) -> int:
    from lvad_training.demo import demo

    demo(
        options.out,
        data=options.data,
        images=options.images,
        steps=options.steps,
        seed=options.seed,
        from_scratch=options.from_scratch,
    )
    return 0
