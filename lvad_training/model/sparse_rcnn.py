"""Sparse R-CNN (Sun et al., CVPR 2021): learned proposals, refined by dynamic convolutions over pooled features.

It has no anchors and no non-maximum suppression. In evaluation mode all shapes are static: every proposal is pooled
from every pyramid level and one level is selected by mask, so that the graph exports to ONNX's RoiAlign.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.ops import roi_align

from lvad_training.model.attention import Attention, FeedForward
from lvad_training.samples import DetectionOutputs

MAX_LOG_SCALE = math.log(1000 / 16)
CENTER_SCALE = 2.0
PRIOR = 0.01
"""Initial probability of each class for every proposal (focal loss, Lin et al., ICCV 2017)."""
MIN_SIDE = 1e-3


def grid_boxes(count: int) -> Tensor:
    """``count`` boxes spread over positions and sizes: float32 [count, 4], cxcywh, in fractions of the image.

    One box covers the image. The others have three sizes (0.5, 0.25 and 0.12 of its sides), small ones being more
    numerous, and centres between 0.2 and 0.8 of its height, where distant objects are.
    """
    boxes = [(0.5, 0.5, 1.0, 1.0)]
    for side, share in ((0.5, 0.12), (0.25, 0.33), (0.12, 1.0)):
        room = max(0, round((count - len(boxes)) * share))
        columns = max(1, math.ceil(math.sqrt(room * 2)))
        rows = max(1, math.ceil(room / columns))
        cells = [((c + 0.5) / columns, 0.2 + 0.6 * (r + 0.5) / rows) for r in range(rows) for c in range(columns)]
        boxes += [(x, y, side, side) for x, y in cells[:room]]
    boxes += [(0.5, 0.5, 1.0, 1.0)] * (count - len(boxes))
    return torch.tensor(boxes[:count], dtype=torch.float32)


def place_boxes(boxes_cxcywh: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """Boxes [Q, 4], cxcywh in fractions of the image -> [Q, 4], xyxy in its pixels."""
    height, width = size_hw
    center_x, center_y, extent_x, extent_y = boxes_cxcywh.float().unbind(1)
    center_x, center_y = center_x * width, center_y * height
    half_w, half_h = extent_x * width / 2, extent_y * height / 2
    return torch.stack([center_x - half_w, center_y - half_h, center_x + half_w, center_y + half_h], dim=1)


def pool_proposals(
    levels: Sequence[Tensor],
    strides: Sequence[int],
    boxes_xyxy: Tensor,
    *,
    pool_size: int,
    samples: int,
    canonical_px: float,
    static: bool,
) -> Tensor:
    """RoIAlign from the level that fits each box (the rule of FPN, equation 1).

    Args:
        levels: [B, C, H / s, W / s], finest first.
        strides: of the levels.
        boxes_xyxy: [B, Q, 4], network pixels.
        pool_size: output side in bins.
        samples: points per side of a bin.
        canonical_px: side of the boxes that belong to the level of stride 16.
        static: pool every box from every level and select one by mask, for the static shapes that a model file needs;
            otherwise pool every box from its own level only. The values are the same.

    Returns:
        [B * Q, C, pool_size, pool_size].
    """
    batch, proposals, _ = boxes_xyxy.shape
    flat = boxes_xyxy.flatten(0, 1).float()  # (B * Q, 4)
    image = torch.arange(batch, device=flat.device, dtype=flat.dtype)[:, None].expand(-1, proposals).reshape(-1, 1)
    rois = torch.cat([image, flat], dim=1)
    area = (flat[:, 2] - flat[:, 0]).clamp(min=MIN_SIDE) * (flat[:, 3] - flat[:, 1]).clamp(min=MIN_SIDE)
    k = 4 + torch.log2(area.sqrt() / canonical_px + 1e-6)  # as in FPN's equation 1
    index = (k.floor() - 2).clamp(min=0, max=len(levels) - 1)
    if static:
        scaled = zip(levels, strides, strict=True)
        per_level = [
            roi_align(level.float(), rois, pool_size, 1 / stride, samples, aligned=True) for level, stride in scaled
        ]
        pooled: Tensor = per_level[0]
        for number, regions in enumerate(per_level[1:], start=1):
            pooled = torch.where((index == number)[:, None, None, None], regions, pooled)
        return pooled
    pooled = flat.new_zeros((batch * proposals, levels[0].shape[1], pool_size, pool_size))
    for number, (level, stride) in enumerate(zip(levels, strides, strict=True)):
        chosen = (index == number).nonzero()[:, 0]
        regions = roi_align(level.float(), rois[chosen], pool_size, 1 / stride, samples, aligned=True)
        pooled = pooled.index_copy(0, chosen, regions)
    return pooled


def apply_deltas(boxes_xyxy: Tensor, deltas: Tensor) -> Tensor:
    """Shift and scale boxes by the network's (dx, dy, dw, dh), [B, Q, 4] each; the box coding of Faster R-CNN."""
    dx, dy, dw, dh = deltas.float().unbind(-1)
    x1, y1, x2, y2 = boxes_xyxy.unbind(-1)
    width, height = (x2 - x1).clamp(min=MIN_SIDE), (y2 - y1).clamp(min=MIN_SIDE)
    center_x = (x1 + x2) / 2 + dx / CENTER_SCALE * width
    center_y = (y1 + y2) / 2 + dy / CENTER_SCALE * height
    dw, dh = (each.clamp(min=-MAX_LOG_SCALE, max=MAX_LOG_SCALE) for each in (dw, dh))
    width, height = width * dw.exp(), height * dh.exp()
    half_w, half_h = width / 2, height / 2
    return torch.stack([center_x - half_w, center_y - half_h, center_x + half_w, center_y + half_h], dim=-1)


