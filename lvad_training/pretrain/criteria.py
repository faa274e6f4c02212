"""The methods' losses, of lightly: what a network gives -> weighted loss terms.

Queues are buffers that lightly does not save; whoever resumes a run has to (``queues`` and ``set_queues``).
"""

# lightly has no type marker.
# mypy: disable-error-code="import-untyped"

from collections.abc import Mapping

import torch
from lightly.loss import SwaVLoss
from lightly.models.modules.heads import SwaVPrototypes
from lightly.models.modules.memory_bank import MemoryBankModule
from torch import Tensor, nn

from lvad_training.pretrain.networks import Assignments, Pairs


class PairLoss(nn.Module):
    """One loss for each pair of features.

    Args:
        losses: name of the pair -> the loss, of two [N, D].
        weights: of the losses in the total.
    """

    def __init__(self, losses: Mapping[str, nn.Module], weights: Mapping[str, float]) -> None:
        super().__init__()
        self.losses = nn.ModuleDict(losses)
        self.weights = dict(weights)

    def forward(self, outputs: Pairs) -> dict[str, Tensor]:
        """Weighted loss terms by the pairs' names, scalars."""
        return {name: self.weights[name] * self.losses[name](*pair) for name, pair in outputs.of.items()}


class AssignmentLoss(nn.Module):
    """SwAV's loss with a queue of former features, so that a small batch can be spread over many prototypes.

    The queue has the features of all processes and is the same in each; every process assigns its share of it.

    Args:
        loss: of lightly.
        prototypes: the network's own.
        queue: features per large view; 0 for no queue.
        width: channels of a feature.
        queue_from: steps after which the queue is used, once it is full.
        process: rank of this process.
        processes: number of processes.
    """

    def __init__(
        self,
        *,
        loss: SwaVLoss,
        prototypes: SwaVPrototypes,
        queue: int,
        width: int,
        queue_from: int,
        process: int,
        processes: int,
    ) -> None:
        super().__init__()
        self.loss = loss
        self.prototypes = prototypes
        self.queue = queue - queue % processes
        self.queue_from = queue_from
        self.process = process
        self.processes = processes
        self.banks = nn.ModuleList(
            MemoryBankModule((self.queue, width), gather_distributed=processes > 1, feature_dim_first=False)
            for _ in range(2 if self.queue else 0)
        )
        self.register_buffer("seen", torch.zeros((), dtype=torch.long))  # steps done, features queued
        self.register_buffer("queued", torch.zeros((), dtype=torch.long))
        self.seen: Tensor
        self.queued: Tensor

    def forward(self, outputs: Assignments) -> dict[str, Tensor]:
        """The term "swapped", a scalar."""
        value = self.loss(outputs.large, outputs.small, self._queued(outputs))
        if torch.is_grad_enabled():
            self.seen += 1
        return {"swapped": value.squeeze()}

    @torch.no_grad()
    def _queued(self, outputs: Assignments) -> list[Tensor] | None:
        """Similarities of this process's share of the queue to the prototypes, per large view; then the batch joins."""
        if not self.queue or self.seen < self.queue_from:
            return None
        full = bool(self.queued >= self.queue)
        similar = []
        for bank, features in zip(self.banks, outputs.features, strict=True):
            _, former = bank(features, update=True)
            similar.append(self.prototypes(former[self.process :: self.processes]).float())
        self.queued += len(outputs.features[0]) * self.processes
        return similar if full else None


def queues(criterion: nn.Module) -> dict[str, Tensor]:
    """Everything that a criterion remembers of former steps; the same in all processes."""
    return {name: buffer.detach().cpu().clone() for name, buffer in criterion.named_buffers()}


def set_queues(criterion: nn.Module, values: Mapping[str, Tensor]) -> None:
    """Put back what ``queues`` gave."""
    for name, buffer in criterion.named_buffers():
        buffer.copy_(values[name])
