"""What a pretraining recipe may say, and what each method takes where the recipe is silent.

Paths are relative to the directory in which the command runs.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from lvad_perception.errors import ConfigError
from lvad_training.recipe.presets import PRESETS, chosen_preset
from lvad_training.recipe.schema import BackboneConfig, Preset, Section
from lvad_training.recipe.sections import convert, merge, override, read_mapping

Method = Literal["moco_v2", "simclr", "swav", "byol", "densecl"]


@dataclass(frozen=True, slots=True)
class Defaults:
    """A method's settings as published for a ResNet-50.

    Attributes:
        optimizer: "sgd", or "lars" of ``lightly.utils.lars``; both with momentum 0.9.
        learning_rate: for 256 images a step; it is scaled in proportion.
        weight_decay: of kernels and matrices; biases and norms do not decay.
        hidden: hidden channels of the heads, as a multiple of the backbone's.
        width: channels that the loss compares.
        temperature: of the softmax; None where there is none.
        momentum: of the momentum encoder, at the first and the last step; None where there is none.
        queue: negatives, or for SwAV features to assign beside the batch's; None where there are none.
    """

    optimizer: Literal["sgd", "lars"]
    learning_rate: float
    weight_decay: float
    hidden: float = 1.0
    width: int = 128
    temperature: float | None = None
    momentum: tuple[float, float] | None = None
    queue: int | None = None


# The papers' figures; the cosine from 0.996 for both MoCos is that of lightly's examples, the papers keep 0.999.
DEFAULTS: Final[dict[Method, Defaults]] = {
    "moco_v2": Defaults("sgd", 0.03, 1e-4, temperature=0.2, momentum=(0.996, 1.0), queue=65536),
    "simclr": Defaults("lars", 0.3, 1e-6, temperature=0.1),
    "swav": Defaults("lars", 0.6, 1e-6, temperature=0.1, queue=3840),
    "byol": Defaults("lars", 0.45, 1e-6, hidden=2.0, width=256, momentum=(0.99, 1.0)),
    "densecl": Defaults("sgd", 0.3, 1e-4, temperature=0.2, momentum=(0.996, 1.0), queue=65536),
}


class FramesConfig(Section, frozen=True):
    """Where the frames are: a folder of images and videos at any depth, or one video.

    ``only`` and ``exclude`` select by the beginning of the path inside ``root``. Of videos, ``fps`` frames a second are
    taken, shrunk to ``short_side_px`` and kept as JPEG in ``frames`` (by default a folder of the output).
    """

    root: str
    only: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    fps: float = 2.0
    short_side_px: int = 512
    frames: str | None = None
    workers: int | Literal["auto"] = "auto"


class ViewsConfig(Section, frozen=True):
    """The random views of an image, those of lightly's transform for the method; None is as there.

    ``size_px``: side of a view. ``min_scale``: least share of the image that a view shows. ``color``: strength of
    colour changes. ``gray``, ``blur``, ``flip``: chances. ``small_px`` and ``small_count``: SwAV's additional views.
    """

    size_px: int = 224
    min_scale: float | None = None
    color: float = 1.0
    gray: float = 0.2
    blur: float | None = None
    flip: float = 0.5
    small_px: int = 96
    small_count: int = 6


class HeadConfig(Section, frozen=True):
    """The method's heads and loss; None is the method's own value (``DEFAULTS``).

    ``queue``: by default at most half the images, as a queue that holds an image's own past features would push it away
    from itself. ``dense_share``: of DenseCL's dense loss in the total. ``prototypes``: SwAV's clusters;
    ``frozen_prototypes``: share of the steps for which they stay as drawn; ``queue_from``: share of the steps after
    which its queue is used.
    """

    hidden: int | None = None
    width: int | None = None
    temperature: float | None = None
    momentum: tuple[float, float] | None = None
    queue: int | None = None
    dense_share: float = 0.5
    prototypes: int = 3000
    frozen_prototypes: float = 0.01
    queue_from: float = 0.1


class OptimizationConfig(Section, frozen=True):
    """Optimisation; None is the method's own value.

    ``batch_size`` is images per process. ``learning_rate`` is the highest, reached after ``warmup_steps`` and followed
    by a cosine to a thousandth; by default a tenth of the steps, at most 500. ``precision``: as of a
    training, "auto", "no", "bf16" or "fp16".
    """

    steps: int = 20000
    batch_size: int = 64
    optimizer: Literal["sgd", "lars"] | None = None
    learning_rate: float | None = None
    weight_decay: float | None = None
    warmup_steps: int | None = None
    gradient_clip: float = 0.0
    precision: Literal["auto", "no", "bf16", "fp16"] = "auto"
    seed: int = 0
    checkpoint_every: int = 500


class NeighboursConfig(Section, frozen=True):
    """The picture of nearest frames: how many frames are searched, how many are asked for, how many each is shown.

    ``apart``: frames of the same folder or video that are fewer places away than this are not shown, as they are the
    same scene.
    """

    frames: int = 2000
    queries: int = 6
    shown: int = 5
    apart: int = 10


class PretrainRecipe(Section, frozen=True):
    """Everything that ``lvad-train pretrain`` needs. ``backbone`` is by default that of ``preset``."""

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
        """The method's own settings."""
        return DEFAULTS[self.method]


