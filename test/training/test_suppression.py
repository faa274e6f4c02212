"""Suppression of overlapping boxes: against torchvision's, in plain torch and as ONNX's operator."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn
from torchvision.ops import nms

from lvad_training.suppression import Suppression, onnx_translations, suppress

RULE = Suppression(candidates=40, overlap=0.5, least_score=0.1)


def crowded(seed, images=2, classes=3, count=40):
    """Boxes around few places, so that many overlap, and scores of which a tenth is too low."""
    random = torch.Generator().manual_seed(seed)
    center = torch.rand((images, 6, 2), generator=random) * 100
    center = center[:, torch.arange(count) % 6] + torch.randn((images, count, 2), generator=random) * 3
    side = 10 + torch.rand((images, count, 2), generator=random) * 20
    boxes = torch.cat([center - side / 2, center + side / 2], dim=2)
    return boxes, torch.rand((images, classes, count), generator=random)


def by_torchvision(boxes, scores, rule, count):
    kept = torch.zeros_like(scores)
    for image in range(scores.shape[0]):
        for number, row in enumerate(scores[image]):
            (candidates,) = (row > rule.least_score).nonzero(as_tuple=True)
            chosen = candidates[nms(boxes[image, candidates], row[candidates], rule.overlap)[:count]]
            kept[image, number, chosen] = row[chosen]
    return kept


@pytest.mark.parametrize("count", [2, 100])
@pytest.mark.parametrize("seed", range(3))
def test_it_keeps_what_torchvision_keeps(seed, count):
    boxes, scores = crowded(seed)
    found = suppress(boxes, scores, RULE, count)
    assert torch.equal(found, by_torchvision(boxes, scores, RULE, count))
    assert 0 < (found > 0).sum() < (scores > RULE.least_score).sum()


def test_classes_do_not_suppress_each_other_and_boxes_without_area_suppress_none():
    same = torch.tensor([[[0.0, 0, 10, 10], [0, 0, 10, 10]]])
    scores = torch.tensor([[[0.9, 0.8], [0.6, 0.7]]])
    assert torch.equal(suppress(same, scores, RULE, 5), scores * torch.tensor([[[1, 0], [0, 1]]]))
    assert torch.equal(suppress(torch.zeros((1, 2, 4)), scores, RULE, 5), scores)


class Suppress(nn.Module):
    def forward(self, boxes, scores):
        return suppress(boxes, scores, RULE, 7)


@pytest.fixture(scope="module")
def model():
    program = torch.onnx.export(
        Suppress().eval(),
        crowded(0),
        dynamo=True,
        opset_version=18,
        custom_translation_table=onnx_translations(),
        input_names=["boxes", "scores"],
        verbose=False,
    )
    onnx.checker.check_model(program.model_proto, full_check=True)
    return program.model_proto


def test_the_operator_keeps_the_same_whatever_is_left_of_the_image(model):
    session = onnxruntime.InferenceSession(model.SerializeToString())
    for seed in range(3):
        boxes, scores = crowded(seed)
        for shown in (scores, scores * 0, torch.cat([scores[:1], scores[1:] * 0])):  # none, and none in one image
            (found,) = session.run(None, {"boxes": boxes.numpy(), "scores": shown.numpy()})
            np.testing.assert_array_equal(found, suppress(boxes, shown, RULE, 7).numpy())


def test_the_operators_list_stays_between_three_nodes(model):
    """Its length differs from image to image; the shape of what they give does not."""
    by_type = {node.op_type: node for node in model.graph.node}
    assert by_type.keys() >= {"NonMaxSuppression", "GatherND", "ScatterND"}
    (selected,) = by_type["NonMaxSuppression"].output
    assert [node.op_type for node in model.graph.node if selected in node.input] == ["GatherND", "ScatterND"]
    (shape,) = (output.type.tensor_type.shape.dim for output in model.graph.output)
    assert [side.dim_value for side in shape] == [2, 3, 40]
