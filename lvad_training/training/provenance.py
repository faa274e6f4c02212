"""What a training, a stage, an evaluation and a table of them depend on.

Looked at are, by their content: the recipe but for what changes no weight; label files and masks of the split that is
learned from; lists; pseudo labels, whoever made them; the files of backbone, text encoder and starting checkpoint, also
those that come with the package. Of images, names and sizes. Not looked at: where all these files are, pixels, what
``timm`` and ``open_clip`` download under a name, versions of code and libraries (``environment.json`` has them). How
many processes train together matters while a training goes on, as each has batches of its own, and not afterwards.
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
from lvad_training.recipe.config import recipe_to_dict
from lvad_training.recipe.schema import BackboneConfig, DataConfig, Recipe, TextEncoderConfig

_MEASURING = ("score_threshold", "max_detections")
"""Keys of ``model`` that matter to what is found with finished weights only."""


def fingerprint(recipe: Recipe) -> dict[str, Any]:
    """What of a recipe the weights of a training depend on: no paths, nor when it saves, nor how it is measured."""
    plain = recipe_to_dict(recipe)
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
    """Of a training: ``fingerprint`` by section, and ``data_inputs`` and ``start_inputs``, with their errors."""
    sections = {section: digest(value) for section, value in fingerprint(recipe).items()}
    return sections | data_inputs(recipe, recipe.model.tasks) | start_inputs(recipe)


def pseudo_inputs(recipe: Recipe, teachers: Mapping[str, Path]) -> Inputs:
    """Of pseudo labels, which the recipe's data set gets by these teachers, task -> checkpoint.

    Raises:
        CheckpointError: a teacher's checkpoint is damaged.
        DatasetError, LabelError: as ``data_inputs``.
    """
    plain = recipe_to_dict(recipe)
    seen = {key: plain["model"][key] for key in ("vocabulary", "network_hw", "max_detections")}
    data = {key: value for key, value in fingerprint(recipe)["data"].items() if key not in ("augment", "sampler")}
    found = {"data": digest(data), "model": digest(seen), "pseudo": digest(plain["stages"]["pseudo"])}
    found |= data_inputs(recipe, tuple(TASKS))
    return found | {f"teacher of {task}": checkpoint_digest(path) for task, path in teachers.items()}


def data_inputs(recipe: Recipe, tasks: Sequence[str]) -> Inputs:
    """Of what a training learns from: images, labels of some tasks, lists, pseudo labels.

    Raises:
        ConfigError: the pseudo labels are being made.
        DatasetError: there is no data set or split, or no folder of pseudo labels.
        LabelError: annotation cannot be read.
    """
    data = recipe.data
    found = split_inputs(data, data.train_split, tasks)
    if data.lists is not None:
        found["data.lists"] = file_digest(Path(data.lists))
    if data.pseudo is not None:
        if (Path(data.pseudo) / UNFINISHED).is_dir() and not (Path(data.pseudo) / REPORT).is_file():
            raise ConfigError(f"{data.pseudo}: these pseudo labels are not finished; go on with them first")
        pseudo = open_split(Path(data.pseudo), data.train_split)
        files = [file for task in tasks for file in pseudo.annotation_files(task)]
        found["data.pseudo"] = digest([_tasks(pseudo, tasks), content_digest(set(files), root=pseudo.root)])
    return found


def split_inputs(data: DataConfig, name: str, tasks: Sequence[str]) -> Inputs:
    """Of a split: its images, and its labels of some tasks; raises as ``data_inputs``."""
    split = open_split(Path(data.root), name, cameras=data.cameras)
    found = {f"images of {name}": _images(split)}
    for task in tasks:
        content = content_digest(split.annotation_files(task), root=split.root)
        found[f"{task} labels of {name}"] = digest([_tasks(split, [task]), content])
    return found


def start_inputs(recipe: Recipe) -> Inputs:
    """Of the files that a training starts from; ``ABSENT`` for one that is not there. Raises CheckpointError."""
    found = {}
    if recipe.train.start_from is not None:
        found["train.start_from"] = checkpoint_digest(resolve_start(recipe.train.start_from))
    if recipe.model.backbone.weights is not None:
        found["model.backbone.weights"] = backbone_digest(recipe.model.backbone)
    if recipe.model.language is not None:
        found["model.language.text_encoder"] = _text_encoder(recipe.model.language.text_encoder)
    return found


def measuring_inputs(recipe: Recipe) -> Inputs:
    """Of the metrics of finished weights; without the split to measure on, only which it would be. Raises as above."""
    data, plain = recipe.data, recipe_to_dict(recipe)
    found = {"data": digest([data.val_split, data.val_only])}
    found["model"] = digest([plain["model"][key] for key in _MEASURING])
    if data.val_split in find_splits(Path(data.root)):
        found |= split_inputs(data, data.val_split, recipe.model.tasks)
    return found


def remeasured(recipe: Recipe, other: Recipe) -> Recipe:
    """A recipe with all of another one's that does not change the weights but what is measured, or where."""
    model = msgspec.structs.replace(recipe.model, **{key: getattr(other.model, key) for key in _MEASURING})
    keys = ("root", "val_split", "val_only", "workers")
    data = msgspec.structs.replace(recipe.data, **{key: getattr(other.data, key) for key in keys})
    return msgspec.structs.replace(recipe, model=model, data=data)


