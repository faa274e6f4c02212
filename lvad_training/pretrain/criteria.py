"""Losses of the pretraining methods: a network's output -> weighted loss terms.

lightly does not save its queues, which are buffers; ``queues`` and ``set_queues`` save and restore them.
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
        losses: name of the pair -> loss of two feature tensors [N, D].
        weights: name of the pair -> weight of its loss in the total.
    """

    def __init__(self, losses: Mapping[str, nn.Module], weights: Mapping[str, float]) -> None:
        super().__init__()
        self.losses = nn.ModuleDict(losses)
        self.weights = dict(weights)

    def forward(self, outputs: Pairs) -> dict[str, Tensor]:
        """Weighted loss terms by the pairs' names, scalars."""
        return {name: self.weights[name] * self.losses[name](*pair) for name, pair in outputs.of.items()}


class AssignmentLoss(nn.Module):
    """SwAV's loss with a queue of earlier features, so that a small batch can be spread over many prototypes.

    The queue holds the features of all processes and is the same in each; every process assigns its share of it.

    Args:
        loss: lightly's SwAV loss.
        prototypes: the network's prototypes, shared.
        queue: features per large view; 0 for no queue.
        width: channels of a feature.
        queue_from: number of steps after which features are queued; the queue is used once it is full.
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
        """Similarities of this process's share of the queue to the prototypes, per large view; then queues the batch.

        None as long as the queue is not used.
        """
        if not self.queue or self.seen < self.queue_from:
            return None
        full = bool(self.queued >= self.queue)
        similarities = []
        for bank, features in zip(self.banks, outputs.features, strict=True):
            _, earlier = bank(features, update=True)
            similarities.append(self.prototypes(earlier[self.process :: self.processes]).float())
        self.queued += len(outputs.features[0]) * self.processes
        return similarities if full else None


def queues(criterion: nn.Module) -> dict[str, Tensor]:
    """A criterion's buffers, its state from earlier steps, on the CPU; the same in all processes."""
    return {name: buffer.detach().cpu().clone() for name, buffer in criterion.named_buffers()}


def set_queues(criterion: nn.Module, values: Mapping[str, Tensor]) -> None:
    """Restore buffers that ``queues`` returned."""
    for name, buffer in criterion.named_buffers():
        buffer.copy_(values[name])
