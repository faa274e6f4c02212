"""Line charts as inline SVG. Colours come from the page's style sheet, so that they follow light and dark."""

import math
from collections.abc import Sequence
from html import escape
from itertools import accumulate
from typing import Final

Point = tuple[float, float]

_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 14, 12, 30
_MOST_POINTS: Final = 700
"""More than a chart has pixels; longer curves are thinned out."""


def line_chart(
    points: Sequence[Point], *, name: str, log: bool = False, size_wh: tuple[int, int] = (640, 260), unit: str = "step"
) -> str:
    """A curve as SVG: every value thin, the running mean bold.

    Args:
        points: (x, y) in order of x; values that are not finite, or not positive where ``log``, are left out.
        name: what the curve shows, for the accessible description.
        log: logarithmic y axis.
        size_wh: size of the drawing in CSS pixels at full width.
        unit: what x counts.

    Returns:
        An ``<svg>`` element, or a paragraph that says that there is nothing to show.
    """
    usable = [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y) and (y > 0 or not log)]
    if not usable:
        return f'<p class="empty">No value of {escape(name)} to show.</p>'
    width, height = size_wh
    smooth = smoothed(usable)
    thin = max(1, math.ceil(len(usable) / _MOST_POINTS))
    kept = sorted({*range(0, len(usable), thin), len(usable) - 1})
    ys = [usable[place][1] for place in kept] + [smooth[place][1] for place in kept]
    scale_x = _Scale(usable[0][0], usable[-1][0], _LEFT, width - _RIGHT, log=False)
    low, high = min(ys), max(ys)
    y_ticks = log_ticks(low, high) if log else nice_ticks(min(low, 0.0), high)
    scale_y = _Scale(min(low, y_ticks[0]), max(high, y_ticks[-1]), height - _BOTTOM, _TOP, log=log)
    parts = [f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(_described(name, smooth, unit))}">']
    for tick in y_ticks:
        y = scale_y(tick)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{width - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick" x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{_number(tick)}</text>')
    for tick in nice_ticks(usable[0][0], usable[-1][0], most=6):
        if usable[0][0] <= tick <= usable[-1][0]:
            x = scale_x(tick)
            parts.append(f'<text class="tick" x="{x:.1f}" y="{height - 8}" text-anchor="middle">{_number(tick)}</text>')
    if len(usable) > 1:
        for kind, series in (("raw", usable), ("smooth", smooth)):
            path = "L".join(f"{scale_x(series[place][0]):.1f},{scale_y(series[place][1]):.1f}" for place in kept)
            parts.append(f'<path class="{kind}" d="M{path}"/>')
    x, y = scale_x(smooth[-1][0]), scale_y(smooth[-1][1])
    parts.append(f'<circle class="last" cx="{x:.1f}" cy="{y:.1f}" r="3.5"/>')
    return "".join([*parts, "</svg>"])


def smoothed(points: Sequence[Point]) -> list[Point]:
    """Mean over about a thirtieth of the curve around every point, less at both ends; so it does not lag behind."""
    reach = len(points) // 60
    sums = [0.0, *accumulate(y for _, y in points)]
    result = []
    for place, (x, _) in enumerate(points):
        side = min(reach, place, len(points) - 1 - place)
        result.append((x, (sums[place + side + 1] - sums[place - side]) / (2 * side + 1)))
    return result


def nice_ticks(low: float, high: float, *, most: int = 5) -> list[float]:
    """Round numbers that span [low, high], at most ``most`` intervals."""
    if high <= low:
        high = low + (abs(low) or 1.0)
    raw = (high - low) / most
    magnitude = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * magnitude for factor in (1, 2, 5, 10) if factor * magnitude >= raw * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [place * step for place in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten around [low, high], both > 0, with 2 and 5 between them on a short axis."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    factors: tuple[int, ...] = (1,) if last - first > 3 else (1, 2, 5)
    ticks = [factor * 10.0**power for power in range(first, last + 1) for factor in factors]
    below = [tick for tick in ticks if tick <= low * (1 + 1e-9)][-1:]
    above = [tick for tick in ticks if tick >= high * (1 - 1e-9)][:1]
    return [*below, *(tick for tick in ticks if low * (1 + 1e-9) < tick < high * (1 - 1e-9)), *above]


class _Scale:
    """Value -> position along one axis."""

    def __init__(self, low: float, high: float, start: float, stop: float, *, log: bool) -> None:
        self._log = log
        self._low, self._high = (math.log(low), math.log(high)) if log else (low, high)
        self._start, self._stop = start, stop

    def __call__(self, value: float) -> float:
        place = math.log(value) if self._log else value
        share = (place - self._low) / (self._high - self._low) if self._high > self._low else 0.5
        return self._start + share * (self._stop - self._start)


def _described(name: str, smooth: Sequence[Point], unit: str) -> str:
    (first_x, first_y), (last_x, last_y) = smooth[0], smooth[-1]
    return f"{name}: {_number(first_y)} at {unit} {_number(first_x)}, {_number(last_y)} at {unit} {_number(last_x)}"


def _number(value: float) -> str:
    """Three significant digits, thousands separated."""
    if value == 0:
        return "0"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"
