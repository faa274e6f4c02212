"""MaskFormer's set criterion, and the per-pixel criterion of segmentation heads without queries.

MaskFormer's has class cross-entropy, and mask focal and dice losses of matched queries, in every decoder layer. The
targets of an image are one binary mask per class that occurs in it. Pixels without annotation are left out of matching
and losses. Losses are computed at the masks' own resolution, to which the targets are averaged.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from lvad_perception.vocabulary import UNLABELED
from lvad_training.losses.matcher import match
from lvad_training.losses.normalization import per_process
from lvad_training.samples import MaskOutputs, PixelOutputs

ALPHA = 0.25
"""Balance of the focal loss, whose exponent is 2."""
MIN_SHARE = 1e-5
"""Least share of an image's pixels, at the masks' resolution, for a class to be a target."""


class MaskCriterion(nn.Module):
    """Loss of ``MaskOutputs``.

    Args:
        prefix: of the names of the terms.
        classes: number of classes, without "no object".
        class_weight: of the class cross-entropy, in the matching cost and in the loss.
        focal_weight: of the mask focal loss, likewise.
        dice_weight: of the dice loss, likewise.
        no_object: weight of queries without object in the cross-entropy.
        pixel_weight: of the auxiliary per-pixel cross-entropy.
    """

    class_weights: Tensor

    def __init__(
        self,
        *,
        prefix: str,
        classes: int,
        class_weight: float,
        focal_weight: float,
        dice_weight: float,
        no_object: float,
        pixel_weight: float,
    ) -> None:
        super().__init__()
        self.prefix = prefix
        self.classes = classes
        self.class_weight = class_weight
        self.focal_weight = focal_weight
        self.dice_weight = dice_weight
        self.pixel_weight = pixel_weight
        weights = torch.ones(classes + 1)
        weights[-1] = no_object
        self.register_buffer("class_weights", weights, persistent=False)

    def forward(
        self, outputs: MaskOutputs, pixels: Tensor | None, label_maps: Sequence[Tensor | None]
    ) -> dict[str, Tensor]:
        """Compute each term, summed over decoder layers and divided by the number of masks or pixels.

        In training mode that is the number in all processes.

        Args:
            outputs: of the whole batch.
            pixels: auxiliary per-pixel logits [B, K, h, w] or None.
            label_maps: uint8 [H, W] per image; images with None contribute nothing.

        Returns:
            "<prefix>_class", "_focal", "_dice" and, with ``pixels``, "_pixel", weighted; empty without annotation.
        """
        keep = [index for index, label_map in enumerate(label_maps) if label_map is not None]
        device = outputs.masks.device
        if not keep:
            per_process([0, 0, 0], together=self.training, device=device)
            return {}
        masks, valid = _stacked_masks(label_maps, self.classes, outputs.masks)  # (B, K, N), (B, N)
        present = masks.mean(2) > MIN_SHARE  # (B, K)
        counts = present.sum(1).tolist()
        objects = present.float().sort(dim=1, descending=True, stable=True).indices  # present classes first
        order = objects[:, : max(counts, default=0)]  # (B, T)
        targets = masks.gather(1, order[:, :, None].expand(-1, -1, masks.shape[2]))  # (B, T, N)
        area = valid.sum(1).clamp(min=1)  # (B)
        coarse = _every_second(outputs.masks.shape[-2:], device)
        totals: dict[str, list[Tensor]] = {"class": [], "focal": [], "dice": []}
        layers = list(zip(outputs.logits[:, keep].float(), outputs.masks[:, keep].float().flatten(3), strict=True))
        costs = [
            self._cost(logits, predicted.detach()[..., coarse], targets[..., coarse], order, valid[:, coarse])
            for logits, predicted in layers
        ]
        matches = match(costs, counts, [1] * len(layers))
        pairs, queries = len(matches[0][0]), layers[0][0].shape[0] * layers[0][0].shape[1]  # the same in every layer
        count, weight, known = per_process(
            [pairs, pairs + (queries - pairs) * self.class_weights[-1], valid.sum()],
            together=self.training,
            device=device,
            least=(1.0, 1e-6, 1.0),
        )
        for (logits, predicted), (image, query, truth) in zip(layers, matches, strict=True):
            classes = torch.full(logits.shape[:2], self.classes, device=device)
            classes[image, query] = order[image, truth]
            matched, target, mask = predicted[image, query], targets[image, truth], valid[image]
            focal = (_focal(matched, target) * mask).sum(1) / area[image]
            probability = matched.sigmoid() * mask
            dice = 1 - (2 * (probability * target).sum(1) + 1) / (probability.sum(1) + target.sum(1) + 1)
            entropy = functional.cross_entropy(logits.transpose(1, 2), classes, self.class_weights, reduction="sum")
            totals["class"].append(self.class_weight * entropy / weight)
            totals["focal"].append(self.focal_weight * focal.sum() / count)
            totals["dice"].append(self.dice_weight * dice.sum() / count)
        terms = {f"{self.prefix}_{name}": torch.stack(values).sum() for name, values in totals.items()}
        if pixels is not None:
            terms[f"{self.prefix}_pixel"] = self.pixel_weight * _entropy(pixels[keep].float(), masks) / known
        return terms

    @torch.no_grad()
    def _cost(self, logits: Tensor, predicted: Tensor, targets: Tensor, order: Tensor, valid: Tensor) -> Tensor:
        """Matching cost [B, Q, T], on a coarse grid of pixels."""
        probability = logits.softmax(2)
        class_cost = -probability.gather(2, order[:, None].expand(-1, logits.shape[1], -1))
        area = valid.sum(1).clamp(min=1)
        inside = predicted.sigmoid()
        positive, negative = (part * valid[:, None] for part in _focal_parts(predicted, inside))
        columns = targets.transpose(1, 2)  # (B, N, T)
        focal_cost = ((positive - negative) @ columns + negative.sum(2, keepdim=True)) / area[:, None, None]
        inside = inside * valid[:, None]
        dice_cost = 1 - (2 * (inside @ columns) + 1) / (inside.sum(2, keepdim=True) + targets.sum(2)[:, None] + 1)
        return self.class_weight * class_cost + self.focal_weight * focal_cost + self.dice_weight * dice_cost


class PixelCriterion(nn.Module):
    """Loss of ``PixelOutputs``: cross-entropy at the logits' own resolution.

    Args:
        prefix: of the name of the term.
        classes: number of classes.
        pixel_weight: of the term.
    """

    def __init__(self, *, prefix: str, classes: int, pixel_weight: float) -> None:
        super().__init__()
        self.prefix = prefix
        self.classes = classes
        self.pixel_weight = pixel_weight

    def forward(
        self, outputs: PixelOutputs, _pixels: Tensor | None, label_maps: Sequence[Tensor | None]
    ) -> dict[str, Tensor]:
        """Compute the cross-entropy, divided by the number of annotated pixels: in training mode, of all processes.

        Args:
            outputs: of the whole batch.
            label_maps: uint8 [H, W] per image; images with None contribute nothing.

        Returns:
            The term "<prefix>_pixel", weighted; empty without annotation.
        """
        keep = [index for index, label_map in enumerate(label_maps) if label_map is not None]
        device = outputs.logits.device
        if not keep:
            per_process([0], together=self.training, device=device)
            return {}
        masks, valid = _stacked_masks(label_maps, self.classes, outputs.logits)
        (known,) = per_process([valid.sum()], together=self.training, device=device)
        return {f"{self.prefix}_pixel": self.pixel_weight * _entropy(outputs.logits[keep].float(), masks) / known}


def _stacked_masks(label_maps: Sequence[Tensor | None], classes: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """``class_masks`` of the label maps that are not None, with the size of ``like`` and on its device."""
    stacked = torch.stack([label_map for label_map in label_maps if label_map is not None]).to(like.device)
    return class_masks(stacked, classes, like.shape[-2:])


def _entropy(pixels: Tensor, masks: Tensor) -> Tensor:
    """Cross-entropy with the averaged label map, summed over annotated pixels."""
    return -(pixels.flatten(2).log_softmax(1) * masks).sum()


def class_masks(label_maps: Tensor, classes: int, size_hw: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Average label maps to another resolution.

    Args:
        label_maps: uint8 [B, H, W], ``UNLABELED`` where unknown.
        classes: number of classes K.
        size_hw: target size; must divide H and W.

    Returns:
        float32 [B, K, N], share of each class in each cell, and float32 [B, N], share of annotated pixels.
    """
    batch, height, width = label_maps.shape
    rows, columns = height // size_hw[0], width // size_hw[1]
    cells = label_maps.view(batch, size_hw[0], rows, size_hw[1], columns).permute(0, 1, 3, 2, 4)
    cells = cells.reshape(batch, size_hw[0] * size_hw[1], rows * columns).long()  # (B, N, pixels of a cell)
    cells = torch.where(cells == UNLABELED, classes, cells)
    shares = torch.zeros((batch, cells.shape[1], classes + 1), device=cells.device)
    shares.scatter_add_(2, cells, torch.full(cells.shape, 1 / cells.shape[2], device=cells.device))
    masks = shares[:, :, :classes].transpose(1, 2).contiguous()  # (B, K, N)
    return masks, masks.sum(1)


def _focal(logits: Tensor, targets: Tensor) -> Tensor:
    """Focal loss per element for targets in [0, 1]."""
    positive, negative = _focal_parts(logits, logits.sigmoid())
    return torch.lerp(negative, positive, targets)


def _focal_parts(logits: Tensor, inside: Tensor) -> tuple[Tensor, Tensor]:
    """Focal loss per element if the target were 1, and if it were 0; ``inside`` is the sigmoid of the logits."""
    surprise = functional.softplus(-logits)  # -log(inside); -log(1 - inside) is this plus the logit
    return ALPHA * (1 - inside).square() * surprise, (1 - ALPHA) * inside.square() * (surprise + logits)


def _every_second(size_hw: Sequence[int], device: torch.device) -> Tensor:
    """Flat indices of every second pixel of every second row, a grid that is fine enough for matching."""
    rows = torch.arange(0, size_hw[0], 2, device=device) * size_hw[1]
    return (rows[:, None] + torch.arange(0, size_hw[1], 2, device=device)).flatten()
