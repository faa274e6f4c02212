"""The metrics room against pycocotools, against the BDD100K toolkit's definitions, and against itself."""

import json
import pickle
import subprocess
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from io import StringIO
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lvad_perception.errors import (
    ConfigError,
    DatasetError,
    EngineError,
    MissingDependencyError,
    VocabularyMismatchError,
)
from lvad_perception.metrics import Evaluator, Metrics, constant_baseline
from lvad_perception.metrics.table import aligned
from lvad_perception.types import Detections, Predictions, Truth, TruthBoxes
from lvad_perception.vocabulary import DETECTION, DRIVABLE, SEMANTIC, TASKS, UNLABELED

SIZE = (180, 320)
Pairs = list[tuple[Predictions, Truth]]


def random_boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    """Boxes from 2 pixels to nearly the whole image, so that small, medium and large all occur."""
    size = np.exp(rng.uniform(np.log(4), np.log(160), (count, 2)))
    corner = rng.uniform(0, 1, (count, 2)) * (np.array(SIZE[::-1]) - size)
    return np.concatenate([corner, corner + size], axis=1).astype(np.float32)


def random_pair(rng: np.random.Generator, *, truth_boxes: int = 12, spurious: int = 20, classes: int = 10) -> tuple:
    """Truth and a prediction that is partly right: shifted boxes, wrong labels, false positives, noisy masks."""
    boxes = random_boxes(rng, truth_boxes)
    labels = rng.integers(0, classes, truth_boxes).astype(np.int32)
    crowd = rng.random(truth_boxes) < 0.2
    found = np.concatenate([boxes + rng.normal(0, 2, boxes.shape), random_boxes(rng, spurious)])
    found = np.clip(found, 0, [SIZE[1], SIZE[0]] * 2).astype(np.float32)
    found[:, 2:] = np.maximum(found[:, 2:], found[:, :2] + 1)
    guessed = np.concatenate([labels, rng.integers(0, classes, spurious).astype(np.int32)])
    wrong = rng.random(len(guessed)) < 0.1
    guessed[wrong] = rng.integers(0, classes, int(wrong.sum()))
    scores = rng.random(len(guessed)).astype(np.float32)
    order = np.argsort(-scores)
    masks = []
    for task in ("semantic", "drivable"):
        count = len(TASKS[task].names)
        # Blocks rather than noise; the last class never occurs in the semantic truth but is predicted at times.
        truth = np.kron(rng.integers(0, count - (task == "semantic"), (6, 8)), np.ones((30, 40))).astype(np.uint8)
        guess = truth.copy()
        noise = rng.random(SIZE)
        guess[noise < 0.3] = rng.integers(0, count, int((noise < 0.3).sum()))
        guess[noise > 0.98] = UNLABELED
        truth[rng.random(SIZE) < 0.05] = UNLABELED
        masks.append((guess, truth))
    predictions = Predictions(SIZE, Detections(found[order], scores[order], guessed[order]), masks[0][0], masks[1][0])
    return predictions, Truth(SIZE, TruthBoxes(boxes, labels, crowd), masks[0][1], masks[1][1])


def evaluate(pairs: Pairs, tasks: tuple[str, ...] = tuple(TASKS)) -> Metrics:
    evaluator = Evaluator(tasks)
    for predictions, truth in pairs:
        evaluator.add(predictions, truth)
    return evaluator.compute()


