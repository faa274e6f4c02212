"""The validated recipe: what ``lvad-train run`` reads. An unknown key is a ConfigError, and so is a value of another
type or one that ``_check`` knows to be impossible.

Precedence, weakest first: the preset's architecture, the recipe file, ``--set a.b=c`` options. Paths in a recipe are
relative to the directory in which the command runs.
"""

import itertools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from lvad_perception.errors import ConfigError
from lvad_perception.vocabulary import TASKS, VOCABULARIES
from lvad_training.recipe.presets import FCOS_SCORE_THRESHOLD, OTHER_HEADS, PRESETS, chosen_preset
from lvad_training.recipe.schema import (
    HEADS,
    FcosConfig,
    MaskFormerConfig,
    ModelConfig,
    Recipe,
    SparseRcnnConfig,
)
from lvad_training.recipe.sections import convert, merge, override, read_mapping

_NOT_NEGATIVE = ("backbone_multiplier", "prompt_multiplier", "weight_decay", "warmup_steps", "gradient_clip", "seed")


def load_recipe(path: Path, overrides: list[str] | None = None) -> Recipe:
    """Read a recipe file (YAML).

    Args:
        path: the recipe.
        overrides: ``a.b=value`` texts, each value parsed as YAML.

    Raises:
        ConfigError: the file is missing or not YAML, a key is unknown, or a value is impossible.
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
    model = merge(_base(preset, model), model)
    content = {**content, "model": _with_heads(model)}
    recipe = convert(content, Recipe, source=source)
    _check(recipe, source)
    return recipe


def recipe_to_dict(recipe: Recipe) -> dict[str, Any]:
    """The recipe as plain values, complete, as it is written beside checkpoints; ``recipe_from_dict`` reads it back."""
    plain: dict[str, Any] = msgspec.to_builtins(recipe)
    return plain


def recipe_from_dict(content: dict[str, Any], *, source: str) -> Recipe:
    """The inverse of ``recipe_to_dict``. Raises ConfigError when ``source`` was written by an incompatible version."""
    content = {**content, "model": _with_heads(content.get("model", {}))}
    return convert(content, Recipe, source=f"{source}: its recipe was written by another version")


def with_convolutional_heads(recipe: Recipe) -> Recipe:
    """The recipe with its preset's convolutional heads; those that are convolutional already stay as they are."""
    model = msgspec.to_builtins(recipe.model)
    chosen = {task: {"head": _names(task)[1]} for task in recipe.model.tasks if model[task]["head"] == _names(task)[0]}
    content = {**model, **_chosen_heads(recipe.preset, chosen)}
    return msgspec.structs.replace(recipe, model=msgspec.convert(content, ModelConfig))


def _base(preset: str, model: dict[str, Any]) -> dict[str, Any]:
    """The preset's architecture; what belongs to a head or backbone goes when the recipe names another one."""
    chosen = _chosen_heads(preset, model)
    base = {**PRESETS[preset], **chosen}
    if base.get("detection", {}).get("head") == "fcos":
        base["score_threshold"] = FCOS_SCORE_THRESHOLD
    wanted = model.get("backbone")
    own: dict[str, Any] = base.get("backbone", {})
    if isinstance(wanted, dict) and wanted.get("name", own.get("name")) != own.get("name"):
        return {key: value for key, value in base.items() if key != "backbone"}
    return base


def _chosen_heads(preset: str, model: dict[str, Any]) -> dict[str, Any]:
    """The preset's sections of the heads that the recipe chooses instead of the usual ones."""
    wanted = {task: model[task].get("head") for task in HEADS if isinstance(model.get(task), dict)}
    return {
        task: {"head": head, **OTHER_HEADS[preset].get(head, {})}
        for task, head in wanted.items()
        if head is not None and head != _usual_head(preset, task)
    }


def _usual_head(preset: str, task: str) -> str:
    """The head of a task where the recipe names none."""
    return str(PRESETS[preset].get(task, {}).get("head", _names(task)[0]))


