import tracemalloc

import numpy as np
import pytest
import yaml

from lvad_perception.bags.convert import from_dataset
from lvad_perception.bags.error_log import message_text
from lvad_perception.bags.evaluate import evaluate_bag, evaluate_dataset
from lvad_perception.bags.pairing import PENDING
from lvad_perception.bags.replay import replay
from lvad_perception.bags.writer import create_bag
from lvad_perception.errors import BagError, DatasetError, VocabularyMismatchError
from lvad_perception.messages import (
    detections_to_message,
    label_info_to_message,
    make_header,
    mask_to_message,
    rosbags_types,
    truth_to_message,
)
from lvad_perception.perceiver import Perceiver
from lvad_perception.types import Detections, TruthBoxes
from lvad_perception.vocabulary import DRIVABLE, SEMANTIC

TYPES = rosbags_types()
START = 1_600_000_000_000_000_000
STEP = 100_000_000


def perceiver_of(engine):
    return Perceiver(engine, score_threshold=0.0)


class TestBagEqualsDataset:
    @pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
    def test_on_a_split_with_partial_annotation(self, small_split, tmp_path, make_engine, storage, assert_same_metrics):
        from_dataset(small_split, "val", tmp_path / "in", storage=storage)
        replay(tmp_path / "in", perceiver_of(make_engine()), tmp_path / "out", storage=storage)
        of_bag = evaluate_bag(tmp_path / "out")
        of_files = evaluate_dataset(perceiver_of(make_engine()), small_split, "val")
        assert_same_metrics(of_bag, of_files)
        assert (of_bag.detection.images, of_bag.semantic.images, of_bag.drivable.images) == (6, 4, 3)
        # The numbers are neither all right nor all wrong, so that a mistake in pairing would show.
        assert 20 < of_bag.detection.scores.ap < 80
        assert 20 < of_bag.semantic.scores.pixel_accuracy < 99
        assert 20 < of_bag.drivable.official.mean_iou < 99

    def test_on_real_images(self, shared_data, tmp_path, make_engine, assert_same_metrics):
        root = shared_data / "camvid-bdd"
        from_dataset(root, "val", tmp_path / "in", limit=15)
        replay(tmp_path / "in", perceiver_of(make_engine()), tmp_path / "out")
        assert_same_metrics(
            evaluate_bag(tmp_path / "out"), evaluate_dataset(perceiver_of(make_engine()), root, "val", limit=15)
        )

    def test_a_model_with_fewer_tasks(self, small_split, tmp_path, make_engine, make_manifest, assert_same_metrics):
        manifest = make_manifest(classes={"semantic": SEMANTIC.names})
        from_dataset(small_split, "val", tmp_path / "in")
        replay(tmp_path / "in", perceiver_of(make_engine(manifest)), tmp_path / "out")
        of_bag = evaluate_bag(tmp_path / "out")
        assert_same_metrics(of_bag, evaluate_dataset(perceiver_of(make_engine(manifest)), small_split, "val"))
        assert of_bag.detection is None
        assert of_bag.drivable is None


def header(index):
    return make_header(START + index * STEP, "camera", types=TYPES)


def mask(value):
    return np.full((6, 8), value, np.uint8)


def write_masks(path, truth, predicted, *, delay_ns=0, task="segmentation", storage="mcap", as_given=False, size=None):
    """A bag with an annotated mask for each index in ``truth`` and a predicted one for each in ``predicted``.

    Bag time follows the indices, or ``as_given`` the order in which they are given.
    """
    events = [(START + (k if as_given else i) * STEP, f"/camera/truth/{task}", i) for k, i in enumerate(truth)]
    later = START + delay_ns
    events += [(later + (k if as_given else i) * STEP, f"/camera/{task}", i) for k, i in enumerate(predicted)]
    with create_bag(path, storage=storage) as bag:
        for stamp, topic, index in sorted(events):
            values = mask(index % 3) if size is None else np.full((size, size), index % 3, np.uint8)
            bag.write(topic, mask_to_message(values, header(index), types=TYPES), stamp)
    return path


def stamp_text(index):
    return message_text(0, START + index * STEP).rpartition(" ")[2]


