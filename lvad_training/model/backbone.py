"""The image backbone: any timm model with feature levels of strides 4, 8, 16 and 32."""

from typing import Any

import timm
from torch import Tensor, nn

from lvad_perception.errors import ConfigError

Normalisation = tuple[tuple[float, float, float], tuple[float, float, float]]
"""Mean and standard deviation of red, green and blue, for pixels of 0 to 1."""
IMAGENET: Normalisation = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Of the images that every backbone of this package gets."""


class Backbone(nn.Module):
    """A timm network that declares the channels and strides of its feature levels.

    Args:
        features: a timm model made with ``features_only=True``.

    Attributes:
        channels: channels of each level, finest first.
        strides: stride of each level in pixels, finest first.
        frozen: whether ``freeze`` was called.
        norms_frozen: whether ``freeze_norms`` was called.
    """

    def __init__(self, features: nn.Module) -> None:
        super().__init__()
        self.features = features
        self.channels: tuple[int, ...] = tuple(features.feature_info.channels())  # type: ignore[operator, union-attr]
        self.strides: tuple[int, ...] = tuple(features.feature_info.reduction())  # type: ignore[operator, union-attr]
        self.frozen = False
        self.norms_frozen = False

    def forward(self, images: Tensor) -> list[Tensor]:
        """Normalised images [B, 3, H, W] -> one [B, C, H / s, W / s] per level, finest first."""
        levels: list[Tensor] = self.features(images)
        return levels

    def freeze(self) -> None:
        """Keep the network as it is, bit for bit: no gradients, and evaluation mode despite ``train``.

        In evaluation mode BatchNorm does not update its statistics or count batches. Weight decay does not apply
        either: ``schedule.parameter_groups`` omits parameters without gradient.
        """
        self.frozen = True
        self.requires_grad_(False)
        self.eval()

    def freeze_norms(self) -> None:
        """Keep statistics, scales and shifts of every BatchNorm as they are, and train the rest."""
        self.norms_frozen = True
        for norm in self._batch_norms():
            norm.requires_grad_(False)
            norm.eval()

    def train(self, mode: bool = True) -> "Backbone":
        """As ``nn.Module.train``, also when called on the whole network; frozen parts stay in evaluation mode."""
        super().train(mode and not self.frozen)
        if self.norms_frozen:
            for norm in self._batch_norms():
                norm.eval()
        return self

    def _batch_norms(self) -> list[nn.Module]:
        return [module for module in self.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]


def timm_backbone(name: str, options: dict[str, Any], *, stride_in: str = "3x3") -> Backbone:
    """A timm backbone with random weights and levels of strides 4, 8, 16 and 32.

    Args:
        name: a timm model name, such as "resnet50".
        options: further keyword arguments of that model's constructor.
        stride_in: "3x3", or "1x1" to move the stride of a ResNet's bottlenecks into their first convolution.

    Raises:
        ConfigError: timm has no such model, it does not take these options, or it has other strides or no
            bottlenecks.
    """
    try:
        all_levels = timm.create_model(name, features_only=True, pretrained=False, **options)
        indices = [index for index, stride in enumerate(Backbone(all_levels).strides) if stride >= 4]
        features = timm.create_model(name, features_only=True, pretrained=False, out_indices=indices, **options)
    except (RuntimeError, TypeError, ValueError, AssertionError, IndexError) as err:
        raise ConfigError(
            f"model.backbone: timm cannot make {name!r} with {options} ({err}); "
            "choose a name of timm.list_models() and options that this model takes"
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
        if not (hasattr(block, "conv3") and isinstance(first, nn.Conv2d) and isinstance(second, nn.Conv2d)):
            continue
        if second.stride != (1, 1):
            first.stride, second.stride = second.stride, first.stride
            moved += 1
    if not moved:
        raise ConfigError(
            f"model.backbone.stride_in: {name!r} has no bottlenecks whose stride could move; leave the key out"
        )
