"""Processes that train together: their device and precision, and what lets all of them continue later."""

import functools
import os
import sys
import time
from collections.abc import Iterable
from datetime import timedelta
from typing import Any, Final, TypeVar

import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import gather_object, parse_flag_from_env
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from tqdm import tqdm

from lvad_perception.errors import CheckpointError, ConfigError, LvadError
from lvad_perception.machine import usable_cores

T = TypeVar("T")
PATIENCE: Final = timedelta(hours=1)
"""How long a process waits for the others before it gives up.

What one of them does alone while the others wait, such as writing a checkpoint or putting pseudo labels together, takes
minutes; torch's own limits are 10 minutes for NCCL and 30 for gloo.
"""
MEETING_S = 60.0
"""How often processes meet while they share work, see ``complete``."""
_END: Final = object()


def start_processes(precision: str, *, accumulate: int = 1) -> Accelerator:
    """Device, precision and processes, as ``accelerate launch`` or a plain call gives them.

    Args:
        precision: "no" (FP32), "bf16", "fp16", or "auto" for bf16 where the device computes in it and FP32 elsewhere.
        accumulate: micro-steps per step.

    Returns:
        The accelerator, whose ``mixed_precision`` is never "auto".

    Raises:
        ConfigError: fp16 without a CUDA GPU.
    """
    if precision == "fp16" and not torch.cuda.is_available():
        raise ConfigError("train.precision: fp16 needs a CUDA GPU; use bf16 or no")
    device = this_process().device
    if "OMP_NUM_THREADS" not in os.environ:  # torch counts the machine's cores, not those of a container
        torch.set_num_threads(min(torch.get_num_threads(), usable_cores()))
    native = computes_bf16(device)
    if precision == "auto":
        precision = "bf16" if native else "no"
    elif precision == "bf16" and not native and this_process().is_main_process:
        _warn_of_emulation(device)
    if AcceleratorState._shared_state and AcceleratorState().mixed_precision != precision:
        AcceleratorState._reset_state()  # accelerate keeps the precision of a process's first training
    return Accelerator(
        mixed_precision=precision, gradient_accumulation_steps=accumulate, step_scheduler_with_optimizer=False
    )


def this_process() -> PartialState:
    """This process among those that train together: its number, its device, and what waits for the others.

    A first ``PartialState()`` does not look at ``ACCELERATE_USE_CPU`` as ``Accelerator`` does, and would leave each of
    several processes on CPUs alone for good. The first call sets ``PATIENCE`` as the limit of every wait.
    """
    return PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU"), timeout=PATIENCE)


def complete(work: Iterable[object]) -> None:
    """Do this process's share of some work, and return when all processes have done theirs.

    They meet every ``MEETING_S``, so that nobody waits for another longer than that and one piece of its work takes,
    however uneven the shares are.

    Args:
        work: this process's share; each step of the iteration does one piece of it.

    Raises:
        LvadError: a piece failed in one of the processes; raised in all of them.
    """
    pieces, busy = iter(work), True
    if this_process().num_processes == 1:
        for _ in pieces:
            pass
        return
    while busy:
        more, problem, until = True, None, time.monotonic() + MEETING_S
        try:
            while more and time.monotonic() < until:
                more = next(pieces, _END) is not _END
        except LvadError as err:
            more, problem = False, err
        every = gathered((more, problem))
        for _, found in every:
            if found is not None:
                raise found
        busy = any(still for still, _ in every)


def gathered(thing: T) -> list[T]:
    """What each process has, in the order of their numbers; all processes get all, and have to call this."""
    return [thing] if this_process().num_processes == 1 else gather_object([thing])


def computes_bf16(device: torch.device) -> bool:
    """Whether the device has instructions for bfloat16; torch emulates it elsewhere, at many times FP32's time.

    True of CUDA GPUs from compute capability 8.0, and of CPUs of which torch says that they have AVX512-BF16 or AMX,
    unless the environment variable ``ATEN_CPU_CAPABILITY`` keeps torch from using AVX-512.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type != "cpu" or "AVX512" not in torch.backends.cpu.get_cpu_capability():
        return False
    asked = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")  # missing in old versions of torch
    return any(getattr(torch.cpu, name)() for name in asked if hasattr(torch.cpu, name))


@functools.cache
def _warn_of_emulation(device: torch.device) -> None:
    """Say once a process what emulation costs, with a measured factor."""
    factor = bf16_factor(device)
    tqdm.write(
        f"warning: train.precision is bf16, which this {device.type.upper()} only emulates: a product of matrices "
        f"takes {factor:.1f} times as long as in FP32; train.precision=auto computes in FP32 here",
        file=sys.stderr,
    )


def bf16_factor(device: torch.device, *, side: int = 512, repeats: int = 5) -> float:
    """Time of a matrix product in bfloat16 over that in FP32, both the fastest of ``repeats``, on square matrices."""

    def fastest(dtype: torch.dtype) -> float:
        matrix = torch.ones(side, side, dtype=dtype, device=device)
        times = []
        for _ in range(repeats + 1):  # one more to warm up
            start = time.perf_counter()
            float((matrix @ matrix)[0, 0])  # waits for a GPU
            times.append(time.perf_counter() - start)
        return min(times[1:])

    return fastest(torch.bfloat16) / fastest(torch.float32)


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
