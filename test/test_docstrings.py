"""What docstrings say of parameters is of parameters that there are."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MODULES = sorted(
    path.relative_to(ROOT).as_posix()
    for package in ("lvad_perception", "lvad_training")
    for path in (ROOT / package).rglob("*.py")
)
_SECTION = re.compile(r"^Args:\n((?:(?: +.*)?\n)*)", re.MULTILINE)
_ENTRY = re.compile(r"^    (\*{0,2}\w+(?:, \*{0,2}\w+)*):", re.MULTILINE)


def documented(docstring: str) -> list[str]:
    """Names under "Args:"; "a, b: likewise" names two."""
    section = _SECTION.search(docstring + "\n")
    entries = _ENTRY.findall(section[1]) if section else []
    return [name.lstrip("*") for entry in entries for name in entry.split(", ")]


def strangers(tree: ast.AST) -> Iterator[str]:
    """Documented parameters that no signature has: a function's own, of a class its constructor's or fields."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            constructors = [item for item in node.body if isinstance(item, ast.FunctionDef) and item.name == "__init__"]
            known = {name for item in constructors for name in parameters(item)}
            known |= {
                item.target.id
                for item in node.body
                if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
            }
            if not constructors and node.bases:  # a constructor that is inherited
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


@pytest.mark.parametrize("module", MODULES)
def test_docstrings_name_parameters_that_there_are(module: str) -> None:
    found = list(strangers(ast.parse((ROOT / module).read_text(encoding="utf-8"))))
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
    assert list(strangers(ast.parse(text))) == ["line 2: f has no parameter gone"]
