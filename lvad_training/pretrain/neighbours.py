"""Nearest neighbours of frames by the cosine of a backbone's pooled features, and a picture of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from lvad_perception.media.images import read_image
from lvad_perception.preprocess import letterbox_image
from lvad_perception.report.evaluation import evenly_spaced
from lvad_perception.types import Size, UInt8
from lvad_training.model.backbone import Backbone
from lvad_training.model.multitask import IMAGENET_MEAN, IMAGENET_STD
from lvad_training.pretrain.frames import Frame
from lvad_training.pretrain.networks import pooled
from lvad_training.pretrain.recipe import NeighboursConfig

BATCH: Final = 16
_THUMB_PX: Final = 112  # height
_GAP: Final = 6
_WHITE: Final = 255


@dataclass(frozen=True, slots=True, eq=False)
class Nearest:
    """Query frames and their nearest neighbours.

    Attributes:
        queries: indices of the query frames.
        found: per query, (index, cosine) of the most similar other frames, best first.
        spread: spread of the features, see ``spread_of``.
    """

    queries: tuple[int, ...]
    found: tuple[tuple[tuple[int, float], ...], ...]
    spread: float


def input_hw(size_px: int) -> Size:
    """Network input for whole frames: multiples of 32, about 16:9, as high as a view."""
    height = max(32, round(size_px / 32) * 32)
    return height, max(32, round(height * 16 / 9 / 32) * 32)


@torch.no_grad()
def features_of(
    backbone: Backbone,
    frames: Sequence[Frame],
    *,
    size_hw: Size,
    device: torch.device,
    progress: bool = False,
    title: str = "features",
) -> Tensor:
    """Pooled features of the coarsest level, float32 [N, C] of length 1, on the CPU. The backbone's mode is restored.

    Args:
        backbone: on ``device``; its BatchNorm uses stored statistics.
        frames: images, which are letterboxed.
        size_hw: network input, multiples of 32.
        device: to compute on.
        progress: show a progress bar.
        title: of the bar.

    Raises:
        ImageError: an image cannot be read.
    """
    mean, std = (torch.tensor(values, device=device).view(1, 3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    was_training = backbone.training
    backbone.eval()
    parts = []
    for start in tqdm(range(0, len(frames), BATCH), desc=title, unit="batch", disable=not progress):
        pictures = [letterbox_image(read_image(frame.path), size_hw)[0] for frame in frames[start : start + BATCH]]
        images = torch.from_numpy(np.stack(pictures)).to(device).permute(0, 3, 1, 2).float()
        parts.append(nn.functional.normalize(pooled(backbone((images - mean) / std)[-1]), dim=1).cpu())
    backbone.train(was_training)
    return torch.cat(parts)


def find_nearest(
    features: Tensor, frames: Sequence[Frame], indices: Sequence[int], config: NeighboursConfig
) -> Nearest:
    """The nearest neighbours of evenly chosen frames, without frames that show the same scene.

    Args:
        features: [N, C] of length 1.
        frames: all frames.
        indices: int [N], ascending, the frames of ``features``.
        config: number of queries and neighbours, and their least distance in a sequence.
    """
    order = np.asarray(indices)
    rows = evenly_spaced(len(order), config.queries)
    similarities = features[rows] @ features.T
    found = []
    for row, cosines in zip(rows, similarities, strict=True):
        sequence = frames[order[row]].sequence
        same_scene = [frames[index].sequence == sequence and abs(index - order[row]) < config.apart for index in order]
        cosines = cosines.masked_fill(torch.tensor(same_scene), -torch.inf)
        cosines[row] = -torch.inf
        best = cosines.argsort(descending=True, stable=True)[: config.shown]
        found.append(tuple((int(order[one]), float(cosines[one])) for one in best if cosines[one] > -torch.inf))
    return Nearest(tuple(int(order[row]) for row in rows), tuple(found), spread_of(features))


def spread_of(features: Tensor) -> float:
    """Spread of features: 0 if all are the same (the method has collapsed), 1 if their directions are uniform.

    The mean over channels of the standard deviation of features of length 1, times the square root of the channels
    (SimSiam, arXiv 2011.10566, section 4.1).
    """
    return float(features.std(dim=0, correction=0).mean() * features.shape[1] ** 0.5)


def draw_nearest(frames: Sequence[Frame], rows: Sequence[tuple[str, Nearest]]) -> UInt8:
    """One RGB picture: each query on the left, and beside it one line of nearest neighbours per entry of ``rows``.

    Args:
        frames: all frames.
        rows: (name, neighbours) of each line; all have the same queries.
    """
    first = rows[0][1]
    across = 1 + max(len(found) for _, nearest in rows for found in nearest.found)
    (height, width), down = _thumb_hw(frames[first.queries[0]]), len(rows)
    block = down * (height + _GAP) + _GAP
    canvas = np.full((len(first.queries) * block + _GAP, across * (width + _GAP) + _GAP, 3), _WHITE, np.uint8)
    for index, query in enumerate(first.queries):
        top = index * block + _GAP
        middle = top + (down - 1) * (height + _GAP) // 2
        _put(canvas[middle : middle + height, _GAP : _GAP + width], frames[query], "query")
        for line, (name, nearest) in enumerate(rows):
            for column, (neighbour, cosine) in enumerate(nearest.found[index], start=1):
                y, x = top + line * (height + _GAP), _GAP + column * (width + _GAP)
                _put(canvas[y : y + height, x : x + width], frames[neighbour], f"{name} {cosine:.3f}")
    return canvas


def _thumb_hw(frame: Frame) -> Size:
    """Size of the thumbnails, with this frame's aspect ratio; other frames are letterboxed into it."""
    height, width = read_image(frame.path).shape[:2]
    return _THUMB_PX, max(1, round(_THUMB_PX * width / height))


def _put(space: UInt8, frame: Frame, text: str) -> None:
    """Fill a part of the picture with a frame and its caption."""
    thumb = letterbox_image(read_image(frame.path), (space.shape[0], space.shape[1]))[0].copy()
    for color, thickness in (((0, 0, 0), 3), ((255, 255, 255), 1)):
        cv2.putText(thumb, text, (5, 15), cv2.FONT_HERSHEY_SIMPLEX, 0.45, color, thickness, cv2.LINE_AA)
    space[:] = thumb
