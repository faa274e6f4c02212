from dataclasses import replace

import numpy as np
import pytest

from lvad_perception.engines.agreement import TOLERANCES, Tolerance, agree
from lvad_perception.errors import EngineError

FP32, BF16 = TOLERANCES["fp32"], TOLERANCES["bf16"]


def images(seed=0):
    return np.random.default_rng(seed).integers(0, 256, (2, 48, 64, 3), np.uint8)


@pytest.fixture
def outputs(reference):
    """Outputs of the tiny model on two images whose four scores are far apart."""
    raw = reference(images())
    return replace(raw, scores=np.float32([[0.9, 0.7, 0.5, 0.1]] * 2))


def moved(raw, **changes):
    """A copy with another value at one index of the named arrays."""
    arrays = {}
    for name, (index, value) in changes.items():
        arrays[name] = getattr(raw, name).copy()
        arrays[name][index] = value
    return replace(raw, **arrays)


class TestDistances:
    def test_equal_outputs_agree_in_everything(self, outputs):
        found = agree([outputs], [outputs])
        assert (found.boxes_px, found.scores, found.masks, found.confidence, found.boxes) == (0, 0, 1, 0, 12)
        assert found.within(FP32)

    @pytest.mark.parametrize(("by", "holds"), [(0.009, True), (0.011, False)])
    def test_a_moved_box(self, outputs, by, holds):
        found = agree([moved(outputs, boxes=((1, 2, 3), outputs.boxes[1, 2, 3] + by))], [outputs])
        assert found.boxes_px == pytest.approx(by, rel=1e-2)
        assert found.within(FP32) is holds

    @pytest.mark.parametrize(("by", "holds"), [(0.9e-4, True), (1.1e-4, False)])
    def test_another_score(self, outputs, by, holds):
        found = agree([moved(outputs, scores=((0, 1), outputs.scores[0, 1] + np.float32(by)))], [outputs])
        assert found.scores == pytest.approx(by, rel=1e-2)
        assert found.within(FP32) is holds

    def test_another_label_leaves_a_box_without_match_on_both_sides(self, outputs):
        other = moved(outputs, labels=((0, 0), 9))
        assert agree([other], [outputs]).boxes_px == agree([outputs], [other]).boxes_px == np.inf

    def test_a_doubled_box_that_hides_a_lost_one(self, outputs):
        """Every box is in the reference, but one of the reference is missing."""
        wanted = replace(outputs, scores=np.full((2, 4), 0.5, np.float32))
        wanted.scores[:, 3] = 0.1
        doubled = moved(wanted, boxes=((0, 1), wanted.boxes[0, 0]), labels=((0, 1), wanted.labels[0, 0]))
        assert agree([doubled], [wanted]).boxes_px > 1

    @pytest.mark.parametrize(("pixels", "holds"), [(6, True), (7, False)])
    def test_pixels_of_a_label_map(self, outputs, pixels, holds):
        changed = outputs.drivable.copy()
        changed.reshape(-1)[:pixels] += 1  # of 2 x 48 x 64
        found = agree([replace(outputs, drivable=changed)], [outputs])
        assert found.masks == pytest.approx(1 - pixels / 6144)
        assert found.within(FP32) is holds

    def test_the_worst_batch_counts(self, outputs):
        wrong = replace(outputs, semantic=outputs.semantic + np.uint8(1))
        assert agree([outputs, wrong, outputs], [outputs] * 3).masks == 0

    def test_the_difference_of_confidences_does_not_wrap_around(self, outputs):
        low, high = (replace(outputs, semantic_confidence=np.full((2, 48, 64), value, np.uint8)) for value in (3, 250))
        assert agree([low], [high]).confidence == agree([high], [low]).confidence == 247

    def test_nan_never_passes(self, outputs):
        for name in ("scores", "boxes"):
            found = agree([moved(outputs, **{name: ((0, 1), np.nan)})], [outputs])
            assert not any(found.within(tolerance) for tolerance in TOLERANCES.values()), name

    def test_a_task_that_neither_has(self, make_manifest, reference):
        raw = reference(images(), make_manifest(classes={"drivable": make_manifest().classes["drivable"]}))
        found = agree([raw], [raw])
        assert (found.masks, found.boxes, found.within(FP32)) == (1, 0, True)

    def test_text(self, outputs):
        assert agree([outputs], [outputs]).to_text() == (
            "12 boxes within 0 px, scores within 0, 100.000 % of mask pixels equal, confidence within 0/255"
        )