class DynamicConv(nn.Module):
    """Two 1x1 convolutions over each proposal's pooled region, with weights generated from the proposal's features."""

    def __init__(self, width: int, dynamic_width: int, pool_size: int) -> None:
        super().__init__()
        self.width, self.dynamic_width = width, dynamic_width
        self.make_weights = nn.Linear(width, 2 * width * dynamic_width)
        self.norm_inner = nn.LayerNorm(dynamic_width)
        self.norm_outer = nn.LayerNorm(width)
        self.out = nn.Linear(width * pool_size**2, width)
        self.norm_out = nn.LayerNorm(width)

    def forward(self, features: Tensor, regions: Tensor) -> Tensor:
        """Features [B, Q, C] and regions [B * Q, C, p, p] -> [B, Q, C]."""
        weights = self.make_weights(features).flatten(0, 1)  # (B * Q, 2 * C * D)
        size = self.width * self.dynamic_width
        first = weights[:, :size].unflatten(1, (self.width, self.dynamic_width))
        second = weights[:, size:].unflatten(1, (self.dynamic_width, self.width))
        pixels = regions.flatten(2).transpose(1, 2)  # (B * Q, p * p, C)
        pixels = self.norm_inner(pixels @ first).relu()
        pixels = self.norm_outer(pixels @ second).relu()
        summary = self.norm_out(self.out(pixels.flatten(1))).relu()  # (B * Q, C)
        return torch.reshape(summary, features.shape)


