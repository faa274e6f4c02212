"""BDD100K's polygons with Bezier curves -> pixels."""

from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from lvad_perception.datasets.formats import JSON_ERRORS
from lvad_perception.errors import LabelError
from lvad_perception.types import Bool, Size

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]

_CURVE_STEP_PX: Final = 2.0
_MAX_CURVE_STEPS: Final = 256
_FAR_PX: Final = 1e9
"""Coordinates are clipped to this distance, so that no product overflows."""


class Poly2d(msgspec.Struct):
    """One closed polygon: vertices (x, y) in pixels, a letter for each in ``types``: "L" vertex, "C" control point."""

    vertices: list[tuple[float, float]]
    types: str | None = None


def decode_poly2d(data: bytes) -> list[Poly2d]:
    """Polygons from their JSON: Scalabel's list of polygons, or the oldest form [[x, y, "L"], …].

    Raises:
        LabelError: any other JSON.
    """
    try:
        items: Any = msgspec.json.decode(data)
        if not items:
            return []
        if isinstance(items, list) and isinstance(items[0], list):
            triples = msgspec.convert(items, list[tuple[float, float, str]])
            return [Poly2d([(x, y) for x, y, _ in triples], "".join(kind for _, _, kind in triples))]
        return msgspec.convert([items] if isinstance(items, dict) else items, list[Poly2d])
    except JSON_ERRORS as err:
        raise LabelError(f"'poly2d' is not a list of polygons ({err})") from err


def outline(polygon: Poly2d) -> Float64:
    """The polygon's outline as line segments, float64 [V, 2] (x, y); cubic Bezier curves become short segments.

    A "C" begins a curve from the vertex before it: two control points and an end point, whose own letter is ignored
    (the releases write both "CCC" and "CCL"). A curve at the end of the list ends in the first vertex.
    """
    # The published masks are drawn with vertices and control points snapped to whole pixels.
    points = np.floor(np.clip(np.array(polygon.vertices, np.float64).reshape(-1, 2), -_FAR_PX, _FAR_PX) + 0.5)
    types = polygon.types or "L" * len(points)
    if len(types) != len(points):
        raise LabelError(f"'poly2d' has {len(points)} vertices and {len(types)} types")
    if "C" not in types:
        return points
    segments: list[Float64] = [points[:1]]
    index = 1
    while index < len(points):
        if types[index] != "C":
            segments.append(points[index : index + 1])
            index += 1
            continue
        controls = np.concatenate([segments[-1][-1:], points[index : index + 3], points[:1]])[:4]
        segments.append(_bezier(controls if len(controls) == 4 else np.concatenate([controls, points[:1]])[:4]))
        index += 3
    return np.concatenate(segments)


def _bezier(controls: Float64) -> Float64:
    """Points on a cubic Bezier curve except its start, float64 [S, 2]; ``controls`` float64 [4, 2]."""
    length = np.linalg.norm(np.diff(controls, axis=0), axis=1).sum()
    steps = int(np.clip(length / _CURVE_STEP_PX, 2, _MAX_CURVE_STEPS))
    t = (np.arange(1, steps + 1) / steps)[:, None]
    weights = np.concatenate([(1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3], axis=1)
    return weights @ controls


def fill(vertices: Float64, size_hw: Size) -> Bool:
    """Pixels that a polygon covers at least in part (non-zero winding rule), bool [H, W].

    Partly covered pixels count, since the published masks are drawn without anti-aliasing by a rasteriser with this
    rule. Touching a pixel's border is not covering it.

    Args:
        vertices: float64 [V, 2] (x, y), continuous pixels; the last is joined to the first.
        size_hw: (height, width) of the result; the polygon is clipped to it.
    """
    height, width = size_hw
    starts, ends = vertices, np.roll(vertices, -1, axis=0)
    centres = _winding_of_centres(starts, ends, height, width) != 0
    return np.asarray(centres | _crossed_pixels(starts, ends, height, width))


def _winding_of_centres(starts: Float64, ends: Float64, height: int, width: int) -> Float64:
    """Winding number of the outline around each pixel's centre, float64 [H, W]."""
    (x0, y0), (x1, y1) = starts.T, ends.T
    # Rows whose centre line r + 0.5 an edge crosses; half-open, so that a shared vertex counts once.
    first, stop = np.ceil(np.minimum(y0, y1) - 0.5), np.ceil(np.maximum(y0, y1) - 0.5)
    edge, row = _rows_of_edges(first, stop, height)
    x = x0[edge] + (row + 0.5 - y0[edge]) * (x1 - x0)[edge] / (y1 - y0)[edge]
    column = np.clip(np.ceil(x - 0.5), 0, width).astype(np.int64)
    direction = np.where(y1 > y0, 1.0, -1.0)[edge]
    return _sum_along_rows(row, column, direction, height, width)


def _crossed_pixels(starts: Float64, ends: Float64, height: int, width: int) -> Bool:
    """Pixels whose interior the outline crosses, bool [H, W]."""
    (x0, y0), (x1, y1) = starts.T, ends.T
    edge, row = _rows_of_edges(np.floor(np.minimum(y0, y1)), np.ceil(np.maximum(y0, y1)), height)
    flat = (y0 == y1)[edge]
    slope = (x1 - x0)[edge] / np.where(flat, 1.0, (y1 - y0)[edge])
    # The part of the edge within the row; all of a horizontal edge.
    low = np.clip(row, np.minimum(y0, y1)[edge], np.maximum(y0, y1)[edge])
    high = np.clip(row + 1, np.minimum(y0, y1)[edge], np.maximum(y0, y1)[edge])
    x_low = np.where(flat, x0[edge], x0[edge] + (low - y0[edge]) * slope)
    x_high = np.where(flat, x1[edge], x0[edge] + (high - y0[edge]) * slope)
    left = np.clip(np.floor(np.minimum(x_low, x_high)), 0, width).astype(np.int64)
    right = np.clip(np.ceil(np.maximum(x_low, x_high)), 0, width).astype(np.int64)
    ones = np.where(right > left, 1.0, 0.0)
    return (
        _sum_along_rows(np.concatenate([row, row]), np.concatenate([left, right]), np.r_[ones, -ones], height, width)
        > 0
    )


def _rows_of_edges(first: Float64, stop: Float64, height: int) -> tuple[Int64, Int64]:
    """(edge, row), int64 each: one entry for every edge and every row of its range [first, stop) inside the image."""
    first, stop = np.clip(first, 0, height), np.clip(stop, 0, height)
    spans = np.maximum(stop - first, 0).astype(np.int64)
    edge = np.repeat(np.arange(len(spans)), spans)
    row = first.astype(np.int64)[edge] + np.arange(len(edge)) - np.repeat(np.cumsum(spans) - spans, spans)
    return edge, row


def _sum_along_rows(row: Int64, column: Int64, value: Float64, height: int, width: int) -> Float64:
    """Cumulative sum of the values along each row, float64 [H, W]; values in column ``width`` are outside."""
    flat = row * (width + 1) + column
    values = np.bincount(flat, weights=value, minlength=height * (width + 1)).reshape(height, width + 1)
    return np.asarray(np.cumsum(values[:, :width], axis=1))
