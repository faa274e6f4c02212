"""The base recipe that all rows of a table start from, budget included."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from lvad_perception.datasets.layout import find_splits
from lvad_perception.errors import ConfigError, DatasetError
from lvad_perception.vocabulary import TASKS, VOCABULARIES
from lvad_training.data.batches import recipe_split, selected_images
from lvad_training.recipe.config import load_recipe, parse_recipe
from lvad_training.recipe.schema import Recipe

PAPER_EPOCHS = 36
"""Length of the paper's finetuning without adapt: its pairs of epochs are 12 + 24, 6 + 30 and 1 + 35."""

_SMOKE_HEAD = {"width": 16, "heads": 2, "feedforward": 16}
_SMOKE_MASKS = {**_SMOKE_HEAD, "queries": 8, "layers": 1, "mask_width": 16}
SMOKE: dict[str, Any] = {
    "preset": "tiny",
    "data": {"workers": 0},
    "model": {
        "network_hw": [64, 128],
        "backbone": {"name": "resnet18", "options": {"channels": [8, 8, 16, 16], "stem_width": 8}},
        "neck_width": 16,
        "detection": {**_SMOKE_HEAD, "proposals": 12, "refinements": 2, "dynamic_width": 4, "pool_size": 3},
        "semantic": _SMOKE_MASKS,
        "drivable": _SMOKE_MASKS,
        "language": {
            "text_encoder": {"kind": "open_clip", "name": "ViT-S-32-alt", "weights": None},
            "context": 2,
            "layers": 1,
            "width": 16,
            "heads": 2,
        },
    },
    "train": {"steps": 6, "batch_size": 2, "warmup_steps": 1, "learning_rate": 1e-3, "checkpoint_every": 2},
}
"""The smallest network and budget, to check that every row runs; its figures are meaningless."""

SMOKE_IMAGES = 30


def base_recipe(
    *,
    recipe: Path | None,
    preset: str | None,
    data: Path | None,
    smoke: bool,
    overrides: list[str],
    published: bool = False,
    vocabulary: str = "bdd100k",
) -> Recipe:
    """The recipe that every row starts from.

    Later ones take precedence: the recipe file (or ``SMOKE``), the preset, the data set, ``overrides``. Every row gets
    its student's steps, the sum of ``train.steps`` and ``stages.adapt.steps``. By default, without a recipe file,
    ``smoke`` or an override of ``train.steps``, these are the paper's 36 epochs of the data set.

    Args:
        recipe: recipe file.
        preset: architecture to start from.
        data: the data set, instead of the recipe's ``data.root``.
        smoke: the smallest network and budget.
        overrides: ``a.b=value`` texts, each value parsed as YAML.
        published: with ``smoke``, a full ResNet-50, for rows that start from published files.
        vocabulary: the table's; tasks outside it get no head.

    Raises:
        ConfigError: a key is unknown, a value impossible, or a key is set that each row sets itself.
        DatasetError: there is no data set, or its training or validation split is missing.
    """
    given = [] if preset is None else [f"preset={preset}"]
    if vocabulary != "bdd100k":
        given += [f"model.vocabulary={vocabulary}"]
        given += [f"model.{task}=null" for task in TASKS if task not in VOCABULARIES[vocabulary]]
    given += [] if data is None else [f"data.root={json.dumps(str(data))}"]
    given += overrides
    if recipe is not None:
        found = load_recipe(recipe, given)
    else:
        content: dict[str, Any] = SMOKE if smoke else {}
        if smoke and published:
            content = {**SMOKE, "model": {**SMOKE["model"], "backbone": {"name": "resnet50"}}}
        if not smoke and not any(text.partition("=")[0].strip() == "train.steps" for text in overrides):
            first = parse_recipe(content, given, source="reproduce")
            _check_data(first)
            content = {"train": {"steps": _epochs_in_steps(first)}}
        found = parse_recipe(content, given, source="reproduce")
    _check_row_keys(found, vocabulary)
    _check_data(found)
    return found


def images_of(recipe: Recipe) -> dict[str, int]:
    """Number of annotated training images per task, of all training images ("all") and of validation images ("val")."""
    data = recipe.data
    split, val = recipe_split(recipe, data.train_split), recipe_split(recipe, data.val_split)
    chosen = selected_images(recipe)
    counts = {task: int(np.count_nonzero(split.annotated_for(task)[chosen])) for task in recipe.model.tasks}
    measured = sum(not data.val_only or val.name_of(index).startswith(data.val_only) for index in range(len(val)))
    return {"all": len(chosen), **counts, "val": measured}


def _epochs_in_steps(recipe: Recipe) -> int:
    per_step = recipe.train.batch_size * recipe.train.accumulate
    return max(1, math.ceil(PAPER_EPOCHS * images_of(recipe)["all"] / per_step))


def _check_row_keys(recipe: Recipe, vocabulary: str) -> None:
    data, train = recipe.data, recipe.train
    missing = [task for task in VOCABULARIES[vocabulary] if task not in recipe.model.tasks]
    reserved = [
        (data.lists is not None, "data.lists"),
        (data.pseudo is not None, "data.pseudo"),
        (data.sampler != "shuffle", "data.sampler"),
        (train.freeze != "nothing", "train.freeze"),
        (recipe.stages is not None and recipe.stages.teachers is not None, "stages.teachers"),
        (train.seed != 0, "train.seed (give --seeds)"),
        (recipe.model.vocabulary != vocabulary, f"model.vocabulary ({vocabulary} in this table)"),
        (bool(missing), f"the heads of {', '.join(missing)}"),
    ]
    for is_set, key in reserved:
        if is_set:
            raise ConfigError(f"reproduce: each row decides about {key} itself; leave it as it is by default")


def _check_data(recipe: Recipe) -> None:
    root, data = Path(recipe.data.root), recipe.data
    splits = find_splits(root, expected=recipe.model.vocabulary)
    for split, purpose in ((data.train_split, "train"), (data.val_split, "measure")):
        if split not in splits:
            listed = f"it has {', '.join(splits)}" if splits else "give a folder in BDD100K's layout"
            raise DatasetError(f"{root}: no split {split!r} to {purpose} on; {listed}")
