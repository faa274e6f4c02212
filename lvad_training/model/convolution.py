"""Convolution with normalisation, for the neck and the convolutional heads."""

from torch import nn


def normalised_conv(channels: int, width: int, kernel: int, norm: str) -> nn.Sequential:
    """A convolution of stride 1, padded to keep the size, and its norm; see ``make_norm``. "none": a bias instead."""
    convolution = nn.Conv2d(channels, width, kernel, padding=kernel // 2, bias=norm == "none")
    return nn.Sequential(convolution) if norm == "none" else nn.Sequential(convolution, make_norm(norm, width))


def make_norm(norm: str, width: int) -> nn.Module:
    """GroupNorm of up to 32 groups ("group"), or BatchNorm ("batch"), which runtimes fold into the convolution."""
    return nn.GroupNorm(_group_count(width), width) if norm == "group" else nn.BatchNorm2d(width)


def _group_count(width: int) -> int:
    """Largest number of groups up to 32 that divides the width."""
    return next(groups for groups in (32, 24, 16, 12, 8, 4, 2, 1) if width % groups == 0)
