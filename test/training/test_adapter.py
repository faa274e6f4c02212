import pytest
import torch
from msgspec.structs import replace

from lvad_perception.errors import ConfigError
from lvad_training.build import build_criterion, build_model
from lvad_training.model.adapter import ScoreMap, TransDecoder
from lvad_training.samples import Batch
from lvad_training.training.schedule import parameter_groups

from .conftest import StubEncoder, make_targets, small_recipe

SMALL = {"context": 4, "layers": 2, "width": 16, "heads": 2}
EVERYTHING = {"l2v": True, "v2l": True, "score_map": True}
VARIANTS = [
    {"l2v": True},
    {"l2v": True, "v2l": True},
    {"l2v": False, "score_map": True},
    {**EVERYTHING, "per_task": True},
    {**EVERYTHING, "prompts": "engineering"},
]


def language_recipe(tasks=("detection", "semantic", "drivable"), train=None, **language):
    plain = small_recipe()
    heads = {task: None for task in ("detection", "semantic", "drivable") if task not in tasks}
    model = {
        "network_hw": [64, 96],
        "backbone": {"name": "resnet18", "options": {"channels": [8, 8, 16, 16], "stem_width": 8}},
        "neck_width": 16,
        "detection": {"width": 16, "heads": 2, "feedforward": 16, "proposals": 20, "refinements": 2, "dynamic_width": 4,
                      "pool_size": 3},
        "semantic": _masks(plain.model.semantic),
        "drivable": _masks(plain.model.drivable),
        "language": {**SMALL, **language},
        **heads,
    }  # fmt: skip
    return small_recipe(model=model, train=train or {})


def _masks(head):
    keys = ("width", "heads", "feedforward", "queries", "layers", "mask_width")
    return {key: getattr(head, key) for key in keys}


def language_net(encoder=None, **changes):
    torch.manual_seed(2)
    return build_model(language_recipe(**changes).model, encoder=encoder or StubEncoder())


def leaves(outputs):
    detection, semantic, drivable = outputs.detection, outputs.semantic, outputs.drivable
    found = [detection.logits, detection.boxes_xyxy] if detection is not None else []
    for masks in (semantic, drivable):
        found += [masks.logits, masks.masks] if masks is not None else []
    return found


@pytest.mark.parametrize("language", VARIANTS)
def test_with_gammas_of_zero_the_network_is_the_plain_one_exactly(language, batch):
    net = language_net(gamma=0.0, **language).eval()
    recipe = language_recipe()
    plain = build_model(small_recipe(model={**_plain(recipe), "language": None}).model).eval()
    own = net.state_dict()
    plain.load_state_dict({name: own[name] for name in plain.state_dict()})
    for found, wanted in zip(leaves(net(batch.images)), leaves(plain(batch.images)), strict=True):
        assert torch.equal(found, wanted)


def _plain(recipe):
    from lvad_training.recipe.config import recipe_to_dict

    return recipe_to_dict(recipe)["model"]


@pytest.mark.parametrize("language", VARIANTS)
def test_language_reaches_every_level_and_everything_learns(language, batch):
    """Every parameter has a gradient, as processes that train together need, and the finest level sees the text."""
    torch.manual_seed(2)
    encoder = StubEncoder()
    net = language_net(encoder, gamma=0.1, dropout=0.0, **language).train()
    if net.adapter.score_map is not None:
        torch.nn.init.normal_(net.adapter.score_map.out.weight)
    encoder.calls.clear()
    outputs = net(batch.images)
    if net.prompts.contexts:
        assert [len(texts) for _, texts in encoder.calls] == [10, 19, 3]  # once for all images
    sum(leaf.square().mean() for leaf in [*leaves(outputs), outputs.semantic_pixels] if leaf is not None).backward()
    language_parameters = [(n, p) for n, p in net.named_parameters() if n.startswith(("prompts.", "adapter."))]
    assert [name for name, parameter in language_parameters if parameter.grad is None] == []
    assert all(parameter.grad.abs().sum() > 0 for name, parameter in language_parameters if "contexts" in name)
    assert all(parameter.grad is None for parameter in encoder.parameters())
    with torch.no_grad():
        laterals = net.neck.laterals(net.backbone((batch.images.float() - net.mean) / net.std))
        text = net.prompts()
        updated = net.adapter(laterals[-1], text)
        finest = [net.neck.merge([*laterals[:-1], top])[0] for top in (laterals[-1], updated)]
        other = net.adapter(
            laterals[-1], text.roll(1, dims=0) if net.adapter.score_map is not None else text.roll(1, 1)
        )
    assert updated.shape == laterals[-1].shape
    assert not torch.equal(finest[0], finest[1])
    assert not torch.allclose(updated, other)


