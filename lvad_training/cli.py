"""``lvad-train``, the command line of training; bad input gives one sentence and exit status 2."""

import argparse
import sys
from typing import Final

import lvad_perception
from lvad_perception.command_line import expand_paths, run_program
from lvad_perception.errors import MissingDependencyError
from lvad_perception.media.opencv import import_opencv
from lvad_training.commands.checkpoint import add_checkpoint_commands
from lvad_training.commands.data import add_data_commands
from lvad_training.commands.distil import add_distil_command
from lvad_training.commands.report import add_report_command
from lvad_training.commands.train import add_train_commands
from lvad_training.pretrain.command import add_pretrain
from lvad_training.reproduce.command import add_reproduce

_INTERRUPTED: Final = (
    "finished work is kept; continue run, pretrain and distil with --resume, reproduce with the same command"
)


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit status."""

    def command() -> int:
        options = expand_paths(_parser().parse_args(arguments))
        import_opencv()
        return _run(options)

    return run_program("lvad-train", command, interrupted=_INTERRUPTED)


def _run(options: argparse.Namespace) -> int:
    """Run the command. Raises MissingDependencyError when a library for training is not installed."""
    try:
        status: int = options.run(options)
    except ModuleNotFoundError as err:
        if (err.name or "").startswith("lvad_"):
            raise
        raise MissingDependencyError(f"training needs {err.name}; pip install 'lvad_perception[train]'") from err
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lvad-train",
        description="Train one network for traffic objects, semantic segmentation and drivable area, and export it.",
    )
    parser.add_argument("--version", action="version", version=lvad_perception.__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    add_train_commands(commands)
    add_checkpoint_commands(commands)
    add_data_commands(commands)
    add_report_command(commands)
    add_pretrain(commands)
    add_distil_command(commands)
    add_reproduce(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
