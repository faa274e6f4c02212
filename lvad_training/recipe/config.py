"""Reads a training recipe from YAML, completes it by its preset and checks it.

Precedence, weakest first: the preset's architecture, the recipe file, ``--set a.b=c`` options.
"""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from lvad_perception.errors import ConfigError
from lvad_perception.vocabulary import TASKS, VOCABULARIES
from lvad_training.recipe.presets import (
    FCOS_SCORE_THRESHOLD,
    OTHER_HEADS,
    PRESETS,
    chosen_preset,
    with_preset_backbone,
)
from lvad_training.recipe.schema import (
    HEADS,
    FcosConfig,
    MaskFormerConfig,
    ModelConfig,
    Recipe,
    SparseRcnnConfig,
)
from lvad_training.recipe.sections import check, convert, merge, override, read_mapping


def load_recipe(path: Path, overrides: list[str] | None = None) -> Recipe:
    """Read a recipe file (YAML).

    Args:
        path: the recipe.
        overrides: ``a.b=value`` texts, each value parsed as YAML.

    Raises:
        ConfigError: the file is missing or not YAML, a key is unknown, or a value has another type or is out of range.
    """
    content = read_mapping(path, example="config/train_edge.yaml")
    return parse_recipe(content, overrides or [], source=str(path))


def parse_recipe(content: dict[str, Any], overrides: list[str], *, source: str) -> Recipe:
    """Turn a mapping and ``a.b=value`` overrides into a checked recipe; raises ConfigError as ``load_recipe`` does."""
    content = override(content, overrides)
    preset = chosen_preset(content, source=source)
    model = content.get("model") or {}
    if not isinstance(model, dict):
        raise ConfigError(f"{source}: model is not a mapping; give it keys such as network_hw or leave it out")
    _check_heads(preset, model, source)
    backbone = with_preset_backbone(model.get("backbone", {}), preset)
    model = {**merge(_architecture(preset, model), model), "backbone": backbone}
    recipe = convert({**content, "model": _with_head_names(model)}, Recipe, source=source)
    check(_faults(recipe), source=source)
    return recipe


def recipe_to_dict(recipe: Recipe) -> dict[str, Any]:
    """All keys of the recipe as plain values, as checkpoints store them; ``recipe_from_dict`` is the inverse."""
    plain: dict[str, Any] = msgspec.to_builtins(recipe)
    return plain


def recipe_from_dict(content: dict[str, Any], *, source: str) -> Recipe:
    """The inverse of ``recipe_to_dict``. Raises ConfigError when ``source`` was written by an incompatible version.

    Versions without the key ``train.batch_norm`` trained as "batch" does.
    """
    train = {"batch_norm": "batch", **content.get("train", {})}
    content = {**content, "model": _with_head_names(content.get("model", {})), "train": train}
    return convert(content, Recipe, source=f"{source}: its recipe was written by another version")


def batch_norm_of(recipe: Recipe) -> str:
    """What ``train.batch_norm`` is in this recipe: "frozen", "sync" or "batch"."""
    if recipe.train.batch_norm != "auto":
        return recipe.train.batch_norm
    pretrained = recipe.model.backbone.weights is not None or recipe.train.start_from is not None
    return "frozen" if pretrained else "batch"


def with_convolutional_heads(recipe: Recipe) -> Recipe:
    """The recipe with its preset's convolutional heads; heads that are convolutional already are kept."""
    model = msgspec.to_builtins(recipe.model)
    heads = {task: {"head": _names(task)[1]} for task in recipe.model.tasks if model[task]["head"] == _names(task)[0]}
    content = {**model, **_alternative_heads(recipe.preset, heads)}
    return msgspec.structs.replace(recipe, model=msgspec.convert(content, ModelConfig))


def _architecture(preset: str, model: dict[str, Any]) -> dict[str, Any]:
    """The preset's architecture with the kinds of heads that the recipe's section ``model`` chooses."""
    architecture = {**PRESETS[preset], **_alternative_heads(preset, model)}
    if architecture.get("detection", {}).get("head") == "fcos":
        architecture["score_threshold"] = FCOS_SCORE_THRESHOLD
    return architecture


def _alternative_heads(preset: str, model: dict[str, Any]) -> dict[str, Any]:
    """Task -> section, for each head that the recipe chooses instead of the preset's own."""
    chosen = {task: model[task].get("head") for task in HEADS if isinstance(model.get(task), dict)}
    return {
        task: {"head": head, **OTHER_HEADS[preset].get(head, {})}
        for task, head in chosen.items()
        if head is not None and head != _default_head(preset, task)
    }


def _default_head(preset: str, task: str) -> str:
    """The head of a task if the recipe names none."""
    return str(PRESETS[preset].get(task, {}).get("head", _names(task)[0]))


def _with_head_names(model: Any) -> Any:
    """The section ``model`` with the key ``head`` in each head's section, which recipes of older versions lack."""
    if not isinstance(model, dict):
        return model
    sections = {task: model[task] for task in HEADS if isinstance(model.get(task), dict)}
    return {**model, **{task: {"head": _names(task)[0], **section} for task, section in sections.items()}}


def _names(task: str) -> list[str]:
    """Names of the heads that the task can have, the default first."""
    return [str(head.__struct_config__.tag) for head in HEADS[task]]


