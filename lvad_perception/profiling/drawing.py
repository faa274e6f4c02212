"""The results of ``bench`` as an SVG drawing: bars of times and the roofline."""

import math
from collections.abc import Sequence
from html import escape
from typing import Final

from lvad_perception.profiling.bench import Bench
from lvad_perception.profiling.roofline import Roofline
from lvad_perception.profiling.statistics import median, p99
from lvad_perception.report.charts import log_ticks, nice_ticks

_WIDTH: Final = 720
_LABELS: Final = 210
_ROW: Final = 24
_ROOF_HEIGHT: Final = 280
_STYLE: Final = """\
svg { background: #ffffff; font: 13px sans-serif; }
text { fill: #22272e; } .tick { fill: #667; font-size: 11px; } .grid { stroke: #e3e6ea; }
.bar { fill: #2f6fab; } .other { fill: #b7791f; } .whisker { stroke: #22272e; stroke-width: 1.5; }
.roof { stroke: #22272e; stroke-width: 1.5; fill: none; } .point { fill: #b7332f; }"""


def draw(bench: Bench) -> str:
    """The text of an SVG file; bars are medians, marks are 99th percentiles."""
    stages = bench.stages
    bars = [(name, median(times), p99(times), "bar") for name, times in stages.samples_ms.items()]
    bars.append(("whole frame", median(stages.total_ms), p99(stages.total_ms), "bar"))
    for row in bench.batches:
        label = f"engine, batch {row.batch_size}, an image"
        bars.append((label, median(row.runs_ms) / row.batch_size, p99(row.runs_ms) / row.batch_size, "bar"))
    bars += [(name, median(rival_ms), p99(rival_ms), "other") for name, rival_ms in stages.rivals_ms.items()]
    bars_height = _ROW * len(bars) + 30
    parts = [_text(10, 20, f"{stages.engine}, input {stages.network_hw[1]}x{stages.network_hw[0]}", "")]
    parts += _bars(bars, top=36)
    height = 36 + bars_height
    if isinstance(bench.roofline, Roofline):
        parts += _roof(bench.roofline, top=height + 24)
        height += _ROOF_HEIGHT + 24
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height + 10}" width="{_WIDTH}">'
    return "\n".join([head, f"<style>{_STYLE}</style>", *parts, "</svg>\n"])


def _bars(rows: Sequence[tuple[str, float, float, str]], *, top: float) -> list[str]:
    ticks = nice_ticks(0.0, max(high for _, _, high, _ in rows))
    left, width = _LABELS, _WIDTH - _LABELS - 70
    bottom = top + _ROW * len(rows)
    parts = []
    for tick in ticks:
        x = left + width * tick / ticks[-1]
        parts.append(_line(x, top, x, bottom, "grid"))
        parts.append(_text(x, bottom + 16, f"{tick:g}", "tick", "middle"))
    parts.append(_text(left - 8, bottom + 16, "median, mark: 99th percentile, ms", "tick", "end"))
    for index, (name, middle, high, kind) in enumerate(rows):
        y = top + _ROW * index
        length, mark = width * middle / ticks[-1], left + width * high / ticks[-1]
        parts.append(_text(left - 8, y + 16, name, "", "end"))
        parts.append(f'<rect class="{kind}" x="{left}" y="{y + 4}" width="{length:.1f}" height="{_ROW - 8}"/>')
        parts.append(_line(mark, y + 3, mark, y + _ROW - 3, "whisker"))
        parts.append(_text(max(mark, left + length) + 6, y + 16, f"{middle:.2f}", "tick"))
    return parts


def _roof(roofline: Roofline, *, top: float) -> list[str]:
    """Log-log plot of GFLOP/s over FLOP per byte: bandwidth slope, peak, and the engine's point."""
    machine = roofline.machine
    ridge = machine.gflops / machine.gbytes_s
    xs = log_ticks(min(ridge, roofline.intensity) / 4, max(ridge, roofline.intensity) * 4)
    ys = log_ticks(min(xs[0] * machine.gbytes_s, roofline.gflops) / 1.5, machine.gflops * 1.5)
    left, right, bottom = 60.0, _WIDTH - 20.0, top + _ROOF_HEIGHT - 40

    def position(intensity: float, gflops: float) -> tuple[float, float]:
        x = left + (right - left) * math.log(intensity / xs[0]) / math.log(xs[-1] / xs[0])
        y = bottom - (bottom - top) * math.log(gflops / ys[0]) / math.log(ys[-1] / ys[0])
        return x, y

    parts = []
    for tick in ys:
        y = position(xs[0], tick)[1]
        parts += [_line(left, y, right, y, "grid"), _text(left - 6, y + 4, f"{tick:g}", "tick", "end")]
    for tick in xs:
        x = position(tick, ys[0])[0]
        parts += [_line(x, top, x, bottom, "grid"), _text(x, bottom + 16, f"{tick:g}", "tick", "middle")]
    parts.append(_text((left + right) / 2, bottom + 34, "FLOP per byte", "tick", "middle"))
    parts.append(_text(left, top - 8, "GFLOP/s", "tick", "middle"))
    corners = [(xs[0], xs[0] * machine.gbytes_s), (ridge, machine.gflops), (xs[-1], machine.gflops)]
    path = "L".join(f"{x:.1f},{y:.1f}" for x, y in (position(*corner) for corner in corners))
    parts.append(f'<path class="roof" d="M{path}"/>')
    x, y = position(roofline.intensity, roofline.gflops)
    parts.append(f'<circle class="point" cx="{x:.1f}" cy="{y:.1f}" r="5"/>')
    label = f"{roofline.gflops:.0f} GFLOP/s, {100 * roofline.fraction:.0f} % of the roof"
    # The label goes towards the middle, where there is space.
    parts.append(_text(x + 9, y + 20, label, "") if x < (left + right) / 2 else _text(x - 9, y + 20, label, "", "end"))
    return parts


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _text(x: float, y: float, text: str, kind: str, anchor: str = "start") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
