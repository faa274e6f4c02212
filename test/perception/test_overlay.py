import numpy as np
import pytest

from lvad_perception.errors import ImageError
from lvad_perception.media.overlay import draw_predictions, draw_truth
from lvad_perception.types import Detections, Predictions, Truth, TruthBoxes
from lvad_perception.vocabulary import DETECTION, DRIVABLE, SEMANTIC, UNLABELED

SIZE = (120, 200)
CAR = DETECTION.index("car")


def grey(size_hw=SIZE):
    return np.full((*size_hw, 3), 100, np.uint8)


def boxes(*rows, score=0.9, label=CAR):
    count = len(rows)
    return Detections(
        np.array(rows, np.float32).reshape(-1, 4), np.full(count, score, np.float32), np.full(count, label, np.int32)
    )


def predictions(size_hw=SIZE, *, detections=None, semantic=None, drivable=None):
    return Predictions(size_hw, detections, semantic, drivable)


def test_without_any_task_the_image_is_copied():
    image = grey()
    drawn = draw_predictions(image, predictions())
    assert np.array_equal(drawn, image)
    assert not np.shares_memory(drawn, image)


def test_semantic_colours_are_blended_and_unlabelled_pixels_stay():
    semantic = np.full(SIZE, UNLABELED, np.uint8)
    semantic[:60] = SEMANTIC.index("sky")
    drawn = draw_predictions(grey(), predictions(semantic=semantic), alpha=0.5)
    expected = (np.array(SEMANTIC.colors[SEMANTIC.index("sky")]) + 100) / 2
    assert np.allclose(drawn[:60], expected, atol=1)
    assert (drawn[60:] == 100).all()


def test_drivable_shows_over_semantic_and_background_does_not():
    semantic = np.zeros(SIZE, np.uint8)  # road everywhere
    drivable = np.full(SIZE, 2, np.uint8)
    drivable[:, :50], drivable[:, 50:100] = 0, 1
    drawn = draw_predictions(grey(), predictions(semantic=semantic, drivable=drivable), alpha=1.0)
    assert (drawn[:, :50] == DRIVABLE.colors[0]).all()
    assert (drawn[:, 50:100] == DRIVABLE.colors[1]).all()
    assert (drawn[:, 100:] == SEMANTIC.colors[0]).all()


def test_drivable_alone_leaves_background_untouched():
    drivable = np.full(SIZE, 2, np.uint8)
    drivable[100:] = 0
    drawn = draw_predictions(grey(), predictions(drivable=drivable), alpha=1.0)
    assert (drawn[:100] == 100).all()
    assert (drawn[100:] == DRIVABLE.colors[0]).all()


def test_boxes_are_outlined_in_their_colour_with_a_name_above():
    drawn = draw_predictions(grey(), predictions(detections=boxes((50, 40, 120, 90))))
    color = DETECTION.colors[CAR]
    assert (drawn[40, 60:110] == color).all()
    assert (drawn[89, 60:110] == color).all()
    assert (drawn[60, 50] == color).all()
    assert (drawn[60, 119] == color).all()
    assert (drawn[45:85, 55:115] == 100).all()
    assert (drawn[25:39, 50:100] != 100).any()  # the plate


def test_boxes_below_the_threshold_are_left_out():
    low = boxes((50, 40, 120, 90), score=0.2)
    assert np.array_equal(draw_predictions(grey(), predictions(detections=low)), grey())
    assert not np.array_equal(draw_predictions(grey(), predictions(detections=low), score_threshold=0.1), grey())


@pytest.mark.parametrize("box", [(0, 0, 200, 120), (190, 0, 200, 30), (0, 110, 30, 120), (150, 2, 200, 100)])
def test_names_stay_inside_the_image(box):
    inside = draw_predictions(grey(), predictions(detections=boxes(box)))
    assert inside.shape == (*SIZE, 3)
    assert (inside != 100).any()


def line_width(size_hw):
    height, width = size_hw
    box = (width // 4, height // 4, 3 * width // 4, 3 * height // 4)
    drawn = draw_predictions(grey(size_hw), predictions(size_hw, detections=boxes(box)))
    column = (drawn[:, width // 2] == DETECTION.colors[CAR]).all(-1)
    return int(column[5 * height // 8 : 7 * height // 8].sum())


def test_line_width_grows_with_the_image():
    assert line_width((360, 640)) == 1
    assert 1 < line_width((720, 1280)) < line_width((2160, 3840)) < 20


def test_truth_looks_like_predictions_without_scores_and_crowds_are_grey():
    truth_boxes = TruthBoxes(
        np.array([[50, 40, 120, 90], [5, 5, 40, 30]], np.float32),
        np.array([CAR, CAR], np.int32),
        np.array([False, True]),
    )
    semantic = np.zeros(SIZE, np.uint8)
    drawn = draw_truth(grey(), Truth(SIZE, truth_boxes, semantic, None), alpha=0.5)
    assert (drawn[89, 60:110] == DETECTION.colors[CAR]).all()
    assert (drawn[29, 10:35] == drawn[29, 10, 0]).all()  # neutral grey
    predicted = draw_predictions(grey(), predictions(semantic=semantic))
    assert np.array_equal(drawn[100:], predicted[100:])


def test_the_name_of_the_best_box_is_not_covered():
    both = Detections(
        np.array([[50, 40, 120, 90], [52, 42, 118, 88]], np.float32),
        np.array([0.9, 0.8], np.float32),
        np.array([CAR, DETECTION.index("truck")], np.int32),
    )
    best = draw_predictions(grey(), predictions(detections=boxes((50, 40, 120, 90))))
    drawn = draw_predictions(grey(), predictions(detections=both))
    assert np.array_equal(drawn[:40], best[:40])


def test_inputs_are_left_untouched():
    image, semantic, drivable = grey(), np.zeros(SIZE, np.uint8), np.zeros(SIZE, np.uint8)
    semantic[0, 0] = 200
    draw_predictions(image, predictions(semantic=semantic, drivable=drivable, detections=boxes((5, 5, 50, 50))))
    assert (image == 100).all()
    assert semantic[0, 0] == 200
    assert (drivable == 0).all()


def test_another_size_is_refused():
    with pytest.raises(ImageError, match=r"cannot carry an overlay of size \(10, 10\); draw predictions and truth"):
        draw_predictions(grey(), predictions((10, 10)))
    with pytest.raises(ImageError, match="cannot carry an overlay"):
        draw_truth(grey(), Truth(SIZE, None, np.zeros((3, 3), np.uint8), None))
