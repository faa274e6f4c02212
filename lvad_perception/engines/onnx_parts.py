"""Refusal of ONNX files that refer to other files, without the library onnx and before a runtime opens them.

A tensor may be stored outside the file, under any name: ``../../etc/passwd``, ``/dev/zero``, a link. Current runtimes
refuse names outside the file's folder, but older ones open them. A model file is a single file and needs no such
reference.
"""

import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from lvad_perception.engines.graph import REMEDY
from lvad_perception.errors import ModelFileError, one_line

Field = tuple[int, int | memoryview]
"""Number and value of a field in protobuf's wire format."""

# Message type of onnx.proto -> number of a field -> its message type; only the paths to tensors.
_PARTS: Final = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
}
_TENSOR_NAME, _TENSOR_EXTERNAL_DATA, _TENSOR_LOCATION = 8, 13, 14
_ENTRY_KEY, _ENTRY_VALUE = 1, 2


def refuse_external_data(path: Path) -> None:
    """Raise ModelFileError if an ONNX file stores a tensor in another file; the runtime reports damaged files."""
    try:
        with path.open("rb") as file:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)  # unmapped when its last view is deleted
        tensor = next(external_tensors(memoryview(data)), None)
    except (OSError, ValueError):  # empty or unreadable
        return
    if tensor is not None:
        name, location = (one_line(text) for text in tensor)
        raise ModelFileError(
            f"{path} keeps its tensor '{name}' in another file, '{location}', which a model file has no need of and "
            f"which may be any file of this machine; {REMEDY}, which writes one file"
        )


def external_tensors(data: memoryview) -> Iterator[tuple[str, str]]:
    """Name and location of each externally stored tensor of an ONNX file, as far as the file can be parsed."""
    waiting = [("model", data)]
    while waiting:
        kind, part = waiting.pop()
        if kind == "tensor":
            external = _external(part)
            if external is not None:
                yield external
            continue
        parts = _PARTS[kind]
        waiting += [
            (parts[number], value)
            for number, value in _fields(part)
            if number in parts and isinstance(value, memoryview)
        ]


def _external(tensor: memoryview) -> tuple[str, str] | None:
    name, location, is_external = "", "", False
    for number, value in _fields(tensor):
        if number == _TENSOR_LOCATION and isinstance(value, int):
            is_external |= value != 0
        elif number == _TENSOR_NAME and isinstance(value, memoryview):
            name = _text(value)
        elif number == _TENSOR_EXTERNAL_DATA and isinstance(value, memoryview):
            is_external, entry = True, dict(_fields(value))
            if _text(entry.get(_ENTRY_KEY)) == "location":
                location = _text(entry.get(_ENTRY_VALUE))
    return (name, location) if is_external else None


def _text(value: int | memoryview | None) -> str:
    return bytes(value).decode(errors="replace") if isinstance(value, memoryview) else ""


def _fields(message: memoryview) -> Iterator[Field]:
    """The fields of a message in order, up to the end or the first one that cannot be parsed."""
    at, end = 0, len(message)
    try:
        while at < end:
            key, at = _varint(message, at)
            number, wire = key >> 3, key & 7
            if wire == 0:
                value, at = _varint(message, at)
                yield number, value
                continue
            size, at = _varint(message, at) if wire == 2 else ({1: 8, 5: 4}[wire], at)
            if at + size > end:
                return
            yield number, message[at : at + size]
            at += size
    except (IndexError, KeyError):
        return


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80 or shift > 63:
            return value, at
