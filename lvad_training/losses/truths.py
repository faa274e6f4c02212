"""The annotated boxes of a batch as padded tensors, the targets of every detection criterion."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from lvad_training.boxes import areas, intersections
from lvad_training.samples import Targets

ALPHA, GAMMA = 0.25, 2.0
"""Balance and exponent of the focal loss (Lin et al., ICCV 2017)."""
INSIDE = 0.5
"""A box with at least this share of its area inside an ignored box of a class is no evidence against that class."""


@dataclass(frozen=True, slots=True, eq=False)
class AnnotatedBoxes:
    """Boxes of the images of a batch that are annotated for detection.

    Attributes:
        images: indices of these images in the batch, B of them.
        counts: boxes per image.
        boxes_xyxy: float32 [B, T, 4], network pixels, padded with empty boxes.
        labels: int64 [B, T], padded with 0.
        ignored_xyxy: float32 [B, I, 4], padded likewise; None when no image has any.
        ignored_labels: int64 [B, I]; None exactly when ``ignored_xyxy`` is.
    """

    images: list[int]
    counts: list[int]
    boxes_xyxy: Tensor
    labels: Tensor
    ignored_xyxy: Tensor | None
    ignored_labels: Tensor | None

    def mask_ignored(self, loss: Tensor, predicted: Tensor, classes: Tensor) -> Tensor:
        """Set the classification loss to 0 where a predicted box of the class would be neither right nor wrong.

        That is where a box lies inside an ignored box of a class, as with COCO's crowds, and the class is no target.

        Args:
            loss: per class, [B, Q, C].
            predicted: the classified boxes, [B, Q, 4].
            classes: target classes, 1 where a class is to be predicted, [B, Q, C]; the loss is kept there.
        """
        if self.ignored_xyxy is None or self.ignored_labels is None:
            return loss
        share = intersections(predicted, self.ignored_xyxy) / areas(predicted).clamp(min=1e-6)[:, :, None]  # (B, Q, I)
        inside = (share >= INSIDE).float() @ functional.one_hot(self.ignored_labels, loss.shape[2]).float()
        return loss.masked_fill((inside > 0) & (classes == 0), 0)


def annotated_boxes(targets: Sequence[Targets], device: torch.device) -> AnnotatedBoxes | None:
    """The boxes of a batch on the device; None when no image is annotated for detection."""
    images = [index for index, target in enumerate(targets) if target.boxes_xyxy is not None]
    if not images:
        return None
    annotated = [targets[index] for index in images]
    no_boxes, no_labels = torch.zeros((0, 4)), torch.zeros(0, dtype=torch.int64)
    ignored_xyxy = ignored_labels = None
    if any(target.ignored_xyxy is not None for target in annotated):
        ignored_xyxy = _padded([target.ignored_xyxy for target in annotated], no_boxes, device)
        ignored_labels = _padded([target.ignored_labels for target in annotated], no_labels, device)
    return AnnotatedBoxes(
        images,
        [0 if target.labels is None else len(target.labels) for target in annotated],
        _padded([target.boxes_xyxy for target in annotated], no_boxes, device),
        _padded([target.labels for target in annotated], no_labels, device),
        ignored_xyxy,
        ignored_labels,
    )


def _padded(parts: Sequence[Tensor | None], empty: Tensor, device: torch.device) -> Tensor:
    return pad_sequence([empty if part is None else part for part in parts], batch_first=True).to(device)
