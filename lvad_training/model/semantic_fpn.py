"""Panoptic FPN's semantic branch (Kirillov et al., CVPR 2019; arXiv 1901.02446), written from the paper.

Each pyramid level is upsampled to the finest one's size, in steps of 3x3 convolution, norm, ReLU and doubling; the sum
is classified pixel by pixel.
"""

import functools
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
        levels: number of pyramid levels, each half the size of the one before.
        width: channels of the branch.
        norm: "group" or "batch".
        label_stride: one class per block of this many input pixels, for decoding; part of the outputs.
    """

    def __init__(
        self, *, classes: int, in_width: int, levels: int, width: int, norm: str, label_stride: int = 1
    ) -> None:
        super().__init__()
        self.label_stride = label_stride
        self.branches = nn.ModuleList(
            nn.ModuleList(
                normalised_conv(in_width if step == 0 else width, width, 3, norm) for step in range(max(1, level))
            )
            for level in range(levels)
        )
        self.classify = nn.Conv2d(width, classes, 1)

    def forward(self, pyramid: Sequence[Tensor]) -> tuple[PixelOutputs, None]:
        """Pyramid levels [B, C, H / s, W / s], finest first -> logits at the finest, and no auxiliary ones."""
        finest, *others = (self._refine(level, branch) for level, branch in zip(pyramid, self.branches, strict=True))
        # One upsampling of the sum instead of one per level; both are equal.
        logits = self.classify(finest + _double(functools.reduce(torch.add, others)))
        return PixelOutputs(logits, self.label_stride), None

    @staticmethod
    def _refine(x: Tensor, branch: nn.Module) -> Tensor:
        """The branch's convolutions, with doubling between them."""
        for step, convolution in enumerate(branch.children()):
            x = convolution(x if step == 0 else _double(x)).relu()
        return x


def _double(x: Tensor) -> Tensor:
    return functional.interpolate(x, size=(x.shape[2] * 2, x.shape[3] * 2), mode="bilinear", align_corners=False)