class TestPairing:
    def test_late_predictions_find_their_image(self, tmp_path):
        bag = write_masks(tmp_path / "bag", range(20), range(20), delay_ns=5 * STEP + 1)
        metrics = evaluate_bag(bag)
        assert metrics.semantic.images == 20
        assert metrics.semantic.scores.pixel_accuracy == 100

    def test_annotation_without_prediction_is_reported(self, tmp_path):
        reported = []
        metrics = evaluate_bag(write_masks(tmp_path / "bag", range(5), [0, 1, 3]), report=reported.append)
        assert metrics.semantic.images == 3
        assert [line.split(":")[0] for line in reported] == [
            "/camera/truth/segmentation message 2 at 1600000000.200000000",
            "/camera/truth/segmentation message 4 at 1600000000.400000000",
        ]
        assert "has no prediction with its stamp" in reported[0]

    def test_predictions_without_annotation_are_passed_over(self, tmp_path):
        reported = []
        bag = write_masks(tmp_path / "bag", [150], range(200))
        assert evaluate_bag(bag, report=reported.append).semantic.images == 1
        assert reported == []

    @pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
    @pytest.mark.parametrize("order", ["annotation first", "predictions first", "backwards"])
    def test_however_far_apart_they_lie(self, tmp_path, storage, order):
        reported = []
        count = 3 * PENDING + 10
        delay = count * STEP * (-1 if order == "predictions first" else 1)
        predicted = reversed(range(count)) if order == "backwards" else range(count)
        bag = write_masks(tmp_path / "bag", range(count), predicted, delay_ns=delay, storage=storage, as_given=True)
        metrics = evaluate_bag(bag, report=reported.append)
        assert (metrics.semantic.images, metrics.semantic.scores.pixel_accuracy) == (count, 100)
        assert reported == []

    def test_equal_stamps_are_reported_however_far_apart(self, tmp_path):
        reported = []
        count = 2 * PENDING
        bag = write_masks(tmp_path / "bag", [*range(count), 0], range(count), delay_ns=count * STEP, as_given=True)
        assert evaluate_bag(bag, report=reported.append).semantic.images == count
        assert [line.split(":")[0] for line in reported] == [
            f"/camera/truth/segmentation message {count} at {stamp_text(count)}"
        ]

    def test_memory_is_bounded_however_far_apart(self, tmp_path):
        peaks = {}
        for count in (100, 400):
            bag = write_masks(tmp_path / f"bag{count}", range(count), range(count), delay_ns=count * STEP, size=200)
            tracemalloc.start()
            assert evaluate_bag(bag).semantic.images == count
            peaks[count] = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        # The masks that wait longer are twelve megabytes more.
        assert peaks[400] < peaks[100] + 1_500_000

    @pytest.mark.parametrize("name", ["truth/segmentation", "segmentation"])
    def test_what_the_bag_counts_and_does_not_hold_is_reported(self, tmp_path, name):
        reported = []
        bag = write_masks(tmp_path / "bag", range(5), range(5))
        metadata = yaml.safe_load((bag / "metadata.yaml").read_text())
        for entry in metadata["rosbag2_bagfile_information"]["topics_with_message_count"]:
            if entry["topic_metadata"]["name"] == f"/camera/{name}":
                entry["message_count"] = 7
        (bag / "metadata.yaml").write_text(yaml.safe_dump(metadata))
        assert evaluate_bag(bag, report=reported.append).semantic.images == 5
        assert [line.split(":")[0] for line in reported] == [f"/camera/{name} 2 of 7 messages"]

    def test_equal_stamps_are_reported(self, tmp_path):
        reported = []
        bag = write_masks(tmp_path / "bag", [0, 0, 1], [0, 1], delay_ns=1)
        evaluate_bag(bag, report=reported.append)
        assert "its header stamp occurs twice" in reported[0]

    def test_a_mask_of_another_size_costs_only_itself(self, tmp_path):
        reported = []
        with create_bag(tmp_path / "bag") as bag:
            for index in range(3):
                predicted = mask(0) if index else np.zeros((3, 4), np.uint8)
                for topic, values in (("/camera/truth/segmentation", mask(0)), ("/camera/segmentation", predicted)):
                    bag.write(topic, mask_to_message(values, header(index), types=TYPES), START + index * STEP)
        assert evaluate_bag(tmp_path / "bag", report=reported.append).semantic.images == 2
        assert len(reported) == 1
        assert "/camera/segmentation message 0" in reported[0]

    def test_cameras_are_evaluated_together_but_paired_apart(self, tmp_path):
        boxes = np.float32([[0, 0, 40, 40]])
        with create_bag(tmp_path / "bag") as bag:
            for camera, label in (("/front", 2), ("/rear", 3)):
                truth = TruthBoxes(boxes, np.int32([label]), np.array([False]))
                found = Detections(boxes, np.float32([0.9]), np.int32([label]))
                bag.write(f"{camera}/truth/detections", truth_to_message(truth, header(0), types=TYPES), START)
                bag.write(f"{camera}/detections", detections_to_message(found, header(0), types=TYPES), START)
        metrics = evaluate_bag(tmp_path / "bag")
        assert metrics.detection.images == 2
        assert metrics.detection.scores.ap == pytest.approx(100)


