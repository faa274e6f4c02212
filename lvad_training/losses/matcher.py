"""Bipartite matching of queries to annotated objects (DETR's Hungarian matcher)."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

Matches = tuple[Tensor, Tensor, Tensor]
"""int64 [M] each: image, query and object of every matched pair."""


@torch.no_grad()
def match(costs: Sequence[Tensor], counts: list[int], repeats: Sequence[int]) -> list[Matches]:
    """Cheapest one-to-one assignment per layer and image (Hungarian method).

    The assignment runs on the CPU. The costs of all layers are copied at once, so that the device is waited for only
    once.

    Args:
        costs: of each layer, float32 [B, Q, T], cost of assigning object t to query q; columns from ``counts[b]`` on
            are padding.
        counts: number of objects of each image, <= T.
        repeats: of each layer, largest number of queries per object, as far as there are enough queries.

    Returns:
        The matched pairs of each layer, ordered by image and query.
    """
    stacked = torch.stack(list(costs)).float()
    finite = torch.nan_to_num(stacked, nan=1e6, posinf=1e6, neginf=-1e6).cpu().numpy()
    pairs = [_assign(cost, counts, copies) for cost, copies in zip(finite, repeats, strict=True)]
    indices = torch.from_numpy(np.concatenate(pairs, axis=1)).to(stacked.device)
    split = torch.split(indices, [layer.shape[1] for layer in pairs], dim=1)
    return [(layer[0], layer[1], layer[2]) for layer in split]


def _assign(cost: npt.NDArray[np.float32], counts: list[int], repeats: int) -> npt.NDArray[np.int64]:
    """Image, query and object of each pair, [3, M], of one layer's costs [B, Q, T]."""
    pairs = [np.zeros((3, 0), np.int64)]
    for image, count in enumerate(counts):
        if count:
            copies = max(1, min(repeats, cost.shape[1] // count))
            queries, columns = linear_sum_assignment(np.tile(cost[image, :, :count], (1, copies)))
            pairs.append(np.stack([np.full(len(queries), image), queries, columns % count]))
    return np.concatenate(pairs, axis=1)
