"""Processes that train together: their device and precision, and what lets all of them continue later."""

from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lvad_perception.errors import CheckpointError, ConfigError


def start_processes(precision: str, *, accumulate: int = 1) -> Accelerator:
    """Device, precision and processes, as ``accelerate launch`` or a plain call gives them.

    Args:
        precision: "no", "bf16" or "fp16".
        accumulate: micro-steps per step.

    Raises:
        ConfigError: fp16 without a CUDA GPU.
    """
    if precision == "fp16" and not torch.cuda.is_available():
        raise ConfigError("train.precision: fp16 needs a CUDA GPU; use bf16 or no")
    return Accelerator(
        mixed_precision=precision, gradient_accumulation_steps=accumulate, step_scheduler_with_optimizer=False
    )


def resume_state(accelerator: Accelerator, optimizer: Optimizer, scheduler: LRScheduler) -> dict[str, Any]:
    """All that the next step depends on beside the weights: optimiser, schedule, every process's random state.

    To be called in every process; the result is the same in all.
    """
    random = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        random["cuda"] = torch.cuda.get_rng_state()
    every = gather_object([random])
    return {
        "optimizer": optimizer.state_dict(),
        "scheduler": scheduler.state_dict(),
        "random": every,
        "scaler": accelerator.scaler.state_dict() if accelerator.scaler is not None else None,
    }


def restore_state(
    state: dict[str, Any] | None, accelerator: Accelerator, optimizer: Optimizer, scheduler: LRScheduler
) -> None:
    """Put back what ``resume_state`` gave.

    Raises:
        CheckpointError: there is nothing of the kind.
    """
    if state is None:
        raise CheckpointError("the checkpoint holds no optimiser state; resume needs checkpoint.pt, not model.pt")
    optimizer.load_state_dict(state["optimizer"])
    scheduler.load_state_dict(state["scheduler"])
    if accelerator.scaler is not None and state["scaler"] is not None:
        accelerator.scaler.load_state_dict(state["scaler"])
    every = state["random"]
    random = every[accelerator.process_index % len(every)]  # with other processes than before, chance differs
    torch.set_rng_state(random["cpu"])
    if "cuda" in random and torch.cuda.is_available():
        torch.cuda.set_rng_state(random["cuda"])
