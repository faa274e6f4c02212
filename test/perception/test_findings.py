"""Findings of an evaluation beyond its metrics, against the metrics of the same images."""

import numpy as np
import pytest

from lvad_perception.errors import DatasetError
from lvad_perception.metrics import Evaluator, FrameFindings, FrameMetadata, worst_first
from lvad_perception.metrics.confusion import BACKGROUND, confuse_boxes, f1
from lvad_perception.metrics.findings import NOT_STATED
from lvad_perception.types import Detections, Predictions, Truth, TruthBoxes
from lvad_perception.vocabulary import DETECTION

SIZE = (40, 60)
CAR, TRUCK, SIGN = (DETECTION.index(name) for name in ("car", "truck", "traffic sign"))


def found(*boxes):
    """Detections from (x1, y1, x2, y2, class, score)."""
    rows = np.array(boxes, np.float32).reshape(-1, 6)
    return Detections(rows[:, :4], rows[:, 5], rows[:, 4].astype(np.int32))


def known(*boxes):
    """Truth from (x1, y1, x2, y2, class, is crowd)."""
    rows = np.array(boxes, np.float32).reshape(-1, 6)
    return TruthBoxes(rows[:, :4], rows[:, 4].astype(np.int32), rows[:, 5].astype(bool))


def random_frame(random, *, good):
    """A frame whose prediction is right where ``good``, else noise."""
    corners = random.uniform(0, 20, (4, 2)).astype(np.float32)
    boxes = np.concatenate([corners, corners + 15], axis=1)
    labels = np.array([CAR, CAR, TRUCK, SIGN], np.int32)
    semantic = np.repeat(random.integers(0, 4, (4, 1), np.uint8), 10, axis=0).repeat(60, axis=1)
    drivable = (semantic % 3).astype(np.uint8)
    shift = 0 if good else 6
    scores = np.sort(random.uniform(0.31, 1, 4).astype(np.float32))[::-1]
    predicted = Predictions(
        SIZE,
        Detections(boxes + shift, scores, labels),
        np.roll(semantic, shift, axis=0),
        np.roll(drivable, shift, axis=0),
    )
    return predicted, Truth(SIZE, TruthBoxes(boxes, labels, np.zeros(4, bool)), semantic, drivable)


@pytest.mark.parametrize(
    ("detections", "truth", "expected"),
    [
        (found((0, 0, 10, 10, CAR, 0.9)), known((0, 0, 10, 10, CAR, 0)), {(CAR, CAR): 1}),
        (found((0, 0, 10, 10, CAR, 0.9)), known((0, 0, 10, 10, TRUCK, 0)), {(TRUCK, CAR): 1}),
        (found((0, 0, 10, 10, CAR, 0.2)), known((0, 0, 10, 10, CAR, 0)), {(CAR, BACKGROUND): 1}),
        (
            found((0, 0, 10, 10, CAR, 0.9)),
            known((20, 20, 30, 30, CAR, 0)),
            {(CAR, BACKGROUND): 1, (BACKGROUND, CAR): 1},
        ),
        # a second detection of the same object is a false alarm
        (
            found((0, 0, 10, 10, CAR, 0.9), (0, 0, 10, 9, CAR, 0.8)),
            known((0, 0, 10, 10, CAR, 0)),
            {(CAR, CAR): 1, (BACKGROUND, CAR): 1},
        ),
        # its own class first, although the wrong class scores higher and overlaps more
        (
            found((0, 0, 10, 10, TRUCK, 0.9), (0, 0, 10, 8, CAR, 0.8)),
            known((0, 0, 10, 10, CAR, 0)),
            {(CAR, CAR): 1, (BACKGROUND, TRUCK): 1},
        ),
        (found((2, 2, 6, 6, SIGN, 0.9)), known((0, 0, 30, 30, CAR, 1)), {}),
        (found(), known(), {}),
    ],
)
def test_each_box_is_a_hit_a_confusion_a_miss_or_a_false_alarm(detections, truth, expected):
    counts = confuse_boxes(detections, truth, 0.3)
    assert {(int(row), int(column)): int(counts[row, column]) for row, column in np.argwhere(counts)} == expected


def test_f1_is_the_share_of_hits():
    counts = np.zeros((BACKGROUND + 1, BACKGROUND + 1), np.int64)
    assert f1(counts) == 100
    counts[CAR, CAR], counts[CAR, BACKGROUND], counts[BACKGROUND, CAR] = 3, 1, 2
    assert f1(counts) == pytest.approx(100 * 2 * 3 / (5 + 4))


@pytest.fixture
def frames():
    """Key -> (predictions, truth) and key -> metadata, of two weathers; the rainy frames are predicted badly."""
    random = np.random.default_rng(3)
    pairs = {f"f{i}": random_frame(random, good=i % 2 == 0) for i in range(6)}
    metadata = {
        key: FrameMetadata(f"name of {key}", {"weather": "rainy" if index % 2 else "clear", "scene": "highway"})
        for index, key in enumerate(pairs)
    }
    return pairs, metadata


