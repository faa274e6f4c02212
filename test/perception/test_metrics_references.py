"""Metrics against pycocotools, the BDD100K toolkit and scalabel, and against their definitions."""

from collections.abc import Iterator
from contextlib import redirect_stdout
from io import StringIO
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lvad_perception.types import Detections, Predictions, Truth, TruthBoxes
from lvad_perception.vocabulary import DETECTION, DRIVABLE, SEMANTIC, TASKS

from .metrics_pairs import SIZE, Pairs, evaluate, random_pair, without_masks

# --- pycocotools -------------------------------------------------------------------------------------------------


def coco_annotations(boxes_xyxy: np.ndarray, labels: np.ndarray, image: int) -> Iterator[dict[str, Any]]:
    for (x1, y1, x2, y2), label in zip(boxes_xyxy.astype(float).tolist(), labels.tolist(), strict=True):
        width, height = x2 - x1, y2 - y1
        yield {"image_id": image, "category_id": label + 1, "bbox": [x1, y1, width, height], "area": width * height}


def pycocotools_scores(pairs: Pairs) -> dict[str, dict[str, float]]:
    """``summarize()`` of pycocotools over all classes ("all") and over each class alone; -1 is undefined there."""
    coco = pytest.importorskip("pycocotools.coco", reason="pycocotools is not installed (extra: test)")
    from pycocotools.cocoeval import COCOeval

    truth: list[dict[str, Any]] = []
    found: list[dict[str, Any]] = []
    for image, (predictions, target) in enumerate(pairs, start=1):
        for item, crowd in zip(
            coco_annotations(target.boxes.boxes_xyxy, target.boxes.labels, image), target.boxes.crowd, strict=True
        ):
            truth.append({**item, "iscrowd": int(crowd), "id": len(truth) + 1})
        detections = predictions.detections
        for item, score in zip(
            coco_annotations(detections.boxes_xyxy, detections.labels, image), detections.scores, strict=True
        ):
            found.append({**item, "score": float(score)})
    result = {}
    with redirect_stdout(StringIO()):
        reference = coco.COCO()
        reference.dataset = {
            "info": {},
            "images": [{"id": i} for i in range(1, len(pairs) + 1)],
            "categories": [{"id": i, "name": name} for i, name in enumerate(DETECTION.names, start=1)],
            "annotations": truth,
        }
        reference.createIndex()
        results = reference.loadRes(found)
        for name in ("all", *DETECTION.names):
            evaluation = COCOeval(reference, results, "bbox")
            if name != "all":
                evaluation.params.catIds = [DETECTION.index(name) + 1]
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
            keys = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large", None, None, "ar100")
            result[name] = {key: value for key, value in zip(keys, evaluation.stats, strict=False) if key}
    return result


def assert_equals_pycocotools(pairs: Pairs) -> float:
    metrics = evaluate(without_masks(pairs)).detection
    assert metrics is not None
    largest = 0.0
    for name, expected in pycocotools_scores(pairs).items():
        scores = metrics.scores if name == "all" else metrics.per_class[name]
        for key, value in expected.items():
            ours = getattr(scores, key)
            assert (ours is None) == (value == -1), f"{name} {key}: {ours} against {value}"
            if ours is not None:
                assert ours == pytest.approx(100 * value, abs=1e-6), f"{name} {key}"
                largest = max(largest, abs(ours - 100 * value))
    return largest


def test_detection_equals_pycocotools() -> None:
    rng = np.random.default_rng(0)
    pairs = [random_pair(rng) for _ in range(40)]
    assert_equals_pycocotools(pairs)


def test_detection_equals_pycocotools_beyond_a_hundred_detections() -> None:
    rng = np.random.default_rng(1)
    assert_equals_pycocotools([random_pair(rng, truth_boxes=60, spurious=300, classes=2) for _ in range(4)])


