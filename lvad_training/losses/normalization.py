"""What losses are divided by: the objects and pixels of a whole step, whichever process has their images."""

from collections.abc import Sequence

import torch
from torch import Tensor, distributed


def per_process(
    counts: Sequence[float | Tensor], *, together: bool, device: torch.device, least: Sequence[float] = (1.0,)
) -> Tensor:
    """The mean over processes of what each counted in its images of this step, as DETR and FCOS divide by it.

    A process divides the sum of its losses by this. The mean of the processes' losses, and of their gradients, which is
    what data-parallel training takes, is then that of one process with all images, however the objects are spread.

    Args:
        counts: N numbers of this process's images. Where processes count together, all call this in the same order
            with the same N, also those whose images have nothing to count.
        together: whether processes that train together count together; otherwise this process stands alone.
        device: of the result.
        least: of the sums over processes, one number or N: what is divided by where nothing was counted.

    Returns:
        float32 [N].
    """
    total = torch.stack([torch.as_tensor(each, dtype=torch.float32, device=device) for each in counts])
    processes = 1
    if together and distributed.is_available() and distributed.is_initialized():
        distributed.all_reduce(total)
        processes = distributed.get_world_size()
    return total.clamp(min=torch.tensor(least, device=device)) / processes
