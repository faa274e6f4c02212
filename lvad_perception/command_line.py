"""How both command lines, and the benchmarks', read what was typed."""

import argparse


def size_wh(text: str) -> tuple[int, int]:
    """ "1280x720" -> (1280, 720), for argparse."""
    width, _, height = text.partition("x")
    if not (width.isdecimal() and height.isdecimal() and int(width) and int(height)):
        raise argparse.ArgumentTypeError(f"{text!r} is no size; write it as 1280x720, width first")
    return int(width), int(height)