@pytest.mark.parametrize("task", ["detection", "semantic", "drivable"])
def test_one_task_alone_has_language(task, batch):
    for per_task in (False, True):
        net = language_net(tasks=(task,), per_task=per_task, gamma=0.1, **EVERYTHING).eval()
        assert list(net.prompts.slices) == [task]
        assert len(leaves(net(batch.images))) == 2


def test_per_task_decoders_see_their_own_classes_alone():
    net = language_net(per_task=True, gamma=0.5).eval()
    l2v = net.adapter.l2v
    assert list(l2v.decoders) == ["detection", "semantic", "drivable"]
    tokens, text = torch.randn(1, 6, 16), net.prompts()[None]
    parts = [decoder(tokens, text[:, net.prompts.slices[task]]) for task, decoder in l2v.decoders.items()]
    torch.testing.assert_close(l2v(tokens, text), tokens + 0.5 * sum(parts))


def test_text_that_images_updated_is_their_own(batch):
    net = language_net(v2l=True, gamma=0.5).eval()
    tokens = torch.randn(2, 6, 16)
    own = net.adapter.v2l(net.prompts()[None], tokens)
    assert own.shape == (2, 32, 12)
    assert not torch.allclose(own[0], own[1])
    torch.testing.assert_close(net.adapter.v2l(net.prompts()[None], tokens[1:])[0], own[1], atol=1e-5, rtol=1e-4)


def test_a_score_map_is_the_cosine_of_position_and_class():
    scores = ScoreMap(width=4, text_width=4, classes=2)
    with torch.no_grad():
        scores.align.weight.copy_(torch.eye(4))
        scores.align.bias.zero_()
        scores.out.weight.copy_(torch.eye(4)[:, :2])
    tokens = torch.tensor([[[3.0, 0, 0, 0], [0, 5, 0, 0], [0, 0, 2, 0], [1, 1, 0, 0]]])
    found = scores(tokens, torch.eye(4)[None, :2])
    wanted = torch.tensor([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0], [0.5**0.5, 0.5**0.5, 0, 0]])
    torch.testing.assert_close(found[0], wanted)


def test_the_auxiliary_loss_of_the_score_map_is_denseclips(batch):
    """Its IdentityHead: the cross-entropy of the score map divided by tau, here for each task with masks."""
    recipe = language_recipe(score_map=True, temperature=0.1)
    recipe = replace(recipe, loss=replace(recipe.loss, score_map=0.4))
    torch.manual_seed(2)
    net = build_model(recipe.model, encoder=StubEncoder()).train()
    outputs = net(batch.images)
    assert {task: tuple(maps.shape) for task, maps in outputs.score_maps.items()} == {
        "detection": (2, 10, 2, 3),
        "semantic": (2, 19, 2, 3),
        "drivable": (2, 3, 2, 3),
    }
    assert all(maps.abs().max() <= 1.0001 for maps in outputs.score_maps.values())
    targets = make_targets()
    targets.drivable[:] = torch.tensor([[0, 1, 2]]).repeat_interleave(64, 0).repeat_interleave(32, 1)
    batch = Batch(["one"], batch.images[:1], [targets])
    outputs = net(batch.images)
    terms = build_criterion(recipe.model, recipe.loss)(outputs, batch)
    labels = torch.tensor([[[0, 1, 2], [0, 1, 2]]])
    wanted = 0.4 * torch.nn.functional.cross_entropy(outputs.score_maps["drivable"] / 0.1, labels)
    torch.testing.assert_close(terms["drivable_score_map_pixel"], wanted)
    assert "semantic_score_map_pixel" in terms
    plain = build_criterion(recipe.model, replace(recipe.loss, score_map=0.0))(outputs, batch)
    assert plain.keys() == {name for name in terms if "score_map" not in name}
    assert not net.eval()(batch.images).score_maps


