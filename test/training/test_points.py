"""FCOS's targets and losses, checked against the paper on single points and boxes."""

import math

import pytest
import torch

from lvad_training.boxes import NmsSettings
from lvad_training.losses.points import PointCriterion, assign, center_ness
from lvad_training.model.fcos import grid_points
from lvad_training.samples import PointOutputs, Targets

SIZE_HW = (64, 128)
STRIDES = (8, 16, 32)
CPU = torch.device("cpu")


def levels():
    """Points and their strides on an image of 64 x 128."""
    grids = [grid_points(SIZE_HW[0] // s, SIZE_HW[1] // s, s, device=CPU) for s in STRIDES]
    return torch.cat(grids), torch.cat([torch.full((len(g),), float(s)) for g, s in zip(grids, STRIDES, strict=True)])


def learned(boxes, *, radius=1.5):
    """(stride, x, y) of the points that learn each box."""
    points, strides = levels()
    (truth,) = assign(points, strides, torch.tensor([boxes], dtype=torch.float32), center_radius=radius)
    return [
        {(int(strides[i]), *map(float, points[i])) for i in (truth == box).nonzero()[:, 0]} for box in range(len(boxes))
    ]


def test_points_are_the_centres_of_cells_row_by_row():
    assert grid_points(2, 3, 8, device=CPU).tolist() == [[4, 4], [12, 4], [20, 4], [4, 12], [12, 12], [20, 12]]


def test_points_near_the_centre_and_inside_learn_a_box():
    (found,) = learned([(0, 0, 48, 16)])  # centre (24, 8); up to 12 px from it at stride 8, and inside
    assert found == {(8, x, y) for x in (20, 28) for y in (4, 12)}
    (narrow,) = learned([(0, 0, 48, 16)], radius=0.6)  # up to 4.8 px
    assert narrow == found
    (wide,) = learned([(0, 0, 48, 16)], radius=100)
    assert wide == {(8, x, y) for x in (4, 12, 20, 28, 36, 44) for y in (4, 12)}


def test_each_level_learns_boxes_of_its_size():
    """Up to 8 strides from the farthest side, above half of that; the outermost levels have no such limit."""
    strides = [{stride for stride, *_ in found} for found in learned([(26, 26, 38, 38)])]
    assert strides == [{8}]
    (middle,) = learned([(0, 0, 128, 60)])  # at its centre 64 px from the sides, beside it more
    assert {stride for stride, *_ in middle} == {16}
    assert all(max(x, 128 - x, y, 60 - y) > 64 for _, x, y in middle)
    (large,) = learned([(-200, -200, 300, 300)])
    assert {stride for stride, *_ in large} == {32}


def test_of_two_boxes_a_point_learns_the_smaller():
    outer, inner = learned([(8, 8, 56, 56), (24, 24, 32, 32)])
    assert inner == {(8, 28, 28)}
    assert outer == {(8, x, y) for x in (28, 36) for y in (28, 36)} - inner  # less than 12 px from (32, 32)


def test_no_point_learns_padding_or_a_box_between_points():
    assert learned([(0, 0, 0, 0), (5, 5, 11, 11)]) == [set(), set()]
    points, strides = levels()
    assert (assign(points, strides, torch.zeros((2, 0, 4)), center_radius=1.5) == -1).all()


def test_a_batch_is_assigned_as_its_images_alone():
    points, strides = levels()
    corners = torch.rand((3, 9, 2), generator=torch.Generator().manual_seed(0)) * 60
    sides = torch.rand((3, 9, 2), generator=torch.Generator().manual_seed(1)) * 60
    boxes = torch.cat([corners, corners + sides], dim=2)
    together = assign(points, strides, boxes, center_radius=1.5)
    alone = [assign(points, strides, each[None], center_radius=1.5)[0] for each in boxes]
    assert torch.equal(together, torch.stack(alone))
    assert (together >= 0).sum() > 20


def test_center_ness_is_the_papers_equation():
    boxes = torch.tensor([[0.0, 0, 40, 20]]).repeat(4, 1)
    points = torch.tensor([[20.0, 10], [10, 10], [10, 5], [0, 10]])
    expected = [1, math.sqrt(10 / 30), math.sqrt(10 / 30 * 5 / 15), 0]
    torch.testing.assert_close(center_ness(points, boxes), torch.tensor(expected))


BOXES = torch.tensor([[8.0, 8, 56, 56], [70, 10, 86, 30]])
LABELS = torch.tensor([2, 0])


def outputs(boxes=BOXES, labels=LABELS, *, images=1, confidence=12.0):
    """Outputs of a network that knows the assignment: those boxes and labels, and the right centre-ness."""
    points, strides = levels()
    (truth,) = assign(points, strides, BOXES[None], center_radius=1.5)
    positive = truth >= 0
    logits = torch.full((len(points), 10), -confidence)
    logits[positive, labels[truth[positive]]] = confidence
    said = torch.where(positive[:, None], boxes[truth.clamp(min=0)], torch.tensor([0.0, 0, 1, 1]))
    central = center_ness(points, BOXES[truth.clamp(min=0)]).clamp(1e-6, 1 - 1e-6).logit()
    rule = NmsSettings(candidates=100, overlap=0.6, least_score=0.05)
    parts = (part.expand(images, *part.shape) for part in (logits, central, said))
    return PointOutputs(*parts, points, strides, rule)


def criterion():
    return PointCriterion(class_weight=1, giou_weight=1, centerness_weight=1, center_radius=1.5)


def target(**changes):
    given = {"boxes_xyxy": BOXES, "labels": LABELS, "semantic": None, "drivable": None, **changes}
    return Targets(**given)


def test_perfect_points_cost_nothing_but_the_entropy_of_the_center_ness_and_worse_ones_more():
    perfect = criterion()(outputs(), [target()], SIZE_HW)
    moved = criterion()(outputs(BOXES + 4), [target()], SIZE_HW)
    renamed = criterion()(outputs(labels=torch.tensor([3, 0])), [target()], SIZE_HW)
    assert perfect["box_class"] < 1e-3
    assert perfect["box_giou"] < 1e-3
    points, strides = levels()
    (truth,) = assign(points, strides, BOXES[None], center_radius=1.5)
    central = center_ness(points[truth >= 0], BOXES[truth[truth >= 0]])
    entropy = torch.special.entr(central) + torch.special.entr(1 - central)
    assert perfect["box_centerness"].item() == pytest.approx(entropy.mean().item(), abs=1e-4)
    assert moved["box_giou"] > 0.1
    assert renamed["box_class"] > 1


def test_an_image_without_objects_teaches_that_there_are_none():
    empty = target(boxes_xyxy=torch.zeros((0, 4)), labels=torch.zeros(0, dtype=torch.int64))
    terms = criterion()(outputs(), [empty], SIZE_HW)
    assert terms["box_class"] > 10
    assert terms["box_giou"] == terms["box_centerness"] == 0


def test_an_image_without_annotation_contributes_nothing():
    nothing = target(boxes_xyxy=None, labels=None)
    assert criterion()(outputs(), [nothing], SIZE_HW) == {}
    alone = criterion()(outputs(BOXES + 4), [target()], SIZE_HW)
    both = criterion()(outputs(BOXES + 4, images=2), [nothing, target()], SIZE_HW)
    for name, value in alone.items():
        assert both[name].item() == pytest.approx(value.item(), rel=1e-5), name


def test_predictions_inside_an_ignored_box_are_not_penalised():
    one = {"boxes_xyxy": BOXES[:1], "labels": LABELS[:1]}
    crowd = {"ignored_xyxy": torch.tensor([[66.0, 6, 90, 34]]), "ignored_labels": torch.tensor([0])}
    wrong = criterion()(outputs(), [target(**one)], SIZE_HW)["box_class"]
    excused = criterion()(outputs(), [target(**one, **crowd)], SIZE_HW)["box_class"]
    other = {**crowd, "ignored_labels": torch.tensor([5])}
    assert wrong > 1
    assert excused < 1e-3
    assert criterion()(outputs(), [target(**one, **other)], SIZE_HW)["box_class"] == wrong


def test_half_precision_outputs_have_finite_losses_and_gradients():
    """As under autocast: the largest logits that the type has, and boxes of no size."""
    found = outputs()
    logits = (found.logits * 1000).clamp(-6e4, 6e4).half().requires_grad_()
    centerness = torch.full_like(found.centerness, 6e4).half().requires_grad_()
    boxes = torch.zeros_like(found.boxes_xyxy).half().requires_grad_()
    extreme = PointOutputs(logits, centerness, boxes, found.points_xy, found.strides, found.nms)
    terms = criterion()(extreme, [target()], SIZE_HW)
    assert all(math.isfinite(value.item()) for value in terms.values())
    sum(terms.values()).backward()
    assert all(tensor.grad.isfinite().all() for tensor in (logits, centerness, boxes))
