"""Networks of the pretraining methods: the project's backbone with lightly's heads and prototypes.

``forward`` maps the views of a batch to the features that the method's loss compares. Momentum encoders are updated in
training mode only.
"""

# lightly has no type marker.
# mypy: disable-error-code="import-untyped"

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from lightly.models.modules.heads import ProjectionHead, SwaVPrototypes
from lightly.models.utils import (
    batch_shuffle,
    batch_unshuffle,
    deactivate_requires_grad,
    select_most_similar,
    update_momentum,
)
from torch import Tensor, nn

from lvad_training.model.backbone import Backbone

Momentum = Callable[[int], float]
"""Steps done before -> momentum: share of the momentum encoder's weights that is kept."""


@dataclass(frozen=True, slots=True, eq=False)
class Pairs:
    """Pairs of features that the loss pulls together.

    Attributes:
        of: name of the loss term -> ([N, D], [N, D]), float32; the second has no gradient where there is a momentum
            encoder.
    """

    of: dict[str, tuple[Tensor, Tensor]]


@dataclass(frozen=True, slots=True, eq=False)
class Assignments:
    """SwAV's features of the large views, and the similarity of every view's features to the prototypes.

    Attributes:
        features: [B, D] per large view, of length 1, without gradient.
        large: [B, K] per large view, float32.
        small: [B, K] per small view, float32.
    """

    features: list[Tensor]
    large: list[Tensor]
    small: list[Tensor]


class Pretrained(nn.Module):
    """Base class of the methods' networks.

    Attributes:
        backbone: to be pretrained; the only part that the result keeps.
        steps: training steps done; to be set when a run is resumed.
    """

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone
        self.steps = 0

    def last_level(self, images: Tensor) -> Tensor:
        """Normalised images [B, 3, h, w] -> the backbone's coarsest level [B, C, h / 32, w / 32]."""
        return self.backbone(images)[-1]  # type: ignore[no-any-return]  # nn.Module's call is untyped


class SimClr(Pretrained):
    """SimCLR: every view's projection against those of all other images (arXiv 2002.05709)."""

    def __init__(self, *, backbone: Backbone, projection: ProjectionHead) -> None:
        super().__init__(backbone)
        self.projection = projection

    def forward(self, views: list[Tensor]) -> Pairs:
        """Two views -> one pair of projections."""
        features = pooled(self.last_level(torch.cat(views[:2])))
        one, other = self.projection(features).float().chunk(2)
        return Pairs({"contrast": (one, other)})


class EmaNetwork(Pretrained):
    """A network with a momentum encoder: an exponential moving average of its backbone and heads.

    Args:
        backbone: online backbone.
        heads: online heads, by name.
        momentum: of the average, by step.
        together: whether several processes train, whose batches are then shuffled among them.
    """

    def __init__(self, *, backbone: Backbone, heads: dict[str, nn.Module], momentum: Momentum, together: bool) -> None:
        super().__init__(backbone)
        self.heads = nn.ModuleDict(heads)
        self.slow_backbone = copy.deepcopy(backbone)
        self.slow_heads = copy.deepcopy(self.heads)
        deactivate_requires_grad(self.slow_backbone)
        deactivate_requires_grad(self.slow_heads)
        self.momentum = momentum
        self.together = together

    def update_average(self) -> None:
        """Update the momentum encoder; in training mode, once a step."""
        if self.training:
            share = self.momentum(self.steps)
            update_momentum(self.backbone, self.slow_backbone, m=share)
            update_momentum(self.heads, self.slow_heads, m=share)
            self.steps += 1

    @torch.no_grad()
    def slow_level(self, images: Tensor) -> Tensor:
        """``last_level`` of the momentum encoder, on a shuffled batch: BatchNorm would leak the positives otherwise."""
        shuffled, order = batch_shuffle(images, distributed=self.together)
        level = self.slow_backbone(shuffled)[-1].contiguous()
        return batch_unshuffle(level, order, distributed=self.together)  # type: ignore[no-any-return]


