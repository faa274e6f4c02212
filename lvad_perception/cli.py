"""Command line ``lvad-perception``: perception without ROS, on bags, videos and data sets."""

import argparse
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from lvad_perception import __version__
from lvad_perception.command_line import expand_paths, run_program
from lvad_perception.commands.bags import add_bag_commands
from lvad_perception.commands.bench import add_bench
from lvad_perception.commands.models import add_model_commands
from lvad_perception.commands.optimize import add_optimize
from lvad_perception.commands.quantize import add_quantize
from lvad_perception.media.opencv import import_opencv

_EXAMPLES: Final = """\
examples:
  lvad-perception bag from-dataset bdd100k --split val --output val_bag
  lvad-perception replay val_bag --model model.onnx --output predicted_bag --overlay-video overlay.mp4
  lvad-perception evaluate predicted_bag
  lvad-perception evaluate --model model.onnx --data bdd100k --split val --json metrics.json
  lvad-perception report predicted_bag --output report.html
  lvad-perception optimize model.onnx --output model.engine --precision fp16 --calibration images
  lvad-perception bench --model model.onnx --frames 200
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        0 on success; 3 when messages, images or annotation were lost or left out, each reported on standard error;
        otherwise the status of ``run_program``, after one sentence on standard error.
    """

    def command() -> int:
        arguments = _parser().parse_args(argv)
        with _terminable():
            expand_paths(arguments)
            import_opencv()
            status: int | None = arguments.run(arguments)
        return status or 0

    return run_program("lvad-perception", command, interrupted="unfinished output was removed")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lvad-perception",
        description="Find traffic objects, segment the scene and the drivable area in recorded images, without ROS.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"lvad-perception {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    add_bag_commands(commands)
    add_optimize(commands)
    add_quantize(commands)
    add_bench(commands)
    add_model_commands(commands)
    return parser


@contextmanager
def _terminable() -> Iterator[None]:
    """Make SIGTERM raise an exception in the block, as Ctrl-C does, so that unfinished output is removed."""

    def stop(signum: int, _frame: object) -> None:
        raise SystemExit(128 + signum)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


if __name__ == "__main__":
    sys.exit(main())
