"""The letterbox (``preprocess``) and its exact inverse (``postprocess``)."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from lvad_perception.errors import ImageError
from lvad_perception.postprocess import (
    boxes_to_network,
    boxes_to_source,
    mask_to_network,
    mask_to_source,
    predictions_to_network,
    to_predictions,
)
from lvad_perception.preprocess import PAD_VALUE, fit_letterbox, letterbox_image, resize_image
from lvad_perception.types import Detections, Predictions, RawOutputs
from lvad_perception.vocabulary import UNLABELED

SIDES = st.integers(1, 900)
SIZES = st.tuples(SIDES, SIDES)
SMALL_SIZES = st.tuples(st.integers(1, 70), st.integers(1, 70))


def random_image(size_hw, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (*size_hw, 3), np.uint8)


class TestPlacement:
    @given(SIZES, SIZES)
    def test_it_is_the_largest_centred_one_that_keeps_the_aspect_ratio(self, source_hw, network_hw):
        box = fit_letterbox(source_hw, network_hw)
        scale = min(network_hw[0] / source_hw[0], network_hw[1] / source_hw[1])
        for source, resized, network, start in zip(
            source_hw, box.resized_hw, network_hw, (box.top, box.left), strict=True
        ):
            assert 1 <= resized <= network
            assert abs(resized - source * scale) <= 0.5 + 1e-9 or resized == 1
            assert 0 <= network - resized - 2 * start <= 1
        assert box.resized_hw[0] == network_hw[0] or box.resized_hw[1] == network_hw[1]

    def test_bdd100k_in_the_edge_preset(self):
        box = fit_letterbox((720, 1280), (384, 640))
        assert (box.resized_hw, box.top, box.left) == ((360, 640), 12, 0)


class TestImage:
    @settings(deadline=None)
    @given(SMALL_SIZES, SMALL_SIZES)
    def test_the_image_is_inside_and_grey_is_around_it(self, source_hw, network_hw):
        image = random_image(source_hw)
        out, box = letterbox_image(image, network_hw)
        rows, columns = slice(box.top, box.top + box.resized_hw[0]), slice(box.left, box.left + box.resized_hw[1])
        np.testing.assert_array_equal(out[rows, columns], resize_image(image, box.resized_hw))
        border = np.ones(network_hw, bool)
        border[rows, columns] = False
        assert (out[border] == PAD_VALUE).all()

    def test_an_image_of_the_networks_size_is_untouched(self):
        image = random_image((48, 64))
        np.testing.assert_array_equal(letterbox_image(image, (48, 64))[0], image)

    def test_a_buffer_is_filled_completely(self):
        buffer = np.full((48, 64, 3), 7, np.uint8)
        out, _ = letterbox_image(random_image((10, 90)), (48, 64), out=buffer)
        assert out is buffer
        np.testing.assert_array_equal(out, letterbox_image(random_image((10, 90)), (48, 64))[0])

    @pytest.mark.parametrize(
        "image",
        [
            np.zeros((4, 4), np.uint8),
            np.zeros((4, 4, 4), np.uint8),
            np.zeros((4, 4, 3), np.float32),
            np.zeros((0, 4, 3), np.uint8),
        ],
        ids=["grey", "four channels", "float", "empty"],
    )
    def test_what_is_no_rgb_image(self, image):
        with pytest.raises(ImageError, match=r"is not uint8 \[H, W, 3\]; convert it to 8-bit RGB first"):
            letterbox_image(image, (48, 64))


class TestBoxes:
    @given(SIZES, SIZES, st.integers(0, 2**32 - 1))
    def test_there_and_back(self, source_hw, network_hw, seed):
        height, width = source_hw
        corners = np.random.default_rng(seed).uniform(0, 1, (5, 2, 2)) * (width, height)
        boxes_xyxy = np.sort(corners, axis=1).reshape(5, 4).astype(np.float32)
        box = fit_letterbox(source_hw, network_hw)
        back = boxes_to_source(boxes_to_network(boxes_xyxy, box), box)
        # float32 resolves a network coordinate to 1e-4; in a much larger source image that is as much more.
        np.testing.assert_allclose(back, boxes_xyxy, atol=2e-4 * max(1, height / box.resized_hw[0]), rtol=1e-5)

    def test_they_are_clipped_to_the_source(self):
        box = fit_letterbox((72, 128), (64, 64))
        back = boxes_to_source(np.float32([[-5, 0, 70, 64]]), box)
        np.testing.assert_array_equal(back, [[0, 0, 128, 72]])


class TestMasks:
    @settings(deadline=None)
    @given(SMALL_SIZES, SMALL_SIZES)
    def test_each_source_pixel_takes_the_network_pixel_under_its_centre(self, source_hw, network_hw):
        box = fit_letterbox(source_hw, network_hw)
        mask = np.arange(network_hw[0] * network_hw[1]).astype(np.uint8).reshape(network_hw)
        at, decided = [], []
        for source, resized, start in zip(source_hw, box.resized_hw, (box.top, box.left), strict=True):
            doubled = (2 * np.arange(source) + 1) * resized  # the centre in network pixels, times 2 * source
            at.append(start + doubled // (2 * source))
            decided.append(doubled % (2 * source) != 0)  # a centre on an edge may fall to either side
        expected = mask[at[0]][:, at[1]]
        found = mask_to_source(mask, box)
        assert found.shape == source_hw
        np.testing.assert_array_equal(found[np.ix_(*decided)], expected[np.ix_(*decided)])

    def test_the_result_is_a_copy(self):
        mask = np.zeros((48, 64), np.uint8)
        out = mask_to_source(mask, fit_letterbox((48, 64), (48, 64)))
        assert not np.shares_memory(out, mask)


class TestToNetwork:
    @settings(deadline=None)
    @given(SMALL_SIZES, SMALL_SIZES)
    def test_a_mask_that_was_enlarged_comes_back_and_the_border_is_marked(self, source_hw, network_hw):
        box = fit_letterbox(source_hw, network_hw)
        assume(box.resized_hw[0] <= source_hw[0] and box.resized_hw[1] <= source_hw[1])
        mask = np.random.default_rng(0).integers(0, 19, network_hw, np.uint8)
        back = mask_to_network(mask_to_source(mask, box), box, border=255)
        inside = np.zeros(network_hw, bool)
        inside[box.top : box.top + box.resized_hw[0], box.left : box.left + box.resized_hw[1]] = True
        np.testing.assert_array_equal(back, np.where(inside, mask, 255))

    def test_all_tasks_go_along(self):
        box = fit_letterbox((96, 192), (48, 64))
        mask = np.full((96, 192), 2, np.uint8)
        boxes = Detections(np.float32([[0, 0, 192, 96]]), np.float32([0.5]), np.int32([3]))
        found = predictions_to_network(Predictions((96, 192), boxes, mask, mask, mask), box)
        assert found.size_hw == (48, 64)
        np.testing.assert_allclose(found.detections.boxes_xyxy, [[0, 8, 64, 40]])
        assert (found.detections.scores, found.detections.labels) == (boxes.scores, boxes.labels)
        for out, border in ((found.semantic, UNLABELED), (found.drivable, UNLABELED), (found.semantic_confidence, 0)):
            assert out.shape == (48, 64)
            assert (out[8:40] == 2).all()
            assert (out[[0, 7, 40, 47]] == border).all()

    def test_a_missing_task_stays_missing(self):
        found = predictions_to_network(Predictions((4, 4), None, None, None), fit_letterbox((4, 4), (8, 8)))
        assert found.detections is found.semantic is found.drivable is found.semantic_confidence is None


class TestPredictions:
    def raw(self, boxes, scores):
        labels = np.arange(len(scores), dtype=np.int32)
        return RawOutputs(np.float32([boxes]), np.float32([scores]), labels[None], None, None, None)

    def test_boxes_in_the_border_or_below_the_threshold_are_left_out(self):
        box = fit_letterbox((36, 64), (48, 64))  # six rows of border above and below
        boxes = [[0, 0, 64, 6], [10, 10, 20, 20], [10, 10, 20, 20], [5, 5, 5, 30]]
        predictions = to_predictions(self.raw(boxes, [0.9, 0.8, 0.1, 0.7]), 0, box, score_threshold=0.5)
        assert predictions.detections.labels.tolist() == [1]
        np.testing.assert_array_equal(predictions.detections.boxes_xyxy, [[10, 4, 20, 14]])
        assert predictions.semantic is predictions.drivable is predictions.semantic_confidence is None

    def test_no_detections_are_empty_not_absent(self):
        predictions = to_predictions(
            self.raw([[1, 1, 2, 2]], [0.1]), 0, fit_letterbox((4, 4), (4, 4)), score_threshold=0.5
        )
        assert len(predictions.detections) == 0
        assert predictions.detections.boxes_xyxy.shape == (0, 4)
