"""The validated recipe: what ``lvad-train run`` reads. An unknown key or an impossible value is a ConfigError.

Precedence, weakest first: the preset's architecture, the recipe file, ``--set a.b=c`` options. Paths in a recipe are
relative to the directory in which the command runs.
"""

import difflib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import yaml

from lvad_perception.errors import ConfigError
from lvad_perception.vocabulary import TASKS
from lvad_training.presets import PRESETS
from lvad_training.recipe import Recipe, Section


class _Loader(yaml.SafeLoader):
    """Safe YAML that also reads 6e-4 as a number, as YAML 1.2 does and PyYAML's 1.1 does not."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def load_recipe(path: Path, overrides: list[str] | None = None) -> Recipe:
    """Read a recipe file (YAML).

    Args:
        path: the recipe.
        overrides: ``a.b=value`` texts, each value parsed as YAML.

    Raises:
        ConfigError: the file is missing or not YAML, a key is unknown, or a value is impossible.
    """
    try:
        content = _read_yaml(path.read_text(encoding="utf-8"))
    except OSError as err:
        raise ConfigError(f"{path}: the recipe cannot be read ({err.strerror}); check the path") from err
    except (yaml.YAMLError, UnicodeDecodeError) as err:
        reason = " ".join(str(err).split())
        raise ConfigError(f"{path}: the recipe is not valid YAML ({reason}); correct that line") from err
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: the recipe is not a mapping of sections; start from config/train_tiny.yaml")
    return parse_recipe(content, overrides or [], source=str(path))


def parse_recipe(content: dict[str, Any], overrides: list[str], *, source: str) -> Recipe:
    """Turn a mapping and ``a.b=value`` overrides into a checked recipe; raises ConfigError as ``load_recipe`` does."""
    for text in overrides:
        content = _merge(content, _parse_override(text))
    preset = content.get("preset", "r50")
    if preset not in PRESETS:
        raise ConfigError(f"{source}: preset {preset!r} is unknown; choose one of {', '.join(PRESETS)}")
    model = content.get("model") or {}
    if not isinstance(model, dict):
        raise ConfigError(f"{source}: model is not a mapping; give it keys such as network_hw or leave it out")
    content = {**content, "model": _merge(_base(preset, model), model)}
    try:
        recipe = msgspec.convert(content, Recipe)
    except msgspec.ValidationError as err:
        raise ConfigError(f"{source}: {_explain(str(err))}") from err
    _check(recipe, source)
    return recipe


def recipe_to_dict(recipe: Recipe) -> dict[str, Any]:
    """The recipe as plain values, complete, as it is written beside checkpoints; ``recipe_from_dict`` reads it back."""
    plain: dict[str, Any] = msgspec.to_builtins(recipe)
    return plain


def recipe_from_dict(content: dict[str, Any], *, source: str) -> Recipe:
    """The inverse of ``recipe_to_dict``. Raises ConfigError when ``source`` was written by an incompatible version."""
    try:
        return msgspec.convert(content, Recipe)
    except msgspec.ValidationError as err:
        raise ConfigError(f"{source}: its recipe was written by another version: {_explain(str(err))}") from err


def _base(preset: str, model: dict[str, Any]) -> dict[str, Any]:
    """The preset's architecture; the options of its backbone go when the recipe names another backbone."""
    base = PRESETS[preset]
    wanted = model.get("backbone")
    own: dict[str, Any] = base.get("backbone", {})
    if isinstance(wanted, dict) and wanted.get("name", own.get("name")) != own.get("name"):
        return {key: value for key, value in base.items() if key != "backbone"}
    return base


def _read_yaml(text: str) -> Any:
    return yaml.load(text, Loader=_Loader)  # a SafeLoader


def _parse_override(text: str) -> dict[str, Any]:
    key, sign, value = text.partition("=")
    if not sign or not key.strip():
        raise ConfigError(f"--set {text}: not of the form section.key=value, for instance train.steps=500")
    try:
        nested: Any = _read_yaml(value)
    except yaml.YAMLError as err:
        raise ConfigError(f"--set {text}: the value is not valid YAML; quote it") from err
    for part in reversed(key.strip().split(".")):
        nested = {part: nested}
    return dict(nested)


def _merge(base: dict[str, Any], update: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in update.items():
        old = merged.get(key)
        merged[key] = _merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def _explain(message: str) -> str:
    """Add to msgspec's message the key that was probably meant."""
    if "unknown field" not in message:
        return f"{message}; correct that value"
    unknown = message.split("`")[1]
    known = sorted({name for section in _sections() for name in section.__struct_fields__})
    near = difflib.get_close_matches(unknown, known, n=1)
    remedy = f"did you mean {near[0]!r}?" if near else f"known keys are {', '.join(known)}"
    return f"{message}; {remedy}"


def _sections() -> list[type[Section]]:
    return [Recipe, *Section.__subclasses__()]


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
