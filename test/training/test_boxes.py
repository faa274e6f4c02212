"""GIoU and non-maximum suppression compared with torchvision's, in torch and in a model file."""

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn
from torchvision.ops import batched_nms, generalized_box_iou

from lvad_training.boxes import ROUNDS, NmsSettings, nms, pairwise_giou

RULE = NmsSettings(candidates=40, overlap=0.5, least_score=0.1)


def test_giou_equals_torchvisions():
    corners = torch.rand((2, 6, 2, 2), generator=torch.Generator().manual_seed(0)).sort(dim=2).values.flatten(2)
    found = pairwise_giou(corners, corners.flip(1))
    for index in range(2):
        torch.testing.assert_close(found[index], generalized_box_iou(corners[index], corners[index].flip(0)))


def crowded(seed, images=2, classes=3, count=40):
    """Boxes around few points, so that many overlap; descending scores, a tenth of them too low; and classes."""
    random = torch.Generator().manual_seed(seed)
    center = torch.rand((images, 6, 2), generator=random) * 100
    center = center[:, torch.arange(count) % 6] + torch.randn((images, count, 2), generator=random) * 3
    side = 10 + torch.rand((images, count, 2), generator=random) * 20
    boxes = torch.cat([center - side / 2, center + side / 2], dim=2)
    scores = torch.rand((images, count), generator=random).sort(dim=1, descending=True).values
    return boxes, scores, torch.randint(0, classes, (images, count), generator=random)


def by_torchvision(boxes, scores, labels):
    kept = torch.zeros_like(scores)
    for image in range(len(scores)):
        (candidates,) = (scores[image] > RULE.least_score).nonzero(as_tuple=True)
        of_each = boxes[image, candidates], scores[image, candidates], labels[image, candidates]
        chosen = candidates[batched_nms(*of_each, RULE.overlap)]
        kept[image, chosen] = scores[image, chosen]
    return kept


@pytest.mark.parametrize(("count", "classes"), [(40, 3), (40, 1), (300, 10)])
@pytest.mark.parametrize("seed", range(5))
def test_nms_keeps_the_boxes_that_torchvision_keeps(seed, count, classes):
    crowd = crowded(seed, count=count, classes=classes)
    found = nms(*crowd, RULE)
    assert torch.equal(found, by_torchvision(*crowd))
    assert 0 < (found > 0).sum() < (crowd[1] > RULE.least_score).sum()


def test_classes_do_not_suppress_each_other_and_boxes_without_area_suppress_none():
    same, scores = torch.tensor([[[0.0, 0, 10, 10]]]).expand(1, 4, 4), torch.tensor([[0.9, 0.8, 0.7, 0.6]])
    labels = torch.tensor([[0, 0, 1, 1]])
    assert torch.equal(nms(same, scores, labels, RULE), scores * torch.tensor([[1, 0, 1, 0]]))
    assert torch.equal(nms(torch.zeros((1, 4, 4)), scores, labels, RULE), scores)


def chain(links):
    """Boxes of one class, each of which overlaps only its two neighbours."""
    left = torch.arange(links + 1) * 3.0
    boxes = torch.stack([left, torch.zeros_like(left), left + 10, torch.full_like(left, 10.0)], dim=1)[None]
    return boxes, torch.linspace(0.9, 0.5, links + 1)[None], torch.zeros((1, links + 1), dtype=torch.int64)


def test_a_chain_is_settled_as_far_as_there_are_rounds_and_nothing_beyond_is_lost():
    settled = nms(*chain(ROUNDS), RULE) > 0
    assert settled[0].tolist() == [place % 2 == 0 for place in range(ROUNDS + 1)]
    longer = nms(*chain(ROUNDS + 3), RULE) > 0
    assert longer[0].tolist() == [place % 2 == 0 for place in range(ROUNDS + 1)] + [True] * 3


class Suppress(nn.Module):
    def forward(self, boxes, scores, labels):
        return nms(boxes, scores, labels, RULE)


def test_the_model_file_keeps_the_same_with_static_shapes_whatever_is_left_of_the_image():
    names = ["boxes", "scores", "labels"]
    program = torch.onnx.export(
        Suppress().eval(), crowded(0), dynamo=True, opset_version=18, input_names=names, verbose=False
    )
    model = program.model_proto
    assert not {node.op_type for node in model.graph.node} & {"NonMaxSuppression", "NonZero", "ScatterND", "Loop"}
    session = onnxruntime.InferenceSession(model.SerializeToString())
    for seed in range(3):
        boxes, scores, labels = crowded(seed)
        for shown in (scores, scores * 0, torch.cat([scores[:1], scores[1:] * 0])):  # none, and none in one image
            given = dict(zip(names, (boxes.numpy(), shown.numpy(), labels.numpy()), strict=True))
            (found,) = session.run(None, given)
            np.testing.assert_array_equal(found, nms(boxes, shown, labels, RULE).numpy())