class TestRefusals:
    def test_no_annotation(self, tmp_path):
        bag = write_masks(tmp_path / "bag", [], [0])
        with pytest.raises(BagError, match=r"has no annotation, only /camera/segmentation; make an annotated bag"):
            evaluate_bag(bag)

    def test_no_predictions(self, tmp_path):
        bag = write_masks(tmp_path / "bag", [0], [])
        with pytest.raises(BagError, match=r"has no predictions, only .*; run lvad-perception replay on it first"):
            evaluate_bag(bag)

    def test_different_tasks(self, tmp_path):
        with create_bag(tmp_path / "bag") as bag:
            bag.write("/camera/truth/segmentation", mask_to_message(mask(0), header(0), types=TYPES), START)
            bag.write("/camera/drivable_area", mask_to_message(mask(0), header(0), types=TYPES), START)
        with pytest.raises(BagError, match="has no task with both predictions and annotation"):
            evaluate_bag(tmp_path / "bag")

    def test_no_stamp_in_common(self, tmp_path):
        bag = write_masks(tmp_path / "bag", [0, 1], [5, 6])
        with pytest.raises(BagError, match=r"no prediction in .* has the stamp of an annotated image"):
            evaluate_bag(bag, report=lambda line: None)

    def test_a_bag_with_other_classes(self, tmp_path):
        with create_bag(tmp_path / "bag") as bag:
            info = label_info_to_message(DRIVABLE, header(0), types=TYPES)
            bag.write("/camera/segmentation/label_info", info, START)
            for topic in ("/camera/truth/segmentation", "/camera/segmentation"):
                bag.write(topic, mask_to_message(mask(0), header(0), types=TYPES), START)
        with pytest.raises(VocabularyMismatchError, match=r"bag: /camera/segmentation/label_info .*semantic classes"):
            evaluate_bag(tmp_path / "bag")

    def test_a_split_without_labels_for_the_models_tasks(self, tmp_path, make_small_split, make_engine, make_manifest):
        root = make_small_split(tmp_path / "bdd", frames=2)
        for path in (root / "labels/drivable/masks/val").iterdir():
            path.unlink()
        manifest = make_manifest(classes={"drivable": DRIVABLE.names})
        with pytest.raises(DatasetError, match="no image has both a prediction and a truth for drivable"):
            evaluate_dataset(perceiver_of(make_engine(manifest)), root, "val")

    def test_a_broken_image_is_reported_and_left_out(self, tmp_path, make_small_split, make_engine):
        root = make_small_split(tmp_path / "bdd")
        (root / "images/100k/val/frame-001.png").write_bytes(b"")
        reported = []
        metrics = evaluate_dataset(perceiver_of(make_engine()), root, "val", report=reported.append)
        assert (metrics.semantic.images, len(reported)) == (3, 1)
        assert "val images frame-001" in reported[0]


def test_memory_does_not_grow_with_the_length(tmp_path):
    evaluate_bag(write_masks(tmp_path / "first", range(2), range(2)))  # imports
    peaks = {}
    for count in (150, 1500):
        bag = tmp_path / str(count)
        large = np.zeros((60, 80), np.uint8)
        with create_bag(bag) as writer:
            for index in range(count):
                for topic in ("/camera/truth/segmentation", "/camera/segmentation"):
                    writer.write(topic, mask_to_message(large, header(index), types=TYPES), START + index * STEP)
        tracemalloc.start()
        evaluate_bag(bag)
        peaks[count] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    # The masks of the longer bag are fourteen megabytes.
    assert peaks[1500] < peaks[150] + 1_500_000
