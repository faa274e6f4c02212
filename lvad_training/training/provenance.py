"""Digests of the inputs of trainings, stages, evaluations and tables, to decide what is up to date.

Compared by content: the recipe without keys that change no weight; label files and masks of the training split; lists;
pseudo labels, from any source; the files of backbone, text encoder and starting checkpoint, also those that come with
the package. Images are compared by name and size. Not compared: paths of these files, pixels, files that ``timm`` and
``open_clip`` download under a name, and versions of code and libraries (see ``environment.json``). The number of
processes counts until a training has ended, since each process has batches of its own, and not afterwards.
"""

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from lvad_perception.datasets.layout import find_splits, open_split
from lvad_perception.datasets.split import Split
from lvad_perception.errors import ConfigError
from lvad_perception.provenance import ABSENT, Inputs, changed, content_digest, digest, file_digest
from lvad_perception.vocabulary import TASKS
from lvad_training.checkpoints import load_checkpoint, resolve_start, weights_sha256
from lvad_training.model.published import is_timm
from lvad_training.pseudo.folder import REPORT, UNFINISHED
from lvad_training.recipe.config import batch_norm_of, recipe_to_dict
from lvad_training.recipe.schema import BackboneConfig, DataConfig, Recipe, TextEncoderConfig

_MEASURING = ("score_threshold", "max_detections")
"""Keys of ``model`` that change the predictions of finished weights, but not the weights."""

_NEWER = {
    "train.batch_norm": "batch",
    "train.detection_multiplier": 1.0,
    "loss.score_map": 0.0,
    "model.language.temperature": 0.07,
    "model.neck_from": 4,
    "model.backbone.stride_in": "3x3",
    "model.detection.canonical_px": None,
    "model.detection.distance": "stride",
    "model.detection.centerness": "box",
}
"""Keys that the first versions lacked -> the value that stands for what those did."""


def fingerprint(recipe: Recipe) -> dict[str, Any]:
    """The part of a recipe that the weights depend on: without paths, saving and measuring."""
    plain = _plain(recipe)
    for key in ("output", "stages", "preset"):
        plain.pop(key)
    for key in ("root", "workers", "lists", "pseudo", "val_split", "val_only"):
        plain["data"].pop(key)
    for key in ("checkpoint_every", "evaluate_every", "start_from"):
        plain["train"].pop(key)
    for key in _MEASURING:
        plain["model"].pop(key)
    plain["model"]["backbone"].pop("weights")
    if recipe.model.language is not None:
        for key in ("name", "weights"):
            plain["model"]["language"]["text_encoder"].pop(key)
    return plain


def training_inputs(recipe: Recipe) -> Inputs:
    """Digests of what a training depends on: ``fingerprint`` by section, ``data_inputs`` and ``start_inputs``.

    Raises their errors.
    """
    sections = {section: digest(value) for section, value in fingerprint(recipe).items()}
    return sections | data_inputs(recipe, recipe.model.tasks) | start_inputs(recipe)


def _plain(recipe: Recipe) -> dict[str, Any]:
    """Plain values without ``_NEWER`` keys that are as in versions before them, so that digests stay the same."""
    plain = recipe_to_dict(recipe)
    plain["train"]["batch_norm"] = "batch" if recipe.train.freeze == "backbone" else batch_norm_of(recipe)
    for path, default in _NEWER.items():
        *sections, key = path.split(".")
        section: Any = plain
        for name in sections:
            section = (section or {}).get(name)
        if section is not None and key in section and section[key] == default:
            section.pop(key)
    return plain


def pseudo_inputs(recipe: Recipe, teachers: Mapping[str, Path]) -> Inputs:
    """Digests of what the pseudo labels of the recipe's data set depend on.

    Args:
        recipe: its data set, and its ``stages.pseudo``.
        teachers: task -> checkpoint.

    Raises:
        CheckpointError: a teacher's checkpoint is damaged.
        DatasetError, LabelError: see ``data_inputs``.
    """
    plain = recipe_to_dict(recipe)
    model = {key: plain["model"][key] for key in ("vocabulary", "max_detections")}
    data = {key: value for key, value in fingerprint(recipe)["data"].items() if key not in ("augment", "sampler")}
    inputs = {"data": digest(data), "model": digest(model), "pseudo": digest(plain["stages"]["pseudo"])}
    inputs |= data_inputs(recipe, tuple(TASKS))
    return inputs | {f"teacher of {task}": checkpoint_digest(path) for task, path in teachers.items()}


def data_inputs(recipe: Recipe, tasks: Sequence[str]) -> Inputs:
    """Digests of the training data: images, labels of some tasks, lists, pseudo labels.

    Raises:
        ConfigError: the pseudo labels are unfinished.
        DatasetError: there is no data set or split, or no folder of pseudo labels.
        LabelError: annotation cannot be read.
    """
    data = recipe.data
    inputs = split_inputs(data, data.train_split, tasks)
    if data.lists is not None:
        inputs["data.lists"] = file_digest(Path(data.lists))
    if data.pseudo is not None:
        if (Path(data.pseudo) / UNFINISHED).is_dir() and not (Path(data.pseudo) / REPORT).is_file():
            raise ConfigError(f"{data.pseudo}: these pseudo labels are not finished; go on with them first")
        pseudo = open_split(Path(data.pseudo), data.train_split)
        files = [file for task in tasks for file in pseudo.annotation_files(task)]
        annotated = _annotated_tasks(pseudo, tasks)
        inputs["data.pseudo"] = digest([annotated, content_digest(set(files), root=pseudo.root)])
    return inputs


