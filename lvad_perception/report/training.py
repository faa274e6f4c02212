"""Report sections with training curves, of several runs in the same charts."""

from collections.abc import Mapping, Sequence
from html import escape

from lvad_perception.report.charts import Point, Series, line_chart, number
from lvad_perception.report.run import Run, by_curve, run_keys


def training_section(runs: Sequence[Run]) -> str:
    """Losses, then other values of each step; empty when no run has losses."""
    losses, step_values = by_curve(runs, "losses"), by_curve(runs, "step_values")
    if not losses:
        return ""
    switched = _switched_charts(losses, first_wide=True)
    rest = _grid([_figure(name, series) for name, series in step_values.items()])
    return run_keys(runs) + switched + rest


def validation_section(runs: Sequence[Run]) -> str:
    """Metrics that were measured during training; empty where every run was measured at its end only."""
    curves = by_curve(runs, "validation")
    if not any(len(item.points) > 1 for series in curves.values() for item in series):
        return ""
    return run_keys(runs) + _grid([_figure(name, series) for name, series in curves.items()])


def curve_charts(curves: Mapping[str, Sequence[Point]], *, first_wide: bool = True) -> str:
    """Curves as HTML, with a switch between linear and logarithmic axes; at most one such group per page.

    Args:
        curves: name -> (step, value) points.
        first_wide: show the first curve, the total, large.
    """
    return _switched_charts({name: [Series(0, "", points)] for name, points in curves.items()}, first_wide=first_wide)


def _switched_charts(curves: Mapping[str, Sequence[Series]], *, first_wide: bool) -> str:
    if not curves:
        return ""
    charts = []
    for index, (name, series) in enumerate(curves.items()):
        wide = first_wide and index == 0
        both = "".join(_chart(name, series, log=log, wide=wide) for log in (False, True))
        charts.append(_framed(name, series, both, wide=wide))
    # Two radio buttons and the style sheet switch the axis; the page has no script.
    switch = (
        '<input type="radio" name="axis" id="axis-linear" checked><label for="axis-linear">linear</label>'
        '<input type="radio" name="axis" id="axis-log"><label for="axis-log">logarithmic</label>'
    )
    alone = all(len(series) == 1 for series in curves.values())
    thin = "thin: every logged step; bold: running mean" if alone else "running means"
    return f'<p class="source">{thin}; x: optimiser steps</p>{switch}{_grid(charts)}'


def _chart(name: str, series: Sequence[Series], *, log: bool, wide: bool) -> str:
    size_wh = (960, 300) if wide else (380, 200)
    drawn = line_chart(series, name=name, log=log, size_wh=size_wh)
    return f'<div class="{"log" if log else "linear"}">{drawn}</div>'


def _figure(name: str, series: Sequence[Series]) -> str:
    return _framed(name, series, line_chart(series, name=name, size_wh=(380, 200)), wide=False)


def _framed(name: str, series: Sequence[Series], content: str, *, wide: bool) -> str:
    alone = series[0].points if len(series) == 1 else ()
    last = f" <span>last {number(alone[-1][1])}</span>" if alone else ""
    caption = f"<figcaption>{escape(name)}{last}</figcaption>"
    return f'<figure class="chart{" wide" if wide else ""}">{caption}{content}</figure>'


def _grid(charts: Sequence[str]) -> str:
    return f'<div class="charts">{"".join(charts)}</div>' if charts else ""
