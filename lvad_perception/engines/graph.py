"""What every runtime checks of a graph before it runs it: inputs and outputs exactly as the manifest promises."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from lvad_perception.errors import ModelFileError
from lvad_perception.manifest import INPUT_NAME, Manifest

OUTPUT_TYPES: Final[Mapping[str, str]] = {
    "boxes": "float32",
    "scores": "float32",
    "labels": "int32",
    "semantic": "uint8",
    "drivable": "uint8",
    "semantic_confidence": "uint8",
}
"""Output -> element type as numpy calls it; the order is that of ``types.RawOutputs``."""

REMEDY: Final = "export the model again with lvad-train export"

Tensors = Mapping[str, tuple[str, Sequence[Any]]]
"""Name -> element type as numpy calls it, and shape, in which a dynamic side is anything but a number."""


def check_graph(inputs: Tensors, outputs: Tensors, manifest: Manifest, *, source: str, remedy: str = REMEDY) -> None:
    """Compare a graph with its manifest.

    Args:
        inputs: of the graph; ``outputs``: likewise.
        manifest: of the same file.
        source: the file, for messages.
        remedy: what makes a file of its kind again, for messages.

    Raises:
        ModelFileError: a name, type or shape differs.
    """
    batch, (height, width), count = manifest.batch_size, manifest.output_hw, manifest.max_detections
    masks = [batch, height, width]
    shapes = {"boxes": [batch, count, 4], "scores": [batch, count], "labels": [batch, count]}
    _check_tensors(inputs, {INPUT_NAME: ("uint8", [batch, *manifest.input_hw, 3])}, "input", source, remedy)
    promised = {name: (OUTPUT_TYPES[name], shapes.get(name, masks)) for name in manifest.output_names}
    _check_tensors(outputs, promised, "output", source, remedy)


def first_line(err: Exception) -> str:
    """The first line of a runtime's message, which goes on with its own source code."""
    return next((line.strip() for line in str(err).splitlines() if line.strip()), type(err).__name__)


def _check_tensors(found: Tensors, promised: Tensors, kind: str, source: str, remedy: str) -> None:
    if found.keys() != promised.keys():
        raise ModelFileError(
            f"{source}: its {kind}s are {', '.join(found)} but its manifest promises {', '.join(promised)}; {remedy}"
        )
    for name, (dtype, shape) in promised.items():
        if found[name][0] != dtype or list(found[name][1]) != list(shape):
            raise ModelFileError(
                f"{source}: its {kind} {name} is {found[name][0]} {list(found[name][1])} but its manifest promises "
                f"{dtype} {list(shape)}; {remedy}"
            )
