"""The commands on data sets: data check, data lists and data sample."""

import argparse
import sys
from pathlib import Path

from lvad_perception.errors import ConfigError
from lvad_perception.machine import usable_cores
from lvad_training.commands.arguments import DATASET_HELP, Commands, add_processes


def add_data_commands(commands: Commands) -> None:
    """Add them to the command line's sub-parsers."""
    data = commands.add_parser("data", help="check a data set, or render a small one").add_subparsers(
        required=True, metavar="COMMAND"
    )
    check = data.add_parser("check", help="count annotations and report every problem of a data set")
    check.add_argument("root", type=Path, help=DATASET_HELP)
    add_processes(check)
    check.set_defaults(run=_data_check)
    lists = data.add_parser("lists", help="choose which images are annotated for which task, as a file to share")
    lists.add_argument("root", type=Path, help=DATASET_HELP)
    lists.add_argument("output", type=Path, help="file to write (.json), for data.lists of a recipe")
    lists.add_argument("--setting", required=True, choices=("full", "disjoint_normal", "disjoint_balance"))
    lists.add_argument("--split", default="train", help="split to choose from (default: train)")
    lists.add_argument("--seed", type=int, default=0, help="the same seed chooses the same images (default: 0)")
    lists.add_argument(
        "--size",
        action="append",
        default=[],
        metavar="TASK=N",
        help="images of a task, or their share up to 1 (default: the paper's, or its proportions)",
    )
    lists.set_defaults(run=_data_lists)
    sample = data.add_parser("sample", help="render a small driving set")
    sample.add_argument("output", type=Path, help="folder to write")
    sample.add_argument("--images", type=int, default=400, help="number of images, a fifth for val (default: 400)")
    sample.add_argument("--seed", type=int, default=0, help="the same seed renders the same bytes (default: 0)")
    sample.add_argument(
        "--layout", choices=("bdd100k", "nuimages"), default="bdd100k", help="of the folder (default: bdd100k)"
    )
    add_processes(sample)
    sample.set_defaults(run=_data_sample)


def _data_check(options: argparse.Namespace) -> int:
    from lvad_training.data.check import check_dataset, print_report

    report = check_dataset(options.root, workers=options.workers, progress=sys.stderr.isatty())
    print_report(report)
    return 1 if report.errors else 0


def _data_lists(options: argparse.Namespace) -> int:
    from lvad_perception.datasets.layout import open_split
    from lvad_training.data.settings import make_lists, write_lists

    sizes = {}
    for text in options.size:
        task, _, number = text.partition("=")
        try:
            sizes[task] = float(number)
        except ValueError as err:
            raise ConfigError(f"--size {text}: not of the form TASK=N, for instance semantic=7000") from err
    lists = make_lists(open_split(options.root, options.split), setting=options.setting, seed=options.seed, sizes=sizes)
    write_lists(lists, options.output)
    print(f"{options.output}: {lists.describe()}")
    return 0


def _data_sample(options: argparse.Namespace) -> int:
    from lvad_training.sample_set import render_sample_set

    render_sample_set(
        options.output,
        images=options.images,
        seed=options.seed,
        layout=options.layout,
        workers=options.workers or usable_cores(),
        progress=sys.stderr.isatty(),
    )
    print(f"{options.output}: {options.images} images; look at it with lvad-train data check {options.output}")
    return 0
