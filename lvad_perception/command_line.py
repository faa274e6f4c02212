"""How both command lines, and the benchmarks', read what was typed."""

import argparse
from typing import Final

STATUS_INCOMPLETE: Final = 3
"""Exit status of a command that did its work but for what it told of: messages that are lost, images left out."""


def size_wh(text: str) -> tuple[int, int]:
    """ "1280x720" -> (1280, 720), for argparse."""
    width, _, height = text.partition("x")
    if not (width.isdecimal() and height.isdecimal() and int(width) and int(height)):
        raise argparse.ArgumentTypeError(f"{text!r} is no size; write it as 1280x720, width first")
    return int(width), int(height)
