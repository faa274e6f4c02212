"""The validated recipe: what ``lvad-train run`` reads. An unknown key or an impossible value is a ConfigError.

Precedence, weakest first: the preset's architecture, the recipe file, ``--set a.b=c`` options. Paths in a recipe are
relative to the directory in which the command runs.
"""

import difflib
import re
from pathlib import Path
from typing import Any, Literal

import msgspec
import yaml

from lvad_perception.errors import ConfigError
from lvad_perception.vocabulary import TASKS
from lvad_training.presets import PRESETS

Preset = Literal["r50", "r18", "tiny"]


class _Loader(yaml.SafeLoader):
    """Safe YAML that also reads 6e-4 as a number, as YAML 1.2 does and PyYAML's 1.1 does not."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


class Section(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """Base of every part of a recipe: immutable, keyword-only, strict about keys."""


class BackboneConfig(Section, frozen=True):
    """A timm backbone: name, constructor options, and a local file with its weights or None for random ones."""

    name: str = "resnet50"
    options: dict[str, Any] = {}
    weights: str | None = None


class DetectionConfig(Section, frozen=True):
    """Sparse R-CNN, defaults of its paper (projects/SparseRCNN/configs, 100 proposals).

    ``proposal_boxes``: "image" starts every proposal as the whole image, as the paper does; "grid" spreads them over
    positions and sizes, which learns faster from random weights. ``matches_per_truth``: how many proposals each truth
    box is matched to in every refinement but the last, which is always one to one; 1 is the paper.
    ``pool_samples``: points per side of a bin at which RoIAlign samples.
    """

    proposals: int = 100
    refinements: int = 6
    width: int = 256
    heads: int = 8
    feedforward: int = 2048
    dynamic_width: int = 64
    pool_size: int = 7
    pool_samples: int = 2
    proposal_boxes: Literal["image", "grid"] = "image"
    matches_per_truth: int = 1


class MaskConfig(Section, frozen=True):
    """A MaskFormer head, defaults of its paper (configs/cityscapes-19).

    ``memory_stride``: which pyramid level the queries attend to. ``mask_kernel``: of the convolution that makes the
    mask features. ``pixel_loss``: an auxiliary per-pixel classifier on the mask features, in training only.
    """

    queries: int = 100
    layers: int = 6
    width: int = 256
    heads: int = 8
    feedforward: int = 2048
    dropout: float = 0.1
    mask_width: int = 256
    mask_kernel: Literal[1, 3] = 3
    memory_stride: Literal[4, 8, 16, 32] = 32
    pixel_loss: bool = False


class ModelConfig(Section, frozen=True):
    """The network. A task whose section is null has no head. ``neck_norm``: "group" as MaskFormer, or "batch", which
    costs nothing once folded into the convolutions of the model file.
    """

    network_hw: tuple[int, int] = (720, 1280)
    backbone: BackboneConfig = BackboneConfig()
    neck_width: int = 256
    neck_norm: Literal["group", "batch"] = "group"
    detection: DetectionConfig | None = DetectionConfig()
    semantic: MaskConfig | None = MaskConfig()
    drivable: MaskConfig | None = MaskConfig()
    score_threshold: float = 0.3
    max_detections: int = 100


class LossConfig(Section, frozen=True):
    """Loss weights, defaults of Sparse R-CNN and MaskFormer; the first three are the tasks' alphas."""

    detection: float = 1.0
    semantic: float = 1.0
    drivable: float = 1.0
    box_class: float = 2.0
    box_l1: float = 5.0
    box_giou: float = 2.0
    mask_class: float = 1.0
    mask_focal: float = 20.0
    mask_dice: float = 1.0
    no_object: float = 0.1
    pixel: float = 1.0


class AugmentConfig(Section, frozen=True):
    """Training augmentation: chance of a flip, range of the scale jitter, random crop, strength of colour changes."""

    flip: float = 0.5
    scale: tuple[float, float] = (0.75, 1.5)
    crop: bool = True
    color: float = 0.4


class DataConfig(Section, frozen=True):
    """A data set in BDD100K's layout, the splits to train and evaluate on, and how it is fed.

    ``exclude`` and ``only`` select training images by name prefix, for instance to hold out a sequence.
    """

    root: str
    train_split: str = "train"
    val_split: str = "val"
    exclude: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    workers: int = 2
    augment: AugmentConfig = AugmentConfig()


class TrainConfig(Section, frozen=True):
    """Optimisation. ``batch_size`` is images per process and micro-step; ``accumulate`` micro-steps make one step.

    The learning rate warms up linearly, then follows ``schedule``: "cosine" to zero, or "step", dropped tenfold at
    ``drop_at`` of the steps. ``precision``: "no", "bf16" or "fp16" (CUDA). Validation runs every ``evaluate_every``
    steps when above 0, and always at the end.
    """

    steps: int = 1000
    batch_size: int = 8
    accumulate: int = 1
    learning_rate: float = 1e-4
    backbone_multiplier: float = 1.0
    weight_decay: float = 1e-4
    warmup_steps: int = 100
    schedule: Literal["cosine", "step"] = "cosine"
    drop_at: float = 0.7
    gradient_clip: float = 1.0
    precision: Literal["no", "bf16", "fp16"] = "no"
    seed: int = 0
    checkpoint_every: int = 200
    evaluate_every: int = 0
    start_from: str | None = None


class Recipe(Section, frozen=True):
    """Everything that ``lvad-train run`` needs."""

    data: DataConfig
    preset: Preset = "r50"
    model: ModelConfig = ModelConfig()
    loss: LossConfig = LossConfig()
    train: TrainConfig = TrainConfig()
    output: str = "runs/latest"


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
    content = {**content, "model": _merge(PRESETS[preset], model)}
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
    for is_wrong, sentence in wrong:
        if is_wrong:
            raise ConfigError(f"{source}: {sentence}; correct it in the recipe or with --set")
