"""The image backbone: any timm model that gives a feature pyramid."""

from typing import Any

import timm
from torch import Tensor, nn

from lvad_perception.errors import ConfigError


class Backbone(nn.Module):
    """A timm network that declares the channels and strides of what it gives.

    Args:
        features: a timm model made with ``features_only=True``.

    Attributes:
        channels: channels of each level, finest first.
        strides: stride of each level in pixels, finest first.
        frozen: whether ``freeze`` was called.
    """

    def __init__(self, features: nn.Module) -> None:
        super().__init__()
        self.features = features
        self.channels: tuple[int, ...] = tuple(features.feature_info.channels())  # type: ignore[operator, union-attr]
        self.strides: tuple[int, ...] = tuple(features.feature_info.reduction())  # type: ignore[operator, union-attr]
        self.frozen = False

    def forward(self, images: Tensor) -> list[Tensor]:
        """Normalised images [B, 3, H, W] -> one [B, C, H / s, W / s] per level, finest first."""
        levels: list[Tensor] = self.features(images)
        return levels

    def freeze(self) -> None:
        """Keep the network as it is, bit for bit: no gradients, and evaluation mode whatever ``train`` says.

        In evaluation mode BatchNorm neither moves its statistics nor counts batches. Parameters without gradient are in
        no parameter group of ``schedule.parameter_groups``, so weight decay does not reach them either.
        """
        self.frozen = True
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> "Backbone":
        """As ``nn.Module.train``, which also reaches this as a child; a frozen backbone stays in evaluation mode."""
        return super().train(mode and not self.frozen)


def timm_backbone(name: str, options: dict[str, Any], *, stride_in: str = "3x3") -> Backbone:
    """A timm backbone with random weights, levels of strides 4, 8, 16 and 32.

    Args:
        name: a timm model name, such as "resnet50".
        options: further keyword arguments of that model's constructor.
        stride_in: "3x3", or "1x1" to move the stride of a ResNet's bottlenecks into their first convolution.

    Raises:
        ConfigError: timm has no such model, it takes no such options, it has not these strides, or no bottlenecks.
    """
    try:
        every = timm.create_model(name, features_only=True, pretrained=False, **options)
        strides = Backbone(every).strides
        wanted = [index for index, stride in enumerate(strides) if stride >= 4]
        features = timm.create_model(name, features_only=True, pretrained=False, out_indices=wanted, **options)
    except (RuntimeError, TypeError, ValueError, AssertionError, IndexError) as err:
        raise ConfigError(
            f"model.backbone: timm cannot make {name!r} with {options} ({err}); "
            "choose a name that timm.list_models() prints and options that it takes"
        ) from err
    backbone = Backbone(features)
    if backbone.strides != (4, 8, 16, 32):
        raise ConfigError(
            f"model.backbone: {name!r} has strides {backbone.strides}, not (4, 8, 16, 32); choose another backbone"
        )
    if stride_in == "1x1":
        _move_strides(backbone, name)
    return backbone


def _move_strides(backbone: Backbone, name: str) -> None:
    moved = 0
    for block in backbone.modules():
        first, second = getattr(block, "conv1", None), getattr(block, "conv2", None)
        bottleneck = hasattr(block, "conv3") and isinstance(first, nn.Conv2d) and isinstance(second, nn.Conv2d)
        if bottleneck and second.stride != (1, 1):
            first.stride, second.stride = second.stride, first.stride
            moved += 1
    if not moved:
        raise ConfigError(
            f"model.backbone.stride_in: {name!r} has no bottlenecks whose stride could move; leave the key out"
        )