class TestSets:
    def test_tied_boxes_come_in_either_order(self, outputs):
        tied = replace(outputs, scores=np.float32([[0.9, 0.5, 0.5, 0.1]] * 2))
        order = [0, 2, 1, 3]
        alternates = replace(tied, boxes=tied.boxes[:, order], labels=tied.labels[:, order])
        assert agree([alternates], [tied]).boxes_px == 0
        apart = replace(outputs, boxes=outputs.boxes[:, order], labels=outputs.labels[:, order])
        assert agree([apart], [outputs]).boxes_px == np.inf

    def test_the_last_box_may_be_another_candidate(self, outputs):
        other = moved(outputs, boxes=((slice(None), 3), 7.0), labels=((slice(None), 3), 9))
        assert agree([other], [outputs]).boxes_px == 0


class TestLowPrecision:
    def test_boxes_below_the_least_score_are_not_compared(self, outputs):
        low = replace(outputs, scores=np.float32([[0.9, 0.29, 0.2, 0.1]] * 2))
        other = moved(low, labels=((0, 1), 9), boxes=((0, 2), 0.0))
        found = agree([other], [low], BF16)
        assert (found.boxes_px, found.boxes) == (0, 4)
        assert agree([other], [low]).boxes_px == np.inf

    def test_a_box_just_below_the_least_score_matches_one_just_above(self, outputs):
        wanted = replace(outputs, scores=np.float32([[0.9, 0.31, 0.05, 0.05]] * 2))
        found = replace(outputs, scores=np.float32([[0.9, 0.29, 0.05, 0.05]] * 2))
        assert agree([found], [wanted], BF16).within(BF16)

    def test_only_the_share_counts(self, outputs):
        """Two boxes of 120 are within the 5 % that may differ, twenty are not."""
        bad = moved(outputs, labels=((0, 0), 9))
        tolerance = Tolerance(boxes_px=1, scores=0.1, masks=0.9, least_score=0.3, share=0.95)
        assert agree([bad, *[outputs] * 9], [outputs] * 10, tolerance).within(tolerance)
        assert not agree([bad] * 10, [outputs] * 10, tolerance).within(tolerance)

    @pytest.mark.parametrize(("by", "alternates", "distance"), [(5, 0, 5), (25, 2, 0), (60, 0, np.inf)])
    def test_suppression_may_keep_another_box_of_the_same_object(self, outputs, by, alternates, distance):
        """Of 100 px: 5 px are within the tolerance, 25 px leave 0.6 of the union in common, and 60 px a quarter."""
        one = replace(outputs, scores=np.float32([[0.9, 0.7, 0.1, 0.1]] * 2))
        one.boxes[0, 0] = (100, 100, 200, 200)
        other = moved(one, boxes=((0, 0), (100 + by, 100, 200 + by, 200)))
        tolerance = Tolerance(boxes_px=6, scores=0.05, masks=0.9, least_score=0.3, alternates=0.25)
        found = agree([other], [one], tolerance)
        assert (found.alternates, found.boxes) == (alternates, 8)
        if by < 60:
            assert found.boxes_px == distance
        else:
            assert found.boxes_px > 6
        assert found.within(tolerance) is (by < 60)
        assert not found.within(replace(tolerance, alternates=0.24)) or not alternates
        assert ("(2 are another box of the same object)" in found.to_text()) is bool(alternates)
        assert agree([other], [one], replace(tolerance, alternates=0.0)).boxes_px == pytest.approx(by)

    @pytest.mark.parametrize(("finer", "coarser"), [("fp32", "fp16"), ("fp16", "bf16"), ("bf16", "int8")])
    def test_each_precision_allows_more_than_the_one_before(self, finer, coarser):
        finer, coarser = TOLERANCES[finer], TOLERANCES[coarser]
        assert finer.boxes_px < coarser.boxes_px
        assert finer.scores < coarser.scores
        assert finer.masks > coarser.masks
        assert finer.alternates < coarser.alternates


class TestUnequalOutputs:
    def test_other_counts(self, outputs):
        with pytest.raises(EngineError, match="1 outputs cannot be compared with 2; run both engines on the same"):
            agree([outputs], [outputs] * 2)

    def test_none(self):
        with pytest.raises(EngineError, match="0 outputs cannot be compared"):
            agree([], [])

    @pytest.mark.parametrize("name", ["boxes", "semantic", "semantic_confidence"])
    def test_other_tasks(self, outputs, name):
        with pytest.raises(EngineError, match=rf"output {name} of shape .* cannot be compared with None; compare eng"):
            agree([outputs], [replace(outputs, **{name: None})])

    def test_other_shapes(self, outputs):
        short = replace(outputs, boxes=outputs.boxes[:1], scores=outputs.scores[:1], labels=outputs.labels[:1])
        with pytest.raises(EngineError, match=r"shape \(1, 4, 4\) cannot be compared with \(2, 4, 4\)"):
            agree([short], [outputs])
