"""Docstrings: every module has a caption, and every documented parameter exists."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("lvad_perception", "lvad_training")
LONGEST = 120
_SECTION = re.compile(r"^Args:\n((?:(?: +.*)?\n)*)", re.MULTILINE)
_ENTRY = re.compile(r"^    (\*{0,2}\w+(?:, \*{0,2}\w+)*):", re.MULTILINE)


def modules(*folders: str) -> list[str]:
    """Paths of all Python files of folders, relative to the repository."""
    return sorted(path.relative_to(ROOT).as_posix() for folder in folders for path in (ROOT / folder).rglob("*.py"))


def documented(docstring: str) -> list[str]:
    """Names under "Args:"; an entry such as "a, b: likewise" has two."""
    section = _SECTION.search(docstring + "\n")
    entries = _ENTRY.findall(section[1]) if section else []
    return [name.lstrip("*") for entry in entries for name in entry.split(", ")]


def unknown_parameters(tree: ast.AST) -> Iterator[str]:
    """Documented parameters that are missing in the signature of the function, or of the class and its fields."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            constructors = [item for item in node.body if isinstance(item, ast.FunctionDef) and item.name == "__init__"]
            known = {name for item in constructors for name in parameters(item)}
            known |= {
                item.target.id
                for item in node.body
                if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
            }
            if not constructors and node.bases:  # the constructor is inherited
                continue
        elif isinstance(node, ast.FunctionDef):
            known = parameters(node)
        else:
            continue
        for name in documented(ast.get_docstring(node) or ""):
            if name not in known:
                yield f"line {node.lineno}: {node.name} has no parameter {name}"


def parameters(function: ast.FunctionDef) -> set[str]:
    given = function.args
    every = [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]
    return {argument.arg for argument in every if argument is not None}


@pytest.mark.parametrize("module", modules(*PACKAGES))
def test_documented_parameters_exist(module: str) -> None:
    found = list(unknown_parameters(ast.parse((ROOT / module).read_text(encoding="utf-8"))))
    assert not found, f"{module}, {'; '.join(found)}"


def test_a_stale_docstring_would_be_found() -> None:
    text = '''
def f(a, *, b):
    """Do.

    Args:
        a, b: two,
            and more: of it.

        gone: no longer.

    Returns:
        c: not a parameter.
    """
'''
    assert list(unknown_parameters(ast.parse(text))) == ["line 2: f has no parameter gone"]


def caption_fault(docstring: str | None) -> str | None:
    """Why the first line of a module's docstring is no caption; None if it is one."""
    first, *rest = (docstring or "").split("\n")
    if not first:
        return "has no docstring"
    if len(first) > LONGEST:
        return f"has a first line of {len(first)} characters"
    if rest and rest[0]:
        return "has a caption that continues in the second line"
    if not first.endswith((".", ":")):
        return "has a caption that does not end with a full stop or a colon"
    return None


@pytest.mark.parametrize("module", modules(*PACKAGES, "benchmarks", "docs/examples"))
def test_every_module_has_a_caption(module: str) -> None:
    fault = caption_fault(ast.get_docstring(ast.parse((ROOT / module).read_text(encoding="utf-8"))))
    assert fault is None, (
        f"{module} {fault}; begin its docstring with one line that says what the module contains, of at most {LONGEST} "
        "characters, with a full stop or a colon at its end; leave a blank line before the details"
    )


@pytest.mark.parametrize(
    ("docstring", "fault"),
    [
        ("Letterboxing of images.", None),
        ("Two formats:\n\n    a\n    b", None),
        (None, "has no docstring"),
        ("x" * 120 + ".", "has a first line of 121 characters"),
        ("Letterboxing", "has a caption that does not end with a full stop or a colon"),
        ("Letterboxing of\nimages.", "has a caption that continues in the second line"),
        ("Letterboxing.\nOf images.", "has a caption that continues in the second line"),
    ],
)
def test_a_missing_caption_would_be_found(docstring: str | None, fault: str | None) -> None:
    assert caption_fault(docstring) == fault
