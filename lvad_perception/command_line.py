"""How both command lines, and the benchmarks', read what was typed."""

import argparse
from pathlib import Path
from typing import Any, Final

from lvad_perception.errors import ConfigError

STATUS_INCOMPLETE: Final = 3
"""Exit status of a command that did its work but for what it told of: messages that are lost, images left out."""


def size_wh(text: str) -> tuple[int, int]:
    """ "1280x720" -> (1280, 720), for argparse."""
    width, _, height = text.partition("x")
    if not (width.isdecimal() and height.isdecimal() and int(width) and int(height)):
        raise argparse.ArgumentTypeError(f"{text!r} is no size; write it as 1280x720, width first")
    return int(width), int(height)


def expand_paths(options: argparse.Namespace) -> argparse.Namespace:
    """The options with ``~`` in paths expanded: a shell does so only at the beginning of a word, not in ``--data=~/x``.

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
    """A text for a terminal: what of it would steer the terminal, or is no character, is escaped. Lines stay lines."""
    clean = "".join(char if char.isprintable() or char in "\n\t" else ascii(char)[1:-1] for char in text)
    return clean.encode("utf-8", "backslashreplace").decode()