def test_detection_equals_pycocotools_with_equal_scores() -> None:
    rng = np.random.default_rng(2)
    pairs = []
    for predictions, truth in (random_pair(rng, classes=3) for _ in range(10)):
        detections = predictions.detections
        coarse = np.round(detections.scores * 4).astype(np.float32) / 4  # stays sorted
        pairs.append(
            (Predictions(SIZE, Detections(detections.boxes_xyxy, coarse, detections.labels), None, None), truth)
        )
    assert_equals_pycocotools(pairs)


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1), truth_boxes=st.integers(1, 8), spurious=st.integers(1, 8), images=st.integers(1, 4)
)
def test_crowds_equal_pycocotools(seed: int, truth_boxes: int, spurious: int, images: int) -> None:
    rng = np.random.default_rng(seed)
    pairs = []
    for _ in range(images):
        predictions, truth = random_pair(rng, truth_boxes=truth_boxes, spurious=spurious, classes=2)
        crowd = rng.random(truth_boxes) < 0.6
        boxes = TruthBoxes(truth.boxes.boxes_xyxy, truth.boxes.labels, crowd)
        pairs.append((predictions, Truth(SIZE, boxes, None, None)))
    assert_equals_pycocotools(pairs)


def test_a_detection_inside_a_crowd_is_no_false_positive() -> None:
    car = DETECTION.index("car")
    boxes = np.array([[10, 10, 50, 50], [100, 10, 200, 90]], np.float32)
    inside = np.array([[120, 20, 150, 60]], np.float32)
    detections = Detections(
        np.concatenate([inside, boxes[:1]]), np.array([0.9, 0.8], np.float32), np.array([car, car], np.int32)
    )

    def ap(crowd: bool) -> float | None:
        truth = TruthBoxes(boxes, np.array([car, car], np.int32), np.array([False, crowd]))
        return evaluate(
            [(Predictions(SIZE, detections, None, None), Truth(SIZE, truth, None, None))]
        ).detection.scores.ap

    assert ap(crowd=True) == pytest.approx(100)
    assert ap(crowd=False) < 60


# --- the BDD100K toolkit -----------------------------------------------------------------------------------------


def toolkit_masks(pairs: Pairs, task: str, size: int) -> dict[str, Any]:
    """The toolkit's rule, written again: index ``size - 1`` is the ignored class, whose truth pixels are dropped and
    into which everything out of range falls; the mean runs over the classes seen in the truth.
    """
    histogram = np.zeros((size, size), np.int64)
    seen: set[int] = set()
    for predictions, truth in pairs:
        wanted = np.minimum(getattr(truth, task), size - 1).ravel()
        found = np.minimum(getattr(predictions, task), size - 1).ravel()
        np.add.at(histogram, (wanted[wanted < size - 1], found[wanted < size - 1]), 1)
        seen |= set(np.unique(wanted).tolist()) - {size - 1}
    hits, wanted, found = np.diag(histogram), histogram.sum(1), histogram.sum(0)
    iou = hits / np.maximum(wanted + found - hits, 1)
    return {
        "mean": 100 * iou[sorted(seen)].mean(),
        "iou": {index: 100 * iou[index] for index in seen},
        "accuracy": 100 * hits[:-1].sum() / histogram[:-1].sum(),
    }


@pytest.mark.parametrize(("task", "size"), [("semantic", len(SEMANTIC.names) + 1), ("drivable", len(DRIVABLE.names))])
def test_masks_equal_the_toolkits_definition(task: str, size: int) -> None:
    rng = np.random.default_rng(3)
    pairs = [random_pair(rng) for _ in range(6)]
    metrics = evaluate(pairs)
    ours = metrics.semantic.scores if task == "semantic" else metrics.drivable.official
    expected = toolkit_masks(pairs, task, size)
    assert ours.mean_iou == pytest.approx(expected["mean"], abs=1e-6)
    assert ours.pixel_accuracy == pytest.approx(expected["accuracy"], abs=1e-6)
    found = {TASKS[task].index(name): iou for name, iou in ours.iou.items() if iou is not None}
    assert found == pytest.approx(expected["iou"], abs=1e-6)


def test_three_class_drivable_counts_background() -> None:
    truth = np.full(SIZE, DRIVABLE.index("background"), np.uint8)
    truth[:90] = DRIVABLE.index("direct")
    everything_direct = np.zeros(SIZE, np.uint8)
    metrics = evaluate([(Predictions(SIZE, None, None, everything_direct), Truth(SIZE, None, None, truth))]).drivable
    assert metrics.official.mean_iou == 100  # false drivable area on background costs nothing officially
    assert metrics.three_class.mean_iou == pytest.approx((50 + 0) / 2)
    assert metrics.three_class.iou == {"direct": 50.0, "alternative": None, "background": 0.0}
    assert metrics.three_class.pixel_accuracy == pytest.approx(50)


