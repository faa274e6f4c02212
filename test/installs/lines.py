"""Reads the install lines of the documentation."""

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
_LINE = re.compile(r"^(pip install [^#\n]*?) *(?:# *(.*?))? *$", re.MULTILINE)
_FENCED = re.compile(r"^```bash\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`(pip\s+install\s[^`]+)`")


class Line(NamedTuple):
    """An install line.

    Attributes:
        page: path in the repository.
        key: the comment after the line; the line itself if it has none.
    """

    page: str
    key: str


def lines_of(text: str) -> dict[str, str]:
    """``Line.key`` -> command, of the code blocks of a page and of `pip install` in its text."""
    found = {}
    for block in _FENCED.findall(text):
        for command, comment in _LINE.findall(block):
            found[comment or command] = command
    return found | {" ".join(command.split()): " ".join(command.split()) for command in _INLINE.findall(text)}


def documented() -> dict[Line, str]:
    """All install lines of all pages."""
    return {
        Line(page.relative_to(ROOT).as_posix(), key): command
        for page in PAGES
        for key, command in lines_of(page.read_text(encoding="utf-8")).items()
    }
