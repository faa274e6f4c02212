"""Networks and losses of the pretraining methods: gradients, momentum encoders and queues."""

import os
import pickle

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("lightly")

from lvad_training.model.backbone import timm_backbone
from lvad_training.pretrain.criteria import queues, set_queues
from lvad_training.pretrain.frames import Frame
from lvad_training.pretrain.methods import build_method, build_optimizer, build_scheduler
from lvad_training.pretrain.neighbours import find_nearest, spread_of
from lvad_training.pretrain.networks import EmaNetwork
from lvad_training.pretrain.recipe import DEFAULTS, NeighboursConfig, parse_pretrain_recipe
from lvad_training.pretrain.views import ViewSet, collate_views, make_transform


def make_recipe(method, **sections):
    content = {
        "method": method,
        "data": {"root": "unused"},
        "backbone": {"name": "resnet18", "options": {"channels": [8, 8, 16, 16], "stem_width": 8}},
        "views": {"size_px": 32, "small_px": 32, "small_count": 2},
        "head": {"hidden": 16, "width": 8, "prototypes": 6},
        "train": {"steps": 10, "batch_size": 4, "warmup_steps": 2},
    }
    for section, changes in sections.items():
        content[section] = {**content[section], **changes}
    return parse_pretrain_recipe(content, source="test")


def make_method(recipe, images=64):
    torch.manual_seed(0)
    backbone = timm_backbone(recipe.backbone.name, recipe.backbone.options)
    return build_method(recipe, backbone, images=images, process=0, processes=1)


def some_views(count=2, batch=4):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(batch, 3, 32, 32, generator=generator) for _ in range(count)]


@pytest.mark.parametrize("method", DEFAULTS)
def test_everything_that_learns_has_a_gradient_in_every_step(method):
    """Processes that train together wait for each other's gradients of every parameter that asks for one."""
    built = make_method(make_recipe(method, head={"frozen_prototypes": 0.5} if method == "swav" else {}))
    for _ in range(2):
        sum(built.criterion(built.network(some_views(4 if method == "swav" else 2))).values()).backward()
        missing = [name for name, p in built.network.named_parameters() if p.requires_grad and p.grad is None]
        assert missing == []
        built.network.zero_grad()


@pytest.mark.parametrize("method", ["moco_v2", "byol", "densecl"])
def test_the_momentum_encoder_follows_and_has_no_gradient(method):
    built = make_method(make_recipe(method, head={"momentum": [0.75, 0.75]}))
    network = built.network
    assert isinstance(network, EmaNetwork)
    fast, slow = network.backbone.features.conv1.weight, network.slow_backbone.features.conv1.weight
    assert torch.equal(fast, slow)
    with torch.no_grad():
        fast.add_(1)
    before = slow.clone()
    network.eval()
    network(some_views())
    assert torch.equal(slow, before)
    network.train()
    outputs = network(some_views())
    torch.testing.assert_close(slow, before + 0.25)
    assert network.steps == 1
    assert not slow.requires_grad
    assert all(query.requires_grad and not key.requires_grad for query, key in outputs.of.values())


def test_momentum_goes_to_one_by_a_cosine():
    network = make_method(make_recipe("byol")).network
    shares = [network.momentum(step) for step in range(10)]
    assert shares == sorted(shares)
    assert (shares[0], shares[-1]) == pytest.approx((0.99, 1.0))
    assert shares[4] + shares[5] == pytest.approx(1.99, abs=1e-3)


def test_the_queue_has_the_last_keys_and_can_be_restored():
    recipe = make_recipe("moco_v2", head={"queue": 8})
    first, second = make_method(recipe), make_method(recipe)
    outputs = first.network(some_views())
    first.criterion(outputs)
    key = torch.nn.functional.normalize(outputs.of["contrast"][1], dim=1)
    kept = queues(first.criterion)
    torch.testing.assert_close(kept["losses.contrast.memory_bank.bank"][:4], key)
    set_queues(second.criterion, kept)
    assert all(torch.equal(value, kept[name]) for name, value in queues(second.criterion).items())


@pytest.mark.parametrize(("images", "expected"), [(7, 4), (64, 32), (1000, 500), (10**6, 65536)])
def test_a_queue_is_at_most_half_the_images(images, expected):
    criterion = make_method(make_recipe("moco_v2"), images=images).criterion
    assert criterion.losses["contrast"].memory_bank.size == (expected, 8)


def test_densecl_compares_each_position_with_its_most_similar_one():
    built = make_method(make_recipe("densecl", head={"dense_share": 1.0}))
    views = [torch.randn(4, 3, 64, 64)] * 2
    outputs = built.network.eval()(views)
    query, key = outputs.of["dense"]
    assert query.shape == key.shape == (4 * 2 * 2, 8)
    terms = {name: value.item() for name, value in built.criterion(outputs).items()}
    assert terms["contrast"] == 0
    assert terms["dense"] > 0


