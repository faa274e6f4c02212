"""Engine files: a TensorRT plan with its metadata; read and written without TensorRT.

``.engine`` (or ``.plan``), written by ``lvad-perception optimize``::

    offset 0    8 bytes      MAGIC
    offset 8    4 bytes      length L of the metadata, unsigned, little-endian
    offset 12   L bytes      the metadata as JSON: manifest, precision, target, model_sha256, builder, agreement
    offset 12+L to the end   the plan, as TensorRT serialised it

A plan can be read only by the TensorRT and GPU that it was built for. With the metadata in front of it, the manifest
cannot get lost, and a wrong version or GPU is reported before anything is loaded. Two more kinds of files are read:

* ``.pth``: the state dict of a torch2trt ``TRTModule``, with the metadata as JSON text under ``METADATA_KEY``;
* a bare plan, or a ``.pth`` without metadata, with the manifest as JSON beside it: ``model.plan`` and
  ``model.plan.json``.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from lvad_perception.engines.failures import write_failures
from lvad_perception.errors import MissingDependencyError, ModelFileError
from lvad_perception.files import replacing
from lvad_perception.manifest import Manifest

MAGIC: Final = b"LVADTRT1"
METADATA_KEY: Final = "lvad_facts"
SUFFIXES: Final = (".engine", ".plan", ".pth")
_LENGTH_BYTES: Final = 4
_MOST_METADATA: Final = 16 << 20
REBUILD: Final = "build it with: lvad-perception optimize MODEL.onnx --output"
"""The remedy for a file that cannot be used; the file's name follows."""


@dataclass(frozen=True, slots=True)
class Target:
    """The TensorRT version and GPU that a plan was built for; it runs with no other.

    Attributes:
        tensorrt: full version, such as "10.3.0".
        gpu: name of the device, such as "Orin with 16 multiprocessors".
        capability: its compute capability, such as "8.7".
    """

    tensorrt: str
    gpu: str
    capability: str

    def to_text(self) -> str:
        """Such as "TensorRT 10.3.0 on Orin (compute capability 8.7)"."""
        return f"TensorRT {self.tensorrt} on {self.gpu} (compute capability {self.capability})"


@dataclass(frozen=True, slots=True, eq=False)
class EngineFile:
    """A plan and its metadata, of which all but the manifest is None for a plan that another program built.

    Attributes:
        plan: the engine as TensorRT serialised it.
        manifest: of the model file that it was built from.
        precision: "fp32", "fp16" or "int8".
        target: the version and GPU that it was built for.
        model_sha256: hash of the model file.
        builder: "tensorrt" or "torch2trt".
        agreement: the comparison with ONNX Runtime after the build, as text.
    """

    plan: bytes | bytearray | memoryview
    manifest: Manifest
    precision: str | None = None
    target: Target | None = None
    model_sha256: str | None = None
    builder: str | None = None
    agreement: str | None = None

    def to_json(self) -> str:
        """Everything but the plan, as JSON text."""
        metadata = {
            "manifest": json.loads(self.manifest.to_json()),
            "precision": self.precision,
            "target": None if self.target is None else asdict(self.target),
            "model_sha256": self.model_sha256,
            "builder": self.builder,
            "agreement": self.agreement,
        }
        return json.dumps(metadata, sort_keys=True)


def read_engine_file(path: Path) -> EngineFile:
    """Read an ``.engine``, ``.plan`` or torch2trt ``.pth`` file.

    Raises:
        ModelFileError: missing, truncated, of another kind, or without manifest.
        VocabularyMismatchError: the model has an unknown task or other drivable classes.
        MissingDependencyError: a ``.pth`` file, and torch is not installed.
    """
    if path.suffix == ".pth":
        state = _read_state(path)
        metadata = state.get(METADATA_KEY)
        plan: bytes | bytearray | memoryview = state["engine"]
    else:
        data = _read(path)
        metadata, plan = _split(data, path) if data.startswith(MAGIC) else (None, data)
    if metadata is not None:
        return _from_metadata(metadata, plan, str(path))
    beside = path.with_name(path.name + ".json")
    if not beside.exists():
        raise ModelFileError(
            f"{path} carries no manifest; build it with lvad-perception optimize, or put its model file's manifest "
            f"beside it: lvad-perception info MODEL.onnx --json > {beside.name}"
        )
    return EngineFile(plan, Manifest.from_json(_read(beside).decode(errors="replace"), source=str(beside)))


def write_engine_file(path: Path, file: EngineFile) -> None:
    """Write the plan with its metadata; an interrupted write leaves ``path`` as it was.

    Raises:
        EngineError: it cannot be written.
    """
    metadata = file.to_json().encode()
    _write(path, (MAGIC, len(metadata).to_bytes(_LENGTH_BYTES, "little"), metadata, file.plan))


def write_torch2trt_file(path: Path, file: EngineFile, state: Mapping[str, Any]) -> None:
    """Write the state dict of a ``TRTModule`` with the metadata; an interrupted write leaves ``path`` as it was.

    torch2trt's own ``load_state_dict`` reads the file too and ignores the metadata.

    Raises:
        EngineError: it cannot be written.
    """
    import io

    import torch

    stream = io.BytesIO()
    torch.save({**state, METADATA_KEY: file.to_json()}, stream)
    _write(path, (stream.getbuffer(),))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as err:
        raise ModelFileError(f"{path} cannot be read ({err.strerror}); check the path and its permissions") from err


def _split(data: bytes, path: Path) -> tuple[str, memoryview]:
    """The metadata and the plan of a file that starts with ``MAGIC``."""
    start = len(MAGIC) + _LENGTH_BYTES
    length = int.from_bytes(data[len(MAGIC) : start], "little")
    if length > _MOST_METADATA or len(data) <= start + length:
        raise ModelFileError(f"{path} is truncated; copy it again or {REBUILD} {path.name}")
    return data[start : start + length].decode(errors="replace"), memoryview(data)[start + length :]


def _read_state(path: Path) -> Mapping[str, Any]:
    try:
        import torch
    except ImportError as err:
        raise MissingDependencyError(
            f"{path} is a torch2trt file, which needs torch; install torch for this machine or use an .engine file"
        ) from err
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    # Unpickling a damaged or foreign file can raise anything.
    except Exception as err:
        raise ModelFileError(
            f"{path} cannot be loaded as a torch2trt file; copy it again or {REBUILD} {path.name}"
        ) from err
    if not isinstance(state, Mapping) or not isinstance(state.get("engine"), (bytes, bytearray)):
        raise ModelFileError(
            f"{path} holds no TensorRT engine; give the state dict of a torch2trt TRTModule, or {REBUILD} {path.name}"
        )
    return state


def _from_metadata(text: str, plan: bytes | bytearray | memoryview, source: str) -> EngineFile:
    try:
        metadata = json.loads(text)
        manifest = json.dumps(metadata["manifest"])
        target = None if metadata["target"] is None else Target(**metadata["target"])
        rest = {name: metadata[name] for name in ("precision", "model_sha256", "builder", "agreement")}
    except (ValueError, TypeError, KeyError, RecursionError) as err:
        raise ModelFileError(f"{source}: its metadata cannot be read ({err}); copy it again or {REBUILD} FILE") from err
    return EngineFile(plan, Manifest.from_json(manifest, source=source), target=target, **rest)


def _write(path: Path, parts: tuple[bytes | bytearray | memoryview, ...]) -> None:
    with write_failures(path), replacing(path) as stream:
        for part in parts:
            stream.write(part)
