"""Bipartite matching of queries to annotated objects. Costs are computed for a whole batch at once on the device."""

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor


@torch.no_grad()
def match(cost: Tensor, counts: list[int], repeats: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """Cheapest one-to-one assignment per image (Hungarian method, DETR's matcher).

    Args:
        cost: float32 [B, Q, T], cost of giving query q object t; columns from ``counts[b]`` on are padding.
        counts: number of objects of each image, <= T.
        repeats: give each object up to this many queries, as far as there are queries.

    Returns:
        int64 [M] each: image, query and object of every matched pair.
    """
    finite = torch.nan_to_num(cost.float(), nan=1e6, posinf=1e6, neginf=-1e6).cpu().numpy()
    images, queries, objects = [], [], []
    for image, count in enumerate(counts):
        if count == 0:
            continue
        copies = max(1, min(repeats, finite.shape[1] // count))
        rows, columns = linear_sum_assignment(np.tile(finite[image, :, :count], (1, copies)))
        images.append(np.full(len(rows), image))
        queries.append(rows)
        objects.append(columns % count)
    if not images:
        empty = torch.zeros(0, dtype=torch.int64, device=cost.device)
        return empty, empty, empty
    image_index, query_index, object_index = (
        torch.from_numpy(np.concatenate(part)).to(cost.device, torch.int64) for part in (images, queries, objects)
    )
    return image_index, query_index, object_index
