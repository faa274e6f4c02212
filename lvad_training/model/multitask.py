"""The network: one backbone and neck, one head per task, and optionally prompts with an adapter."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lvad_training.model.backbone import IMAGENET, Backbone
from lvad_training.model.prompts import Prompts
from lvad_training.samples import DetectionOutputs, MaskOutputs, Outputs, PixelOutputs, PointOutputs

IMAGENET_MEAN, IMAGENET_STD = ([255 * value for value in values] for values in IMAGENET)
"""For pixels of 0 to 255."""


class MultiTaskNet(nn.Module):
    """Images -> Outputs.

    Args:
        backbone: normalised images -> feature levels.
        neck: feature levels -> pyramid.
        detection: pyramid -> DetectionOutputs or PointOutputs, or None.
        semantic: pyramid -> MaskOutputs or PixelOutputs, and auxiliary pixel logits or None; or None.
        drivable: likewise.
        prompts: () -> text embeddings [T, D], or None.
        adapter: (the neck's top lateral, text) -> the lateral that replaces it, or None.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        *,
        backbone: Backbone,
        neck: nn.Module,
        detection: nn.Module | None,
        semantic: nn.Module | None,
        drivable: nn.Module | None,
        prompts: Prompts | None = None,
        adapter: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.neck = neck
        self.detection = detection
        self.semantic = semantic
        self.drivable = drivable
        self.prompts = prompts
        self.adapter = adapter
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Outputs:
        """Run every head.

        Args:
            images: uint8 [B, 3, H, W], RGB, H and W multiples of the coarsest stride.
        """
        return self.run_heads(*self.run_neck(self.run_backbone(images)))

    def run_backbone(self, images: Tensor) -> list[Tensor]:
        """Images as ``forward`` takes them -> the backbone's levels, finest first."""
        levels: list[Tensor] = self.backbone((images.float() - self.mean) / self.std)
        return levels

    def run_neck(self, levels: list[Tensor]) -> tuple[Sequence[Tensor], dict[str, Tensor]]:
        """The backbone's levels -> the pyramid, and in training the score map of each task; the adapter is between."""
        laterals: list[Tensor] = self.neck.laterals(levels)  # type: ignore[operator]
        score_maps: dict[str, Tensor] = {}
        if self.adapter is not None and self.prompts is not None:
            text = self.prompts()  # encoded once for all images
            laterals[-1], scores = self.adapter.update(laterals[-1], text)  # type: ignore[operator]
            if self.training and scores is not None:
                score_maps = {task: scores[:, rows] for task, rows in self.prompts.slices.items()}
        pyramid: Sequence[Tensor] = self.neck.merge(laterals)  # type: ignore[operator]
        return pyramid, score_maps

    def run_heads(self, pyramid: Sequence[Tensor], score_maps: dict[str, Tensor]) -> Outputs:
        """The results of ``run_neck`` -> outputs of the tasks that have a head."""
        detection: DetectionOutputs | PointOutputs | None = None
        if self.detection is not None:
            detection = self.detection(pyramid)
        semantic, semantic_pixels = _masks(self.semantic, pyramid)
        drivable, drivable_pixels = _masks(self.drivable, pyramid)
        weights = torch.stack([each.sum() for each in self.neck.parameters()]).sum() if self.training else None
        return Outputs(detection, semantic, drivable, semantic_pixels, drivable_pixels, weights, score_maps)

    def fold_prompts(self) -> None:
        """Encode the current prompts into the weights; call it before these are saved or evaluated.

        No-op without prompts or text encoder.
        """
        if self.prompts is not None and self.prompts.encoder is not None:
            self.prompts.fold()


def _masks(
    head: nn.Module | None, pyramid: Sequence[Tensor]
) -> tuple[MaskOutputs | PixelOutputs | None, Tensor | None]:
    if head is None:
        return None, None
    outputs: tuple[MaskOutputs | PixelOutputs, Tensor | None] = head(pyramid)
    return outputs
