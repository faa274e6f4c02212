"""FCOS (Tian et al., ICCV 2019; arXiv 1904.01355), the fully convolutional detection head, written from the paper.

Every point of every level predicts the class of the object that it is on and the distances to the four sides of its
box. The paper's improvements are included: centre-ness in the regression branch, distances in strides, GroupNorm. The
distances are exp(s * x) with one learned scale s per level, as in the paper's equation 3.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lvad_training.boxes import NmsSettings
from lvad_training.model.convolution import make_norm
from lvad_training.samples import PointOutputs

MAX_LOG_DISTANCE = math.log(1000 / 16)
"""Upper limit of a log distance in strides: larger boxes exceed any image, and exp overflows in half precision."""
PRIOR = 0.01
"""Initial probability of each class at every point, so that the many background points do not dominate the first steps
(focal loss, Lin et al., ICCV 2017)."""


class Tower(nn.Module):
    """3x3 convolutions, norms and ReLUs, shared by all levels.

    GroupNorm is shared too. Each level has its own BatchNorm, whose statistics would otherwise mix the levels in
    training and fit none of them in evaluation.
    """

    def __init__(self, *, in_width: int, width: int, convolutions: int, norm: str, levels: int) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(
            nn.Conv2d(in_width if number == 0 else width, width, 3, padding=1, bias=False)
            for number in range(convolutions)
        )
        self.norms = nn.ModuleList(
            nn.ModuleList(make_norm(norm, width) for _ in range(1 if norm == "group" else levels))
            for _ in range(convolutions)
        )
        for convolution in self.convolutions:
            nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")  # type: ignore[arg-type]

    def forward(self, x: Tensor, level: int) -> Tensor:
        """A level [B, in_width, h, w] -> [B, width, h, w]."""
        for convolution, norms in zip(self.convolutions, self.norms, strict=True):
            norm = norms[min(level, len(norms) - 1)]  # type: ignore[arg-type, index]
            x = norm(convolution(x)).relu()
        return x


class FcosHead(nn.Module):
    """Pyramid -> class, centre-ness and box of every point.

    Args:
        classes: number of classes.
        in_width: channels of the pyramid.
        in_strides: strides of the pyramid's levels, finest first.
        strides: of the levels that the head uses, finest first, each twice the one before. Levels coarser than the
            pyramid's are made from its coarsest by convolutions of stride 2.
        width: channels of the towers.
        convolutions: number in each tower.
        norm: "group" or "batch".
        nms: settings for decoding, part of the outputs.
        distance: "stride" or "pixel", the unit of the distances.
        centerness: "box" or "class", the tower that predicts the centre-ness.
    """

    def __init__(
        self,
        *,
        classes: int,
        in_width: int,
        in_strides: Sequence[int],
        strides: Sequence[int],
        width: int,
        convolutions: int,
        norm: str,
        nms: NmsSettings,
        distance: str = "stride",
        centerness: str = "box",
    ) -> None:
        super().__init__()
        self.strides = tuple(strides)
        self.nms = nms
        self.in_pixels = distance == "pixel"
        self.center_of_class = centerness == "class"
        self.level_indices = [index for index, stride in enumerate(in_strides) if stride in self.strides]
        coarser = [stride for stride in self.strides if stride > in_strides[-1]]
        self.coarser = nn.ModuleList(nn.Conv2d(in_width, in_width, 3, stride=2, padding=1) for _ in coarser)
        tower = {"in_width": in_width, "width": width, "convolutions": convolutions, "levels": len(self.strides)}
        self.class_tower = Tower(norm=norm, **tower)
        self.box_tower = Tower(norm=norm, **tower)
        self.classify = nn.Conv2d(width, classes, 3, padding=1)
        self.regress = nn.Conv2d(width, 4, 3, padding=1)
        self.center = nn.Conv2d(width, 1, 3, padding=1)
        self.scales = nn.Parameter(torch.ones(len(self.strides)))
        for layer in (self.classify, self.regress, self.center):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        nn.init.constant_(self.classify.bias, -math.log((1 - PRIOR) / PRIOR))  # type: ignore[arg-type]

    def forward(self, pyramid: Sequence[Tensor]) -> PointOutputs:
        """Pyramid levels [B, C, H / s, W / s], finest first -> boxes in network pixels."""
        levels = [pyramid[index] for index in self.level_indices]
        for number, convolution in enumerate(self.coarser):
            levels.append(convolution(levels[-1] if number == 0 else levels[-1].relu()))
        parts: list[tuple[Tensor, Tensor, Tensor, Tensor, Tensor]] = []
        for number, (level, stride) in enumerate(zip(levels, self.strides, strict=True)):
            box_features = self.box_tower(level, number)
            class_features = self.class_tower(level, number)
            logits = _per_point(self.classify(class_features))  # (B, n, C)
            center_features = class_features if self.center_of_class else box_features
            centerness = _per_point(self.center(center_features))[..., 0]  # (B, n)
            raw = _per_point(self.regress(box_features)).float() * self.scales[number]  # (B, n, 4)
            if self.in_pixels:
                raw = raw - math.log(stride)
            sides = raw.clamp(max=MAX_LOG_DISTANCE).exp() * stride
            points = grid_points(level.shape[2], level.shape[3], stride, device=level.device)
            boxes = torch.cat([points - sides[..., :2], points + sides[..., 2:]], dim=-1)
            parts.append((logits, centerness, boxes, points, torch.full_like(points[:, 0], stride)))
        logits, centerness, boxes = (torch.cat(part, dim=1) for part in list(zip(*parts, strict=True))[:3])
        points, strides = (torch.cat(part) for part in list(zip(*parts, strict=True))[3:])
        return PointOutputs(logits, centerness, boxes, points, strides, self.nms)


def grid_points(height: int, width: int, stride: int, *, device: torch.device) -> Tensor:
    """Centres of a level's cells, row by row: float32 [height * width, 2], (x, y) in network pixels."""
    rows = (torch.arange(height, device=device, dtype=torch.float32) + 0.5) * stride
    columns = (torch.arange(width, device=device, dtype=torch.float32) + 0.5) * stride
    grid = torch.stack([columns[None].expand(height, -1), rows[:, None].expand(-1, width)], dim=-1)
    return grid.flatten(0, 1)


def _per_point(x: Tensor) -> Tensor:
    """[B, C, h, w] -> [B, h * w, C]."""
    return x.flatten(2).transpose(1, 2)
