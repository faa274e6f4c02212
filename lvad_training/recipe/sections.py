"""What all recipes share: reading YAML, ``a.b=value`` overrides, conversion to sections, error messages."""

import difflib
import re
import sys
import typing
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec
import yaml

from lvad_perception.errors import ConfigError, escaped

Struct = TypeVar("Struct", bound=msgspec.Struct)

_REMEDY: Final = "correct it in the recipe or with --set"
_MERGE: Final = "tag:yaml.org,2002:merge"
_MOST_VALUES: Final = 100_000
_BOUND: Final = re.compile(r"Expected `\w+` (?:that's )?(>=|>|<=|<|a multiple of) (\S+) - at `\$\.(.+)`$")
"""msgspec's message for a number that violates a ``Meta`` of its type."""
_BOUNDS: Final = {">=": "at least", ">": "above", "<=": "at most", "<": "below", "a multiple of": "a multiple of"}


class _DuplicateKeyError(yaml.YAMLError):
    """A mapping has a key twice."""


class _Loader(yaml.SafeLoader):
    """PyYAML's SafeLoader (YAML 1.1) with three rules of YAML 1.2.

    6e-4 is a number, ``no`` is a string, and a duplicate key is an error: PyYAML would silently drop the first.
    """

    def compose_mapping_node(self, anchor: Any) -> Any:
        node = super().compose_mapping_node(anchor)
        lines: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != _MERGE:
                line, name = key.start_mark.line + 1, (key.tag, key.value)
                if name in lines:
                    raise _DuplicateKeyError(f"the key {key.value!r} is given twice, in lines {lines[name]} and {line}")
                lines[name] = line
        return node

    def construct_scalar(self, node: Any) -> Any:
        text = super().construct_scalar(node)
        if not _is_encodable(text):
            raise yaml.constructor.ConstructorError(None, None, "found half of a UTF-16 pair", node.start_mark)
        return text


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile("^(true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def read_mapping(path: Path, *, example: str) -> dict[str, Any]:
    """Read a recipe file (YAML).

    Args:
        path: the file.
        example: a recipe that the error message recommends to start from.

    Raises:
        ConfigError: the file is missing, not YAML, or not a mapping.
    """
    try:
        content = _read_yaml(path.read_text(encoding="utf-8"))
    except OSError as err:
        raise ConfigError(f"{path}: the recipe cannot be read ({err.strerror}); check the path") from err
    except _DuplicateKeyError as err:
        raise ConfigError(f"{path}: {err}; keep one of the two") from err
    except (yaml.YAMLError, ValueError, RecursionError) as err:  # ValueError: impossible dates and numbers
        reason = " ".join(str(err).split())
        raise ConfigError(f"{path}: the recipe is not valid YAML ({reason}); correct that line") from err
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: the recipe is not a mapping of sections; start from {example}")
    return content


def override(content: dict[str, Any], texts: Iterable[str]) -> dict[str, Any]:
    """Apply ``a.b=value`` overrides, values parsed as YAML, to a copy. Raises ConfigError for any other text."""
    for text in texts:
        content = merge(content, _parse_override(text))
    return content


def merge(base: dict[str, Any], update: dict[str, Any]) -> dict[str, Any]:
    """Update nested mappings recursively into a new one; values of ``update`` win."""
    merged = dict(base)
    for key, value in update.items():
        old = merged.get(key)
        merged[key] = merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def convert(content: dict[str, Any], kind: type[Struct], *, source: str) -> Struct:
    """Convert a mapping to a section; strings that begin with ``~`` become paths below the home folder.

    Raises:
        ConfigError: a key is unknown, or a value has another type or is out of its range. The message begins with
            ``source`` and for an unknown key suggests the most similar one.
    """
    try:
        return _with_home(msgspec.convert(content, kind), source)
    except msgspec.ValidationError as err:
        raise ConfigError(f"{source}: {_explain(str(err), kind)}") from err


def check(faults: Iterable[tuple[bool, str]], *, source: str) -> None:
    """Raise ConfigError for the first fault.

    Args:
        faults: (whether the recipe has it, sentence that says what must hold).
        source: the recipe's file, for the message.
    """
    for is_wrong, sentence in faults:
        if is_wrong:
            raise ConfigError(f"{source}: {sentence}; {_REMEDY}")


def _with_home(section: Struct, source: str) -> Struct:
    """Expand ``~`` in all strings. Raises ConfigError where there is no such home folder."""
    changed: dict[str, Any] = {}
    for name in section.__struct_fields__:
        value = getattr(section, name)
        if isinstance(value, msgspec.Struct):
            changed[name] = _with_home(value, source)
        elif isinstance(value, str) and value.startswith("~"):
            try:
                changed[name] = str(Path(value).expanduser())
            except RuntimeError as err:
                raise ConfigError(
                    f"{source}: {name} is {value!r}, and there is no such home folder; write it out"
                ) from err
    return msgspec.structs.replace(section, **changed)


def _is_encodable(text: str) -> bool:
    """Whether the text can be written as UTF-8, which lone surrogates such as "\\ud800" cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _read_yaml(text: str) -> Any:
    content = yaml.load(text, Loader=_Loader)  # a SafeLoader
    if _count_values(content, {}) > _MOST_VALUES:
        raise yaml.YAMLError(f"its anchors make more than {_MOST_VALUES:,} values of it")
    return content


def _count_values(value: Any, counted: dict[int, int]) -> int:
    """Number of values with anchors expanded; above ``_MOST_VALUES`` for a value that contains itself."""
    if not isinstance(value, (dict, list)):
        return 1
    if id(value) not in counted:
        counted[id(value)] = _MOST_VALUES + 1  # while it is being counted, only a cycle leads here again
        parts = value.values() if isinstance(value, dict) else value
        counted[id(value)] = min(1 + sum(_count_values(part, counted) for part in parts), _MOST_VALUES + 1)
    return counted[id(value)]


def _parse_override(text: str) -> dict[str, Any]:
    key, sign, value = text.partition("=")
    if not sign or not key.strip():
        raise ConfigError(f"--set {text}: not of the form section.key=value, for instance train.steps=500")
    try:
        nested: Any = _read_yaml(value)
    except _DuplicateKeyError as err:
        raise ConfigError(f"--set {text}: {err}; keep one of the two") from err
    except (yaml.YAMLError, ValueError, RecursionError) as err:
        raise ConfigError(f"--set {text}: the value is not valid YAML; quote it") from err
    for part in reversed(key.strip().split(".")):
        nested = {part: nested}
    return dict(nested)


def _explain(message: str, kind: type[msgspec.Struct]) -> str:
    """msgspec's message with a remedy: for an unknown key the most similar one, else the known keys of its section."""
    if (bound := _BOUND.match(message)) is not None:
        sign, limit, key = bound.groups()
        wanted = "finite" if float(limit) == sys.float_info.max else f"{_BOUNDS[sign]} {limit.removesuffix('.0')}"
        return f"{key} must be {wanted}; {_REMEDY}"
    if "unknown field" not in message:
        return f"{message}; {_REMEDY}"
    unknown = message.split("`")[1]
    message = escaped(message)  # msgspec quotes keys as they are
    near = difflib.get_close_matches(unknown, sorted(_keys(kind)), n=1)
    if near:
        return f"{message}; did you mean {near[0]!r}?"
    path = message.split("`$.")[1].split("`")[0] if "`$." in message else ""
    sections = [kind]
    for name in path.split(".") if path else ():
        sections = [part for section in sections for part in _parts(typing.get_type_hints(section).get(name))]
    known = sorted({field for section in sections for field in section.__struct_fields__})
    return f"{message}; {f'known keys of {path}' if path else 'known keys'} are {', '.join(known)}"


def _keys(kind: type[msgspec.Struct]) -> set[str]:
    """All keys of a section and of the sections in it."""
    parts = (part for hint in typing.get_type_hints(kind).values() for part in _parts(hint))
    return set(kind.__struct_fields__).union(*(_keys(part) for part in parts))


def _parts(hint: Any) -> list[type[msgspec.Struct]]:
    """The sections that a type hint allows."""
    every = (hint, *typing.get_args(hint))
    return [part for part in every if isinstance(part, type) and issubclass(part, msgspec.Struct)]
