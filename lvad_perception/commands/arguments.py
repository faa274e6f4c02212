"""What several commands share: model options, images to compare on, progress, and files of results."""

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
    from lvad_perception.conversion.tensorrt_build import Progress

MODEL_HELP: Final = "model file (.onnx)"


def add_command(
    group: Any,
    name: str,
    run: Callable[[argparse.Namespace], int | None],
    description: str,
    *,
    aliases: Sequence[str] = (),
) -> argparse.ArgumentParser:
    """Add a command to a group of argparse's sub-parsers; ``run`` gets the parsed arguments, and gives None when all is
    done and ``STATUS_INCOMPLETE`` when something was left out."""
    command: argparse.ArgumentParser = group.add_parser(
        name, aliases=aliases, help=description, description=description[0].upper() + description[1:] + "."
    )
    command.set_defaults(run=run)
    return command


def add_model(command: argparse.ArgumentParser, *, required: bool) -> None:
    """Add the options that ``open_perceiver`` reads."""
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
    """The ``Perceiver`` that the options ask for; ``default_threshold`` where there is no ``--score-threshold``."""
    from lvad_perception.perceiver import Perceiver

    threshold = getattr(arguments, "score_threshold", None)
    engine = open_model(arguments, arguments.model)
    return Perceiver(engine, score_threshold=default_threshold if threshold is None else threshold)


def open_model(arguments: argparse.Namespace, path: Path) -> Engine:
    """A model file with the options of ``add_model``; what ``auto`` chose goes to standard error."""
    return open_engine(
        path,
        threads=arguments.threads,
        runtime=arguments.runtime,
        precision=arguments.precision,
        log=lambda sentence: print(sentence, file=sys.stderr),
    )


def add_comparison_images(command: argparse.ArgumentParser, *, purpose: str, required: bool, check_images: int) -> None:
    """Add the options of what measures scales on images and compares a new file with the old one on others.

    Args:
        command: to add them to.
        purpose: what the images are for, in the help.
        required: whether nothing works without them.
        check_images: how many are compared by default.
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
    """A bar on standard error, as soon as something reports to it."""
    from tqdm import tqdm

    bar: tqdm[Any] | None = None

    def show(share: float, phase: str) -> None:
        nonlocal bar
        if bar is None:  # tqdm could wait by itself, but not that of Ubuntu 22.04
            bar = tqdm(total=100, unit="%", bar_format="{l_bar}{bar}| {elapsed}", leave=False)
        bar.set_description(phase, refresh=False)
        bar.n = round(100 * share)
        bar.refresh()

    try:
        yield show
    finally:
        if bar is not None:
            bar.close()


def write_json(path: Path | None, metadata: dict[str, Any]) -> None:
    """Write the facts where ``--json`` says; nowhere when None. Raises ConfigError."""
    if path is not None:
        write_text(path, json.dumps(metadata, indent=2) + "\n", option="--json")


def write_text(path: Path, text: str, *, option: str) -> None:
    """Write a file that an option named, with its folders. Raises ConfigError."""
    try:
        write_whole(path, text)
    except OSError as err:
        raise ConfigError(f"{path} cannot be written ({err.strerror}); choose another file for {option}") from err