def test_swavs_prototypes_are_frozen_at_first_and_have_unit_length():
    built = make_method(make_recipe("swav", head={"frozen_prototypes": 0.2}))
    centres = built.network.prototypes.heads[0].weight
    moved = []
    for _ in range(4):
        built.network.zero_grad()
        sum(built.criterion(built.network(some_views(4))).values()).backward()
        moved.append(bool(centres.grad.abs().max() > 0))
        torch.testing.assert_close(centres.detach().norm(dim=1), torch.ones(6))
    assert moved == [False, False, True, True]


def test_swavs_queue_is_used_once_it_is_due_and_full():
    built = make_method(make_recipe("swav", head={"queue": 8, "queue_from": 0.2}))
    given = []
    built.criterion.loss.register_forward_pre_hook(lambda module, inputs: given.append(inputs[2]))
    for _ in range(6):
        built.criterion(built.network(some_views(4)))
    # steps 0 and 1 come before it is due, 2 and 3 fill it
    assert [None if each is None else [len(one) for one in each] for each in given] == [None] * 4 + [[8, 8]] * 2


def test_optimisers_and_their_schedule():
    recipe = make_recipe("simclr")
    network = make_method(recipe).network
    optimizer = build_optimizer(recipe, network, processes=2)
    assert type(optimizer).__name__ == "LARS"
    scheduler = build_scheduler(recipe, optimizer)
    rates = []
    for _ in range(10):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates[:2] == pytest.approx([0.5 * 0.3 * 8 / 256, 0.3 * 8 / 256])  # 8 images a step; two warm-up steps
    assert rates[1:] == sorted(rates[1:], reverse=True)
    assert rates[-1] == pytest.approx(1e-3 * rates[1])
    decaying, others = optimizer.param_groups
    assert (decaying["weight_decay"], others["weight_decay"]) == (1e-6, 0.0)
    assert all(parameter.ndim > 1 for parameter in decaying["params"])
    assert all(parameter.ndim == 1 for parameter in others["params"])
    momentum = build_optimizer(make_recipe("byol"), make_method(make_recipe("byol")).network, processes=1)
    assert all(p.requires_grad for group in momentum.param_groups for p in group["params"])


@pytest.mark.parametrize("method", DEFAULTS)
def test_views_reach_other_processes_small(method, tmp_path):
    frames = [Frame(f"sky-é-{i}", tmp_path / f"sky-é-{i}.png", ".") for i in range(1000)]
    Image.fromarray(np.zeros((40, 64, 3), np.uint8)).save(frames[7].path)
    views = ViewSet(frames, make_transform(method, make_recipe(method).views), seed=3)
    data = pickle.dumps(views)
    assert len(data) < 10_000 + 1000 * (len(frames[-1].name.encode()) + len(os.fsencode(frames[-1].path)))
    (name, here), (_, there) = views[0, 7, None], pickle.loads(data)[0, 7, None]
    assert name == "sky-é-7"
    assert all(torch.equal(one, other) for one, other in zip(here, there, strict=True))


@pytest.mark.parametrize("method", DEFAULTS)
def test_views_depend_on_seed_epoch_and_frame_alone(method, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 64, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    frames = [Frame("a", tmp_path / "a.png", ".")] * 2
    views = ViewSet(frames, make_transform(method, make_recipe(method).views), seed=3)
    _, first = views[0, 0, None]
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002  # what lightly draws from
    states = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    again, later, other = (views[key][1] for key in ((0, 0, None), (1, 0, None), (0, 1, None)))
    assert torch.equal(states[0], torch.get_rng_state())
    assert np.array_equal(states[1], np.random.get_state()[1])  # noqa: NPY002
    assert all(torch.equal(one, two) for one, two in zip(first, again, strict=True))
    assert not any(torch.equal(one, two) for one, two in zip(first, later, strict=True))
    assert not any(torch.equal(one, two) for one, two in zip(first, other, strict=True))
    assert not torch.equal(first[0], first[1])
    batch = collate_views([views[0, 0, None], views[0, 1, None]])
    assert batch.names == ["a", "a"]
    assert [tuple(view.shape) for view in batch.images] == [(2, 3, 32, 32)] * (4 if method == "swav" else 2)


def test_nearest_frames_are_the_most_similar_ones_of_other_scenes():
    frames = [Frame(f"{index}", None, "a" if index < 4 else "b") for index in range(6)]
    angles = torch.tensor([0.0, 0.1, 0.2, 0.9, 0.3, 1.5])
    features = torch.stack([angles.cos(), angles.sin()], 1)
    config = NeighboursConfig(queries=2, shown=3, apart=3)
    nearest = find_nearest(features, frames, range(6), config)
    assert nearest.queries == (0, 5)
    assert [[place for place, _ in found] for found in nearest.found] == [[4, 3, 5], [3, 2, 1]]  # 1, 2 beside 0; 4 by 5
    assert nearest.found[0][0][1] == pytest.approx(np.cos(0.3))
    assert [len(found) for found in find_nearest(features[:2], frames[:2], [0, 1], config).found] == [0, 0]


def test_the_spread_tells_a_collapse():
    assert spread_of(torch.tensor([[0.6, 0.8]]).repeat(9, 1)) == pytest.approx(0)
    assert spread_of(torch.nn.functional.normalize(torch.randn(4000, 64), dim=1)) == pytest.approx(1, abs=0.02)