def check_resumed(folder: Path, before: Inputs | None, now: Inputs, *, ended: bool = False) -> None:
    """Refuse to go on with a training that would become a mixture.

    Args:
        folder: of the run, for the message.
        before: what its checkpoint says; None in those of older versions, which say nothing.
        now: what it would go on with. A file that it started from and that is gone does not matter any more.
        ended: no step is left to do, so that the number of processes does not matter either.

    Raises:
        ConfigError: something is not what it was.
    """
    if before is None:
        return
    free = {name for name, value in now.items() if value == ABSENT} | ({"processes"} if ended else set())
    if names := [name for name in changed(before, now) if name not in free]:
        processes = f"; it began with processes={before['processes']}" if "processes" in names else ""
        raise ConfigError(
            f"{folder}: what this run learns from or with is not what it began with ({', '.join(names)}{processes}); "
            "put that back, or start anew with --overwrite or another output"
        )


def checkpoint_digest(path: Path) -> str:
    """Of what a checkpoint of this package computes, not of when or by which version it was written.

    Raises:
        CheckpointError: it is damaged.
    """
    if not path.is_file():
        return ABSENT
    found = load_checkpoint(path)
    model = {key: value for key, value in recipe_to_dict(found.recipe)["model"].items() if key not in _MEASURING}
    model["backbone"].pop("weights")
    model["language"] = None  # folded into the weights
    text_encoder = found.text_encoder and found.text_encoder["sha256"]
    return digest([weights_sha256(found.weights), model, text_encoder])


def table_essence(base: Recipe) -> dict[str, Any]:
    """What the rows of a table have in common: the recipe but for output, loader processes, seed, how often it saves.

    Labels, masks and files are not in it: each stage of a row looks at them itself.
    """
    plain = recipe_to_dict(base)
    plain.pop("output")
    plain["data"].pop("workers")
    for key in ("seed", "checkpoint_every", "evaluate_every"):
        plain["train"].pop(key)
    return plain


def differences(old: Any, new: Any, path: str = "") -> list[str]:
    """Dotted keys whose values differ in two mappings of plain values."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = sorted({*old, *new})
        return [found for key in keys for found in differences(old.get(key), new.get(key), f"{path}.{key}".strip("."))]
    return [] if old == new else [path or "all of it"]


def backbone_digest(config: BackboneConfig) -> str:
    """Of the file of ``weights``; of the name of weights that timm downloads. Raises CheckpointError."""
    name = str(config.weights)
    return digest(name) if is_timm(name) else file_digest(resolve_start(name))


def _text_encoder(config: TextEncoderConfig) -> str:
    """Of the files of a local tower; of the names of one that its library downloads."""
    if config.kind == "huggingface":
        folder = Path(config.name)
        files = [path for path in folder.rglob("*") if path.is_file()]
        return content_digest(files, root=folder) if files else ABSENT
    file = Path(config.weights) if config.weights is not None else None
    return digest([config.name, file_digest(file) if file is not None and file.is_file() else config.weights])


def _images(split: Split) -> str:
    found = hashlib.sha256()
    for index in range(len(split)):
        try:
            size = str(split.image_path(index).stat().st_size)
        except OSError:  # who reads it says so
            size = ABSENT
        found.update(os.fsencode(f"{split.name_of(index)} {size}\n"))
    return digest(found.digest())


def _tasks(split: Split, tasks: Sequence[str]) -> str:
    """Of which images are annotated for which task: a mask says so by being there, and by none of its bytes."""
    return digest(b"".join(split.annotated_for(task).tobytes() for task in tasks))
