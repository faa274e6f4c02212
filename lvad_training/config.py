"""The validated recipe: what ``lvad-train run`` reads. An unknown key or an impossible value is a ConfigError.

Precedence, weakest first: the preset's architecture, the recipe file, ``--set a.b=c`` options. Paths in a recipe are
relative to the directory in which the command runs.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from lvad_perception.errors import ConfigError
from lvad_perception.vocabulary import TASKS
from lvad_training.presets import PRESETS
from lvad_training.recipe import Recipe
from lvad_training.sections import convert, merge, override, read_mapping


def load_recipe(path: Path, overrides: list[str] | None = None) -> Recipe:
    """Read a recipe file (YAML).

    Args:
        path: the recipe.
        overrides: ``a.b=value`` texts, each value parsed as YAML.

    Raises:
        ConfigError: the file is missing or not YAML, a key is unknown, or a value is impossible.
    """
    content = read_mapping(path, example="config/train_tiny.yaml")
    return parse_recipe(content, overrides or [], source=str(path))


def parse_recipe(content: dict[str, Any], overrides: list[str], *, source: str) -> Recipe:
    """Turn a mapping and ``a.b=value`` overrides into a checked recipe; raises ConfigError as ``load_recipe`` does."""
    content = override(content, overrides)
    preset = content.get("preset", "r50")
    if preset not in PRESETS:
        raise ConfigError(f"{source}: preset {preset!r} is unknown; choose one of {', '.join(PRESETS)}")
    model = content.get("model") or {}
    if not isinstance(model, dict):
        raise ConfigError(f"{source}: model is not a mapping; give it keys such as network_hw or leave it out")
    content = {**content, "model": merge(_base(preset, model), model)}
    recipe = convert(content, Recipe, source=source)
    _check(recipe, source)
    return recipe


def recipe_to_dict(recipe: Recipe) -> dict[str, Any]:
    """The recipe as plain values, complete, as it is written beside checkpoints; ``recipe_from_dict`` reads it back."""
    plain: dict[str, Any] = msgspec.to_builtins(recipe)
    return plain


def recipe_from_dict(content: dict[str, Any], *, source: str) -> Recipe:
    """The inverse of ``recipe_to_dict``. Raises ConfigError when ``source`` was written by an incompatible version."""
    return convert(content, Recipe, source=f"{source}: its recipe was written by another version")


def _base(preset: str, model: dict[str, Any]) -> dict[str, Any]:
    """The preset's architecture; the options of its backbone go when the recipe names another backbone."""
    base = PRESETS[preset]
    wanted = model.get("backbone")
    own: dict[str, Any] = base.get("backbone", {})
    if isinstance(wanted, dict) and wanted.get("name", own.get("name")) != own.get("name"):
        return {key: value for key, value in base.items() if key != "backbone"}
    return base


def _check(recipe: Recipe, source: str) -> None:
    model, train, augment = recipe.model, recipe.train, recipe.data.augment
    wrong = [
        (any(side < 32 or side % 32 for side in model.network_hw), "model.network_hw needs multiples of 32"),
        (not any((model.detection, model.semantic, model.drivable)), f"model needs one of {', '.join(TASKS)}"),
        (not 0 <= model.score_threshold <= 1, "model.score_threshold must be between 0 and 1"),
        (model.max_detections < 1, "model.max_detections must be at least 1"),
        (train.steps < 1, "train.steps must be at least 1"),
        (train.batch_size < 1 or train.accumulate < 1, "train.batch_size and train.accumulate must be at least 1"),
        (train.learning_rate <= 0, "train.learning_rate must be above 0"),
        (train.checkpoint_every < 1, "train.checkpoint_every must be at least 1"),
        (
            train.freeze == "backbone" and recipe.stages is not None,
            "train.freeze belongs to the adapt stage: set stages.adapt",
        ),
        (recipe.data.workers < 0, "data.workers must be 0 or more"),
        (not 0 < augment.scale[0] <= augment.scale[1], "data.augment.scale must be [low, high]"),
    ]
    for head in (model.detection, model.semantic, model.drivable):
        if head is not None:
            sentence = f"a head's width {head.width} must be divisible by its {head.heads} heads"
            wrong.append((head.width % head.heads != 0, sentence))
    if model.detection is not None:
        counts = (model.detection.proposals, model.detection.refinements, model.detection.matches_per_truth)
        wrong.append(
            (min(counts) < 1, "model.detection proposals, refinements and matches_per_truth must be at least 1")
        )
    wrong += list(_language_faults(recipe)) + list(_stages_faults(recipe))
    for is_wrong, sentence in wrong:
        if is_wrong:
            raise ConfigError(f"{source}: {sentence}; correct it in the recipe or with --set")


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
