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


def timm_backbone(name: str, options: dict[str, Any]) -> Backbone:
    """A timm backbone with random weights, levels of strides 4, 8, 16 and 32.

    Args:
        name: a timm model name, such as "resnet50".
        options: further keyword arguments of that model's constructor.

    Raises:
        ConfigError: timm has no such model, it takes no such options, or it has not these strides.
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
    return backbone
