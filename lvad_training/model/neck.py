"""Feature Pyramid Network (Lin et al., CVPR 2017), in two steps: an adapter can update the top level in between."""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional

from lvad_training.model.convolution import normalised_conv


class FeaturePyramid(nn.Module):
    """1x1 laterals, top-down additions, 3x3 outputs, each normalised.

    Args:
        in_channels: channels of the backbone's levels that the neck takes, the coarsest ones, finest first.
        strides: their strides.
        width: channels of every output level.
        norm: "group", "batch", or "none" for convolutions with a bias.
    """

    def __init__(self, *, in_channels: Sequence[int], strides: Sequence[int], width: int, norm: str) -> None:
        super().__init__()
        self.width = width
        self.strides = tuple(strides)
        self.lateral = nn.ModuleList(normalised_conv(channels, width, 1, norm) for channels in in_channels)
        self.output = nn.ModuleList(normalised_conv(width, width, 3, norm) for _ in in_channels)

    def laterals(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Backbone levels -> levels of one width, finest first, before the top-down path. The last one is z5."""
        return [conv(level) for conv, level in zip(self.lateral, features[-len(self.lateral) :], strict=True)]

    def merge(self, laterals: Sequence[Tensor]) -> list[Tensor]:
        """Top-down path: laterals -> pyramid levels [B, width, H / s, W / s], finest first."""
        merged = [laterals[-1]]
        for lateral in reversed(laterals[:-1]):
            merged.append(lateral + functional.interpolate(merged[-1], size=lateral.shape[-2:], mode="nearest"))
        return [conv(level) for conv, level in zip(self.output, reversed(merged), strict=True)]
