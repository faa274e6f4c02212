"""Normalisers of losses: counts of objects and pixels of a step, averaged over processes."""

from collections.abc import Sequence

import torch
from torch import Tensor, distributed


def per_process(
    counts: Sequence[float | Tensor], *, together: bool, device: torch.device, least: Sequence[float] = (1.0,)
) -> Tensor:
    """Mean over processes of each count of a step, the normaliser of DETR's and FCOS's losses.

    A process divides the sum of its losses by this. Data-parallel training averages losses and gradients over
    processes; the average is then that of one process with all images, however the objects are distributed.

    Args:
        counts: N counts over this process's images. With ``together``, all processes have to call this in the same
            order with the same N, also those whose images have nothing to count.
        together: average over all processes that train together; otherwise use this process's counts.
        device: of the result.
        least: lower bound of the sums over processes, one number or N.

    Returns:
        float32 [N].
    """
    total = torch.stack([torch.as_tensor(each, dtype=torch.float32, device=device) for each in counts])
    processes = 1
    if together and distributed.is_available() and distributed.is_initialized():
        distributed.all_reduce(total)
        processes = distributed.get_world_size()
    return total.clamp(min=torch.tensor(least, device=device)) / processes
