"""FCOS's criterion: focal, GIoU and centre-ness losses per point.

Tian et al., ICCV 2019; arXiv 1904.01355.

A point is assigned to a box if it lies inside it, near its centre, and on the level for boxes of that size; of several
boxes, to the smallest. The GIoU loss of a point is weighted by its centre-ness.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import generalized_box_iou_loss, sigmoid_focal_loss

from lvad_training.boxes import areas
from lvad_training.losses.normalization import per_process
from lvad_training.losses.truths import ALPHA, GAMMA, annotated_boxes
from lvad_training.samples import PointOutputs, Targets

LEVEL_STRIDES = 8
"""A level of stride s learns boxes whose farthest side is more than 4 s and at most 8 s away from the point: the limits
of the paper, 64, 128, 256 and 512 px at strides 8 to 64. Only the finest level has no lower limit, and only the
coarsest no upper one."""


class PointCriterion(nn.Module):
    """Loss of ``PointOutputs``.

    Args:
        class_weight: of the focal classification loss, per positive point.
        giou_weight: of 1 - GIoU.
        centerness_weight: of the binary cross-entropy of the centre-ness.
        center_radius: half side of the square around a box's centre whose points are assigned to it, in strides.
    """

    def __init__(
        self, *, class_weight: float, giou_weight: float, centerness_weight: float, center_radius: float
    ) -> None:
        super().__init__()
        self.class_weight = class_weight
        self.giou_weight = giou_weight
        self.centerness_weight = centerness_weight
        self.center_radius = center_radius

    def forward(
        self, outputs: PointOutputs, targets: Sequence[Targets], _size_hw: tuple[int, int]
    ) -> dict[str, Tensor]:
        """Compute each term over the points of annotated images, divided by the number of positive points.

        In training mode that is the number in all processes; the GIoU term is divided by the sum of centre-ness.

        Args:
            outputs: of the whole batch.
            targets: of the whole batch; images without detection annotation contribute nothing.

        Returns:
            "box_class", "box_giou" and "box_centerness", weighted; empty when no image is annotated.
        """
        truths = annotated_boxes(targets, outputs.logits.device)
        if truths is None:
            per_process([0, 0], together=self.training, device=outputs.logits.device)
            return {}
        logits = outputs.logits[truths.images].float()  # (B, N, C)
        predicted = outputs.boxes_xyxy[truths.images].float()  # (B, N, 4)
        centerness = outputs.centerness[truths.images].float()  # (B, N)
        truth = assign(outputs.points_xy, outputs.strides, truths.boxes_xyxy, center_radius=self.center_radius)
        image, point = (truth >= 0).nonzero(as_tuple=True)  # (P) each
        chosen = truth[image, point]
        classes = torch.zeros_like(logits)
        classes[image, point, truths.labels[image, chosen]] = 1
        focal = sigmoid_focal_loss(logits, classes, ALPHA, GAMMA, reduction="none")
        boxes = truths.boxes_xyxy[image, chosen]  # (P, 4)
        central = center_ness(outputs.points_xy[point], boxes)  # (P)
        count, weight = per_process(
            [len(image), central.sum()], together=self.training, device=logits.device, least=(1.0, 1e-6)
        )
        focal = truths.mask_ignored(focal, predicted.detach(), classes).sum() / count
        giou = generalized_box_iou_loss(predicted[image, point], boxes, reduction="none")
        entropy = functional.binary_cross_entropy_with_logits(centerness[image, point], central, reduction="sum")
        return {
            "box_class": self.class_weight * focal,
            "box_giou": self.giou_weight * (giou * central).sum() / weight,
            "box_centerness": self.centerness_weight * entropy / count,
        }


@torch.no_grad()
def assign(points_xy: Tensor, strides: Tensor, boxes_xyxy: Tensor, *, center_radius: float) -> Tensor:
    """Assign a box to each point.

    Args:
        points_xy: [N, 2], network pixels.
        strides: [N], of each point's level.
        boxes_xyxy: [B, T, 4]; boxes without area are padding.
        center_radius: in strides.

    Returns:
        int64 [B, N], index of the box; -1 where the point is background.
    """
    if boxes_xyxy.shape[1] == 0:
        return torch.full((len(boxes_xyxy), len(points_xy)), -1, device=points_xy.device)
    x, y = (each[None, :, None] for each in points_xy.unbind(1))  # (1, N, 1) each
    stride = strides[None, :, None]
    left, top, right, bottom = (each[:, None] for each in boxes_xyxy.unbind(2))  # (B, 1, T) each
    nearest = torch.minimum(torch.minimum(x - left, right - x), torch.minimum(y - top, bottom - y))  # (B, N, T)
    farthest = torch.maximum(torch.maximum(x - left, right - x), torch.maximum(y - top, bottom - y))
    off_center = torch.maximum((x - (left + right) / 2).abs(), (y - (top + bottom) / 2).abs())
    least = torch.where(stride > strides.min(), LEVEL_STRIDES / 2 * stride, 0)
    most = torch.where(stride < strides.max(), LEVEL_STRIDES * stride, torch.inf)
    learns = (nearest > 0) & (off_center < center_radius * stride) & (farthest > least) & (farthest <= most)
    area, index = areas(boxes_xyxy)[:, None].expand_as(learns).masked_fill(~learns, torch.inf).min(dim=2)  # (B, N)
    return torch.where(area < torch.inf, index, -1)


def center_ness(points_xy: Tensor, boxes_xyxy: Tensor) -> Tensor:
    """Centre-ness, the paper's equation 3: 1 at the centre of the box, 0 on its sides; [P, 2] and [P, 4] -> [P]."""
    before, after = (
        points_xy - boxes_xyxy[:, :2],
        boxes_xyxy[:, 2:] - points_xy,
    )  # (P, 2) each: left, top; right, bottom
    shares = torch.minimum(before, after) / torch.maximum(before, after).clamp(min=1e-6)
    return shares.clamp(min=0).prod(1).sqrt()