def _with_heads(model: Any) -> Any:
    """The section with the heads named that it leaves out, as recipes of older versions do."""
    if not isinstance(model, dict):
        return model
    sections = {task: model[task] for task in HEADS if isinstance(model.get(task), dict)}
    return {**model, **{task: {"head": _names(task)[0], **section} for task, section in sections.items()}}


def _names(task: str) -> list[str]:
    """Names of the heads that the task can have, the usual one first."""
    return [str(head.__struct_config__.tag) for head in HEADS[task]]


def _check_heads(preset: str, model: dict[str, Any], source: str) -> None:
    """Raise ConfigError for a head that there is not, and for a key that belongs to another head."""
    for task, heads in HEADS.items():
        section, names = model.get(task), _names(task)
        if not isinstance(section, dict):
            continue
        wanted = section.get("head", _usual_head(preset, task))
        if wanted not in names:
            raise ConfigError(f"{source}: model.{task}.head is {wanted!r}; choose {' or '.join(names)}")
        own = heads[names.index(wanted)].__struct_fields__
        for name, head in zip(names, heads, strict=True):
            foreign = [key for key in section if key in head.__struct_fields__ and key not in own]
            if foreign:
                raise ConfigError(
                    f"{source}: model.{task}.{foreign[0]} belongs to head {name}, and this is {wanted}, whose keys are "
                    f"{', '.join(own)}; leave it out, or set model.{task}.head={name}"
                )


def _check(recipe: Recipe, source: str) -> None:
    model, train, augment = recipe.model, recipe.train, recipe.data.augment
    wrong = [
        (any(side < 32 or side % 32 for side in model.network_hw), "model.network_hw needs multiples of 32"),
        (not any((model.detection, model.semantic, model.drivable)), f"model needs one of {', '.join(TASKS)}"),
        (
            model.neck_from > 4 and any((model.semantic, model.drivable)),
            "model.neck_from=8 leaves masks no fine level; set model.semantic and model.drivable to null",
        ),
        (
            model.neck_from > 4 and not (isinstance(model.detection, FcosConfig) and min(model.detection.strides) >= 8),
            "model.neck_from=8 needs detection with head fcos and strides from 8 on",
        ),
        (not 0 <= model.score_threshold <= 1, "model.score_threshold must be between 0 and 1"),
        (model.max_detections < 1, "model.max_detections must be at least 1"),
        (train.steps < 1, "train.steps must be at least 1"),
        (train.batch_size < 1 or train.accumulate < 1, "train.batch_size and train.accumulate must be at least 1"),
        (not 0 < train.learning_rate < math.inf, "train.learning_rate must be above 0 and finite"),
        (model.neck_width < 1, "model.neck_width must be at least 1"),
        (train.checkpoint_every < 1, "train.checkpoint_every must be at least 1"),
        (
            train.freeze == "backbone" and recipe.stages is not None,
            "train.freeze belongs to the adapt stage: set stages.adapt",
        ),
        (
            recipe.data.workers != "auto" and recipe.data.workers < 0,
            "data.workers must be auto, or 0 or more",
        ),
        (not 0 < augment.scale[0] <= augment.scale[1], "data.augment.scale must be [low, high]"),
        (not 0 <= augment.flip <= 1, "data.augment.flip must be between 0 and 1"),
    ]
    wrong += [
        (not 0 <= value < math.inf, f"{section}.{key} must be 0 or more and finite")  # NaN is neither
        for section, values, keys in (
            ("loss", recipe.loss, recipe.loss.__struct_fields__),
            ("train", train, _NOT_NEGATIVE),
        )
        for key in keys
        for value in (getattr(values, key),)
    ]
    wrong += [*_vocabulary_faults(recipe), *_head_faults(model), *_language_faults(recipe), *_stages_faults(recipe)]
    for is_wrong, sentence in wrong:
        if is_wrong:
            raise ConfigError(f"{source}: {sentence}; correct it in the recipe or with --set")


