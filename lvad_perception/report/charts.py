"""Line charts as inline SVG, coloured by the page's style sheet for light and dark mode.

In a chart of several runs, each run has its own colour and dash pattern (classes ``s0``, ``s1``, …), so that they
differ in print and without colour vision too.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import accumulate
from typing import Final

Point = tuple[float, float]

STYLES: Final = 6
"""Number of distinct line styles; further series repeat them."""

_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 14, 12, 30
_MOST_POINTS: Final = 400
"""About the width of a chart in pixels; longer curves are subsampled."""


@dataclass(frozen=True, slots=True)
class Series:
    """One curve of a chart.

    Attributes:
        index: of its run, from 0; selects the line style.
        name: in the accessible description; may be empty for a single curve.
        points: (x, y), sorted by x.
    """

    index: int
    name: str
    points: Sequence[Point]

    @property
    def css_class(self) -> str:
        """Its class in the style sheet."""
        return f"s{self.index % STYLES}"


def line_chart(
    series: Sequence[Series],
    *,
    name: str,
    log: bool = False,
    size_wh: tuple[int, int] = (640, 260),
    unit: str = "step",
) -> str:
    """Curves as SVG: the running mean in bold; for a single curve also every value, as a thin line.

    Args:
        series: the curves; values that are not finite, or not positive if ``log``, are dropped.
        name: of the quantity, for the accessible description.
        log: logarithmic y axis.
        size_wh: size of the drawing in CSS pixels at full width.
        unit: of x.

    Returns:
        An ``<svg>`` element, or a paragraph that there is nothing to show.
    """
    curves = [_Curve.of(item, log=log) for item in series]
    curves = [curve for curve in curves if curve.raw]
    if not curves:
        return f'<p class="empty">No value of {escape(name)} to show.</p>'
    alone = len(curves) == 1
    xs = [x for curve in curves for x in (curve.raw[0][0], curve.raw[-1][0])]
    ys = [y for curve in curves for _, y in (*curve.smooth, *(curve.raw if alone else ()))]
    low, high = min(ys), max(ys)
    y_ticks = log_ticks(low, high) if log else nice_ticks(min(low, 0.0), high)
    axes = Axes(
        size_wh,
        (min(xs), max(xs)),
        (min(low, y_ticks[0]), max(high, y_ticks[-1])),
        nice_ticks(min(xs), max(xs), most=6),
        y_ticks,
        log=log,
    )
    label = "; ".join(_described(curve.series.name or name, curve.smooth, unit) for curve in curves)
    parts = [axes.open(label if alone else f"{name}: {label}")]
    for curve in curves:
        if len(curve.raw) > 1:
            if alone:
                parts.append(f'<path class="raw {curve.series.css_class}" d="{axes.path(curve.raw)}"/>')
            parts.append(f'<path class="smooth {curve.series.css_class}" d="{axes.path(curve.smooth)}"/>')
        parts.append(axes.dot(curve.smooth[-1], f"last {curve.series.css_class}"))
    return "".join([*parts, "</svg>"])


def recall_chart(
    series: Sequence[Series], marks: Sequence[Series], *, name: str, size_wh: tuple[int, int] = (300, 230)
) -> str:
    """Precision over recall, both in percent, as SVG.

    Args:
        series: the curves, (recall, precision) from recall 0 on.
        marks: for each series, one point (recall, precision) at the report's score threshold.
        name: the class.
        size_wh: size of the drawing in CSS pixels at full width.

    Returns:
        An ``<svg>`` element, or a paragraph that nothing was found.
    """
    if all(y <= 0 for item in series for _, y in item.points):
        return f'<p class="empty">No {escape(name)} is found.</p>'
    ticks = [0.0, 25.0, 50.0, 75.0, 100.0]
    axes = Axes(size_wh, (0.0, 100.0), (0.0, 100.0), ticks, ticks)
    label = "; ".join(
        f"{item.name or 'precision'} {number(max((y for _, y in item.points), default=0.0))} % at best, "
        f"reaches {number(max((x for x, y in item.points if y > 0), default=0.0))} % recall"
        for item in series
    )
    parts = [axes.open(f"{name}: {label}")]
    for item in series:
        shown = [point for point in item.points if point[1] > 0]  # beyond the last detection precision is 0
        if shown:
            parts.append(f'<path class="smooth {item.css_class}" d="{axes.path(shown)}"/>')
    parts += [axes.dot(mark.points[0], f"mark {mark.css_class}", radius=4.5) for mark in marks]
    return "".join([*parts, "</svg>"])


@dataclass(frozen=True, slots=True)
class Axes:
    """The axes of a chart: maps values to pixels and draws ticks and grid lines."""

    size_wh: tuple[int, int]
    x_range: tuple[float, float]
    y_range: tuple[float, float]
    x_ticks: Sequence[float]
    y_ticks: Sequence[float]
    log: bool = False

    def position(self, point: Point) -> Point:
        """Position of a point in CSS pixels."""
        width, height = self.size_wh
        x = _Scale(*self.x_range, _LEFT, width - _RIGHT, log=False)
        y = _Scale(*self.y_range, height - _BOTTOM, _TOP, log=self.log)
        return x(point[0]), y(point[1])

    def open(self, label: str) -> str:
        """The opening ``<svg>`` tag, ticks and grid lines."""
        width, height = self.size_wh
        parts = [f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label)}">']
        for tick in self.y_ticks:
            y = self.position((self.x_range[0], tick))[1]
            parts.append(f'<line class="grid" x1="{_LEFT}" x2="{width - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
            parts.append(f'<text class="tick" x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{number(tick)}</text>')
        for tick in self.x_ticks:
            if self.x_range[0] <= tick <= self.x_range[1]:
                x = self.position((tick, self.y_range[0]))[0]
                anchor = "end" if x > width - _RIGHT - 12 else "middle"
                text = f'<text class="tick" x="{x:.1f}" y="{height - 8}" text-anchor="{anchor}">{number(tick)}</text>'
                parts.append(text)
        return "".join(parts)

    def path(self, points: Sequence[Point]) -> str:
        """The curve through the points, subsampled, as data of a ``path`` element."""
        step = max(1, math.ceil(len(points) / _MOST_POINTS))
        kept = sorted({*range(0, len(points), step), len(points) - 1})
        return "M" + "L".join("{:.1f},{:.1f}".format(*self.position(points[index])) for index in kept)

    def dot(self, point: Point, css_class: str, *, radius: float = 3.5) -> str:
        """A circle at a point."""
        x, y = self.position(point)
        return f'<circle class="{css_class}" cx="{x:.1f}" cy="{y:.1f}" r="{radius}"/>'


@dataclass(frozen=True, slots=True)
class _Curve:
    series: Series
    raw: list[Point]
    smooth: list[Point]

    @classmethod
    def of(cls, series: Series, *, log: bool) -> "_Curve":
        raw = [(x, y) for x, y in series.points if math.isfinite(x) and math.isfinite(y) and (y > 0 or not log)]
        return cls(series, raw, smoothed(raw))


def smoothed(points: Sequence[Point]) -> list[Point]:
    """Centred running mean over about a thirtieth of the curve; the window shrinks towards both ends."""
    half_window = len(points) // 60
    sums = [0.0, *accumulate(y for _, y in points)]
    result = []
    for index, (x, _) in enumerate(points):
        half = min(half_window, index, len(points) - 1 - index)
        result.append((x, (sums[index + half + 1] - sums[index - half]) / (2 * half + 1)))
    return result


def nice_ticks(low: float, high: float, *, most: int = 5) -> list[float]:
    """Round numbers that span [low, high] in at most about ``most`` intervals."""
    if high <= low:
        high = low + (abs(low) or 1.0)
    raw = (high - low) / most
    magnitude = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * magnitude for factor in (1, 2, 5, 10) if factor * magnitude >= raw * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [index * step for index in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten that span [low, high], both > 0, with 2 and 5 in between on a short axis."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    factors: tuple[int, ...] = (1,) if last - first > 3 else (1, 2, 5)
    ticks = [factor * 10.0**power for power in range(first, last + 1) for factor in factors]
    below = [tick for tick in ticks if tick <= low * (1 + 1e-9)][-1:]
    above = [tick for tick in ticks if tick >= high * (1 - 1e-9)][:1]
    return [*below, *(tick for tick in ticks if low * (1 + 1e-9) < tick < high * (1 - 1e-9)), *above]


class _Scale:
    """Maps values to positions along one axis."""

    def __init__(self, low: float, high: float, start: float, stop: float, *, log: bool) -> None:
        self._log = log
        self._low, self._high = (math.log(low), math.log(high)) if log else (low, high)
        self._start, self._stop = start, stop

    def __call__(self, value: float) -> float:
        scaled = math.log(value) if self._log else value
        share = (scaled - self._low) / (self._high - self._low) if self._high > self._low else 0.5
        return self._start + share * (self._stop - self._start)


def _described(name: str, smooth: Sequence[Point], unit: str) -> str:
    (first_x, first_y), (last_x, last_y) = smooth[0], smooth[-1]
    return f"{name}: {number(first_y)} at {unit} {number(first_x)}, {number(last_y)} at {unit} {number(last_x)}"


def number(value: float) -> str:
    """A value in a chart: three significant digits, thousands separated."""
    if value == 0:
        return "0"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"
