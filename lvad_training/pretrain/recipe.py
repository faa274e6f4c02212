"""The keys of a pretraining recipe, and each method's defaults.

Paths are relative to the directory in which the command runs.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from msgspec import Meta

from lvad_perception.errors import ConfigError
from lvad_training.recipe.presets import chosen_preset, with_preset_backbone
from lvad_training.recipe.schema import BackboneConfig, Count, Positive, Precision, Preset, Section, Share, Workers
from lvad_training.recipe.sections import check, convert, override, read_mapping

Method = Literal["moco_v2", "simclr", "swav", "byol", "densecl"]


@dataclass(frozen=True, slots=True)
class Defaults:
    """A method's settings as published for a ResNet-50; None for what the method does not have.

    Attributes:
        optimizer: "sgd", or "lars" of ``lightly.utils.lars``; both with momentum 0.9.
        learning_rate: for 256 images per step; scaled in proportion to them.
        weight_decay: of kernels and matrices; biases and norms do not decay.
        hidden: hidden channels of the heads, as a multiple of the backbone's.
        width: channels of the embeddings that the loss compares.
        temperature: of the softmax.
        momentum: of the momentum encoder, at the first and the last step.
        queue: number of negatives; for SwAV of features that are assigned to clusters along with the batch's.
    """

    optimizer: Literal["sgd", "lars"]
    learning_rate: float
    weight_decay: float
    hidden: float = 1.0
    width: int = 128
    temperature: float | None = None
    momentum: tuple[float, float] | None = None
    queue: int | None = None


# The papers' values, except momentum of both MoCos: a cosine from 0.996 as in lightly's examples, not a fixed 0.999.
DEFAULTS: Final[dict[Method, Defaults]] = {
    "moco_v2": Defaults("sgd", 0.03, 1e-4, temperature=0.2, momentum=(0.996, 1.0), queue=65536),
    "simclr": Defaults("lars", 0.3, 1e-6, temperature=0.1),
    "swav": Defaults("lars", 0.6, 1e-6, temperature=0.1, queue=3840),
    "byol": Defaults("lars", 0.45, 1e-6, hidden=2.0, width=256, momentum=(0.99, 1.0)),
    "densecl": Defaults("sgd", 0.3, 1e-4, temperature=0.2, momentum=(0.996, 1.0), queue=65536),
}


class FramesConfig(Section, frozen=True):
    """The frames to learn from: ``root`` is a folder of images and videos at any depth, or one video.

    ``only`` and ``exclude`` select by the beginning of the path inside ``root``. Of videos, ``fps`` frames per second
    are extracted, shrunk to ``short_side_px`` and stored as JPEG in the folder ``frames`` (by default in the output).
    """

    root: str
    only: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    fps: Positive = 2.0
    short_side_px: Annotated[int, Meta(ge=32)] = 512
    frames: str | None = None
    workers: Workers = "auto"


class ViewsConfig(Section, frozen=True):
    """Random views of an image, made by lightly's transform for the method; None is that transform's default.

    ``size_px``: side of a view. ``min_scale``: smallest share of the image that a view shows. ``color``: strength of
    colour changes. ``gray``, ``blur``, ``flip``: probabilities. ``small_px`` and ``small_count``: SwAV's small views.
    """

    size_px: Annotated[int, Meta(ge=32)] = 224
    min_scale: Annotated[float, Meta(gt=0, le=1)] | None = None
    color: Annotated[float, Meta(ge=0)] = 1.0
    gray: Share = 0.2
    blur: Share | None = None
    flip: Share = 0.5
    small_px: Annotated[int, Meta(ge=32)] = 96
    small_count: Annotated[int, Meta(ge=0)] = 6


class HeadConfig(Section, frozen=True):
    """The method's heads and loss; None is the method's default (``DEFAULTS``).

    ``queue``: by default at most half the images, as a queue that contains an image's own past features would push it
    away from itself. ``dense_share``: weight of DenseCL's dense loss in the total. ``prototypes``: number of SwAV's
    clusters; ``frozen_prototypes``: share of the steps in which they keep their initial values; ``queue_from``: share
    of the steps after which its queue is used.
    """

    hidden: Count | None = None
    width: Count | None = None
    temperature: Annotated[float, Meta(ge=0.001)] | None = None
    momentum: tuple[Share, Share] | None = None
    queue: Annotated[int, Meta(ge=0)] | None = None
    dense_share: Share = 0.5
    prototypes: Count = 3000
    frozen_prototypes: Share = 0.01
    queue_from: Share = 0.1


class OptimizationConfig(Section, frozen=True):
    """Optimisation; None is the method's default.

    ``batch_size``: images per process and step, at least 2. ``learning_rate``: the highest, reached after
    ``warmup_steps`` (by default a tenth of the steps, at most 500) and followed by a cosine to a thousandth of it.
    """

    steps: Count = 20000
    batch_size: Annotated[int, Meta(ge=2)] = 64
    optimizer: Literal["sgd", "lars"] | None = None
    learning_rate: Positive | None = None
    weight_decay: float | None = None
    warmup_steps: Annotated[int, Meta(ge=0)] | None = None
    gradient_clip: float = 0.0
    precision: Precision = "auto"
    seed: int = 0
    checkpoint_every: Count = 500


class NeighboursConfig(Section, frozen=True):
    """The picture of nearest neighbours: ``queries`` frames, each with its ``shown`` nearest among ``frames`` frames.

    ``apart``: frames of the same folder or video closer together than this many frames are not shown, as they show the
    same scene.
    """

    frames: Annotated[int, Meta(ge=2)] = 2000
    queries: Count = 6
    shown: Count = 5
    apart: Annotated[int, Meta(ge=0)] = 10


class PretrainRecipe(Section, frozen=True):
    """A recipe of ``lvad-train pretrain``. ``backbone`` is by default that of ``preset``."""

    data: FramesConfig
    method: Method = "moco_v2"
    preset: Preset = "r50"
    backbone: BackboneConfig = BackboneConfig()
    views: ViewsConfig = ViewsConfig()
    head: HeadConfig = HeadConfig()
    train: OptimizationConfig = OptimizationConfig()
    neighbours: NeighboursConfig = NeighboursConfig()
    output: str = "runs/pretrain"

    @property
    def defaults(self) -> Defaults:
        """The method's defaults."""
        return DEFAULTS[self.method]


