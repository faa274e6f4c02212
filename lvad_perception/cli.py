"""``lvad-perception``: the perception without ROS, on bags, videos and data sets."""

import argparse
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from lvad_perception import __version__
from lvad_perception.command_line import expand_paths, printable
from lvad_perception.commands.bags import add_bag_commands
from lvad_perception.commands.bench import add_bench
from lvad_perception.commands.models import add_model_commands
from lvad_perception.commands.optimize import add_optimize
from lvad_perception.commands.quantize import add_quantize
from lvad_perception.errors import LvadError
from lvad_perception.opencv import import_opencv

STATUS_BAD_INPUT: Final = 2
STATUS_INTERRUPTED: Final = 128 + signal.SIGINT

_EXAMPLES: Final = """\
examples:
  lvad-perception bag from-bdd100k bdd100k --split val --output val_bag
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
        0 when done; 3 when done but for messages, images or annotation that are lost or left out, each told on standard
        error; 2 after one sentence on standard error when something given is wrong; 130 after Ctrl-C.
    """
    arguments = _parser().parse_args(argv)
    run: Callable[[argparse.Namespace], int | None] = arguments.run
    status = None
    try:
        with _terminable():
            expand_paths(arguments)
            import_opencv()
            status = run(arguments)
            sys.stdout.flush()
    except LvadError as err:
        print(printable(f"lvad-perception: error: {err}"), file=sys.stderr)
        return STATUS_BAD_INPUT
    except KeyboardInterrupt:
        print("lvad-perception: interrupted; unfinished output was removed", file=sys.stderr)
        return STATUS_INTERRUPTED
    except BrokenPipeError:
        # The reader of our output (head, less) has gone, which is no error; Python would complain at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return status or 0


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
    """SIGTERM ends the block by an exception, as Ctrl-C does, so that unfinished output is removed on the way."""

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