def _check_heads(preset: str, model: dict[str, Any], source: str) -> None:
    """Raise ConfigError for an unknown head, and for a key that belongs to another head."""
    for task, heads in HEADS.items():
        section, names = model.get(task), _names(task)
        if not isinstance(section, dict):
            continue
        chosen = section.get("head", _default_head(preset, task))
        if chosen not in names:
            raise ConfigError(f"{source}: model.{task}.head is {chosen!r}; choose {' or '.join(names)}")
        keys = heads[names.index(chosen)].__struct_fields__
        for name, head in zip(names, heads, strict=True):
            foreign = [key for key in section if key in head.__struct_fields__ and key not in keys]
            if foreign:
                raise ConfigError(
                    f"{source}: model.{task}.{foreign[0]} belongs to head {name}, and this is {chosen}, whose keys are "
                    f"{', '.join(keys)}; leave it out, or set model.{task}.head={name}"
                )


def _faults(recipe: Recipe) -> Iterator[tuple[bool, str]]:
    """What must hold between keys, for ``check``; ranges of single keys are in the schema."""
    yield (
        not any((recipe.model.detection, recipe.model.semantic, recipe.model.drivable)),
        f"model needs one of {', '.join(TASKS)}",
    )
    yield (
        recipe.train.freeze == "backbone" and recipe.stages is not None,
        "train.freeze belongs to the adapt stage: set stages.adapt",
    )
    model = recipe.model
    yield (
        model.neck_from > 4 and any((model.semantic, model.drivable)),
        "model.neck_from=8 leaves masks no fine level; set model.semantic and model.drivable to null",
    )
    yield (
        model.neck_from > 4 and not (isinstance(model.detection, FcosConfig) and min(model.detection.strides) >= 8),
        "model.neck_from=8 needs detection with head fcos and strides from 8 on",
    )
    low, high = recipe.data.augment.scale
    yield not 0 < low <= high, "data.augment.scale must be [low, high], 0 < low <= high"
    yield from _vocabulary_faults(recipe)
    yield from _head_faults(recipe.model)
    yield from _language_faults(recipe)
    yield from _stages_faults(recipe)


def _head_faults(model: ModelConfig) -> Iterator[tuple[bool, str]]:
    for head in (model.detection, model.semantic, model.drivable):
        if isinstance(head, (SparseRcnnConfig, MaskFormerConfig)):
            yield (
                head.width % head.heads != 0,
                f"a head's width {head.width} must be divisible by its {head.heads} heads",
            )
    if isinstance(model.detection, FcosConfig):
        strides = model.detection.strides
        doubled = all(one * 2 == other for one, other in itertools.pairwise(strides))
        yield (
            not strides or strides[0] not in (4, 8, 16, 32) or strides[-1] > 128 or not doubled,
            f"model.detection.strides {list(strides)} must begin with 4, 8, 16 or 32, double, and end by 128",
        )
        yield (
            bool(strides) and strides[-1] >= max(model.network_hw),
            f"model.detection.strides {list(strides)} end with one cell for the whole image of model.network_hw "
            f"{list(model.network_hw)}, which has no statistics to normalise by; leave out the coarsest",
        )


def _vocabulary_faults(recipe: Recipe) -> Iterator[tuple[bool, str]]:
    name = recipe.model.vocabulary
    for task in recipe.model.tasks:
        yield (
            task not in VOCABULARIES[name],
            f"model.vocabulary {name} has no {task} classes, so model.{task} must be null",
        )
    pseudo = recipe.data.pseudo is not None or (recipe.stages is not None and recipe.stages.labelling)
    yield (
        pseudo and name != "bdd100k",
        f"pseudo labels are in BDD100K's classes, so model.vocabulary {name} allows none of stages.teach, "
        "stages.teachers and data.pseudo",
    )


def _language_faults(recipe: Recipe) -> Iterator[tuple[bool, str]]:
    language = recipe.model.language
    yield (
        recipe.loss.score_map > 0 and not (language is not None and language.score_map),
        "loss.score_map needs model.language.score_map: true; set loss.score_map to 0 or switch the score map on",
    )
    if language is None:
        return
    yield language.width % language.heads != 0, "model.language.width must be divisible by its heads"
    yield (
        not (language.l2v or language.score_map),
        "model.language reaches the image by l2v or score_map; switch one on, or set language to null",
    )


def _stages_faults(recipe: Recipe) -> Iterator[tuple[bool, str]]:
    stages, data = recipe.stages, recipe.data
    if stages is None:
        return
    yield any(task not in TASKS for task in stages.sizes), f"the keys of stages.sizes are the tasks {', '.join(TASKS)}"
    yield bool(stages.sizes) and stages.setting == "full", "stages.sizes needs a disjoint setting"
    key = "stages.teach" if stages.teach is not None else "stages.teachers"
    yield (
        stages.labelling and data.sampler != "shuffle",
        f"{key} gives every image labels of every task, so data.sampler must be shuffle",
    )
    yield data.pseudo is not None and stages.labelling, f"{key} makes its own data.pseudo; leave it out"
    tasks, given = recipe.model.tasks, stages.given
    yield (
        stages.teachers is not None and not given,
        f"stages.teachers names no checkpoint; its keys are {', '.join(TASKS)}",
    )
    for task in given:
        yield task not in tasks, f"stages.teachers.{task} labels for a head that the model does not have; leave it out"
    yield (
        stages.teach is not None and set(tasks) <= set(given),
        "stages.teachers has a teacher of every task, so stages.teach has none to train; leave stages.teach out",
    )
