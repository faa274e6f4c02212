import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lvad_perception.errors import ConfigError
from lvad_perception.types import Detections, TruthBoxes
from lvad_perception.vocabulary import DETECTION, DRIVABLE, UNLABELED
from lvad_training.pseudo.matching import Matches, match_boxes
from lvad_training.pseudo.selection import (
    auto_thresholds,
    box_thresholds,
    check_names,
    ignored_boxes,
    mask_thresholds,
    needs_auto,
    select_boxes,
    select_pixels,
)
from lvad_training.recipe.schema import PseudoConfig

CAR, BUS = DETECTION.index("car"), DETECTION.index("bus")


def detections(*items):
    """(x, score, label) -> boxes of 10 by 10 pixels."""
    boxes = np.array([(x, 0, x + 10, 10) for x, _, _ in items], np.float32).reshape(-1, 4)
    return Detections(
        boxes, np.array([score for _, score, _ in items], np.float32), np.array([c for *_, c in items], np.int32)
    )


def truth(*items):
    """(x, label, crowd) -> boxes of 10 by 10 pixels."""
    boxes = np.array([(x, 0, x + 10, 10) for x, _, _ in items], np.float32).reshape(-1, 4)
    return TruthBoxes(
        boxes, np.array([label for _, label, _ in items], np.int32), np.array([c for *_, c in items], np.bool_)
    )


def matches(scores, hits, count, label=CAR):
    total = np.zeros(10, np.int64)
    total[label] = count
    return Matches(np.full(len(scores), label, np.int32), np.array(scores, np.float32), np.array(hits, np.bool_), total)


class TestMatching:
    def test_one_detection_per_object_and_the_best_score_first(self):
        found = match_boxes(detections((1, 0.3, CAR), (0, 0.9, CAR), (50, 0.5, CAR)), truth((0, CAR, False)))
        assert found.scores.tolist() == pytest.approx([0.9, 0.5, 0.3])
        assert found.hits.tolist() == [True, False, False]
        assert found.truth.tolist() == [0, 0, 1, 0, 0, 0, 0, 0, 0, 0]

    def test_the_second_best_overlap_is_taken_when_the_best_is_not_free(self):
        found = match_boxes(detections((0, 0.9, CAR), (1, 0.8, CAR)), truth((1, CAR, False), (-3, CAR, False)))
        assert found.hits.tolist() == [True, False]  # the first takes x = 1; -3 is too far from the second
        found = match_boxes(detections((1, 0.9, CAR), (0, 0.8, CAR)), truth((1, CAR, False), (-3, CAR, False)))
        assert found.hits.tolist() == [True, True]

    def test_classes_do_not_mix_and_half_overlap_is_needed(self):
        assert not match_boxes(detections((0, 0.9, BUS)), truth((0, CAR, False))).hits.any()
        assert match_boxes(detections((3, 0.9, CAR)), truth((0, CAR, False))).hits.all()  # 70 / 130
        assert not match_boxes(detections((4, 0.9, CAR)), truth((0, CAR, False))).hits.any()  # 60 / 140

    def test_a_detection_in_a_crowd_does_not_count(self):
        found = match_boxes(detections((0, 0.9, CAR), (2, 0.8, CAR), (40, 0.7, CAR)), truth((1, CAR, True)))
        assert found.scores.tolist() == pytest.approx([0.7])
        assert not found.hits.any()
        assert found.truth.sum() == 0

    def test_without_detections_or_truth(self):
        assert len(match_boxes(detections(), truth((0, CAR, False))).hits) == 0
        assert match_boxes(detections((0, 0.5, CAR)), truth()).hits.tolist() == [False]


class TestAutoThresholds:
    def test_the_score_with_the_best_f1(self):
        image = matches([0.9, 0.8, 0.6, 0.4, 0.3], [True, False, True, False, False], 2)
        assert auto_thresholds([image]) == {"car": pytest.approx(0.6)}

    def test_images_count_together(self):
        images = [matches([0.9], [True], 1), matches([0.7, 0.2], [True, False], 1), matches([], [], 0)]
        assert auto_thresholds(images) == {"car": pytest.approx(0.7)}

    @pytest.mark.parametrize(
        "image",
        [
            matches([0.9], [False], 0),  # no truth
            matches([0.9], [False], 3),  # never right
            matches([0.04], [True], 1),  # right, and not sure of anything
            matches([], [], 3),
        ],
    )
    def test_a_class_that_the_teacher_does_not_know_is_left_out(self, image):
        assert auto_thresholds([image]) == {}
        assert auto_thresholds([]) == {}

    def test_no_threshold_above_the_highest(self):
        assert auto_thresholds([matches([0.99, 0.97], [True, False], 1)]) == {"car": pytest.approx(0.95)}

    @settings(max_examples=60, deadline=None)
    @given(st.lists(st.tuples(st.integers(0, 20), st.booleans()), max_size=12), st.integers(0, 5))
    def test_no_other_threshold_is_better(self, boxes, missed):
        scores = [score / 20 for score, _ in boxes]
        hits = [hit for _, hit in boxes]
        count = sum(hits) + missed

        def f1(threshold):
            kept = [hit for score, hit in zip(scores, hits, strict=True) if np.float32(score) >= np.float32(threshold)]
            return 2 * sum(kept) / max(1, len(kept) + count)

        best = max(f1(threshold) for threshold in np.linspace(0.05, 0.95, 181))
        chosen = auto_thresholds([matches(scores, hits, count)])
        assert f1(chosen["car"]) == pytest.approx(best) if chosen else best == 0


