"""Properties of metrics, their text and JSON, and refused input."""

import json
import pickle
import subprocess
import sys
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
from lvad_perception.vocabulary import UNLABELED

from .metrics_pairs import SIZE, evaluate, random_pair

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


def flat(metadata: Any, name: str = "") -> dict[str, float]:
    if isinstance(metadata, dict):
        return {key: value for k, item in metadata.items() for key, value in flat(item, f"{name}/{k}").items()}
    return {name: float("nan") if metadata is None else float(metadata)}


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


def test_nothing_to_evaluate_is_an_error() -> None:
    with pytest.raises(DatasetError, match="no image has both a prediction and a truth for semantic; choose a split"):
        Evaluator(("semantic",)).compute()


def test_unknown_task_is_an_error() -> None:
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


def test_a_label_outside_the_vocabulary_is_an_error() -> None:
    predictions, truth = random_pair(np.random.default_rng(14))
    truth.boxes.labels[3] = 10
    with pytest.raises(VocabularyMismatchError, match="a truth has label 10 but there are 10 classes"):
        Evaluator().add(predictions, truth)


def test_a_score_that_is_no_number_is_an_error() -> None:
    predictions, truth = random_pair(np.random.default_rng(15))
    predictions.detections.scores[0] = np.nan
    with pytest.raises(EngineError, match="not a finite number"):
        Evaluator().add(predictions, truth)


def test_missing_faster_coco_eval_is_an_error_of_the_first_image(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    predictions, truth = random_pair(np.random.default_rng(16))
    with pytest.raises(MissingDependencyError, match=r"pip install 'lvad_perception\[eval\]'"):
        Evaluator().add(predictions, truth)
    masks_only = Evaluator(("semantic", "drivable"))
    masks_only.add(predictions, truth)
    assert masks_only.compute().detection is None


def test_importing_metrics_does_not_import_faster_coco_eval() -> None:
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