def evaluated(pairs):
    evaluator = Evaluator()
    for key, (predictions, truth) in pairs.items():
        evaluator.add(predictions, truth, frame=key)
    return evaluator


def test_the_metrics_and_the_curves_are_those_of_the_evaluator(frames):
    evaluator = evaluated(frames[0])
    findings = evaluator.findings(frames[1])
    assert findings.metrics == evaluator.compute()
    scores = findings.metrics.detection
    assert set(findings.precision) == {"car", "truck", "traffic sign"}
    for name, curve in findings.precision.items():
        assert curve.mean() == pytest.approx(scores.per_class[name].ap50)
    semantic = findings.confusions["semantic"]
    assert 100 * np.trace(semantic[:, :-1]) / semantic.sum() == pytest.approx(
        findings.metrics.semantic.scores.pixel_accuracy
    )
    assert findings.confusions["detection"][:-1].sum() == 24


def test_a_slice_scores_as_an_evaluation_of_its_frames_alone(frames):
    pairs, metadata = frames
    findings = evaluated(pairs).findings(metadata)
    assert set(findings.slices) == {"weather", "scene"}  # nobody stated the time of day
    for weather in ("clear", "rainy"):
        alone = evaluated(
            {key: pairs[key] for key in pairs if metadata[key].attributes["weather"] == weather}
        ).compute()
        scores = findings.slices["weather"][weather]
        assert scores.images == 3
        assert scores.ap == pytest.approx(alone.detection.scores.ap)
        assert scores.ap50 == pytest.approx(alone.detection.scores.ap50)
        assert scores.semantic == pytest.approx(alone.semantic.scores.mean_iou)
        assert scores.drivable == pytest.approx(alone.drivable.three_class.mean_iou)
    assert findings.slices["weather"]["clear"].semantic > findings.slices["weather"]["rainy"].semantic
    assert findings.slices["scene"]["highway"].ap == pytest.approx(findings.metrics.detection.scores.ap)


def test_frames_without_an_attribute_are_a_slice_of_their_own(frames):
    pairs, metadata = frames
    metadata["f0"] = FrameMetadata("f0")
    slices = evaluated(pairs).findings(metadata).slices
    assert [(value, scores.images) for value, scores in slices["weather"].items()] == [
        ("rainy", 3),
        ("clear", 2),
        (NOT_STATED, 1),
    ]
    assert evaluated(pairs).findings().slices == {}


def test_the_tasks_of_a_frame_may_come_one_at_a_time_and_from_another_process(frames):
    pairs, metadata = frames
    apart, other = Evaluator(), Evaluator()
    for index, (key, (predictions, truth)) in enumerate(pairs.items()):
        into = apart if index < 3 else other
        masks = Predictions(SIZE, None, predictions.semantic, predictions.drivable)
        into.add(masks, Truth(SIZE, None, truth.semantic, truth.drivable), frame=key)
        into.add(
            Predictions((0, 0), predictions.detections, None, None), Truth((0, 0), truth.boxes, None, None), frame=key
        )
    apart.merge(other)
    together = evaluated(pairs).findings(metadata)
    assert apart.findings(metadata).frames == together.frames
    assert apart.findings(metadata).slices == together.slices


def test_a_frame_that_is_right_has_no_error(frames):
    found_frames = evaluated(frames[0]).findings(frames[1]).frames
    assert found_frames[0].name == "name of f0"
    assert found_frames[0].errors == {"detection": 0, "semantic": 0, "drivable": 0}
    assert min(found_frames[1].errors.values()) > 10
    by_error = worst_first(found_frames)
    assert {excess.frame.name for excess in by_error[:3]} == {"name of f1", "name of f3", "name of f5"}


def test_images_without_a_key_count_in_the_sums_only(frames):
    evaluator = Evaluator()
    for predictions, truth in frames[0].values():
        evaluator.add(predictions, truth)
    findings = evaluator.findings()
    assert findings.frames == ()
    assert findings.metrics == evaluated(frames[0]).compute()


def test_nothing_to_evaluate_is_an_error():
    with pytest.raises(DatasetError, match="nothing to evaluate"):
        Evaluator().findings()


def frame(name, **losses):
    return FrameFindings(name, {}, losses, {"detection": 50.0})


def test_the_worst_frame_is_furthest_above_the_medians_whatever_it_is_annotated_for():
    frames = [
        frame("usual", box=2.0, mask=20.0),
        frame("boxes only", box=9.0),
        frame("both", box=2.5, mask=22.0),
        frame("better", box=1.0, mask=19.0),
    ]
    ranked = worst_first(frames)
    assert [excess.frame.name for excess in ranked] == ["boxes only", "both", "usual", "better"]
    assert ranked[0].parts == {"box": 9 - 2.25}
    assert (ranked[0].total, ranked[0].above) == (9, 6.75)
    assert list(ranked[1].parts) == ["mask", "box"]  # the largest part first
    assert worst_first([]) == []
