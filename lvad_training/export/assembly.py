"""Checkpoints of different tasks -> one network, in which equal backbones and necks are shared."""

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from lvad_perception.errors import ConfigError, VocabularyMismatchError
from lvad_perception.types import Size
from lvad_perception.vocabulary import TASKS
from lvad_training.build import network_of
from lvad_training.checkpoints import Checkpoint
from lvad_training.model.assembled import AssembledNet
from lvad_training.model.layouts import COUNTER
from lvad_training.model.multitask import MultiTaskNet
from lvad_training.recipe.schema import ModelConfig


def ordered(checkpoints: Mapping[str, Checkpoint]) -> dict[str, Checkpoint]:
    """The checkpoints in the order of their first tasks, so that a model file does not depend on the order given."""
    tasks = list(TASKS)
    return dict(sorted(checkpoints.items(), key=lambda item: tasks.index(item[1].recipe.model.tasks[0])))


def common_size(checkpoints: Mapping[str, Checkpoint], network_hw: Size | None) -> Size:
    """The network size of a model file.

    Args:
        checkpoints: name for messages -> checkpoint, at least one.
        network_hw: the size asked for, or None for the checkpoints' own.

    Raises:
        ConfigError: two checkpoints have a task in common, or other network sizes and none is asked for.
        VocabularyMismatchError: the checkpoints have the classes of other data sets.
    """
    (first, model), *others = [(name, checkpoint.recipe.model) for name, checkpoint in checkpoints.items()]
    having = dict.fromkeys(model.tasks, first)
    for name, other in others:
        if task := next((task for task in other.tasks if task in having), None):
            raise ConfigError(f"{having[task]} and {name} both have the task {task}; give one checkpoint for each task")
        having |= dict.fromkeys(other.tasks, name)
        if other.vocabulary != model.vocabulary:
            raise VocabularyMismatchError(
                f"{first} has the classes of {model.vocabulary} and {name} those of {other.vocabulary}; give "
                "checkpoints that learned the classes of one data set"
            )
        if network_hw is None and other.network_hw != model.network_hw:
            raise ConfigError(
                f"{first} has the network size {_wh(model.network_hw)} and {name} {_wh(other.network_hw)}; name one "
                f"for all with --size, such as --size {_wh(model.network_hw)}"
            )
    return network_hw or model.network_hw


def network_from(checkpoints: Mapping[str, Checkpoint]) -> nn.Module:
    """Images -> Outputs of all tasks: the network of one checkpoint, or the assembled ones of several.

    Backbones with the same architecture and weights are one module, and so are such necks behind them.

    Args:
        checkpoints: name for messages -> checkpoint, of different tasks.

    Raises:
        CheckpointError: weights do not fit their recipe.
    """
    networks = [network_of(checkpoint, source=name) for name, checkpoint in checkpoints.items()]
    if len(networks) == 1:
        return networks[0]
    _share(networks, [checkpoint.recipe.model for checkpoint in checkpoints.values()])
    return AssembledNet(networks)


def _share(networks: Sequence[MultiTaskNet], models: Sequence[ModelConfig]) -> None:
    """Replace backbones and necks that equal those of an earlier network by that network's modules."""
    for index, (network, model) in enumerate(zip(networks, models, strict=True)):
        for other, others_model in zip(networks[:index], models[:index], strict=True):
            if _backbone(model) != _backbone(others_model) or not _equal(network.backbone, other.backbone):
                continue
            network.backbone = other.backbone
            if _neck(model) == _neck(others_model) and _equal(network.neck, other.neck):
                network.neck = other.neck


def _backbone(model: ModelConfig) -> tuple[object, ...]:
    return model.backbone.name, model.backbone.options, model.backbone.stride_in


def _neck(model: ModelConfig) -> tuple[object, ...]:
    """The architecture of the neck; with language its pyramid is the network's own."""
    own = model.tasks if model.language is not None else None
    return model.neck_width, model.neck_norm, model.neck_from, own


def _equal(module: nn.Module, other: nn.Module) -> bool:
    """Whether all tensors of two modules are equal, BatchNorm's counters aside."""
    ours, theirs = module.state_dict(), other.state_dict()
    counted = [name for name in ours.keys() | theirs.keys() if not name.endswith(COUNTER)]
    return all(name in ours and name in theirs and torch.equal(ours[name], theirs[name]) for name in counted)


def _wh(size_hw: Size) -> str:
    return f"{size_hw[1]}x{size_hw[0]}"
