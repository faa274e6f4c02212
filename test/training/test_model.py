import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from lvad_perception.errors import ConfigError
from lvad_training.build import build_model
from lvad_training.model.attention import sine_positions
from lvad_training.model.backbone import timm_backbone
from lvad_training.model.sparse_rcnn import apply_deltas, grid_boxes, pool_proposals
from lvad_training.recipe.config import parse_recipe

STRIDES = (4, 8, 16, 32)


def test_outputs_have_one_entry_per_refinement_and_layer(net, batch):
    outputs = net(batch.images)
    assert outputs.detection.logits.shape == (2, 2, 20, 10)
    assert outputs.detection.boxes_xyxy.shape == (2, 2, 20, 4)
    assert outputs.semantic.logits.shape == (2, 2, 12, 20)
    assert outputs.semantic.masks.shape == (2, 2, 12, 16, 24)
    assert outputs.drivable.logits.shape == (2, 2, 6, 4)
    assert outputs.semantic_pixels.shape == (2, 19, 16, 24)


def test_evaluation_gives_the_same_kind_of_outputs_with_the_last_entry_only(net, batch):
    net.eval()
    outputs = net(batch.images)
    assert outputs.detection.logits.shape[0] == outputs.semantic.logits.shape[0] == 1
    assert outputs.semantic_pixels is None


def test_a_batch_equals_its_images_one_by_one(net, batch):
    net.eval()
    together = net(batch.images)
    for index in range(2):
        alone = net(batch.images[index : index + 1])
        torch.testing.assert_close(
            together.detection.boxes_xyxy[:, index], alone.detection.boxes_xyxy[:, 0], atol=1e-3, rtol=1e-4
        )
        torch.testing.assert_close(together.semantic.masks[:, index], alone.semantic.masks[:, 0], atol=1e-3, rtol=1e-4)


def test_a_task_without_head_is_none(make_recipe, batch):
    net = build_model(make_recipe(model={"detection": None, "network_hw": [64, 96], "neck_width": 16}).model)
    outputs = net(batch.images)
    assert outputs.detection is None
    assert outputs.semantic is not None


@pytest.mark.parametrize("samples", [1, 2])
def test_pooling_from_all_levels_equals_pooling_from_the_own_level(samples):
    random = torch.Generator().manual_seed(1)
    levels = [torch.rand((2, 3, 64 // s, 96 // s), generator=random) for s in STRIDES]
    corner = torch.rand((2, 15, 2), generator=random) * 40
    side = 1 + torch.rand((2, 15, 2), generator=random) ** 2 * 200  # every level gets some
    boxes = torch.cat([corner, corner + side], dim=2)
    arguments = {"pool_size": 3, "samples": samples, "canonical_px": 40.0}
    static = pool_proposals(levels, STRIDES, boxes, static=True, **arguments)
    selected = pool_proposals(levels, STRIDES, boxes, static=False, **arguments)
    assert static.shape == (30, 3, 3, 3)
    torch.testing.assert_close(static, selected)


def test_pooling_takes_large_boxes_from_coarse_levels():
    levels = [torch.full((1, 1, 64 // s, 96 // s), float(s)) for s in STRIDES]
    sides = torch.tensor([5.0, 25.0, 50.0, 500.0])
    boxes = torch.stack([torch.zeros(4), torch.zeros(4), sides, sides], dim=1)[None]
    pooled = pool_proposals(levels, STRIDES, boxes, pool_size=1, samples=1, canonical_px=40.0, static=True)
    assert pooled.flatten()[:3].tolist() == [4.0, 8.0, 16.0]


def test_zero_deltas_leave_boxes_where_they_are():
    boxes = torch.tensor([[[1.0, 2.0, 11.0, 42.0]]])
    torch.testing.assert_close(apply_deltas(boxes, torch.zeros(1, 1, 4)), boxes)
    shifted = apply_deltas(boxes, torch.tensor([[[2.0, 0.0, 0.0, 0.0]]]))  # dx of 1 width after scaling by 2
    torch.testing.assert_close(shifted, torch.tensor([[[11.0, 2.0, 21.0, 42.0]]]))


@pytest.mark.parametrize("count", [1, 2, 20, 100, 300])
def test_grid_boxes_cover_the_image(count):
    boxes = grid_boxes(count)
    assert boxes.shape == (count, 4)
    assert ((boxes >= 0) & (boxes <= 1)).all()
    if count >= 100:
        assert len(boxes.unique(dim=0)) > 0.9 * count
        assert boxes[:, 0].min() < 0.1 < 0.9 < boxes[:, 0].max()


def test_positions_are_unique_and_bounded():
    positions = sine_positions(5, 7, 16, device=torch.device("cpu"))
    assert positions.shape == (1, 35, 16)
    assert positions.abs().max() <= 1
    assert len(positions[0].round(decimals=4).unique(dim=0)) == 35


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnet1800", {}, "timm cannot make 'resnet1800'"),
        ("resnet18", {"no_such_option": 1}, "timm cannot make 'resnet18' with"),
        ("vit_tiny_patch16_224", {}, "choose another backbone"),
    ],
)
def test_a_backbone_that_does_not_fit_is_named(name, options, message):
    with pytest.raises(ConfigError, match=message):
        timm_backbone(name, options)


def test_the_tiny_preset_fits_into_ten_megabytes_of_half_precision():
    net = build_model(parse_recipe({"preset": "tiny", "data": {"root": "x"}}, [], source="test").model)
    assert sum(tensor.numel() for tensor in net.state_dict().values()) * 2 < 9.9e6


def test_the_edge_preset_costs_no_more_than_yolop():
    """All three tasks within half of its 18.5 GFLOP, 2 a multiply-add, and 8 M parameters at 640x384."""
    recipe = parse_recipe({"preset": "edge", "data": {"root": "x"}}, [], source="test")
    assert recipe.model.network_hw == (384, 640)
    net = build_model(recipe.model).eval().requires_grad_(False)
    with FlopCounterMode(display=False) as counter:
        outputs = net(torch.zeros(1, 3, 384, 640))
    assert 1e9 < counter.get_total_flops() <= 18.5e9 / 2
    assert sum(parameter.numel() for parameter in net.parameters()) <= 8e6
    masks = (outputs.semantic, outputs.drivable)
    assert [outputs.detection.logits.shape[2], *(head.logits.shape[1] for head in masks)] == [10, 19, 3]
