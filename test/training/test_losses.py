import itertools

import pytest
import torch

from lvad_perception.vocabulary import UNLABELED
from lvad_training.losses.detection import DetectionCriterion
from lvad_training.losses.matcher import match
from lvad_training.losses.segmentation import MaskCriterion, class_masks
from lvad_training.samples import Batch, DetectionOutputs, MaskOutputs, Targets


def test_matching_finds_the_cheapest_assignment():
    cost = torch.rand((3, 5, 4), generator=torch.Generator().manual_seed(0))
    counts = [4, 0, 2]
    ((image, query, truth),) = match([cost], counts, [1])
    assert image.tolist() == [0] * 4 + [2] * 2
    for index, count in enumerate(counts):
        found = float(cost[index, query[image == index], truth[image == index]].sum())
        every = itertools.permutations(range(5), count)
        cheapest = min(sum(float(cost[index, q, t]) for t, q in enumerate(choice)) for choice in every)
        assert found == pytest.approx(cheapest, abs=1e-5)


def test_matching_repeats_each_truth_and_never_a_query():
    cost = torch.rand((1, 10, 3), generator=torch.Generator().manual_seed(0))
    ((_, query, truth),) = match([cost], [3], [4])  # only 10 // 3 = 3 copies fit
    assert len(query.unique()) == 9
    assert torch.bincount(truth).tolist() == [3, 3, 3]


def test_matching_of_nothing_and_of_non_finite_costs():
    ((*nothing,),) = match([torch.zeros((2, 3, 0))], [0, 0], [1])
    assert [part.tolist() for part in nothing] == [[], [], []]
    ((_, query, _),) = match([torch.tensor([[[float("nan")], [0.0]]])], [1], [1])
    assert query.tolist() == [1]


def test_layers_are_matched_each_for_itself():
    costs = torch.rand((3, 2, 8, 4), generator=torch.Generator().manual_seed(1)).unbind()
    together = match(costs, [4, 1], [3, 2, 1])
    assert [len(image) for image, _, _ in together] == [8 + 3, 8 + 2, 4 + 1]
    for cost, repeats, found in zip(costs, [3, 2, 1], together, strict=True):
        (alone,) = match([cost], [4, 1], [repeats])
        assert all(torch.equal(one, other) for one, other in zip(found, alone, strict=True))


def detection_outputs(boxes, labels, classes=10, confidence=12.0):
    logits = torch.full((1, 1, len(boxes), classes), -confidence)
    logits[0, 0, torch.arange(len(labels)), labels] = confidence
    return DetectionOutputs(logits, boxes[None, None])


def test_perfect_boxes_cost_nothing_and_worse_ones_more():
    criterion = DetectionCriterion(class_weight=2, l1_weight=5, giou_weight=2)
    boxes = torch.tensor([[2.0, 3.0, 12.0, 20.0], [30.0, 10.0, 60.0, 50.0]])
    target = Targets(boxes, torch.tensor([2, 0]), None, None)
    perfect = criterion(detection_outputs(boxes, [2, 0]), [target], (64, 96))
    moved = criterion(detection_outputs(boxes + 3, [2, 0]), [target], (64, 96))
    renamed = criterion(detection_outputs(boxes, [3, 0]), [target], (64, 96))
    assert sum(perfect.values()) < 1e-3
    assert moved["box_l1"] > perfect["box_l1"] + 0.1
    assert moved["box_giou"] > perfect["box_giou"] + 0.1
    assert renamed["box_class"] > perfect["box_class"] + 1


def test_an_image_without_objects_teaches_that_there_are_none():
    criterion = DetectionCriterion(class_weight=2, l1_weight=5, giou_weight=2, matches_per_truth=4)
    empty = Targets(torch.zeros((0, 4)), torch.zeros(0, dtype=torch.int64), None, None)
    outputs = DetectionOutputs(torch.zeros((2, 1, 5, 10), requires_grad=True), torch.rand((2, 1, 5, 4)))
    terms = criterion(outputs, [empty], (64, 96))
    assert terms["box_class"] > 1
    assert terms["box_l1"] == terms["box_giou"] == 0


def test_a_box_inside_an_ignored_one_is_no_evidence_against_its_class():
    criterion = DetectionCriterion(class_weight=2, l1_weight=5, giou_weight=2)
    boxes = torch.tensor([[2.0, 3.0, 12.0, 20.0], [30.0, 10.0, 60.0, 50.0], [70.0, 10.0, 80.0, 50.0]])
    crowd = torch.tensor([[25.0, 5.0, 66.0, 55.0]])

    def class_loss(said, ignored=None, label=0):
        outputs = detection_outputs(boxes, said)
        labels = None if ignored is None else torch.tensor([label])
        targets = [Targets(boxes[:1], torch.tensor([2]), None, None, ignored, labels)]
        plain = Targets(boxes[:1], torch.tensor([2]), None, None)
        batch = DetectionOutputs(outputs.logits.repeat(1, 2, 1, 1), outputs.boxes_xyxy.repeat(1, 2, 1, 1))
        return float(criterion(batch, [*targets, plain], (64, 96))["box_class"])

    wrong = class_loss([2, 0])  # the second box is wrong in both images
    assert wrong > 4
    assert class_loss([2, 0], crowd) == pytest.approx(wrong / 2, rel=1e-3)
    assert class_loss([2, 0], crowd, label=1) == wrong  # it is of another class
    assert class_loss([2, 0], crowd + torch.tensor([25.0, 0, 25.0, 0])) == wrong  # too little of the box is inside
    assert class_loss([2], crowd) < 1e-3
    assert class_loss([3], boxes[:1], label=2) == class_loss([3])  # what is wanted is wanted all the same


