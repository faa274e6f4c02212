"""Sparse R-CNN's set criterion: focal, L1 and GIoU losses of matched boxes, in every refinement."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import generalized_box_iou_loss, sigmoid_focal_loss

from lvad_training.boxes import pairwise_giou
from lvad_training.losses.matcher import match
from lvad_training.losses.normalization import per_process
from lvad_training.losses.truths import ALPHA, GAMMA, annotated_boxes
from lvad_training.samples import DetectionOutputs, Targets


class DetectionCriterion(nn.Module):
    """Loss of ``DetectionOutputs``.

    Args:
        class_weight: of the focal classification loss, in the matching cost and in the loss.
        l1_weight: of the L1 distance of boxes in fractions of the image size, likewise.
        giou_weight: of 1 - GIoU, likewise.
        matches_per_truth: queries matched to each truth box, in all refinements but the last, which has one.
    """

    def __init__(
        self, *, class_weight: float, l1_weight: float, giou_weight: float, matches_per_truth: int = 1
    ) -> None:
        super().__init__()
        self.class_weight = class_weight
        self.l1_weight = l1_weight
        self.giou_weight = giou_weight
        self.matches_per_truth = matches_per_truth

    def forward(
        self, outputs: DetectionOutputs, targets: Sequence[Targets], size_hw: tuple[int, int]
    ) -> dict[str, Tensor]:
        """Compute each term, summed over refinements and divided by the number of matched boxes.

        In training mode that is the number in all processes.

        Args:
            outputs: of the whole batch.
            targets: of the whole batch; images without detection annotation contribute nothing.
            size_hw: network size, the unit of the L1 term.

        Returns:
            "box_class", "box_l1" and "box_giou", weighted; empty when no image is annotated.
        """
        truths = annotated_boxes(targets, outputs.logits.device)
        if truths is None:
            per_process([0] * len(outputs.logits), together=self.training, device=outputs.logits.device)
            return {}
        keep, padded_boxes, padded_labels = truths.images, truths.boxes_xyxy, truths.labels
        unit = padded_boxes.new_tensor([size_hw[1], size_hw[0]] * 2)
        terms = {"box_class": [], "box_l1": [], "box_giou": []}  # type: dict[str, list[Tensor]]
        every_logits, every_box = outputs.logits[:, keep].float(), outputs.boxes_xyxy[:, keep].float()
        refinements = list(zip(every_logits, every_box, strict=True))
        costs = [self._cost(*each, padded_boxes, padded_labels, unit) for each in refinements]
        repeats = [*[self.matches_per_truth] * (len(refinements) - 1), 1]
        matches = match(costs, truths.counts, repeats)
        counts = per_process([len(image) for image, _, _ in matches], together=self.training, device=unit.device)
        for (logits, predicted), (image, query, truth), count in zip(refinements, matches, counts, strict=True):
            classes = torch.zeros_like(logits)
            classes[image, query, padded_labels[image, truth]] = 1
            focal = sigmoid_focal_loss(logits, classes, ALPHA, GAMMA, reduction="none")
            focal = truths.mask_ignored(focal, predicted.detach(), classes).sum() / count
            matched, boxes = predicted[image, query], padded_boxes[image, truth]
            terms["box_class"].append(self.class_weight * focal)
            terms["box_l1"].append(self.l1_weight * ((matched - boxes) / unit).abs().sum() / count)
            giou = generalized_box_iou_loss(matched, boxes, reduction="sum") / count
            terms["box_giou"].append(self.giou_weight * giou)
        return {name: torch.stack(values).sum() for name, values in terms.items()}

    @torch.no_grad()
    def _cost(self, logits: Tensor, predicted: Tensor, boxes: Tensor, labels: Tensor, unit: Tensor) -> Tensor:
        """Matching cost [B, Q, T]."""
        if boxes.shape[1] == 0:
            return logits.new_zeros((*logits.shape[:2], 0))
        probability = logits.sigmoid()
        positive = -ALPHA * (1 - probability) ** GAMMA * functional.logsigmoid(logits)
        negative = -(1 - ALPHA) * probability**GAMMA * functional.logsigmoid(-logits)
        index = labels[:, None].expand(-1, logits.shape[1], -1)  # (B, Q, T)
        class_cost = (positive - negative).gather(2, index)
        l1_cost = torch.cdist(predicted / unit, boxes / unit, p=1)
        giou_cost = -pairwise_giou(predicted, boxes)
        return self.class_weight * class_cost + self.l1_weight * l1_cost + self.giou_weight * giou_cost
