import torch

from lvad_training.decoding.decode import decode, decode_boxes, decode_masks
from lvad_training.samples import DetectionOutputs, MaskOutputs, Outputs


def test_boxes_come_best_first_with_their_class_and_inside_the_input():
    logits = torch.full((1, 1, 3, 4), -9.0)
    logits[0, 0, 0, 1], logits[0, 0, 2, 3], logits[0, 0, 2, 0] = 0.0, 2.0, 1.0
    boxes = torch.tensor([[[[-5.0, 2, 10, 20], [0, 0, 1, 1], [4, 5, 200, 300]]]])
    found, scores, labels = decode_boxes(DetectionOutputs(logits, boxes), (64, 96), 3)
    assert labels.tolist() == [[3, 0, 1]]
    assert labels.dtype == torch.int32
    torch.testing.assert_close(scores, torch.tensor([[2.0, 1.0, 0.0]]).sigmoid())
    assert found[0].tolist() == [[4, 5, 96, 64], [4, 5, 96, 64], [0, 2, 10, 20]]


def test_fewer_candidates_than_max_detections_are_all_returned():
    outputs = DetectionOutputs(torch.zeros((1, 2, 3, 4)), torch.zeros((1, 2, 3, 4)))
    assert decode_boxes(outputs, (64, 96), 100)[0].shape == (2, 12, 4)


def test_masks_are_the_weighted_vote_of_queries():
    logits = torch.tensor([[[[9.0, 0, 0], [0, 9.0, 0], [0, 0, 9.0]]]])  # two classes and a "no object" query
    masks = torch.full((1, 1, 3, 2, 2), -9.0)
    masks[0, 0, 0, 0], masks[0, 0, 1, 1], masks[0, 0, 2] = 9.0, 9.0, 20.0
    label_map, confidence = decode_masks(MaskOutputs(logits, masks), (8, 8))
    assert label_map.dtype == confidence.dtype == torch.uint8
    assert label_map[0, :3].unique().tolist() == [0]
    assert label_map[0, 5:].unique().tolist() == [1]
    assert confidence[0, 0, 0] > 240
    assert confidence[0, 3, 0] < 200  # between the two


def test_only_the_last_layer_counts_and_absent_tasks_stay_absent():
    outputs = MaskOutputs(torch.rand((2, 1, 3, 4)), torch.rand((2, 1, 3, 4, 4)))
    last = MaskOutputs(outputs.logits[1:], outputs.masks[1:])
    found = decode(Outputs(None, outputs, None), (16, 16), 5)
    assert found.boxes is None
    assert found.drivable is None
    assert torch.equal(found.semantic, decode(Outputs(None, last, None), (16, 16), 5).semantic)