def test_a_decoder_does_not_care_in_which_order_the_classes_come():
    torch.manual_seed(0)
    decoder = TransDecoder(query_width=6, memory_width=5, width=8, heads=2, layers=2, dropout=0.0)
    queries, memory = torch.randn(2, 7, 6), torch.randn(1, 4, 5)
    torch.testing.assert_close(decoder(queries, memory), decoder(queries, memory.flip(1)))
    assert decoder(queries, memory).shape == (2, 7, 6)


def test_without_language_the_rest_of_the_network_starts_from_the_same_weights():
    net = language_net()
    torch.manual_seed(2)
    plain = build_model(small_recipe(model={**_plain(language_recipe()), "language": None}).model)
    own = net.state_dict()
    assert all(torch.equal(value, own[name]) for name, value in plain.state_dict().items())
    plain.fold_prompts()  # nothing to do


def test_a_saved_network_needs_no_encoder(batch):
    encoder = StubEncoder()
    net = language_net(encoder, gamma=0.1).eval()
    with torch.no_grad():
        net.prompts.contexts["semantic"].add_(0.5)
    net.fold_prompts()
    again = build_model(language_recipe(gamma=0.1).model, metadata=encoder.metadata).eval()
    again.load_state_dict(net.state_dict())
    again.fold_prompts()  # nothing to do
    for found, wanted in zip(leaves(again(batch.images)), leaves(net(batch.images)), strict=True):
        assert torch.equal(found, wanted)


def test_mixed_precision_trains_contexts_in_full_precision(batch):
    net = language_net(gamma=0.1, **EVERYTHING).train()
    with torch.autocast("cpu", torch.bfloat16):
        outputs = net(batch.images)
    sum(leaf.float().square().mean() for leaf in leaves(outputs)).backward()
    for contexts in net.prompts.contexts.values():
        assert contexts.grad.dtype == torch.float32
        assert contexts.grad.isfinite().all()


def test_language_without_encoder_or_facts_is_refused():
    with pytest.raises(ConfigError, match="neither a text encoder nor a checkpoint with its metadata is given"):
        build_model(language_recipe().model)


def test_contexts_have_their_own_learning_rate_and_neither_they_nor_gammas_decay():
    recipe = language_recipe(
        v2l=True, train={"learning_rate": 1e-3, "prompt_multiplier": 5.0, "backbone_multiplier": 0.1}
    )
    net = build_model(recipe.model, encoder=StubEncoder())
    names = {id(parameter): name for name, parameter in net.named_parameters()}
    groups = parameter_groups(net, recipe.train)
    of = {names[id(parameter)]: group for group in groups for parameter in group["params"]}
    assert len(of) == len(names)
    for task in ("detection", "semantic", "drivable"):
        assert of[f"prompts.contexts.{task}"]["lr"] == pytest.approx(5e-3)
        assert of[f"prompts.contexts.{task}"]["weight_decay"] == 0
    assert of["adapter.l2v.gamma"]["weight_decay"] == of["adapter.v2l.gamma"]["weight_decay"] == 0
    assert of["adapter.l2v.gamma"]["lr"] == of["adapter.l2v.decoders.joint.out.1.weight"]["lr"] == pytest.approx(1e-3)
    assert of["adapter.l2v.decoders.joint.out.1.weight"]["weight_decay"] == recipe.train.weight_decay > 0
    assert of["backbone.features.conv1.weight"]["lr"] == pytest.approx(1e-4)
    assert groups[0]["lr"] == pytest.approx(1e-3)  # the one that a report of a step names
