"""Arguments that several commands of ``lvad-train`` share."""

import argparse
from pathlib import Path
from typing import Final, TypeAlias

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
"""argparse's group of sub-parsers, to which commands are added."""

DATASET_HELP: Final = "data set in BDD100K's layout, or nuImages"


def add_checkpoint(parser: argparse.ArgumentParser) -> None:
    """Add the argument ``checkpoint``."""
    parser.add_argument("checkpoint", type=Path, help="model.pt or checkpoint.pt of a run")


def add_processes(parser: argparse.ArgumentParser) -> None:
    """Add the option ``--workers``: number of processes."""
    parser.add_argument("--workers", type=int, help="processes (default: one per core)")
