import numpy as np
import pytest

from lvad_perception.bags.error_log import ErrorLog
from lvad_perception.bags.pairing import PENDING, Pairing
from lvad_perception.errors import DatasetError, VocabularyMismatchError
from lvad_perception.messages import label_info_to_message, make_header, mask_to_message, rosbags_types
from lvad_perception.topics import Side
from lvad_perception.vocabulary import DRIVABLE, SEMANTIC

TYPES = rosbags_types()
RESULT = Side("/front/segmentation", "/front", "semantic", truth=False, label_info=False)
TRUTH = Side("/front/truth/segmentation", "/front", "semantic", truth=True, label_info=False)


def mask(index, value=3, size_hw=(4, 6)):
    header = make_header(1_000_000_000 * (index + 1), "camera", types=TYPES)
    return mask_to_message(np.full(size_hw, value, np.uint8), header, types=TYPES)


@pytest.fixture
def reported():
    return []


@pytest.fixture
def pairing(reported):
    return Pairing(ErrorLog(reported.append))


@pytest.mark.parametrize("order", [(RESULT, TRUTH), (TRUTH, RESULT)], ids=["result first", "annotation first"])
def test_halves_pair_in_either_order(pairing, reported, order):
    for side in order:
        pairing.add(side, mask(0), "one")
    metrics = pairing.finish()
    assert pairing.paired == metrics.semantic.images == 1
    assert metrics.semantic.scores.pixel_accuracy == 100.0
    assert not reported


def test_cameras_are_kept_apart(pairing, reported):
    rear = Side("/rear/truth/segmentation", "/rear", "semantic", truth=True, label_info=False)
    pairing.add(RESULT, mask(0), "one")
    pairing.add(rear, mask(0), "one")
    with pytest.raises(DatasetError, match="nothing to evaluate"):
        pairing.finish()
    assert reported == ["/rear/truth/segmentation one: it has no prediction with its stamp and is left out"]


def test_in_flight_counts_images_whose_prediction_may_still_arrive(pairing):
    assert pairing.in_flight == 0
    for index in range(4):
        pairing.add(TRUTH, mask(index), str(index))
    assert pairing.in_flight == 4
    pairing.add(RESULT, mask(1), "1")  # 0 was skipped: its result would have come before
    assert pairing.in_flight == 2
    pairing.add(RESULT, mask(7), "7")  # an image without annotation says nothing
    assert pairing.in_flight == 2
    pairing.add(RESULT, mask(3), "3")
    assert pairing.in_flight == 0


def test_memory_is_bounded(pairing, reported):
    for index in range(PENDING + 3):
        pairing.add(TRUTH, mask(index), str(index))
    assert pairing.in_flight == PENDING
    assert [line.split(":")[0] for line in reported] == [f"{TRUTH.topic} {index}" for index in range(3)]


def test_messages_that_can_be_read_again_wait_without_memory(pairing, reported):
    read = []

    def again(index):
        return lambda: read.append(index) or mask(index)

    for index in range(PENDING + 3):
        pairing.add(TRUTH, mask(index), str(index), read_again=again(index))
    assert pairing.in_flight == PENDING + 3
    for index in (*range(PENDING + 3), 99):
        pairing.add(RESULT, mask(index), str(index), read_again=again(-index))
    assert pairing.finish().semantic.images == PENDING + 3
    assert read == [0, 1, 2]
    assert not reported


def test_another_size_is_reported_and_left_out(pairing, reported):
    pairing.add(TRUTH, mask(0), "one")
    pairing.add(RESULT, mask(0, size_hw=(2, 3)), "one")
    assert pairing.paired == 0
    assert reported == [
        "/front/segmentation one: the prediction is 3x2 pixels (width x height) but its truth is 6x4; "
        "predict at the size of the labelled image"
    ]


def test_other_classes_are_refused(pairing):
    side = Side("/front/segmentation/label_info", "/front", "semantic", truth=False, label_info=True)
    header = make_header(0, "camera", types=TYPES)
    pairing.add(side, label_info_to_message(SEMANTIC, header, types=TYPES), "one")
    with pytest.raises(VocabularyMismatchError, match=r"/front/segmentation/label_info one: label info: its semantic"):
        pairing.add(side, label_info_to_message(DRIVABLE, header, types=TYPES), "one")