class Refinement(nn.Module):
    """One step of the cascade: self-attention between proposals, interaction with their regions, new boxes.

    As in the method's own code, every matrix starts from Xavier's uniform distribution, that of the deltas too; biases
    are torch's, except that of the classes.
    """

    def __init__(
        self, *, classes: int, width: int, heads: int, feedforward: int, dynamic_width: int, pool_size: int
    ) -> None:
        super().__init__()
        self.attention = Attention(width, heads)
        self.interact = DynamicConv(width, dynamic_width, pool_size)
        self.feedforward = FeedForward(width, feedforward)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.class_tower = _tower(width, 1)
        self.box_tower = _tower(width, 3)
        self.classify = nn.Linear(width, classes)
        self.regress = nn.Linear(width, 4)
        for part in (self.interact, self.class_tower, self.box_tower, self.classify, self.regress):
            for parameter in part.parameters():
                if parameter.ndim > 1:
                    nn.init.xavier_uniform_(parameter)
        nn.init.constant_(self.classify.bias, -math.log((1 - PRIOR) / PRIOR))

    def forward(self, features: Tensor, regions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Features [B, Q, C], regions [B * Q, C, p, p] -> features, class logits [B, Q, K], deltas [B, Q, 4]."""
        features = self.norms[0](features + self.attention(features, features, features))
        features = self.norms[1](features + self.interact(features, regions))
        features = self.norms[2](features + self.feedforward(features))
        return features, self.classify(self.class_tower(features)), self.regress(self.box_tower(features))


class SparseRcnnHead(nn.Module):
    """Pyramid -> class logits and boxes per refinement.

    Args:
        classes: number of classes.
        in_width: channels of the pyramid.
        strides: of the pyramid's levels, finest first.
        initial_boxes: initial values of the learned proposal boxes, float32 [Q, 4], cxcywh, fractions of the image.
        refinements: number of steps of the cascade.
        width: channels of the proposals.
        heads: attention heads.
        feedforward: hidden width of the feed-forward blocks.
        dynamic_width: inner channels of the dynamic convolutions.
        pool_size: side of the pooled regions in bins.
        pool_samples: points per side of a bin.
        canonical_px: side of the boxes that are pooled from the level of stride 16.
        small_deltas: start with deltas close to zero, so that initial boxes that are spread over the image stay there.
    """

    def __init__(
        self,
        *,
        classes: int,
        in_width: int,
        strides: Sequence[int],
        initial_boxes: Tensor,
        refinements: int,
        width: int,
        heads: int,
        feedforward: int,
        dynamic_width: int,
        pool_size: int,
        pool_samples: int,
        canonical_px: float,
        small_deltas: bool = False,
    ) -> None:
        super().__init__()
        self.strides = tuple(strides)
        self.pool_size = pool_size
        self.pool_samples = pool_samples
        self.canonical_px = canonical_px
        self.project = nn.ModuleList(nn.Conv2d(in_width, width, 1) for _ in strides) if in_width != width else None
        self.boxes = nn.Parameter(initial_boxes.clone())
        self.features = nn.Parameter(torch.randn(len(initial_boxes), width))
        self.refinements = nn.ModuleList(
            Refinement(
                classes=classes,
                width=width,
                heads=heads,
                feedforward=feedforward,
                dynamic_width=dynamic_width,
                pool_size=pool_size,
            )
            for _ in range(refinements)
        )
        if small_deltas:
            for refinement in self.refinements:
                nn.init.normal_(refinement.regress.weight, std=1e-3)  # type: ignore[union-attr, arg-type]
                nn.init.zeros_(refinement.regress.bias)  # type: ignore[union-attr, arg-type]

    def forward(self, pyramid: Sequence[Tensor]) -> DetectionOutputs:
        """Pyramid levels [B, C, H / s, W / s], finest first -> boxes in network pixels, per refinement."""
        levels = list(pyramid)
        if self.project is not None:
            levels = [conv(level) for conv, level in zip(self.project, levels, strict=True)]
        batch, _, height, width = levels[0].shape
        size_hw = (height * self.strides[0], width * self.strides[0])
        boxes = place_boxes(self.boxes, size_hw).expand(batch, -1, -1)  # (B, Q, 4)
        features = self.features.expand(batch, -1, -1)
        logits: list[Tensor] = []
        refined: list[Tensor] = []
        for refinement in self.refinements:
            regions = pool_proposals(
                levels,
                self.strides,
                boxes.detach(),
                pool_size=self.pool_size,
                samples=self.pool_samples,
                canonical_px=self.canonical_px,
                static=not self.training,
            )
            features, class_logits, deltas = refinement(features, regions)
            boxes = apply_deltas(boxes.detach() if refined else boxes, deltas)
            logits.append(class_logits)
            refined.append(boxes)
        if not self.training:
            logits, refined = logits[-1:], refined[-1:]
        return DetectionOutputs(torch.stack(logits), torch.stack(refined))


def _tower(width: int, layers: int) -> nn.Sequential:
    blocks: list[nn.Module] = []
    for _ in range(layers):
        blocks += [nn.Linear(width, width, bias=False), nn.LayerNorm(width), nn.ReLU(inplace=True)]
    return nn.Sequential(*blocks)
