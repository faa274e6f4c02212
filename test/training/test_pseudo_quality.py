import json

import msgspec
import numpy as np
import pytest

from lvad_perception.metrics import Evaluator
from lvad_perception.types import Detections, Predictions, Truth, TruthBoxes
from lvad_perception.vocabulary import DETECTION, DRIVABLE, SEMANTIC, UNLABELED
from lvad_training.pseudo.quality import PseudoReport, Tally, tally_boxes, tally_pixels, task_quality

CAR, BUS, TRAIN = (DETECTION.index(name) for name in ("car", "bus", "train"))


def boxes(*items):
    """(x, label) of boxes of 10 by 10 pixels; earlier ones have better scores."""
    xyxy = np.array([(x, 0, x + 10, 10) for x, _ in items], np.float32).reshape(-1, 4)
    labels = np.array([label for _, label in items], np.int32)
    return Detections(xyxy, np.linspace(0.9, 0.5, len(items), dtype=np.float32), labels)


def truth(*items):
    found = boxes(*items)
    return TruthBoxes(found.boxes_xyxy, found.labels, np.zeros(len(items), np.bool_))


def test_boxes_are_counted_and_compared_where_the_truth_is_known():
    tallies = [
        tally_boxes(boxes((0, CAR), (50, CAR), (80, BUS)), truth((0, CAR), (20, CAR), (90, TRAIN)), DETECTION),
        tally_boxes(boxes((0, CAR)), None, DETECTION),
    ]
    quality = task_quality("detection", {"car": 0.5, "bus": 0.6}, tallies)
    assert (quality.frames, quality.compared, quality.labels) == (2, 1, 4)
    car, bus, train = (quality.classes[name] for name in ("car", "bus", "train"))
    assert (car.threshold, car.labels) == (0.5, 3)
    assert (car.precision, car.recall, car.f1) == (50, 50, 50)
    assert (bus.labels, bus.precision, bus.recall, bus.f1) == (1, 0, None, 0)
    assert (train.threshold, train.labels, train.precision, train.recall) == (None, 0, None, 0)
    assert (quality.precision, quality.recall) == (pytest.approx(100 / 3), pytest.approx(100 / 3))
    assert (quality.mean_iou, quality.unlabelled) == (None, None)


def test_a_box_in_a_crowd_is_a_label_that_is_neither_right_nor_wrong():
    crowd = TruthBoxes(truth((0, CAR)).boxes_xyxy, np.array([CAR], np.int32), np.array([True]))
    quality = task_quality("detection", {}, [tally_boxes(boxes((0, CAR)), crowd, DETECTION)])
    assert (quality.labels, quality.precision, quality.recall) == (1, None, None)


def test_pixels_are_measured_where_they_are_labelled():
    mask = np.array([[0, 0, 1, UNLABELED], [2, 2, UNLABELED, UNLABELED]], np.uint8)
    true = np.array([[0, 1, 1, 1], [2, UNLABELED, 2, UNLABELED]], np.uint8)
    tallies = [tally_pixels(mask, true, DRIVABLE), tally_pixels(mask, None, DRIVABLE)]
    quality = task_quality("drivable", dict.fromkeys(DRIVABLE.names, 0.5), tallies)
    assert (quality.frames, quality.compared, quality.labels, quality.unlabelled) == (2, 1, 10, 37.5)
    assert quality.pixel_accuracy == 75
    direct, alternative, background = quality.classes.values()
    assert (direct.labels, direct.precision, direct.recall, direct.iou) == (4, 50, 100, 50)
    assert (alternative.precision, alternative.recall, alternative.iou) == (100, pytest.approx(100 / 3), 50)
    assert (background.precision, background.recall, background.iou) == (100, 50, 100)
    assert quality.mean_iou == pytest.approx(200 / 3)


def test_where_everything_is_labelled_the_numbers_are_those_of_an_evaluation():
    random = np.random.default_rng(0)
    pairs = [(random.integers(0, 19, (8, 8), np.uint8), random.integers(0, 19, (8, 8), np.uint8)) for _ in range(3)]
    evaluator = Evaluator(["semantic"])
    for mask, true in pairs:
        true[0] = UNLABELED
        evaluator.add(Predictions((8, 8), None, mask, None), Truth((8, 8), None, true, None))
    quality = task_quality("semantic", {}, [tally_pixels(mask, true, SEMANTIC) for mask, true in pairs])
    wanted = evaluator.compute().semantic.scores
    assert (quality.mean_iou, quality.pixel_accuracy) == (wanted.mean_iou, wanted.pixel_accuracy)
    assert {name: one.iou for name, one in quality.classes.items()} == wanted.iou


def test_the_order_of_frames_and_a_trip_through_json_change_nothing():
    mask = np.random.default_rng(1).integers(0, 3, (8, 8), np.uint8)
    tallies = [tally_pixels(mask, np.roll(mask, k), DRIVABLE) for k in range(4)]
    again = [msgspec.json.decode(msgspec.json.encode(tally), type=Tally) for tally in reversed(tallies)]
    assert again == tallies[::-1]
    report = PseudoReport({"drivable": task_quality("drivable", {}, tallies)})
    assert PseudoReport({"drivable": task_quality("drivable", {}, again)}) == report
    assert msgspec.convert(json.loads(json.dumps(report.to_dict())), PseudoReport) == report


def test_the_text_has_the_numbers_and_says_what_the_truth_was_for():
    mask = np.zeros((4, 4), np.uint8)
    mask[0] = UNLABELED
    report = PseudoReport(
        {
            "detection": task_quality("detection", {"car": 0.5}, [tally_boxes(boxes((0, CAR)), None, DETECTION)]),
            "drivable": task_quality(
                "drivable", dict.fromkeys(DRIVABLE.names, 0.25), [tally_pixels(mask, mask, DRIVABLE)]
            ),
        }
    )
    first, second = (block.splitlines() for block in report.to_text().split("\n\n"))
    assert first[0].split() == ["detection,", "1", "image", "threshold", "boxes", "precision", "recall", "F1"]
    cells = {line.split("  ")[0]: line.split()[-5:] for line in first[1:-1]}
    assert cells["car"] == ["0.50", "1", "-", "-", "-"]
    assert cells["bus"] == ["none", "0", "-", "-", "-"]
    assert first[-1] == "not compared: none of the images is annotated"
    cells = {line.split("  ")[0]: line.split() for line in second[1:-1]}
    assert cells["labelled, of all"][-1] == "75.0"
    assert cells["mean IoU"][-1] == cells["pixel accuracy"][-1] == "100.0"
    assert cells["direct"] == ["direct", "0.25", "100.0", "100.0", "100.0", "100.0", "100.0"]
    assert cells["background"][1:] == ["0.25", "0.0", "-", "-", "-", "-"]
    assert second[-1] == "compared with the annotation of 1 of the images, which served this report alone"


def test_no_frame_at_all():
    report = PseudoReport({task: task_quality(task, {}, []) for task in ("detection", "semantic")})
    assert report.tasks["semantic"].unlabelled is None
    assert "semantic, 0 images" in report.to_text()