def load_pretrain_recipe(path: Path | None, overrides: list[str]) -> PretrainRecipe:
    """Read and check a recipe.

    Args:
        path: recipe file (YAML), or None for defaults and ``overrides`` alone.
        overrides: ``a.b=value`` texts, each value parsed as YAML.

    Raises:
        ConfigError: the file is missing or not YAML, a key is unknown, or a value has another type or is out of range.
    """
    content = {} if path is None else read_mapping(path, example="config/pretrain.yaml")
    source = "pretrain" if path is None else str(path)
    return parse_pretrain_recipe(override(content, overrides), source=source)


def parse_pretrain_recipe(content: dict[str, Any], *, source: str) -> PretrainRecipe:
    """Turn a mapping into a checked recipe; raises ConfigError as ``load_pretrain_recipe`` does."""
    data = content.get("data") or {}
    if isinstance(data, dict) and not data.get("root"):
        raise ConfigError(f"{source}: no images; give --data, a folder of images or videos")
    backbone = with_preset_backbone(content.get("backbone") or {}, chosen_preset(content, source=source))
    recipe = convert({**content, "backbone": backbone}, PretrainRecipe, source=source)
    check(_faults(recipe), source=source)
    return recipe


def _faults(recipe: PretrainRecipe) -> Iterator[tuple[bool, str]]:
    """What must hold between keys, for ``check``; ranges of single keys are in the sections."""
    method, defaults, head, train = recipe.method, recipe.defaults, recipe.head, recipe.train
    if head.momentum is not None:
        yield head.momentum[0] > head.momentum[1], "head.momentum must be [first, last], first <= last"
        yield defaults.momentum is None, f"{method} has no head.momentum"
    yield head.queue is not None and defaults.queue is None, f"{method} has no head.queue"
    yield head.queue == 0 and method in ("moco_v2", "densecl"), f"{method} needs a head.queue"
    yield (train.warmup_steps or 0) > train.steps, "train.warmup_steps must be at most train.steps"
