"""The check of a model's graph against its manifest: names, types and shapes of inputs and outputs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from lvad_perception.errors import ModelFileError
from lvad_perception.manifest import INPUT_NAME, MANIFEST_KEY, Manifest

OUTPUT_TYPES: Final[Mapping[str, str]] = {
    "boxes": "float32",
    "scores": "float32",
    "labels": "int32",
    "semantic": "uint8",
    "drivable": "uint8",
    "semantic_confidence": "uint8",
}
"""Output -> numpy's name of its element type, in the order of ``types.RawOutputs``."""

REMEDY: Final = "export the model again with lvad-train export"

Tensors = Mapping[str, tuple[str, Sequence[Any]]]
"""Name -> numpy's name of the element type, and shape, in which a dynamic side is not a number."""


def check_graph(inputs: Tensors, outputs: Tensors, manifest: Manifest, *, source: str, remedy: str = REMEDY) -> None:
    """Compare a graph with its manifest.

    Args:
        inputs: of the graph.
        outputs: of the graph.
        manifest: of the same file.
        source: the file, for messages.
        remedy: how to create such a file again, for messages.

    Raises:
        ModelFileError: a name, type or shape differs.
    """
    batch, (height, width), count = manifest.batch_size, manifest.output_hw, manifest.max_detections
    masks = [batch, height, width]
    shapes = {"boxes": [batch, count, 4], "scores": [batch, count], "labels": [batch, count]}
    _check_tensors(inputs, {INPUT_NAME: ("uint8", [batch, *manifest.input_hw, 3])}, "input", source, remedy)
    promised = {name: (OUTPUT_TYPES[name], shapes.get(name, masks)) for name in manifest.output_names}
    _check_tensors(outputs, promised, "output", source, remedy)


def read_manifest(metadata: Mapping[str, str], inputs: Tensors, outputs: Tensors, *, path: Path) -> Manifest:
    """The manifest in an ONNX file's metadata, after comparison with the graph.

    Raises:
        ModelFileError: there is no manifest, or the graph differs from it.
        VocabularyMismatchError: the model has an unknown task or other drivable classes.
    """
    if MANIFEST_KEY not in metadata:
        raise ModelFileError(f"{path} carries no {MANIFEST_KEY} in its metadata; {REMEDY}")
    manifest = Manifest.from_json(metadata[MANIFEST_KEY], source=str(path))
    check_graph(inputs, outputs, manifest, source=str(path))
    return manifest


def first_line(err: Exception) -> str:
    """The first line of a runtime's message; later lines show the runtime's own source code."""
    return next((line.strip() for line in str(err).splitlines() if line.strip()), type(err).__name__)


def _check_tensors(tensors: Tensors, promised: Tensors, kind: str, source: str, remedy: str) -> None:
    if tensors.keys() != promised.keys():
        raise ModelFileError(
            f"{source}: its {kind}s are {', '.join(tensors)} but its manifest promises {', '.join(promised)}; {remedy}"
        )
    for name, (dtype, shape) in promised.items():
        own_dtype, own_shape = tensors[name]
        if own_dtype != dtype or list(own_shape) != list(shape):
            raise ModelFileError(
                f"{source}: its {kind} {name} is {own_dtype} {list(own_shape)} but its manifest promises "
                f"{dtype} {list(shape)}; {remedy}"
            )
