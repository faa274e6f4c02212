"""A frozen backbone stays as it is, bit for bit, while the rest of the network learns."""

import pytest
import torch
from timm.layers import convert_sync_batchnorm
from torch.optim import AdamW

from lvad_training.recipe.schema import TrainConfig
from lvad_training.training.schedule import parameter_groups


def train_a_little(net, criterion, batch, steps=3):
    """Optimiser steps as in training, every mode switch included."""
    optimizer = AdamW(parameter_groups(net, TrainConfig(learning_rate=1e-2, weight_decay=0.1)))
    for _ in range(steps):
        net.eval()
        net.train()
        losses = criterion(net(batch.images), batch)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()


def snapshot(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def changed(module, before):
    return {name for name, value in module.state_dict().items() if not torch.equal(value, before[name])}


def test_a_frozen_backbone_does_not_change_and_the_rest_does(net, criterion, batch):
    net.backbone.freeze()
    before = {name: snapshot(child) for name, child in net.named_children()}
    train_a_little(net, criterion, batch)
    assert changed(net.backbone, before["backbone"]) == set()
    assert all(parameter.grad is None for parameter in net.backbone.parameters())
    for name in ("neck", "detection", "semantic", "drivable"):
        assert changed(getattr(net, name), before[name]), name


def test_frozen_norms_keep_statistics_scales_and_shifts_and_the_convolutions_learn(net, criterion, batch):
    net.backbone.freeze_norms()
    before = snapshot(net.backbone)
    train_a_little(net, criterion, batch)
    names = changed(net.backbone, before)
    assert names == {name for name in before if before[name].ndim == 4}
    assert len(names) > 15  # convolutions
    assert net.neck.training


def test_frozen_norms_normalise_by_their_statistics(net, batch):
    """The definition of detectron2's ``FrozenBatchNorm2d``, in training mode too."""
    norm = net.backbone.features.bn1
    with torch.no_grad():
        for value in (norm.running_mean, norm.running_var, norm.weight, norm.bias):
            value.uniform_(0.5, 2)
    net.backbone.freeze_norms()
    net.train()
    x = torch.randn(2, norm.num_features, 5, 7)
    scale = (norm.weight * (norm.running_var + norm.eps).rsqrt())[None, :, None, None]
    shift = norm.bias[None, :, None, None] - norm.running_mean[None, :, None, None] * scale
    torch.testing.assert_close(norm(x), x * scale + shift)


def test_synchronised_norms_have_the_same_weights_and_outputs(net, batch):
    """Of one process; those of several need GPUs."""
    before, names = net(batch.images).detection.logits, list(net.state_dict())
    norms = sum(isinstance(module, torch.nn.BatchNorm2d) for module in net.modules())
    convert_sync_batchnorm(net)
    assert sum(isinstance(module, torch.nn.SyncBatchNorm) for module in net.modules()) == norms > 20
    assert list(net.state_dict()) == names
    torch.testing.assert_close(net(batch.images).detection.logits, before)


def test_without_freezing_weights_statistics_and_counters_change(net, criterion, batch):
    before = snapshot(net.backbone)
    train_a_little(net, criterion, batch)
    names = changed(net.backbone, before)
    for expected in ("conv1.weight", "bn1.weight", "bn1.running_mean", "bn1.running_var", "bn1.num_batches_tracked"):
        assert f"features.{expected}" in names


def test_training_mode_reaches_everything_but_a_frozen_backbone(net):
    net.backbone.freeze()
    assert net.train() is net
    assert net.backbone.train() is net.backbone
    assert net.training
    assert net.neck.training
    assert not any(module.training for module in net.backbone.modules())


@pytest.mark.parametrize("mode", [True, False])
def test_an_unfrozen_backbone_follows(net, mode):
    net.train(mode)
    assert {module.training for module in net.backbone.modules()} == {mode}


def test_no_parameter_group_holds_a_frozen_parameter(net):
    settings = TrainConfig(weight_decay=0.1)
    everything = sum(len(group["params"]) for group in parameter_groups(net, settings))
    frozen = {id(parameter) for parameter in net.backbone.parameters()}
    net.backbone.freeze()
    rest = [parameter for group in parameter_groups(net, settings) for parameter in group["params"]]
    assert len(rest) == everything - len(frozen)
    assert not frozen & {id(parameter) for parameter in rest}


def test_a_frozen_backbone_gives_the_same_in_both_modes(net, batch):
    net.backbone.freeze()
    images = batch.images.float() / 255
    levels = [net.train(mode).backbone(images) for mode in (True, False)]
    for training, evaluation in zip(*levels, strict=True):
        torch.testing.assert_close(training, evaluation, rtol=0, atol=0)