def without_masks(pairs: Pairs) -> Pairs:
    return [(Predictions(p.size_hw, p.detections, None, None), Truth(t.size_hw, t.boxes, None, None)) for p, t in pairs]


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
    """The toolkit's rule, said anew: index ``size - 1`` is the ignored class, whose truth pixels are dropped and
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


# --- properties --------------------------------------------------------------------------------------------------


def perfect(truth: Truth) -> Predictions:
    real = ~truth.boxes.crowd
    count = int(real.sum())
    detections = Detections(
        truth.boxes.boxes_xyxy[real], np.linspace(0.9, 0.5, count, dtype=np.float32), truth.boxes.labels[real]
    )
    return Predictions(truth.size_hw, detections, truth.semantic, truth.drivable)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), images=st.integers(1, 3))
def test_a_perfect_prediction_scores_one_hundred(seed: int, images: int) -> None:
    rng = np.random.default_rng(seed)
    truths = [random_pair(rng)[1] for _ in range(images)]
    metrics = evaluate([(perfect(truth), truth) for truth in truths])
    assert metrics.detection.scores.ap == pytest.approx(100)
    assert metrics.detection.scores.ar100 == pytest.approx(100)
    for scores in (metrics.semantic.scores, metrics.drivable.official, metrics.drivable.three_class):
        assert scores.mean_iou == pytest.approx(100)
        assert scores.pixel_accuracy == pytest.approx(100)
    assert metrics.semantic.scores.iou["bicycle"] is None  # the truth never has it: it must not count as 0 or 100


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), data=st.data())
def test_the_order_of_images_changes_nothing(seed: int, data: st.DataObject) -> None:
    rng = np.random.default_rng(seed)
    pairs = [random_pair(rng, truth_boxes=5, spurious=6) for _ in range(4)]
    shuffled = [pairs[i] for i in data.draw(st.permutations(range(len(pairs))))]
    first, second = evaluate(pairs).to_dict(), evaluate(shuffled).to_dict()
    assert flat(first) == pytest.approx(flat(second), abs=1e-9, nan_ok=True)


def flat(facts: Any, name: str = "") -> dict[str, float]:
    if isinstance(facts, dict):
        return {key: value for k, item in facts.items() for key, value in flat(item, f"{name}/{k}").items()}
    return {name: float("nan") if facts is None else float(facts)}


def test_merged_evaluators_equal_one() -> None:
    rng = np.random.default_rng(6)
    pairs = [random_pair(rng) for _ in range(4)]
    left, right = Evaluator(), Evaluator()
    for pair in pairs[:2]:
        left.add(*pair)
    for pair in pairs[2:]:
        right.add(*pair)
    left.merge(right)
    assert left.compute() == evaluate(pairs)


def test_unlabeled_truth_counts_for_nothing() -> None:
    rng = np.random.default_rng(7)
    predictions, truth = random_pair(rng)
    other = predictions.semantic.copy()
    other[truth.semantic == UNLABELED] = 0
    changed = Predictions(SIZE, None, other, None)
    assert evaluate([(changed, truth)]).semantic == evaluate([(predictions, truth)]).semantic


@given(counts=st.lists(st.integers(0, 1000), min_size=3, max_size=3).filter(any))
def test_constant_baseline_is_the_best_constant_prediction(counts: list[int]) -> None:
    truth = np.repeat(np.arange(3, dtype=np.uint8), counts)[None]
    size = truth.shape
    reached = []
    for guess in range(3):
        constant = Predictions(size, None, None, np.full(size, guess, np.uint8))
        scores = evaluate([(constant, Truth(size, None, None, truth))]).drivable.three_class
        reached.append(scores.mean_iou)
    assert scores.constant_mean_iou == pytest.approx(max(reached))
    assert constant_baseline(np.diag(counts)) == pytest.approx(max(reached))


def test_constant_baseline_of_nothing_is_not_a_number() -> None:
    assert np.isnan(constant_baseline(np.zeros((3, 4), np.int64)))


# --- shape of the result -----------------------------------------------------------------------------------------


def test_metrics_survive_json() -> None:
    rng = np.random.default_rng(8)
    metrics = evaluate([random_pair(rng) for _ in range(3)])
    assert Metrics.from_dict(json.loads(json.dumps(metrics.to_dict(), allow_nan=False))) == metrics


def test_other_json_is_refused() -> None:
    with pytest.raises(DatasetError, match=r"not metrics of this version.*run the evaluation again"):
        Metrics.from_dict({"detection": {"AP": 3}})


def test_text_is_an_aligned_table() -> None:
    rng = np.random.default_rng(9)
    text = evaluate([random_pair(rng) for _ in range(3)]).to_text()
    blocks = text.split("\n\n")
    assert [block.split(",")[0] for block in blocks] == ["detection", "semantic", "drivable"]
    for block in blocks:
        lines = block.splitlines()
        assert len(lines[0]) == len(lines[-1]) == max(map(len, lines)), block
    assert "bicycle" in blocks[0]
    assert "bicycle" not in blocks[1]  # not in the semantic truth
    assert "best constant prediction" in blocks[2]


def test_columns_are_aligned_and_lines_end_without_blanks() -> None:
    text = aligned([("head", "a", "bb"), ("x", "1.0", ""), ("longer", "10.0", "2.0")])
    assert text.splitlines() == ["head       a   bb", "x        1.0", "longer  10.0  2.0"]


def test_a_task_without_truth_is_none() -> None:
    rng = np.random.default_rng(10)
    predictions, truth = random_pair(rng)
    metrics = evaluate([(predictions, Truth(SIZE, None, truth.semantic, None))])
    assert metrics.detection is None
    assert metrics.drivable is None
    assert metrics.semantic.images == 1
    assert Metrics.from_dict(metrics.to_dict()) == metrics
    assert metrics.to_text().startswith("semantic, 1 image ")


def test_annotated_and_empty_images_have_no_ap() -> None:
    nothing = TruthBoxes(np.zeros((0, 4), np.float32), np.zeros(0, np.int32), np.zeros(0, bool))
    none_found = Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int32))
    metrics = evaluate([(Predictions(SIZE, none_found, None, None), Truth(SIZE, nothing, None, None))])
    assert metrics.detection.images == 1
    assert metrics.detection.scores.ap is None
    assert "-" in metrics.to_text()


def test_nothing_found_scores_zero() -> None:
    _, truth = random_pair(np.random.default_rng(11))
    none_found = Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int32))
    scores = evaluate([(Predictions(SIZE, none_found, None, None), truth)], ("detection",)).detection.scores
    assert (scores.ap, scores.ar100) == (0, 0)


def test_fully_unlabeled_masks_have_no_score() -> None:
    mask = np.full(SIZE, UNLABELED, np.uint8)
    guess = np.zeros(SIZE, np.uint8)
    metrics = evaluate([(Predictions(SIZE, None, guess, guess), Truth(SIZE, None, mask, mask))])
    assert metrics.semantic.scores.mean_iou is None
    assert metrics.drivable.official.pixel_accuracy is None


# --- bad input ---------------------------------------------------------------------------------------------------


def test_nothing_to_evaluate_is_said() -> None:
    with pytest.raises(DatasetError, match="no image has both a prediction and a truth for semantic; choose a split"):
        Evaluator(("semantic",)).compute()


def test_unknown_task_is_said() -> None:
    with pytest.raises(ConfigError, match="cannot evaluate \\['lanes'\\]; choose from detection, semantic, drivable"):
        Evaluator(("lanes",))


def test_a_mask_of_another_size_names_both_and_leaves_no_trace() -> None:
    predictions, truth = random_pair(np.random.default_rng(12))
    small = Predictions(SIZE, predictions.detections, predictions.semantic, np.zeros((90, 160), np.uint8))
    evaluator = Evaluator()
    with pytest.raises(DatasetError, match=r"drivable prediction is 160x90 pixels .* its truth is 320x180"):
        evaluator.add(small, truth)
    with pytest.raises(DatasetError, match="nothing to evaluate"):
        evaluator.compute()


def test_an_image_of_another_size_names_both() -> None:
    predictions, truth = random_pair(np.random.default_rng(13))
    other = Truth((720, 1280), truth.boxes, None, None)
    with pytest.raises(DatasetError, match=r"the prediction is 320x180 pixels .* its truth is 1280x720"):
        Evaluator().add(predictions, other)


def test_a_label_outside_the_vocabulary_is_said() -> None:
    predictions, truth = random_pair(np.random.default_rng(14))
    truth.boxes.labels[3] = 10
    with pytest.raises(VocabularyMismatchError, match="a truth has label 10 but there are 10 classes"):
        Evaluator().add(predictions, truth)


def test_a_score_that_is_no_number_is_said() -> None:
    predictions, truth = random_pair(np.random.default_rng(15))
    predictions.detections.scores[0] = np.nan
    with pytest.raises(EngineError, match="not a finite number"):
        Evaluator().add(predictions, truth)


def test_missing_faster_coco_eval_is_said_with_the_first_image(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    predictions, truth = random_pair(np.random.default_rng(16))
    with pytest.raises(MissingDependencyError, match=r"pip install 'lvad_perception\[eval\]'"):
        Evaluator().add(predictions, truth)
    masks_only = Evaluator(("semantic", "drivable"))
    masks_only.add(predictions, truth)
    assert masks_only.compute().detection is None


def test_importing_the_room_does_not_import_faster_coco_eval() -> None:
    code = "import sys, lvad_perception.metrics; sys.exit('faster_coco_eval' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_engines_may_reuse_their_buffers() -> None:
    evaluator = Evaluator()
    predictions, truth = random_pair(np.random.default_rng(17))
    evaluator.add(predictions, truth)
    before = evaluator.compute()
    predictions.detections.scores[:] = 0
    predictions.detections.boxes_xyxy[:] = 0
    predictions.semantic[:] = 0
    assert evaluator.compute() == before


def test_memory_does_not_grow_with_pixels() -> None:
    evaluator = Evaluator(("semantic", "drivable"))
    empty = len(pickle.dumps(evaluator))
    rng = np.random.default_rng(18)
    for _ in range(5):
        evaluator.add(*random_pair(rng))
    assert len(pickle.dumps(evaluator)) < empty + 1000
