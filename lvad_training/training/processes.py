"""Processes that train together: device, precision, shared work, and the state to resume from."""

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
from accelerate.utils import gather_object, get_int_from_env, parse_flag_from_env
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from tqdm import tqdm

from lvad_perception.errors import CheckpointError, ConfigError, LvadError
from lvad_perception.machine import usable_cores

T = TypeVar("T")
WAIT_TIMEOUT: Final = timedelta(hours=1)
"""Time after which a process that waits for the others gives up.

Work that one process does while the others wait, such as writing a checkpoint or merging pseudo labels, takes minutes;
torch's own limits are 10 minutes for NCCL and 30 for gloo.
"""
SYNC_INTERVAL_S = 60.0
"""Seconds from one synchronisation to the next while processes share work, see ``complete``."""
_LAUNCHED: Final = ["WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE"]
"""Variables in which torchrun, accelerate and MPI say how many processes they launched."""
_END: Final = object()


def start_processes(precision: str, *, accumulate: int = 1) -> Accelerator:
    """Set up device, precision and processes, under ``accelerate launch`` or in a single process.

    Args:
        precision: "no" (FP32), "bf16", "fp16", or "auto" for bf16 where the device supports it and FP32 elsewhere.
        accumulate: micro-steps per step.

    Returns:
        The accelerator, whose ``mixed_precision`` is never "auto".

    Raises:
        ConfigError: fp16 without a CUDA GPU.
    """
    if precision == "fp16" and not torch.cuda.is_available():
        raise ConfigError("train.precision: fp16 needs a CUDA GPU; use bf16 or no")
    device = this_process().device
    if "OMP_NUM_THREADS" not in os.environ:  # torch counts the machine's cores, not the container's
        torch.set_num_threads(min(torch.get_num_threads(), usable_cores()))
    native = computes_bf16(device)
    if precision == "auto":
        precision = "bf16" if native else "no"
    elif precision == "bf16" and not native and this_process().is_main_process:
        _warn_of_emulation(device)
    if AcceleratorState._shared_state and AcceleratorState().mixed_precision != precision:
        AcceleratorState._reset_state()  # else accelerate keeps the precision of the process's first training
    return Accelerator(
        mixed_precision=precision, gradient_accumulation_steps=accumulate, step_scheduler_with_optimizer=False
    )


def this_process() -> PartialState:
    """accelerate's state of this process: its index, its device, and barriers with the others.

    Processes that were launched together are one group, on CPUs too. A first ``PartialState()`` ignores
    ``ACCELERATE_USE_CPU``, unlike ``Accelerator``, and without that variable, which torchrun does not set, it finds no
    device to share out; each process would then be the main process of a training of its own, in the same folder.
    The first call sets ``WAIT_TIMEOUT`` as the limit of every wait.
    """
    state = PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU"), timeout=WAIT_TIMEOUT)
    if state.num_processes == 1 and get_int_from_env(_LAUNCHED, 1) > 1:
        PartialState._reset_state()
        state = PartialState(cpu=True, timeout=WAIT_TIMEOUT)
    return state


def seed_process(seed: int) -> None:
    """Seed torch's generator with a number of each process's own."""
    torch.manual_seed(seed * 1000 + this_process().process_index + 1)


def complete(work: Iterable[object]) -> None:
    """Do this process's share of some work, and return when all processes have done theirs.

    The processes synchronise every ``SYNC_INTERVAL_S``. So however uneven the shares are, no process waits for another
    longer than that plus one piece of work.

    Args:
        work: this process's share; each iteration step does one piece of it.

    Raises:
        LvadError: a piece failed in one of the processes; raised in all of them.
    """
    pieces, busy = iter(work), True
    if this_process().num_processes == 1:
        for _ in pieces:
            pass
        return
    while busy:
        more, problem, until = True, None, time.monotonic() + SYNC_INTERVAL_S
        try:
            while more and time.monotonic() < until:
                more = next(pieces, _END) is not _END
        except LvadError as err:
            more, problem = False, err
        every = gathered((more, problem))
        for _, error in every:
            if error is not None:
                raise error
        busy = any(unfinished for unfinished, _ in every)


def gathered(value: T) -> list[T]:
    """All processes' values in the order of their indices; every process has to call this, and gets them all."""
    return [value] if this_process().num_processes == 1 else gather_object([value])


def computes_bf16(device: torch.device) -> bool:
    """Whether the device has instructions for bfloat16; torch emulates it elsewhere, many times slower than FP32.

    True for CUDA GPUs from compute capability 8.0, and for CPUs on which torch reports AVX512-BF16 or AMX, unless the
    environment variable ``ATEN_CPU_CAPABILITY`` keeps torch from using AVX-512.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type != "cpu" or "AVX512" not in torch.backends.cpu.get_cpu_capability():
        return False
    queries = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")  # missing in old versions of torch
    return any(getattr(torch.cpu, name)() for name in queries if hasattr(torch.cpu, name))


@functools.cache
def _warn_of_emulation(device: torch.device) -> None:
    """Warn once per process how much slower emulation is, with a measured factor."""
    factor = bf16_factor(device)
    tqdm.write(
        f"warning: train.precision is bf16, which this {device.type.upper()} only emulates: a product of matrices "
        f"takes {factor:.1f} times as long as in FP32; train.precision=auto computes in FP32 here",
        file=sys.stderr,
    )


def bf16_factor(device: torch.device, *, side: int = 512, repeats: int = 5) -> float:
    """Time of a matrix product in bfloat16 divided by that in FP32; square matrices, fastest of ``repeats`` each."""

    def fastest(dtype: torch.dtype) -> float:
        matrix = torch.ones(side, side, dtype=dtype, device=device)
        times = []
        for _ in range(repeats + 1):  # the first warms up
            start = time.perf_counter()
            float((matrix @ matrix)[0, 0])  # waits for a GPU
            times.append(time.perf_counter() - start)
        return min(times[1:])

    return fastest(torch.bfloat16) / fastest(torch.float32)


def resume_state(accelerator: Accelerator, optimizer: Optimizer, scheduler: LRScheduler) -> dict[str, Any]:
    """State that the next step depends on beside the weights: optimiser, schedule, every process's random state.

    Every process has to call this; the result is the same in all.
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
    """Restore the state that ``resume_state`` returned.

    Raises:
        CheckpointError: the checkpoint holds no such state.
    """
    if state is None:
        raise CheckpointError("the checkpoint holds no optimiser state; resume needs checkpoint.pt, not model.pt")
    optimizer.load_state_dict(state["optimizer"])
    scheduler.load_state_dict(state["scheduler"])
    if accelerator.scaler is not None and state["scaler"] is not None:
        accelerator.scaler.load_state_dict(state["scaler"])
    every = state["random"]
    random = every[accelerator.process_index % len(every)]  # another number of processes draws other numbers
    torch.set_rng_state(random["cpu"])
    if "cuda" in random and torch.cuda.is_available():
        torch.cuda.set_rng_state(random["cuda"])
