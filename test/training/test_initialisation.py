"""Heads start from the distributions that their authors' code draws from."""

import math

import pytest
import torch
from torch import nn

from lvad_training.build import build_model
from lvad_training.recipe.config import parse_recipe


@pytest.fixture(scope="module")
def head():
    """Sparse R-CNN's head with the sizes of the preset ``r50``, but two refinements."""
    recipe = parse_recipe(
        {
            "preset": "r50",
            "data": {"root": "unused"},
            "model": {
                "backbone": {"name": "resnet18", "options": {"channels": [8, 8, 16, 16], "stem_width": 8}},
                "detection": {"refinements": 2},
                "semantic": None,
                "drivable": None,
            },
        },
        [],
        source="test",
    )
    torch.manual_seed(0)
    return build_model(recipe.model).detection.requires_grad_(False)


def assert_uniform(values, bound, name):
    assert values.abs().max() <= bound, name
    if values.numel() >= 1000:
        assert values.abs().max() > 0.98 * bound, name
        assert values.std() == pytest.approx(bound / math.sqrt(3), rel=0.05), name
        assert abs(float(values.mean())) < 0.1 * bound, name


def test_every_matrix_of_sparse_rcnn_starts_from_xaviers_uniform_distribution(head):
    """``DynamicHead._reset_parameters``: ``xavier_uniform_`` for every parameter of more than one dimension.

    In ``nn.MultiheadAttention`` query, key and value are one matrix.
    """
    matrices = {name: value for name, value in head.refinements.named_parameters() if value.ndim > 1}
    assert len(matrices) == 2 * 14  # attention 4, dynamic convolution 2, feed-forward 2, towers 1 + 3, predictions 2
    for name, value in matrices.items():
        out, into = value.shape
        stacked = name.split(".")[-2] in ("query", "key", "value")
        assert_uniform(value, math.sqrt(6 / (into + (3 * out if stacked else out))), name)


def test_the_stacked_projections_are_those_of_torchs_attention(head):
    torch.manual_seed(1)
    reference = nn.MultiheadAttention(256, 8).requires_grad_(False)
    nn.init.xavier_uniform_(reference.in_proj_weight)
    layers = head.refinements[0].attention
    ours = torch.cat([layer.weight for layer in (layers.query, layers.key, layers.value)])
    assert ours.std() == pytest.approx(float(reference.in_proj_weight.std()), rel=0.01)
    assert ours.abs().max() == pytest.approx(float(reference.in_proj_weight.abs().max()), rel=0.01)


def test_vectors_of_sparse_rcnn_start_as_torchs_layers_except_the_bias_of_the_classes(head):
    """That bias gives every class a probability of 0.01."""
    for layer in head.refinements:
        assert (layer.classify.bias.sigmoid() - 0.01).abs().max() < 1e-6
        for linear in (layer.attention.query, layer.attention.key, layer.attention.value, layer.attention.out):
            assert not linear.bias.any()  # as nn.MultiheadAttention
        plain = {
            "make_weights": layer.interact.make_weights,
            "out": layer.interact.out,
            "grow": layer.feedforward[0],
            "shrink": layer.feedforward[3],
            "regress": layer.regress,
        }
        for name, linear in plain.items():
            assert linear.bias.any(), name
            assert_uniform(linear.bias, 1 / math.sqrt(linear.in_features), name)
        norms = [module for module in layer.modules() if isinstance(module, nn.LayerNorm)]
        assert len(norms) == 3 + 3 + 4
        for norm in norms:
            assert (norm.weight == 1).all()
            assert not norm.bias.any()


def test_boxes_that_start_on_a_grid_stay_there():
    recipe = parse_recipe({"preset": "tiny", "data": {"root": "unused"}}, [], source="test")
    for refinement in build_model(recipe.model).detection.requires_grad_(False).refinements:
        assert refinement.regress.weight.abs().max() < 0.01
        assert not refinement.regress.bias.any()


def test_proposals_of_r50_start_as_the_whole_image_with_normal_features(head):
    assert (head.boxes == torch.tensor([0.5, 0.5, 1, 1])).all()
    assert head.features.std() == pytest.approx(1, rel=0.02)