class TestThresholds:
    def test_the_class_goes_before_all_and_auto_fills_the_rest(self):
        config = PseudoConfig(box_scores={"car": 0.7})
        assert needs_auto(config)
        assert box_thresholds(config, {"car": 0.2, "bus": 0.4}) == {"car": 0.7, "bus": 0.4}
        config = PseudoConfig(box_score=0.3, box_scores={"car": 0.7})
        assert not needs_auto(config)
        assert box_thresholds(config, {}) == {**dict.fromkeys(DETECTION.names, 0.3), "car": 0.7}
        assert not needs_auto(PseudoConfig(box_scores=dict.fromkeys(DETECTION.names, 0.5)))

    def test_masks(self):
        config = PseudoConfig(mask_confidence=0.4, mask_confidences={"direct": 0.9})
        assert mask_thresholds(config, "drivable") == {"direct": 0.9, "alternative": 0.4, "background": 0.4}
        assert set(mask_thresholds(config, "semantic").values()) == {0.4}

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"box_scores": {"person": 0.5}}, r"box_scores has no class 'person'; choose from pedestrian, rider"),
            ({"mask_confidences": {"cars": 0.5}}, r"mask_confidences has no class 'cars'; choose from road, .*direct"),
        ],
    )
    def test_unknown_classes_are_refused(self, changes, message):
        with pytest.raises(ConfigError, match=message):
            check_names(PseudoConfig(**changes))


class TestSelection:
    def test_boxes(self):
        found = detections((0, 0.9, CAR), (1, 0.5, BUS), (2, 0.5, CAR), (3, 0.4, CAR))
        kept = select_boxes(found, {"car": 0.5})
        assert kept.boxes_xyxy[:, 0].tolist() == [0, 2]
        assert kept.labels.tolist() == [CAR, CAR]
        assert len(select_boxes(found, {})) == 0

    def test_boxes_that_nearly_pass_are_ignored_and_so_are_those_of_classes_without_threshold(self):
        found = detections((0, 0.9, CAR), (1, 0.5, BUS), (2, 0.49, CAR), (3, 0.2, CAR), (4, 0.1, CAR), (5, 0.19, BUS))
        unsure = ignored_boxes(found, {"car": 0.5}, 0.2)
        assert unsure.boxes_xyxy[:, 0].tolist() == [1, 2, 3]
        assert unsure.labels.tolist() == [BUS, CAR, CAR]
        assert len(ignored_boxes(found, {"car": 0.5}, 1)) == 0

    def test_every_box_that_made_a_threshold_passes_it(self):
        score = float(np.float32(0.123456789))
        chosen = auto_thresholds([matches([score], [True], 1)])
        assert len(select_boxes(detections((0, score, CAR)), chosen)) == 1

    def test_pixels_by_the_confidence_of_their_class(self):
        label_map = np.array([[0, 0, 1, 2, 7]], np.uint8)
        confidence = np.array([[127, 128, 10, 255, 255]], np.uint8)
        thresholds = {"direct": 0.5, "alternative": 0.0, "background": 1.0}
        kept = select_pixels(label_map, confidence, thresholds, DRIVABLE)
        assert kept.dtype == np.uint8
        assert kept.tolist() == [[UNLABELED, 0, 1, 2, UNLABELED]]

    def test_a_higher_threshold_keeps_no_more(self):
        random = np.random.default_rng(0)
        label_map, confidence = random.integers(0, 3, (8, 8), np.uint8), random.integers(0, 256, (8, 8), np.uint8)
        kept = [
            select_pixels(label_map, confidence, dict.fromkeys(DRIVABLE.names, share), DRIVABLE) != UNLABELED
            for share in np.linspace(0, 1, 6)
        ]
        assert kept[0].all()
        assert all((less <= more).all() for more, less in itertools.pairwise(kept))
