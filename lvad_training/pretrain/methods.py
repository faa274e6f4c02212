"""Builds network, criterion, optimiser and schedule from a pretraining recipe."""

# lightly has no type marker.
# mypy: disable-error-code="import-untyped"

from dataclasses import dataclass
from functools import partial

from lightly.loss import NegativeCosineSimilarity, NTXentLoss, SwaVLoss
from lightly.models.modules.heads import (
    BYOLPredictionHead,
    BYOLProjectionHead,
    DenseCLProjectionHead,
    MoCoProjectionHead,
    SimCLRProjectionHead,
    SwaVProjectionHead,
    SwaVPrototypes,
)
from lightly.models.utils import get_weight_decay_parameters
from lightly.utils.lars import LARS
from lightly.utils.scheduler import CosineWarmupScheduler, cosine_schedule
from torch import nn
from torch.optim import SGD, Optimizer

from lvad_perception.errors import ConfigError
from lvad_training.model.backbone import Backbone
from lvad_training.pretrain.criteria import AssignmentLoss, PairLoss
from lvad_training.pretrain.networks import Byol, DenseCl, MoCo, Momentum, Pretrained, SimClr, SwAv
from lvad_training.pretrain.recipe import PretrainRecipe


@dataclass(frozen=True, slots=True, eq=False)
class Method:
    """A built method.

    Attributes:
        network: views -> ``Pairs`` or ``Assignments``.
        criterion: ``Pairs`` or ``Assignments`` -> weighted loss terms.
    """

    network: Pretrained
    criterion: nn.Module


def build_method(recipe: PretrainRecipe, backbone: Backbone, *, images: int, process: int, processes: int) -> Method:
    """The recipe's method with heads of random weights, drawn from torch's global generator.

    Args:
        recipe: with the method and its settings.
        backbone: to pretrain.
        images: number of training images, for the default length of the queue.
        process: rank of this process.
        processes: number of processes; losses take the features of all of them as negatives.

    Raises:
        ConfigError: the queue is shorter than the number of images of a step.
    """
    head, defaults = recipe.head, recipe.defaults
    channels = backbone.channels[-1]
    hidden = head.hidden or round(defaults.hidden * channels)
    width = head.width or defaults.width
    together = processes > 1
    if recipe.method == "swav":
        prototypes = SwaVPrototypes(width, head.prototypes)
        swav = SwAv(
            backbone=backbone,
            projection=SwaVProjectionHead(channels, hidden, width),
            prototypes=prototypes,
            frozen_steps=round(head.frozen_prototypes * recipe.train.steps),
        )
        assigned = AssignmentLoss(
            loss=SwaVLoss(_temperature(recipe), sinkhorn_gather_distributed=together),
            prototypes=prototypes,
            queue=_queue(recipe, images, processes),
            width=width,
            queue_from=round(head.queue_from * recipe.train.steps),
            process=process,
            processes=processes,
        )
        return Method(swav, assigned)
    if recipe.method == "simclr":
        simclr = SimClr(backbone=backbone, projection=SimCLRProjectionHead(channels, hidden, width))
        loss = NTXentLoss(_temperature(recipe), gather_distributed=together)
        return Method(simclr, PairLoss({"contrast": loss}, {"contrast": 1.0}))
    momentum = _momentum(recipe)
    if recipe.method == "byol":
        byol = Byol(
            backbone=backbone,
            heads={"projection": BYOLProjectionHead(channels, hidden, width)},
            prediction=BYOLPredictionHead(width, hidden, width),
            momentum=momentum,
            together=together,
        )
        distances = {name: NegativeCosineSimilarity() for name in ("first", "second")}
        return Method(byol, PairLoss(distances, dict.fromkeys(distances, 2.0)))  # |x - y|² is 2 - 2 cos
    size = (_queue(recipe, images, processes), width)
    contrast = partial(NTXentLoss, _temperature(recipe), memory_bank_size=size, gather_distributed=together)
    if recipe.method == "moco_v2":
        heads: dict[str, nn.Module] = {"projection": MoCoProjectionHead(channels, hidden, width)}
        moco = MoCo(backbone=backbone, heads=heads, momentum=momentum, together=together)
        return Method(moco, PairLoss({"contrast": contrast()}, {"contrast": 1.0}))
    heads = {name: DenseCLProjectionHead(channels, hidden, width) for name in ("projection", "dense")}
    dense = DenseCl(backbone=backbone, heads=heads, momentum=momentum, together=together)
    weights = {"contrast": 1 - head.dense_share, "dense": head.dense_share}
    return Method(dense, PairLoss({name: contrast() for name in weights}, weights))


def build_optimizer(recipe: PretrainRecipe, network: nn.Module, *, processes: int) -> Optimizer:
    """The recipe's optimiser; a method's default learning rate is scaled to the number of images of a step."""
    train, defaults = recipe.train, recipe.defaults
    decaying, others = (
        [parameter for parameter in group if parameter.requires_grad]
        for group in get_weight_decay_parameters([network])
    )
    decay = defaults.weight_decay if train.weight_decay is None else train.weight_decay
    scaled = defaults.learning_rate * train.batch_size * processes / 256
    kind = SGD if (train.optimizer or defaults.optimizer) == "sgd" else LARS
    return kind(
        [{"params": decaying, "weight_decay": decay}, {"params": others, "weight_decay": 0.0}],
        lr=train.learning_rate or scaled,
        momentum=0.9,
    )


def build_scheduler(recipe: PretrainRecipe, optimizer: Optimizer) -> CosineWarmupScheduler:
    """Linear warm-up, then a cosine to a thousandth of the learning rate."""
    train = recipe.train
    warmup = min(500, train.steps // 10) if train.warmup_steps is None else train.warmup_steps
    return CosineWarmupScheduler(optimizer, warmup_epochs=warmup, max_epochs=train.steps)


def _momentum(recipe: PretrainRecipe) -> Momentum:
    first, last = recipe.head.momentum or recipe.defaults.momentum or (1.0, 1.0)
    return lambda step: cosine_schedule(step, recipe.train.steps, first, last)


def _temperature(recipe: PretrainRecipe) -> float:
    return recipe.head.temperature or recipe.defaults.temperature or 0.1


def _queue(recipe: PretrainRecipe, images: int, processes: int) -> int:
    step = recipe.train.batch_size * processes
    if recipe.head.queue is None:
        return max(step, min(recipe.defaults.queue or 0, images // 2 // step * step))
    if 0 < recipe.head.queue < step:
        raise ConfigError(
            f"head.queue {recipe.head.queue} is shorter than the {step} images of a step; make it a multiple of that"
        )
    return recipe.head.queue
