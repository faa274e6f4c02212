"""``.pt2`` files: programs that ``torch.export`` wrote, with a manifest; read only if they cannot run other code.

torch warns against loading such files from untrusted sources: a file may contain pickles, which can run any code, and
its graph may call any function that torch can import. Files of ``lvad-train export`` contain neither. Before torch
reads a file, anything but raw tensors, static shapes and operators of ATen and torchvision is refused.
"""

import json
import re
import zipfile
from pathlib import Path
from typing import Any, Final

from lvad_perception.engines.graph import REMEDY, check_graph, first_line
from lvad_perception.errors import EngineError, MissingDependencyError, ModelFileError, one_line
from lvad_perception.manifest import INPUT_NAME, MANIFEST_KEY, Manifest

_PROGRAM: Final = "models/model.json"
_CONFIGS: Final = ("data/weights/model_weights_config.json", "data/constants/model_constants_config.json")
_SAMPLE_INPUTS: Final = "data/sample_inputs/model.pt"
_ENTRIES: Final = re.compile(
    r"archive_format|archive_version|byteorder|version|\.data/\w+|\.format_version|\.storage_alignment"
    rf"|data/weights/weight_\d+|data/constants/tensor_\d+|extra/\w+"
    rf"|{'|'.join(map(re.escape, (_PROGRAM, *_CONFIGS, _SAMPLE_INPUTS)))}"
)
_OPERATORS: Final = re.compile(r"torch\.ops\.(aten|torchvision)\.\w+\.\w+|_operator\.getitem")


def load_program(path: Path) -> tuple[Any, Manifest]:
    """Read a file and check its graph against its manifest.

    Returns:
        The ``torch.export.ExportedProgram``, on the CPU, and the manifest.

    Raises:
        ModelFileError: truncated, of another kind, without manifest, unsafe, or its graph does not fit its manifest.
        VocabularyMismatchError: the model has an unknown task or other drivable classes.
        EngineError: this version of torch cannot read the file of another version.
        MissingDependencyError: torch or torchvision is not installed.
    """
    manifest = _read_manifest(path)
    try:
        import torch
        import torchvision  # noqa: F401  # registers RoIAlign
    except ImportError as err:
        raise MissingDependencyError(
            f"{path}: {err.name} is not installed; install it with: pip install torch torchvision, or use the .onnx "
            "model file"
        ) from err
    try:
        program = torch.export.load(path)
    # A file of another version can raise any exception.
    except Exception as err:
        raise EngineError(
            f"{path} cannot be read by torch {torch.__version__} ({first_line(err)}); export the model again with this "
            "version of torch, since other versions may write these files differently"
        ) from err
    _check_tensors(program, manifest, str(path))
    return program, manifest


def _read_manifest(path: Path) -> Manifest:
    """The manifest, after a check that nothing in the archive can run code."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name.partition("/")[2] for name in archive.namelist()]  # below a folder named after the file
            entries = dict(zip(names, archive.namelist(), strict=True))
            _refuse(path, _unsafe_entries(names))
            if packed := [item.filename for item in archive.infolist() if item.compress_type != zipfile.ZIP_STORED]:
                raise ModelFileError(
                    f"{path} holds {one_line(packed[0])} compressed, which torch never does, and unpacked it may be "
                    f"more than the memory holds; {REMEDY} from a checkpoint that you trust"
                )
            texts = {name: archive.read(entries[name]) for name in (_PROGRAM, *_CONFIGS) if name in entries}
            if len(texts) < 3:
                raise ModelFileError(f"{path} is no exported program; {REMEDY}")
            if _SAMPLE_INPUTS in entries and archive.getinfo(entries[_SAMPLE_INPUTS]).file_size:
                _refuse(path, ["sample inputs, which are a pickle"])
            text = archive.read(entries[f"extra/{MANIFEST_KEY}"]).decode() if f"extra/{MANIFEST_KEY}" in entries else ""
        contents = {name: json.loads(content) for name, content in texts.items()}
        _refuse(path, _unsafe_program(contents[_PROGRAM], texts[_PROGRAM]))
        for name in _CONFIGS:
            tensors = contents[name]["config"].items()
            _refuse(path, [f"the pickle {key}" for key, entry in tensors if entry["use_pickle"]])
    except (OSError, zipfile.BadZipFile, ValueError, KeyError, TypeError, AttributeError, RecursionError) as err:
        raise ModelFileError(
            f"{path} cannot be read as an exported program ({first_line(err)}); it is truncated or of another kind: "
            f"copy it again or {REMEDY}"
        ) from err
    if not text:
        raise ModelFileError(f"{path} carries no {MANIFEST_KEY}; {REMEDY}")
    return Manifest.from_json(text, source=str(path))


def _unsafe_entries(names: list[str]) -> list[str]:
    repeated = {name for name in names if names.count(name) > 1}  # two readers may read different ones
    return sorted(repeated | {name for name in names if not _ENTRIES.fullmatch(name)})


def _unsafe_program(program: dict[str, Any], text: bytes) -> list[str]:
    nodes = program["graph_module"]["graph"]["nodes"]
    unsafe = {node["target"] for node in nodes if not _OPERATORS.fullmatch(node["target"])}
    if b'"expr_str"' in text:  # sizes as expressions, which torch evaluates
        unsafe.add("dynamic sizes")
    return sorted(unsafe)


def _refuse(path: Path, unsafe: list[str]) -> None:
    if unsafe:
        raise ModelFileError(
            f"{path} holds {', '.join(map(one_line, unsafe[:3]))}, which a model file has no need of and which could "
            f"run code when it is loaded; {REMEDY} from a checkpoint that you trust"
        )


def _check_tensors(program: Any, manifest: Manifest, source: str) -> None:
    """Raise ModelFileError if inputs or outputs differ from the manifest."""
    values = {node.name: node.meta["val"] for node in program.graph.nodes if "val" in node.meta}
    inputs = [values[name] for name in program.graph_signature.user_inputs]
    outputs = [values[name] for name in program.graph_signature.user_outputs]
    if len(inputs) != 1 or len(outputs) != len(manifest.output_names):
        raise ModelFileError(
            f"{source}: its graph has {len(inputs)} inputs and {len(outputs)} outputs, but its manifest promises 1 and "
            f"{len(manifest.output_names)}; {REMEDY}"
        )
    tensors = dict(zip(manifest.output_names, map(_spell, outputs), strict=True))
    check_graph({INPUT_NAME: _spell(inputs[0])}, tensors, manifest, source=source)


def _spell(tensor: Any) -> tuple[str, list[int]]:
    return str(tensor.dtype).removeprefix("torch."), list(tensor.shape)
