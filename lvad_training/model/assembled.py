"""Networks of different tasks behind one input, each with its own heads."""

from collections.abc import Sequence
from dataclasses import fields
from typing import Any, cast

from torch import Tensor, nn

from lvad_training.model.multitask import MultiTaskNet
from lvad_training.samples import Outputs


class AssembledNet(nn.Module):
    """Images -> Outputs, like ``MultiTaskNet``, with each task from the network that has its head.

    A backbone or neck that several networks hold, as the same module, runs once for all of them.

    Args:
        networks: of different tasks; those with the same neck have the same backbone and no adapter.
    """

    def __init__(self, networks: Sequence[MultiTaskNet]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)
        backbones, necks = [each.backbone for each in networks], [each.neck for each in networks]
        # Network -> the first one with its backbone or neck; tracing does not preserve the identity of modules.
        self._backbone_of = [backbones.index(each) for each in backbones]
        self._neck_of = [necks.index(each) for each in necks]

    def forward(self, images: Tensor) -> Outputs:
        """Run every network; ``images`` as for ``MultiTaskNet``."""
        levels: dict[int, list[Tensor]] = {}
        pyramids: dict[int, tuple[Sequence[Tensor], dict[str, Tensor]]] = {}
        found: dict[str, Any] = {}
        for network, backbone, neck in zip(self.networks, self._backbone_of, self._neck_of, strict=True):
            net = cast(MultiTaskNet, network)
            if backbone not in levels:
                levels[backbone] = net.run_backbone(images)
            if neck not in pyramids:
                pyramids[neck] = net.run_neck(levels[backbone])
            outputs = net.run_heads(*pyramids[neck])
            found |= {name: value for name in _NAMES if (value := getattr(outputs, name)) is not None}
        values: dict[str, Any] = dict.fromkeys(_NAMES) | found
        return Outputs(**values)


_NAMES = [each.name for each in fields(Outputs)]
