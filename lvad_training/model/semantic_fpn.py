"""Panoptic FPN's semantic branch (Kirillov et al., CVPR 2019; arXiv 1901.02446), written from the paper.

Each pyramid level is brought to the finest one's size by as many steps of 3x3 convolution, norm, ReLU and doubling as
that takes; their sum is classified pixel by pixel.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from lvad_training.model.convolution import normalised_conv
from lvad_training.samples import PixelOutputs


class SemanticFpnHead(nn.Module):
    """Pyramid -> class logits per pixel at the finest level's stride.

    Args:
        classes: number of classes.
        in_width: channels of the pyramid.
        levels: of the pyramid, each half the size of the one before.
        width: channels of the branch.
        norm: "group" or "batch".
    """

    def __init__(self, *, classes: int, in_width: int, levels: int, width: int, norm: str) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            nn.ModuleList(
                normalised_conv(in_width if step == 0 else width, width, 3, norm) for step in range(max(1, level))
            )
            for level in range(levels)
        )
        self.classify = nn.Conv2d(width, classes, 1)

    def forward(self, pyramid: Sequence[Tensor]) -> tuple[PixelOutputs, None]:
        """Pyramid levels [B, C, H / s, W / s], finest first -> logits at the finest, and no auxiliary ones."""
        merged: list[Tensor] = []
        for number, (x, branch) in enumerate(zip(pyramid, self.branches, strict=True)):
            for convolution in branch:  # type: ignore[attr-defined]
                x = convolution(x).relu()
                if number > 0:
                    size_hw = (x.shape[2] * 2, x.shape[3] * 2)
                    x = functional.interpolate(x, size=size_hw, mode="bilinear", align_corners=False)
            merged.append(x)
        return PixelOutputs(self.classify(torch.stack(merged).sum(0))), None
