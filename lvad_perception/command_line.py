"""Argument types, path expansion and exit statuses of all command lines."""

import argparse
import contextlib
import errno
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from lvad_perception.errors import ConfigError, LvadError, escaped

STATUS_BAD_INPUT: Final = 2
STATUS_INTERRUPTED: Final = 128 + signal.SIGINT
STATUS_NO_READER: Final = 128 + signal.SIGPIPE
STATUS_INCOMPLETE: Final = 3
"""Exit status of a command that reported lost messages or images left out, and processed the rest."""


def size_wh(text: str) -> tuple[int, int]:
    """ "1280x720" -> (1280, 720), for argparse."""
    width, _, height = text.partition("x")
    if not (width.isdecimal() and height.isdecimal() and int(width) and int(height)):
        raise argparse.ArgumentTypeError(f"{text!r} is no size; write it as 1280x720, width first")
    return int(width), int(height)


def expand_paths(options: argparse.Namespace) -> argparse.Namespace:
    """Expand ``~`` in paths; a shell does so only at the beginning of a word, not in ``--data=~/x``.

    Raises:
        ConfigError: there is no such home folder.
    """
    for name, value in vars(options).items():
        try:
            setattr(options, name, _expanded(value))
        except RuntimeError as err:
            raise ConfigError(f"{name} is '{value}', and there is no such home folder; write the path out") from err
    return options


def _expanded(value: Any) -> Any:
    if isinstance(value, list):
        return [_expanded(each) for each in value]
    return value.expanduser() if isinstance(value, Path) else value


def printable(text: str) -> str:
    """A text for a terminal, with control sequences and invalid characters escaped; line feeds and tabs stay."""
    return escaped(text, keep="\n\t")


def run_program(name: str, command: Callable[[], int], *, interrupted: str) -> int:
    """Run a command of a program, and print what stops it on standard error in one sentence.

    Args:
        name: of the program.
        command: does the work and returns the exit status.
        interrupted: clause on the state of the work after Ctrl-C, or when nobody reads standard output any more.

    Returns:
        The command's status; 2 for bad input, or when a file or standard output cannot be written; 130 after Ctrl-C;
        141, the status after SIGPIPE, when the reader of standard output has closed it, as ``head`` does.
    """
    try:
        try:
            status = command()
        except SystemExit:  # of argparse after --help, or of SIGTERM
            _flush()
            raise
        _flush()
    except LvadError as err:
        return _end(f"{name}: error: {err}", STATUS_BAD_INPUT)
    except KeyboardInterrupt:
        return _end(f"{name}: interrupted; {interrupted}", STATUS_INTERRUPTED)
    except BrokenPipeError:
        return _end(f"{name}: ended, since nobody reads its output any more; {interrupted}", STATUS_NO_READER)
    except OSError as err:
        what = "standard output" if err.filename is None else err.filename
        reason = err.strerror or err
        return _end(f"{name}: error: {what} cannot be used ({reason}); {_remedy(err)}", STATUS_BAD_INPUT)
    return status


def _remedy(err: OSError) -> str:
    if err.errno in (errno.ENOSPC, errno.EDQUOT):
        return "free disk space, or choose another place"
    return "check the path and its permissions"


def _end(sentence: str, status: int) -> int:
    with contextlib.suppress(OSError):  # of standard error
        print(printable(sentence), file=sys.stderr, flush=True)
    try:
        _flush()
    except OSError:  # redirect it, or Python would print an error at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return status


def _flush() -> None:
    if sys.stdout is not None:  # None when it was closed before the start
        sys.stdout.flush()