def _head_faults(model: ModelConfig) -> Iterator[tuple[bool, str]]:
    for head in (model.detection, model.semantic, model.drivable):
        if isinstance(head, (SparseRcnnConfig, MaskFormerConfig)):
            yield (
                head.width % head.heads != 0,
                f"a head's width {head.width} must be divisible by its {head.heads} heads",
            )
        elif head is not None:
            yield head.width < 1, "a head's width must be at least 1"
        if isinstance(head, MaskFormerConfig):
            yield min(head.queries, head.layers) < 1, "a MaskFormer head's queries and layers must be at least 1"
    detection = model.detection
    if isinstance(detection, SparseRcnnConfig):
        counts = (detection.proposals, detection.refinements, detection.matches_per_truth)
        yield min(counts) < 1, "model.detection proposals, refinements and matches_per_truth must be at least 1"
    if isinstance(detection, FcosConfig):
        strides = detection.strides
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
        yield detection.convolutions < 1, "model.detection.convolutions must be at least 1"
        yield detection.center_radius <= 0, "model.detection.center_radius must be above 0"
        # TensorRT's TopK takes no more.
        yield not 1 <= detection.candidates < 3840, "model.detection.candidates must be between 1 and 3839"
        yield not 0 < detection.overlap < 1, "model.detection.overlap must be between 0 and 1"
        yield not 0 <= detection.least_score < 1, "model.detection.least_score must be at least 0 and below 1"


def _vocabulary_faults(recipe: Recipe) -> Iterator[tuple[bool, str]]:
    name = recipe.model.vocabulary
    for task in recipe.model.tasks:
        yield (
            task not in VOCABULARIES[name],
            f"model.vocabulary {name} has no {task} classes, so model.{task} must be null",
        )
    pseudo = recipe.data.pseudo is not None or (recipe.stages is not None and recipe.stages.teach is not None)
    yield (
        pseudo and name != "bdd100k",
        f"pseudo labels are in BDD100K's classes, so model.vocabulary {name} has neither stages.teach nor data.pseudo",
    )


def _language_faults(recipe: Recipe) -> Iterator[tuple[bool, str]]:
    language = recipe.model.language
    if language is None:
        return
    yield language.context < 1, "model.language.context must be at least 1"
    yield language.layers < 1, "model.language.layers must be at least 1"
    yield language.width % language.heads != 0, "model.language.width must be divisible by its heads"
    yield (
        not (language.l2v or language.score_map),
        "model.language reaches the image by l2v or score_map; switch one on, or set language to null",
    )


def _stages_faults(recipe: Recipe) -> Iterator[tuple[bool, str]]:
    stages, data = recipe.stages, recipe.data
    if stages is None:
        return
    yield any(task not in TASKS for task in stages.sizes), f"stages.sizes takes the tasks {', '.join(TASKS)}"
    yield any(size <= 0 for size in stages.sizes.values()), "stages.sizes must be above 0"
    yield bool(stages.sizes) and stages.setting == "full", "stages.sizes needs a disjoint setting"
    for name, stage in (("teach", stages.teach), ("adapt", stages.adapt)):
        yield stage is not None and stage.steps < 1, f"stages.{name}.steps must be at least 1"
    yield (
        stages.teach is not None and data.sampler != "shuffle",
        "stages.teach gives every image labels of every task, so data.sampler must be shuffle",
    )
    yield data.pseudo is not None and stages.teach is not None, "stages.teach makes its own data.pseudo; leave it out"
    pseudo = stages.pseudo
    shares = [
        pseudo.ignored_score,
        pseudo.mask_confidence,
        *pseudo.mask_confidences.values(),
        *pseudo.box_scores.values(),
    ]
    shares += [] if pseudo.box_score == "auto" else [pseudo.box_score]
    yield any(not 0 <= share <= 1 for share in shares), "thresholds of stages.pseudo must be between 0 and 1"