class MoCo(EmaNetwork):
    """MoCo v2: a view's projection against the momentum encoder's of another and a queue (arXiv 2003.04297)."""

    def forward(self, views: list[Tensor]) -> Pairs:
        """Two views -> one pair of query and key."""
        query = self.heads["projection"](pooled(self.last_level(views[0]))).float()
        with torch.no_grad():
            self.update_average()
            key = self.slow_heads["projection"](pooled(self.slow_level(views[1]))).float()
        return Pairs({"contrast": (query, key)})


class DenseCl(EmaNetwork):
    """DenseCL: MoCo for the image, and for each position with the most similar position (arXiv 2011.09157)."""

    def forward(self, views: list[Tensor]) -> Pairs:
        """Two views -> a pair for the images, and one for the positions with B * h * w rows."""
        level = self.last_level(views[0])
        query = self.heads["projection"](pooled(level)).float()
        dense_query = self.heads["dense"](positions(level)).float()  # (B, P, D)
        with torch.no_grad():
            self.update_average()
            slow = self.slow_level(views[1])
            key = self.slow_heads["projection"](pooled(slow)).float()
            dense_key = self.slow_heads["dense"](positions(slow)).float()
            dense_key = select_most_similar(positions(level).float(), positions(slow).float(), dense_key)
        return Pairs({"contrast": (query, key), "dense": (dense_query.flatten(0, 1), dense_key.flatten(0, 1))})


class Byol(EmaNetwork):
    """BYOL: each view predicts the momentum encoder's projection of the other (arXiv 2006.07733)."""

    def __init__(
        self,
        *,
        backbone: Backbone,
        heads: dict[str, nn.Module],
        prediction: ProjectionHead,
        momentum: Momentum,
        together: bool,
    ) -> None:
        super().__init__(backbone=backbone, heads=heads, momentum=momentum, together=together)
        self.prediction = prediction

    def forward(self, views: list[Tensor]) -> Pairs:
        """Two views -> two pairs of prediction and target."""
        one, other = (
            self.prediction(self.heads["projection"](pooled(self.last_level(view)))).float() for view in views[:2]
        )
        with torch.no_grad():
            self.update_average()
            of_one, of_other = (
                self.slow_heads["projection"](pooled(self.slow_backbone(view)[-1])).float() for view in views[:2]
            )
        return Pairs({"first": (one, of_other), "second": (other, of_one)})


class SwAv(Pretrained):
    """SwAV: a view predicts the cluster that another view of the image is assigned to (arXiv 2006.09882).

    Args:
        backbone: to be pretrained.
        projection: features -> space of the prototypes.
        prototypes: centres of the clusters.
        frozen_steps: number of first steps in which the prototypes keep their random weights.
    """

    def __init__(
        self, *, backbone: Backbone, projection: ProjectionHead, prototypes: SwaVPrototypes, frozen_steps: int
    ) -> None:
        super().__init__(backbone)
        self.projection = projection
        self.prototypes = prototypes
        # Not frozen by requires_grad, as in lightly: processes have to agree on which parameters have gradients.
        for parameter in prototypes.parameters():
            parameter.register_hook(lambda gradient: gradient * (self.steps > frozen_steps))

    def forward(self, views: list[Tensor]) -> Assignments:
        """Two large views and any number of small ones -> their similarities to the prototypes."""
        if self.training:
            self.prototypes.normalize()
            self.steps += 1
        features = [self._project(pooled(self.last_level(view))) for view in views]
        similarities = [self.prototypes(each).float() for each in features]
        return Assignments([each.detach().float() for each in features[:2]], similarities[:2], similarities[2:])

    def _project(self, features: Tensor) -> Tensor:
        return nn.functional.normalize(self.projection(features), dim=1)


def pooled(level: Tensor) -> Tensor:
    """[B, C, h, w] -> its mean over positions, [B, C]."""
    return level.mean(dim=(2, 3))


def positions(level: Tensor) -> Tensor:
    """[B, C, h, w] -> [B, h * w, C]."""
    return level.flatten(2).transpose(1, 2)
