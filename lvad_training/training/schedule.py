"""The optimiser's parameter groups and the learning-rate schedule."""

import math
from typing import Any

from torch import nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from lvad_training.recipe.schema import TrainConfig


def optimizer_and_schedule(net: nn.Module, settings: TrainConfig) -> tuple[AdamW, LambdaLR]:
    """AdamW over ``parameter_groups``, and the scheduler of their rates, which is stepped once per optimiser step."""
    optimizer = AdamW(parameter_groups(net, settings), lr=settings.learning_rate)
    return optimizer, LambdaLR(optimizer, lambda step: learning_rate_factor(step, settings))


def parameter_groups(net: nn.Module, settings: TrainConfig) -> list[dict[str, Any]]:
    """Parameters grouped by learning rate (rest, backbone, prompts, detection head) and weight decay.

    Only matrices and kernels decay: neither learned inputs (queries, proposals, contexts) nor vectors (biases, norms,
    gammas). Parameters without gradient are left out. A detection head at the learning rate of the rest has no groups
    of its own.
    """
    multipliers = (1.0, settings.backbone_multiplier, settings.prompt_multiplier, settings.detection_multiplier)
    learned_inputs = ("query_positions", "query_content", "detection.boxes", "detection.features")
    groups: dict[tuple[int, bool], list[nn.Parameter]] = {}
    for name, parameter in net.named_parameters():
        if parameter.requires_grad:
            is_context = name.startswith("prompts.contexts.")
            part = 1 if name.startswith("backbone.") else 2 if is_context else 0
            if name.startswith("detection.") and settings.detection_multiplier != 1:
                part = 3
            decays = parameter.ndim > 1 and not is_context and not name.endswith(learned_inputs)
            groups.setdefault((part, decays), []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": settings.learning_rate * multipliers[part],
            "weight_decay": settings.weight_decay if decays else 0.0,
        }
        for (part, decays), parameters in sorted(groups.items(), key=lambda item: item[0])
    ]


def learning_rate_factor(step: int, settings: TrainConfig) -> float:
    """Multiplier of the learning rate for the next step after ``step`` steps."""
    if step < settings.warmup_steps:
        return (step + 1) / (settings.warmup_steps + 1)
    if settings.schedule == "step":
        drops = settings.drop_at if isinstance(settings.drop_at, tuple) else (settings.drop_at,)
        return float(0.1 ** sum(step >= drop * settings.steps for drop in drops))
    done = (step - settings.warmup_steps) / max(1, settings.steps - settings.warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
