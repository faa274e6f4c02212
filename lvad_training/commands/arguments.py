"""What several commands share: their group, and the arguments that name a checkpoint or a data set."""

import argparse
from pathlib import Path
from typing import Final, TypeAlias

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
"""The group of argparse's sub-parsers that a command is added to."""

DATASET_HELP: Final = "data set in BDD100K's layout, or nuImages"


def add_checkpoint(parser: argparse.ArgumentParser) -> None:
    """Add the argument ``checkpoint``."""
    parser.add_argument("checkpoint", type=Path, help="model.pt or checkpoint.pt of a run")


def add_processes(parser: argparse.ArgumentParser) -> None:
    """Add the option ``--workers`` of what runs on several cores."""
    parser.add_argument("--workers", type=int, help="processes (default: one per core)")