def mask_criterion(**changes):
    settings = {"class_weight": 1, "focal_weight": 20, "dice_weight": 1, "no_object": 0.1, "pixel_weight": 1}
    return MaskCriterion(prefix="semantic", classes=3, **{**settings, **changes})


def perfect_masks(label_map, queries=5, stride=4, confidence=15.0):
    """Query q says class q and its mask; the rest say "no object"."""
    masks, _ = class_masks(label_map[None], 3, [side // stride for side in label_map.shape])
    logits = torch.full((1, 1, queries, 4), -confidence)
    drawn = torch.full((1, 1, queries, masks.shape[2]), -confidence)
    for query in range(queries):
        present = query < 3 and masks[0, query].sum() > 0
        logits[0, 0, query, query if present else 3] = confidence
        if query < 3:
            drawn[0, 0, query] = (masks[0, query] * 2 - 1) * confidence
    return MaskOutputs(logits, drawn.unflatten(3, [side // stride for side in label_map.shape]))


def quarters():
    label_map = torch.zeros((16, 16), dtype=torch.uint8)
    label_map[8:], label_map[:8, 8:] = 1, 2
    return label_map


def test_perfect_masks_cost_nothing_and_swapped_ones_more():
    criterion, label_map = mask_criterion(), quarters()
    outputs = perfect_masks(label_map)
    assert sum(criterion(outputs, None, [label_map]).values()) < 1e-2
    swapped = MaskOutputs(outputs.logits, outputs.masks.roll(1, dims=2))
    assert sum(criterion(swapped, None, [label_map]).values()) > 1


def test_unlabelled_pixels_take_no_part():
    criterion, label_map = mask_criterion(), quarters()
    holed = label_map.clone()
    holed[:8, :8] = UNLABELED  # class 0 is gone, and whatever is said there is right
    outputs = perfect_masks(label_map)
    masks = outputs.masks.clone()
    masks[..., :2, :2] *= -1
    logits = outputs.logits.clone()
    logits[0, 0, 0] = torch.tensor([-15.0, -15.0, -15.0, 15.0])
    assert sum(criterion(MaskOutputs(logits, masks), None, [holed]).values()) < 1e-2


def test_class_masks_average_cells_and_skip_unlabelled():
    label_map = torch.tensor([[0, 1, 2, 2], [1, 1, 2, UNLABELED]], dtype=torch.uint8)
    masks, valid = class_masks(label_map[None], 3, (1, 2))
    assert masks[0].tolist() == [[0.25, 0.0], [0.75, 0.0], [0.0, 0.75]]
    assert valid[0].tolist() == [1.0, 0.75]


def test_the_pixel_loss_falls_with_the_right_logits():
    criterion, label_map = mask_criterion(), quarters()
    outputs = perfect_masks(label_map)
    masks, _ = class_masks(label_map[None], 3, (4, 4))
    right = (masks * 20).unflatten(2, (4, 4))
    good = criterion(outputs, right, [label_map])["semantic_pixel"]
    bad = criterion(outputs, -right, [label_map])["semantic_pixel"]
    assert good < 1e-3
    assert bad > 5


def test_a_task_without_annotation_contributes_nothing(net, criterion, batch, targets):
    nothing = [targets(boxes=None, semantic=False, drivable=False)] * 2
    outputs = net(batch.images)
    assert criterion(outputs, Batch(batch.names, batch.images, nothing)) == {}
    only = [targets(boxes=2, semantic=False, drivable=False), nothing[0]]
    assert set(criterion(outputs, Batch(batch.names, batch.images, only))) == {"box_class", "box_l1", "box_giou"}


def test_an_unannotated_image_changes_no_loss_of_the_others(net, criterion, batch, targets):
    net.eval()  # batch statistics would couple the images
    outputs = net(batch.images)
    alone = net(batch.images[:1])
    both = Batch(batch.names, batch.images, [targets(), targets(boxes=None, semantic=False, drivable=False)])
    one = Batch(batch.names[:1], batch.images[:1], [targets()])
    together, single = criterion(outputs, both), criterion(alone, one)
    assert together.keys() == single.keys()
    for name in together:
        assert together[name].item() == pytest.approx(single[name].item(), rel=1e-3)


def test_every_parameter_learns_from_a_full_batch(net, criterion, batch):
    sum(criterion(net(batch.images), batch).values()).backward()
    without = [name for name, parameter in net.named_parameters() if parameter.grad is None]
    assert without == []