def split_inputs(data: DataConfig, name: str, tasks: Sequence[str]) -> Inputs:
    """Digests of a split's images and of its labels of some tasks. Raises the errors of ``data_inputs``."""
    split = open_split(Path(data.root), name, cameras=data.cameras)
    inputs = {f"images of {name}": _images(split)}
    for task in tasks:
        content = content_digest(split.annotation_files(task), root=split.root)
        inputs[f"{task} labels of {name}"] = digest([_annotated_tasks(split, [task]), content])
    return inputs


def start_inputs(recipe: Recipe) -> Inputs:
    """Digests of the files that a training starts from, ``ABSENT`` for a missing file. Raises CheckpointError."""
    inputs = {}
    if recipe.train.start_from is not None:
        inputs["train.start_from"] = checkpoint_digest(resolve_start(recipe.train.start_from))
    if recipe.model.backbone.weights is not None:
        inputs["model.backbone.weights"] = backbone_digest(recipe.model.backbone)
    if recipe.model.language is not None:
        inputs["model.language.text_encoder"] = _text_encoder(recipe.model.language.text_encoder)
    return inputs


def measuring_inputs(recipe: Recipe) -> Inputs:
    """Digests of what the metrics of finished weights depend on; of a missing split, its name is all that counts.

    Raises the errors of ``data_inputs``.
    """
    data, plain = recipe.data, recipe_to_dict(recipe)
    inputs = {"data": digest([data.val_split, data.val_only])}
    inputs["model"] = digest([plain["model"][key] for key in _MEASURING])
    if data.val_split in find_splits(Path(data.root)):
        inputs |= split_inputs(data, data.val_split, recipe.model.tasks)
    return inputs


def remeasured(recipe: Recipe, other: Recipe) -> Recipe:
    """The recipe with another one's validation data, loader processes and measuring settings, for the same weights."""
    model = msgspec.structs.replace(recipe.model, **{key: getattr(other.model, key) for key in _MEASURING})
    keys = ("root", "val_split", "val_only", "workers")
    data = msgspec.structs.replace(recipe.data, **{key: getattr(other.data, key) for key in keys})
    return msgspec.structs.replace(recipe, model=model, data=data)


def check_resumed(folder: Path, before: Inputs | None, now: Inputs, *, ended: bool = False) -> None:
    """Check that the inputs of a training to resume are unchanged.

    Args:
        folder: of the run, for the message.
        before: inputs in its checkpoint; None in one of an older version.
        now: current inputs. A starting file that is gone does not matter any more.
        ended: no step is left, so that the number of processes does not matter either.

    Raises:
        ConfigError: an input changed.
    """
    if before is None:
        return
    free = {name for name, value in now.items() if value == ABSENT} | ({"processes"} if ended else set())
    if names := [name for name in changed(before, now) if name not in free]:
        processes = f"; it began with processes={before['processes']}" if "processes" in names else ""
        raise ConfigError(
            f"{folder}: inputs of this run changed since it began ({', '.join(names)}{processes}); "
            "restore them, or start anew with --overwrite or another output"
        )


def checkpoint_digest(path: Path) -> str:
    """Digest of what a checkpoint computes, whenever and by whichever version it was written; ``ABSENT`` if missing.

    Raises:
        CheckpointError: it is damaged.
    """
    if not path.is_file():
        return ABSENT
    checkpoint = load_checkpoint(path)
    model = {key: value for key, value in _plain(checkpoint.recipe)["model"].items() if key not in _MEASURING}
    model["backbone"].pop("weights")
    model["language"] = None  # folded into the weights
    text_encoder = checkpoint.text_encoder and checkpoint.text_encoder["sha256"]
    return digest([weights_sha256(checkpoint.weights), model, text_encoder])


def table_fingerprint(base: Recipe) -> dict[str, Any]:
    """The part of a recipe that a table's rows share: without output, loader processes, seed and intervals of saving.

    Labels, masks and files are not part of it: each stage of a row compares them itself.
    """
    plain = _plain(base)
    plain.pop("output")
    plain["data"].pop("workers")
    for key in ("seed", "checkpoint_every", "evaluate_every"):
        plain["train"].pop(key)
    return plain


def differences(old: Any, new: Any, path: str = "") -> list[str]:
    """Dotted keys whose values differ in two mappings of plain values."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = sorted({*old, *new})
        return [name for key in keys for name in differences(old.get(key), new.get(key), f"{path}.{key}".strip("."))]
    return [] if old == new else [path or "all of it"]


def backbone_digest(config: BackboneConfig) -> str:
    """Digest of the file of ``weights``, or of the name of weights that timm downloads. Raises CheckpointError."""
    name = str(config.weights)
    return digest(name) if is_timm(name) else file_digest(resolve_start(name))


def _text_encoder(config: TextEncoderConfig) -> str:
    """Digest of the files of a local text encoder, or of the names of one that its library downloads."""
    if config.kind == "huggingface":
        folder = Path(config.name)
        files = [path for path in folder.rglob("*") if path.is_file()]
        return content_digest(files, root=folder) if files else ABSENT
    file = Path(config.weights) if config.weights is not None else None
    return digest([config.name, file_digest(file) if file is not None and file.is_file() else config.weights])


def _images(split: Split) -> str:
    names_and_sizes = hashlib.sha256()
    for index in range(len(split)):
        try:
            size = str(split.image_path(index).stat().st_size)
        except OSError:  # reported when it is read
            size = ABSENT
        names_and_sizes.update(os.fsencode(f"{split.name_of(index)} {size}\n"))
    return digest(names_and_sizes.digest())


def _annotated_tasks(split: Split, tasks: Sequence[str]) -> str:
    """Digest of which images are annotated for which task: for masks that follows from the files' existence alone."""
    return digest(b"".join(split.annotated_for(task).tobytes() for task in tasks))