def load_pretrain_recipe(path: Path | None, overrides: list[str]) -> PretrainRecipe:
    """Read and check a recipe.

    Args:
        path: recipe file (YAML), or None for one of ``overrides`` alone.
        overrides: ``a.b=value`` texts, each value parsed as YAML.

    Raises:
        ConfigError: the file is missing or not YAML, a key is unknown, or a value is impossible.
    """
    content = {} if path is None else read_mapping(path, example="config/pretrain.yaml")
    source = "pretrain" if path is None else str(path)
    return parse_pretrain_recipe(override(content, overrides), source=source)


def parse_pretrain_recipe(content: dict[str, Any], *, source: str) -> PretrainRecipe:
    """A mapping of sections as a checked recipe; raises ConfigError as ``load_pretrain_recipe`` does."""
    data = content.get("data") or {}
    if isinstance(data, dict) and not data.get("root"):
        raise ConfigError(f"{source}: no images; give --data, a folder of images or videos")
    backbone = content.get("backbone") or {}
    base = PRESETS[chosen_preset(content, source=source)].get("backbone", {})
    if isinstance(backbone, dict) and backbone.get("name", base.get("name")) == base.get("name"):
        backbone = merge(base, backbone)
    recipe = convert({**content, "backbone": backbone}, PretrainRecipe, source=source)
    _check(recipe, source)
    return recipe


def _check(recipe: PretrainRecipe, source: str) -> None:
    data, views, head, train, near = recipe.data, recipe.views, recipe.head, recipe.train, recipe.neighbours
    momentum = head.momentum or (0.9, 1.0)
    shares = (views.gray, views.flip, views.blur or 0, head.dense_share, head.frozen_prototypes, head.queue_from)
    wrong = [
        (not data.fps > 0, "data.fps must be above 0"),
        (data.short_side_px < 32, "data.short_side_px must be at least 32"),
        (data.workers != "auto" and data.workers < 0, "data.workers must be auto, or 0 or more"),
        (min(views.size_px, views.small_px) < 32, "views.size_px and views.small_px must be at least 32"),
        (views.small_count < 0, "views.small_count must be 0 or more"),
        (not 0 < (views.min_scale or 1) <= 1, "views.min_scale must be above 0 and at most 1"),
        (views.color < 0, "views.color must be 0 or more"),
        (any(not 0 <= share <= 1 for share in shares), "chances and shares must be between 0 and 1"),
        (not 0 <= momentum[0] <= momentum[1] <= 1, "head.momentum must be [first, last] between 0 and 1"),
        (head.temperature is not None and head.temperature < 1e-3, "head.temperature must be at least 0.001"),
        (min(head.hidden or 1, head.width or 1, head.prototypes) < 1, "sizes of head must be at least 1"),
        ((head.queue or 0) < 0, "head.queue must be 0 or more"),
        (recipe.method in ("moco_v2", "densecl") and head.queue == 0, f"{recipe.method} needs a head.queue"),
        (head.momentum is not None and recipe.defaults.momentum is None, f"{recipe.method} has no head.momentum"),
        (head.queue is not None and recipe.defaults.queue is None, f"{recipe.method} has no head.queue"),
        (train.steps < 1, "train.steps must be at least 1"),
        (train.batch_size < 2, "train.batch_size must be at least 2"),
        (train.learning_rate is not None and not train.learning_rate > 0, "train.learning_rate must be above 0"),
        (not 0 <= (train.warmup_steps or 0) <= train.steps, "train.warmup_steps must be between 0 and train.steps"),
        (train.checkpoint_every < 1, "train.checkpoint_every must be at least 1"),
        (min(near.queries, near.shown) < 1 or near.frames < 2, "neighbours needs a query, one to show and 2 frames"),
        (near.apart < 0, "neighbours.apart must be 0 or more"),
    ]
    for is_wrong, sentence in wrong:
        if is_wrong:
            raise ConfigError(f"{source}: {sentence}; correct it in the recipe or with --set")
