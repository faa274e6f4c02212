"""The README gives every file one line, and this keeps it true.

The tree is the fenced block after the line ``<!-- tree -->``. A line is ``name  description`` with two spaces of
indentation per folder depth and at least two before the description; folders end in "/"::

    lvad_perception/        camera frame -> messages
      metrics/              how good predictions are
        detection.py        COCO average precision of boxes

Every tracked file has a line but ``__init__.py`` (the folder's line speaks for it) and names that start with a dot.
"""

import re
import subprocess
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).resolve().parent.parent
BLOCK = re.compile(r"^<!-- tree -->\s*^```[a-z]*\n(.*?)^```", re.MULTILINE | re.DOTALL)


def read_tree(readme: str) -> dict[str, str]:
    """Path -> description of every line in the README's tree; folders end in "/". Raises ValueError on a wrong line."""
    block = BLOCK.search(readme)
    if block is None:
        raise ValueError("README.md has no fenced block after the line <!-- tree -->")
    tree: dict[str, str] = {}
    folders: list[str] = []
    for line in filter(str.strip, block[1].splitlines()):
        parsed = re.fullmatch(r"(?P<indent>(?:  )*)(?P<name>\S+)(?:\s{2,}(?P<text>\S.*))?", line)
        if parsed is None or len(parsed["indent"]) // 2 > len(folders):
            raise ValueError(f"indentation of {line!r} is not two spaces per folder")
        if not parsed["text"]:
            raise ValueError(f"{line!r} has no description")
        folders = folders[: len(parsed["indent"]) // 2]
        path = "".join(folders) + parsed["name"]
        if path in tree:
            raise ValueError(f"{path} is listed twice")
        tree[path] = parsed["text"]
        if parsed["name"].endswith("/"):
            folders.append(parsed["name"])
    return tree


def wanted_paths(files: list[str]) -> set[str]:
    """The files that need a line, and their folders with "/" at the end."""
    shown = [
        PurePosixPath(file) for file in files if not any(part.startswith(".") for part in PurePosixPath(file).parts)
    ]
    folders = {f"{folder}/" for file in shown for folder in file.parents if folder != PurePosixPath(".")}
    return folders | {str(file) for file in shown if file.name != "__init__.py"}


def tracked_files() -> list[str]:
    try:
        listing = subprocess.run(
            ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
        ).stdout
    except (OSError, subprocess.CalledProcessError) as err:
        pytest.skip(f"not a git checkout: {err}")
    return [file for file in listing.splitlines() if (ROOT / file).exists()]


def test_the_tree_in_the_readme_is_true() -> None:
    tree = read_tree((ROOT / "README.md").read_text(encoding="utf-8"))
    wanted = wanted_paths(tracked_files())
    missing = [
        f"{'  ' * path.rstrip('/').count('/')}{name(path)}  <one line>  ({path})" for path in sorted(wanted - set(tree))
    ]
    surplus = sorted(set(tree) - wanted)
    assert not missing, "README.md's tree lacks:\n" + "\n".join(missing)
    assert not surplus, f"README.md's tree lists what is not there: {', '.join(surplus)}"


def name(path: str) -> str:
    """Last part of a path; a folder keeps its "/"."""
    return PurePosixPath(path).name + ("/" if path.endswith("/") else "")


EXAMPLE = """
# Title

<!-- tree -->
```text
a/            first folder
  b/          inside
    c.py      a file
  d.py        another
Makefile      targets
```
"""


def test_a_tree_is_read() -> None:
    assert read_tree(EXAMPLE) == {
        "a/": "first folder",
        "a/b/": "inside",
        "a/b/c.py": "a file",
        "a/d.py": "another",
        "Makefile": "targets",
    }


def test_what_needs_a_line() -> None:
    files = ["a/__init__.py", "a/b/__init__.py", "a/b/c.py", "a/d.py", "Makefile", ".gitignore", ".ci/run"]
    assert wanted_paths(files) == set(read_tree(EXAMPLE))


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("<!-- tree -->", "", "no fenced block"),
        ("  d.py        another", "  d.py", "has no description"),
        ("Makefile", "      Makefile", "two spaces per folder"),
        ("  d.py  ", " d.py  ", "two spaces per folder"),
        ("Makefile  ", "a/  ", "a/ is listed twice"),
    ],
)
def test_a_wrong_tree_is_refused(before: str, after: str, message: str) -> None:
    assert before in EXAMPLE
    with pytest.raises(ValueError, match=message):
        read_tree(EXAMPLE.replace(before, after))
