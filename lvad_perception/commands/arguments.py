"""Shared parts of commands: model options, calibration images, progress bar, and output files."""

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from lvad_perception.engines import PRECISIONS, RUNTIMES, Engine, open_engine
from lvad_perception.errors import ConfigError
from lvad_perception.files import write_whole

if TYPE_CHECKING:
    from lvad_perception.types import Progress

MODEL_HELP: Final = "model file (.onnx)"


def add_command(
    group: Any,
    name: str,
    run: Callable[[argparse.Namespace], int | None],
    description: str,
    *,
    aliases: Sequence[str] = (),
) -> argparse.ArgumentParser:
    """Add a command to a group of argparse's sub-parsers.

    Args:
        group: the sub-parsers.
        name: of the command.
        run: takes the parsed arguments; returns None, or ``STATUS_INCOMPLETE`` when something was left out.
        description: for the help, in lower case and without a full stop.
        aliases: other names of the command.
    """
    command: argparse.ArgumentParser = group.add_parser(
        name, aliases=aliases, help=description, description=description[0].upper() + description[1:] + "."
    )
    command.set_defaults(run=run)
    return command


def add_model(command: argparse.ArgumentParser, *, required: bool) -> None:
    """Add the options of ``open_perceiver`` and ``open_model``."""
    command.add_argument("--model", type=Path, required=required, metavar="FILE", help=MODEL_HELP)
    command.add_argument("--threads", type=int, metavar="N", help="CPU threads of the model (default: one per core)")
    command.add_argument(
        "--runtime",
        choices=RUNTIMES,
        help="what runs an .onnx file (default: onnxruntime, for the same numbers everywhere; auto: the fastest that "
        "agrees with it)",
    )
    command.add_argument(
        "--precision", choices=PRECISIONS, help="what to compute in (default: what the file was written in)"
    )


def open_perceiver(arguments: argparse.Namespace, *, default_threshold: float | None) -> Any:
    """Open the ``Perceiver`` of the options; ``default_threshold`` applies without ``--score-threshold``."""
    from lvad_perception.perceiver import Perceiver

    threshold = getattr(arguments, "score_threshold", None)
    engine = open_model(arguments, arguments.model)
    return Perceiver(engine, score_threshold=default_threshold if threshold is None else threshold)


def open_model(arguments: argparse.Namespace, path: Path) -> Engine:
    """Open a model file with the options of ``add_model``; logs the choice of ``auto`` to standard error."""
    return open_engine(
        path,
        threads=arguments.threads,
        runtime=arguments.runtime,
        precision=arguments.precision,
        log=lambda sentence: print(sentence, file=sys.stderr),
    )


def add_comparison_images(command: argparse.ArgumentParser, *, purpose: str, required: bool, check_images: int) -> None:
    """Add the options for images to calibrate on, and to compare the new file with the old one.

    Args:
        command: the command.
        purpose: of the images, for the help.
        required: whether the folder must be given.
        check_images: default number of images to compare on.
    """
    command.add_argument(
        "--calibration",
        type=Path,
        required=required,
        metavar="DIR",
        help=f"folder of images of the vehicle's cameras: {purpose}",
    )
    command.add_argument(
        "--calibration-images", type=int, default=64, metavar="N", help="how many to take for the scales (default: 64)"
    )
    command.add_argument(
        "--check-images",
        type=int,
        default=check_images,
        metavar="N",
        help=f"how many to compare on (default: {check_images})",
    )


@contextmanager
def progress_bar() -> Iterator["Progress"]:
    """A progress bar on standard error, which appears with the first report of progress."""
    from tqdm import tqdm

    bar: tqdm[Any] | None = None

    def show(share: float, phase: str) -> None:
        nonlocal bar
        if bar is None:  # the tqdm of Ubuntu 22.04 has no ``delay``
            bar = tqdm(total=100, unit="%", bar_format="{l_bar}{bar}| {elapsed}", leave=False)
        bar.set_description(phase, refresh=False)
        bar.n = round(100 * share)
        bar.refresh()

    try:
        yield show
    finally:
        if bar is not None:
            bar.close()


def write_json(path: Path | None, content: dict[str, Any]) -> None:
    """Write the file of ``--json``; nothing when ``path`` is None. Raises ConfigError."""
    if path is not None:
        write_text(path, json.dumps(content, indent=2) + "\n", option="--json")


def write_text(path: Path, text: str, *, option: str) -> None:
    """Write the file of an option, and make its folders. Raises ConfigError."""
    try:
        write_whole(path, text)
    except OSError as err:
        raise ConfigError(f"{path} cannot be written ({err.strerror}); choose another file for {option}") from err
