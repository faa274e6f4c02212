"""Presets: architectures that a recipe starts from, as differences from the defaults of ``schema.py``."""

from collections.abc import Mapping
from typing import Any

from lvad_perception.errors import ConfigError
from lvad_training.recipe.sections import merge

_SMALL_MASK = {
    "layers": 3,
    "width": 96,
    "heads": 4,
    "feedforward": 256,
    "dropout": 0.0,
    "mask_width": 96,
    "mask_kernel": 1,
    "memory_stride": 16,
    "pixel_loss": True,
}

_SMALL_PROPOSALS = {
    "proposals": 100,
    "refinements": 3,
    "width": 96,
    "heads": 4,
    "feedforward": 256,
    "dynamic_width": 16,
    "pool_size": 5,
    "pool_samples": 1,
    "proposal_boxes": "grid",
    "matches_per_truth": 4,
}

_SMALL_FCOS = {"width": 64, "convolutions": 2, "norm": "batch"}

PRESETS: dict[str, dict[str, Any]] = {
    # The paper: ResNet-50, 1280 x 720 (736 is the next multiple of the largest stride).
    "r50": {"network_hw": [736, 1280]},
    # A ResNet-18 for one ordinary GPU.
    "r18": {
        "network_hw": [384, 640],
        "backbone": {"name": "resnet18"},
        "neck_width": 128,
        "detection": {
            "refinements": 4,
            "width": 128,
            "feedforward": 512,
            "dynamic_width": 32,
            "proposal_boxes": "grid",
        },
        "semantic": {"layers": 3, "width": 128, "feedforward": 512, "mask_width": 128, "memory_stride": 16},
        "drivable": {"layers": 3, "width": 128, "feedforward": 512, "mask_width": 128, "memory_stride": 16},
    },
    # For a vehicle, in half of YOLOP's time; all heads are convolutional. docs/performance.md has the measurements.
    "edge": {
        "network_hw": [384, 640],
        "backbone": {"name": "resnet18d", "options": {"channels": [24, 64, 128, 256], "stem_width": 12}},
        "neck_width": 48,
        "neck_norm": "batch",
        "detection": {"head": "fcos", **_SMALL_FCOS, "strides": [8, 16, 32, 64], "candidates": 300},
        "semantic": {"head": "semantic_fpn", "width": 32, "norm": "batch", "label_stride": 2},
        "drivable": {"head": "semantic_fpn", "width": 32, "norm": "batch", "label_stride": 2},
    },
    # For 16:9 images and training on a CPU in minutes: a ResNet-18 of half the width, under 5 M parameters in total.
    "tiny": {
        "network_hw": [256, 448],
        "backbone": {"name": "resnet18d", "options": {"channels": [32, 64, 128, 160], "stem_width": 16}},
        "neck_width": 96,
        "neck_norm": "batch",
        "detection": _SMALL_PROPOSALS,
        "semantic": {**_SMALL_MASK, "queries": 40},
        "drivable": {**_SMALL_MASK, "layers": 2, "queries": 10},
    },
}

OTHER_HEADS: dict[str, dict[str, dict[str, Any]]] = {
    "r50": {"fcos": {}, "semantic_fpn": {}},
    "r18": {"fcos": {"width": 128}, "semantic_fpn": {}},
    # Objects in a small image are small, so stride 4 is needed too.
    "tiny": {"fcos": {**_SMALL_FCOS, "strides": [4, 8, 16, 32, 64]}, "semantic_fpn": {"width": 64, "norm": "batch"}},
    "edge": {"sparse_rcnn": _SMALL_PROPOSALS, "maskformer": {**_SMALL_MASK, "queries": 40}},
}
"""Preset -> sections of the heads that a recipe can choose instead of the preset's own."""

FCOS_SCORE_THRESHOLD = 0.45
"""Default ``score_threshold`` with FCOS, whose score is the geometric mean of two probabilities and thus higher than
the class probability that the usual 0.3 is meant for. docs/heads.md has the measurement."""


def chosen_preset(content: Mapping[str, Any], *, source: str) -> str:
    """The preset of a recipe, by default "r50". Raises ConfigError if it is unknown."""
    preset = content.get("preset", "r50")
    if not isinstance(preset, str) or preset not in PRESETS:
        raise ConfigError(f"{source}: preset {preset!r} is unknown; choose one of {', '.join(PRESETS)}")
    return preset


def with_preset_backbone(section: Any, preset: str) -> Any:
    """A recipe's section ``backbone`` completed by the preset's; unchanged if it names another network."""
    default = PRESETS[preset].get("backbone", {})
    if not isinstance(section, dict) or section.get("name", default.get("name")) != default.get("name"):
        return section
    return merge(default, section)
