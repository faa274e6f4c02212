"""Overlap and greedy matching of boxes, against values by hand and against torchvision."""

import numpy as np
import pytest

from lvad_perception.metrics.matching import covered, iou, match_greedily

from .metrics_pairs import random_boxes

SQUARE = np.array([[0, 0, 10, 10]], np.float32)


@pytest.mark.parametrize(
    ("box", "union", "inside"),
    [
        ((0, 0, 10, 10), 1, 1),
        ((5, 0, 15, 10), 50 / 150, 0.5),
        ((0, 0, 20, 20), 0.25, 1),
        ((10, 0, 20, 10), 0, 0),  # they touch
        ((3, 3, 3, 3), 0, 0),  # no area
    ],
)
def test_overlap_by_hand(box, union, inside):
    other = np.array([box], np.float32)
    assert iou(SQUARE, other).tolist() == [[pytest.approx(union)]]
    assert covered(SQUARE, other).tolist() == [[pytest.approx(inside)]]


def test_boxes_without_area_overlap_nothing():
    point = np.full((1, 4), 3, np.float32)
    assert iou(point, point).tolist() == covered(point, point).tolist() == [[0]]


@pytest.mark.parametrize(("first", "second"), [(0, 0), (0, 2), (3, 0)])
def test_no_boxes(first, second):
    shape = iou(np.zeros((first, 4), np.float32), np.zeros((second, 4), np.float32)).shape
    assert shape == (first, second)
    assert match_greedily(np.zeros(shape)).tolist() == [-1] * first


@pytest.mark.parametrize("seed", range(5))
def test_iou_equals_torchvision(seed):
    torch = pytest.importorskip("torch")
    box_iou = pytest.importorskip("torchvision.ops").box_iou
    rng = np.random.default_rng(seed)
    first, second = random_boxes(rng, 5), random_boxes(rng, 4)
    expected = box_iou(torch.from_numpy(first), torch.from_numpy(second)).numpy()
    np.testing.assert_allclose(iou(first, second), expected, atol=1e-6)


def test_each_row_takes_the_best_free_column():
    overlap = np.array([[0.6, 0.9, 0.0], [0.7, 0.95, 0.4], [0.0, 0.8, 0.49]])
    assert match_greedily(overlap).tolist() == [1, 0, -1]
    assert overlap[0, 1] == 0.9  # the argument stays