@pytest.mark.parametrize("module", ["scalabel.eval.sem_seg", "bdd100k.eval.seg"])
@pytest.mark.parametrize(("task", "size"), [("semantic", 20), ("drivable", 3)])
def test_masks_equal_the_toolkit_itself(module: str, task: str, size: int) -> None:
    """Both evaluators of the toolkit: the first reads run lengths, the second PNG files."""
    evaluation = pytest.importorskip(module, reason=f"{module} is not installed")
    rng = np.random.default_rng(4)
    pairs = [random_pair(rng) for _ in range(5)]
    histogram = np.zeros((size, size), np.int64)
    seen: set[int] = set()
    for predictions, truth in pairs:
        wanted = np.minimum(getattr(truth, task), size - 1)
        histogram += evaluation.fast_hist(wanted.ravel(), getattr(predictions, task).ravel(), size)
        seen |= set(np.unique(wanted).tolist()) - {size - 1}
    with np.errstate(all="ignore"):
        iou = evaluation.per_class_iou(histogram)
    metrics = evaluate(pairs)
    scores = metrics.semantic.scores if task == "semantic" else metrics.drivable.official
    assert scores.mean_iou == pytest.approx(100 * iou[sorted(seen)].mean(), abs=1e-6)
    assert scores.pixel_accuracy == pytest.approx(100 * evaluation.whole_acc(histogram), abs=1e-6)


def test_detection_equals_scalabel() -> None:
    """``evaluate_det`` is what the toolkit runs for detection; its boxes name the last pixel inside."""
    detect = pytest.importorskip("scalabel.eval.detect", reason="scalabel is not installed")
    if pytest.importorskip("pydantic").VERSION >= "2":
        pytest.skip("scalabel 0.3.1 needs pydantic < 2")
    from scalabel.label.typing import Box2D, Category, Config, Frame, ImageSize, Label

    rng = np.random.default_rng(5)
    pairs = [random_pair(rng) for _ in range(25)]

    def labels(boxes: Any, extra: list[dict[str, Any]]) -> list[Any]:
        return [
            Label(
                id=str(i),
                category=DETECTION.names[label],
                box2d=Box2D(x1=x1, y1=y1, x2=x2 - 1, y2=y2 - 1),
                **extra[i],
            )
            for i, ((x1, y1, x2, y2), label) in enumerate(
                zip(boxes.boxes_xyxy.astype(float).tolist(), boxes.labels.tolist(), strict=True)
            )
        ]

    truth, found = [], []
    for i, (predictions, target) in enumerate(pairs):
        crowd = [{"attributes": {"crowd": bool(value)}} for value in target.boxes.crowd]
        truth.append(Frame(name=f"{i:04d}.jpg", labels=labels(target.boxes, crowd)))
        scores = [{"score": float(value)} for value in predictions.detections.scores]
        found.append(Frame(name=f"{i:04d}.jpg", labels=labels(predictions.detections, scores)))
    config = Config(
        imageSize=ImageSize(height=SIZE[0], width=SIZE[1]), categories=[Category(name=name) for name in DETECTION.names]
    )
    result = detect.evaluate_det(truth, found, config, nproc=1)
    ours = evaluate(without_masks(pairs)).detection
    pairs_of_names = [
        ("AP", "ap"), ("AP50", "ap50"), ("AP75", "ap75"), ("APs", "ap_small"),
        ("APm", "ap_medium"), ("APl", "ap_large"), ("AR100", "ar100"),
    ]  # fmt: skip
    for theirs, name in pairs_of_names:
        per_class, overall = getattr(result, theirs)
        assert getattr(ours.scores, name) == pytest.approx(overall["OVERALL"], abs=1e-6), theirs
        for category in DETECTION.names:
            value = getattr(ours.per_class[category], name)
            assert (float("nan") if value is None else value) == pytest.approx(
                per_class[category], abs=1e-6, nan_ok=True
            ), f"{theirs} {category}"
