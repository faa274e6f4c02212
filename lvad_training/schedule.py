"""Which parameters learn how fast, and when."""

import math
from typing import Any

from torch import nn

from lvad_training.recipe import TrainConfig


def parameter_groups(net: nn.Module, settings: TrainConfig) -> list[dict[str, Any]]:
    """Parameters by learning rate (backbone or not) and weight decay (matrices and kernels only)."""
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    learned_inputs = ("query_positions", "query_content", "detection.boxes", "detection.features")
    for name, parameter in net.named_parameters():
        if parameter.requires_grad:
            decays = parameter.ndim > 1 and not name.endswith(learned_inputs)
            groups.setdefault((name.startswith("backbone."), decays), []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": settings.learning_rate * (settings.backbone_multiplier if in_backbone else 1.0),
            "weight_decay": settings.weight_decay if decays else 0.0,
        }
        for (in_backbone, decays), parameters in sorted(groups.items(), key=lambda item: item[0])
    ]


def learning_rate_factor(step: int, settings: TrainConfig) -> float:
    """Multiplier of the learning rate for the step after ``step`` done ones."""
    if step < settings.warmup_steps:
        return (step + 1) / (settings.warmup_steps + 1)
    if settings.schedule == "step":
        return 1.0 if step < settings.drop_at * settings.steps else 0.1
    done = (step - settings.warmup_steps) / max(1, settings.steps - settings.warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
