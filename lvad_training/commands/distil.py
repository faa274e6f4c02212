"""The command distil: a small model from given teachers and images or videos without labels."""

import argparse
import shlex
from pathlib import Path

from lvad_perception.errors import ConfigError
from lvad_training.commands.arguments import Commands
from lvad_training.commands.train import run_recipe
from lvad_training.recipe.presets import PRESETS


def add_distil_command(commands: Commands) -> None:
    """Add it to the command line's sub-parsers."""
    parser = commands.add_parser(
        "distil",
        help="train a small model on images or videos without labels, taught by given checkpoints",
        description="Label images and frames of videos with given checkpoints and train one model on these labels. "
        "A share of the frames is held out; on it the model is measured against the teachers' labels, not the truth. "
        "With several GPUs: accelerate launch -m lvad_training.cli distil …",
        epilog="example: lvad-train distil --teachers det.pt sem.pt driv.pt --data /data/drives --output runs/small",
    )
    parser.add_argument(
        "--teachers",
        type=Path,
        nargs="+",
        required=True,
        metavar="FILE",
        help='checkpoints, trained or imported, or "shipped/edge"; the first with a head for a task labels it',
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of images or videos, or one video")
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    parser.add_argument("--preset", choices=sorted(PRESETS), default="edge", help="the model to train (default: edge)")
    parser.add_argument("--fps", type=float, default=2.0, help="frames per second to take from videos (default: 2)")
    parser.add_argument(
        "--held-out",
        type=float,
        default=0.1,
        metavar="SHARE",
        help="share of the frames to measure on, the last of each folder and video (default: 0.1)",
    )
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C", help="override one key of the recipe")
    parser.add_argument("--resume", action="store_true", help="continue the run in the output folder")
    parser.add_argument("--overwrite", action="store_true", help="run stages again whose inputs changed")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    parser.set_defaults(run=_distil)


def _distil(options: argparse.Namespace) -> int:
    from lvad_training.distil import choose_teachers, distil_recipe, prepare
    from lvad_training.training.runs import MODEL

    if not 0 <= options.held_out < 1:
        raise ConfigError(f"--held-out {options.held_out:g} is no share; give a number from 0 to below 1, such as 0.1")
    if not options.fps > 0:
        raise ConfigError(f"--fps {options.fps:g} takes no frames; give a number above 0, such as 2")
    recipe = distil_recipe(
        choose_teachers(options.teachers), options.output, preset=options.preset, overrides=options.set
    )
    repeat = {"resume": options.resume, "overwrite": options.overwrite, "progress": not options.quiet}
    prepare(recipe, options.data, fps=options.fps, held_out=options.held_out, **repeat)
    status = run_recipe(recipe, **repeat)
    model = options.output / "finetune" / MODEL
    command = shlex.join(["lvad-train", "export", str(model), str(options.output / "model.onnx")])
    print(f"export it: {command}")
    return status
