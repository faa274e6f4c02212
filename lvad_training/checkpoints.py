"""Checkpoint files: weights, recipe and resume state, written atomically."""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import torch
from torch import Tensor, nn

import lvad_perception
from lvad_perception.errors import CheckpointError
from lvad_perception.files import replacing
from lvad_training.recipe.config import recipe_from_dict, recipe_to_dict
from lvad_training.recipe.schema import Recipe

FORMAT = "lvad-checkpoint-1"
SHIPPED = Path(__file__).parent / "weights"


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """A trained or half-trained model.

    Attributes:
        recipe: of its training.
        step: optimiser steps done.
        weights: the network's state dict, float32 unless saved slim.
        metrics: last measured metrics as plain values, or None.
        resume: state of optimiser, scheduler and each process's random generators; None in a final file.
        version: of the package that wrote it.
        text_encoder: metadata of the prompts' text encoder, which is not in the file (``TextEncoderMetadata`` as plain
            values); None for a model without language.
        inputs: digests of the inputs of the training to resume (``provenance``); None in a final file.
    """

    recipe: Recipe
    step: int
    weights: dict[str, Tensor]
    metrics: dict[str, Any] | None = None
    resume: dict[str, Any] | None = None
    version: str = lvad_perception.__version__
    text_encoder: dict[str, Any] | None = None
    inputs: dict[str, str] | None = None


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint atomically.

    Raises:
        CheckpointError: it cannot be written.
    """
    content = {
        "format": FORMAT,
        "recipe": recipe_to_dict(checkpoint.recipe),
        "step": checkpoint.step,
        "weights": checkpoint.weights,
        "metrics": checkpoint.metrics,
        "resume": checkpoint.resume,
        "version": checkpoint.version,
        "text_encoder": checkpoint.text_encoder,
        "inputs": checkpoint.inputs,
    }
    write_content(path, content)


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint onto the CPU.

    Raises:
        CheckpointError: missing, truncated, or not written by ``save_checkpoint``.
    """
    content = read_content(path, file_format=FORMAT, written_by="lvad-train run or import")
    return Checkpoint(
        recipe=recipe_from_dict(content["recipe"], source=str(path)),
        step=content["step"],
        weights=content["weights"],
        metrics=content["metrics"],
        resume=content["resume"],
        version=content["version"],
        text_encoder=content.get("text_encoder"),  # absent from files of older versions, as are inputs
        inputs=content.get("inputs"),
    )


def write_content(path: Path, content: dict[str, Any]) -> None:
    """Write tensors and plain values atomically. Raises CheckpointError when that fails."""
    try:
        with replacing(path) as file:
            deferring: Any = _DeferringFile(file)
            torch.save(content, deferring)
            if deferring.error is not None:
                raise deferring.error
    except OSError as err:
        raise CheckpointError(f"{path}: cannot be written ({err.strerror}); free disk space or change output") from err


class _DeferringFile:
    """A file for torch to write to that stores an error, such as a full disk or Ctrl-C, until torch has finished.

    An exception that reaches torch's writer terminates the process at once (``std::terminate`` in its destructor).
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.error: BaseException | None = None

    def write(self, data: Any) -> int:
        """Write, unless an earlier write failed; reports success in any case."""
        if self.error is None:
            try:
                self._file.write(data)
            except BaseException as err:
                self.error = err
        return len(data)

    def flush(self) -> None:
        """Do nothing: the file is flushed when it is closed."""


def read_content(path: Path, *, file_format: str, written_by: str) -> dict[str, Any]:
    """Read a file of ``write_content`` onto the CPU.

    Args:
        path: the file.
        file_format: required value of "format" in the content.
        written_by: command that writes such files, for messages.

    Raises:
        CheckpointError: missing, truncated, or of another format.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint; check the path, or make one with {written_by}")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as err:  # torch raises many kinds here: RuntimeError, UnpicklingError, EOFError, ...
        raise CheckpointError(
            f"{path}: not a readable checkpoint ({type(err).__name__}); the file is truncated or of another kind, "
            "train again or copy it again"
        ) from err
    if not isinstance(content, dict) or content.get("format") != file_format:
        raise CheckpointError(f"{path}: not a checkpoint of this package; give a file that {written_by} wrote")
    return content


def load_weights(model: nn.Module, weights: dict[str, Tensor], *, source: str) -> None:
    """Copy weights into a network with exactly these tensors; half precision is converted.

    Raises:
        CheckpointError: a tensor is missing, left over or of another shape.
    """
    own = model.state_dict()
    wrong = [name for name in own.keys() | weights.keys() if name not in own or name not in weights]
    wrong += [name for name in own.keys() & weights.keys() if own[name].shape != weights[name].shape]
    if wrong:
        raise CheckpointError(
            f"{source}: its weights do not fit the configured model ({len(wrong)} tensors differ, first "
            f"{sorted(wrong)[0]}); use the preset and model section that it was trained with"
        )
    model.load_state_dict({name: value.to(own[name].dtype) for name, value in weights.items()})


def slim(checkpoint: Checkpoint) -> Checkpoint:
    """Reduce a checkpoint for shipping: weights in half precision, no resume state, no paths of this machine."""
    recipe = checkpoint.recipe
    recipe = msgspec.structs.replace(
        recipe,
        data=msgspec.structs.replace(recipe.data, root=Path(recipe.data.root).name),
        output=Path(recipe.output).name,
    )
    if recipe.model.language is not None:
        text = recipe.model.language.text_encoder
        text = msgspec.structs.replace(
            text, name=Path(text.name).name, weights=text.weights and Path(text.weights).name
        )
        language = msgspec.structs.replace(recipe.model.language, text_encoder=text)
        recipe = msgspec.structs.replace(recipe, model=msgspec.structs.replace(recipe.model, language=language))
    weights = {name: value.half() if value.is_floating_point() else value for name, value in checkpoint.weights.items()}
    return replace(checkpoint, recipe=recipe, weights=weights, resume=None, inputs=None)


def resolve_start(name: str) -> Path:
    """The file of ``train.start_from``: a path, or "shipped/<name>" for a checkpoint that comes with the package."""
    if name.startswith("shipped/"):
        path = SHIPPED / f"{name.removeprefix('shipped/')}.pt"
        if not path.is_file():
            names = ", ".join(f"shipped/{file.stem}" for file in sorted(SHIPPED.glob("*.pt"))) or "none"
            raise CheckpointError(f"{name}: no such starting checkpoint; the package ships {names}")
        return path
    return Path(name)


def weights_sha256(weights: dict[str, Tensor]) -> str:
    """SHA-256 of names, types, shapes and values, independent of device and file layout."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        tensor = weights[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
