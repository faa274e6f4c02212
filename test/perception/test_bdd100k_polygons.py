import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lvad_perception.datasets.bdd100k.polygons import Poly2d, decode_poly2d, fill, outline
from lvad_perception.datasets.run_lengths import decode_rle
from lvad_perception.errors import LabelError

SIZE_HW = (20, 30)


def drawn(vertices, types=None):
    return fill(outline(Poly2d(vertices, types)), SIZE_HW)


def test_rectangle_covers_exactly_its_pixels():
    expected = np.zeros(SIZE_HW, bool)
    expected[3:9, 5:17] = True
    np.testing.assert_array_equal(drawn([(5, 3), (17, 3), (17, 9), (5, 9)]), expected)


@given(
    st.lists(st.tuples(st.integers(-8, 38), st.integers(-8, 28)), min_size=3, max_size=7),
    st.booleans(),
)
@settings(max_examples=150, deadline=None)
def test_filled_pixels_are_those_with_covered_points(vertices, reverse):
    """Pixels that a fine grid finds inside are filled; those that it finds outside are at most crossed by an edge."""
    fine = 15
    vertices = vertices[::-1] if reverse else vertices
    inside = winding_on_grid(np.array(vertices, float), fine)
    filled = drawn(vertices)
    assert (filled >= inside.any(axis=(1, 3))).all()
    missed = filled & ~inside.any(axis=(1, 3))
    grown = np.zeros_like(filled)
    touched = np.pad(inside.any(axis=(1, 3)) | crossed_on_grid(np.array(vertices, float), fine), 1)
    for dy in (0, 1, 2):
        for dx in (0, 1, 2):
            grown |= touched[dy : dy + SIZE_HW[0], dx : dx + SIZE_HW[1]]
    assert (missed <= grown).all()


def winding_on_grid(vertices, fine):
    """Non-zero winding at ``fine`` x ``fine`` points of every pixel, bool [H, fine, W, fine]."""
    y = (np.arange(SIZE_HW[0] * fine) + 0.5) / fine
    x = (np.arange(SIZE_HW[1] * fine) + 0.5) / fine
    winding = np.zeros((len(y), len(x)), int)
    for (x0, y0), (x1, y1) in zip(vertices, np.roll(vertices, -1, axis=0), strict=True):
        rows = (np.minimum(y0, y1) <= y) & (y < np.maximum(y0, y1))
        crossing = x0 + (y[rows] - y0) * (x1 - x0) / (y1 - y0) if y0 != y1 else np.zeros(0)
        winding[rows] += np.sign(y1 - y0).astype(int) * (x[None] > crossing[:, None])
    return (winding != 0).reshape(SIZE_HW[0], fine, SIZE_HW[1], fine)


def crossed_on_grid(vertices, fine):
    """Pixels that points along the outline fall into, bool [H, W]."""
    crossed = np.zeros(SIZE_HW, bool)
    steps = np.linspace(0, 1, 40 * fine)[:, None]
    for a, b in zip(vertices, np.roll(vertices, -1, axis=0), strict=True):
        x, y = np.floor(a + (b - a) * steps).astype(int).T
        ok = (x >= 0) & (y >= 0) & (x < SIZE_HW[1]) & (y < SIZE_HW[0])
        crossed[y[ok], x[ok]] = True
    return crossed


def test_overlapping_parts_of_one_outline_stay_filled():
    doubled = [(2, 2), (12, 2), (12, 12), (2, 12), (2, 2), (12, 2), (12, 12), (2, 12)]
    assert drawn(doubled).sum() == 100


def test_curve_bulges_beyond_its_chord_and_ends_in_its_third_point():
    points = [(5, 15), (5, 1), (25, 1), (25, 15)]
    curve = outline(Poly2d(points, "LCCL"))
    np.testing.assert_array_equal(curve[0], points[0])
    np.testing.assert_array_equal(curve[-1], points[-1])
    assert curve[:, 1].min() == pytest.approx(15 - 0.75 * 14, abs=0.1)  # a cubic rises to 3/4 of its control points
    np.testing.assert_array_equal(curve, outline(Poly2d(points, "LCCC")))


def test_curve_at_the_end_closes_in_the_first_vertex():
    curve = outline(Poly2d([(5, 15), (25, 15), (25, 1), (5, 1)], "LLCC"))
    np.testing.assert_allclose(curve[-1], (5, 15))


def test_oldest_polygons_are_lists_of_triples():
    (polygon,) = decode_poly2d(b'[[1, 2, "L"], [3.5, 4, "L"], [5, 6, "C"]]')
    assert polygon.vertices == [(1, 2), (3.5, 4), (5, 6)]
    assert polygon.types == "LLC"
    assert decode_poly2d(b"null") == decode_poly2d(b"[]") == []


@pytest.mark.parametrize("data", [b'[[1, 2, "\xff"]]', b'"\xff"', b"[" * 100_000], ids=["UTF-8", "text", "deep"])
def test_shapes_that_are_not_utf_8_or_too_deep_are_refused(data):
    with pytest.raises(LabelError, match="'poly2d' is not a list of polygons"):
        decode_poly2d(data)
    with pytest.raises(LabelError, match="'rle' is not COCO run lengths"):
        decode_rle(b'{"size": [1, 1], "counts": ' + data + b"}")


@pytest.mark.parametrize("data", [b'"text"', b"[1]", b'[{"vertices": 3}]', b'[{"vertices": [[1]]}]', b"[[1, 2]]"])
def test_malformed_polygons_are_refused(data):
    with pytest.raises(LabelError, match="'poly2d' is not a list of polygons"):
        decode_poly2d(data)
    with pytest.raises(LabelError, match="2 vertices and 1 types"):
        outline(Poly2d([(0, 0), (1, 1)], "L"))


def test_real_bare_polygon_with_curves_is_drawn(format_cases):
    data = (format_cases / "seg" / "poly2ds.json").read_bytes()
    (polygon,) = decode_poly2d(data)
    assert polygon.types.count("CC") == 2
    rows, columns = np.nonzero(fill(outline(polygon), (720, 1280)))
    x, y = np.array(json.loads(data)[0]["vertices"]).T
    assert (columns.min(), rows.min()) >= (np.floor(x.min()), np.floor(y.min()))
    assert len(rows) > 0.5 * (x.max() - x.min()) * (y.max() - y.min())


def test_real_polygon_with_too_few_types_is_refused(format_cases):
    (polygon,) = decode_poly2d((format_cases / "seg" / "poly2ds_to_polygon.json").read_bytes())
    with pytest.raises(LabelError, match="55 vertices and 52 types"):
        outline(polygon)


def test_vertices_far_outside_are_drawn_without_overflow():
    far = 1e300
    inside = fill(outline(Poly2d([(-far, -far), (far, -far), (far, far), (-far, far)], "LCCL")), (3, 4))
    assert inside.shape == (3, 4)
    assert fill(outline(Poly2d([(-far, -far), (far, -far), (far, far), (-far, far)])), (3, 4)).all()
