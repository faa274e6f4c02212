"""The report page: sections in order, pictures embedded, one style sheet for light, dark and print."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Final

import cv2
import numpy as np

from lvad_perception.errors import ImageError
from lvad_perception.metrics import Metrics
from lvad_perception.report.charts import Point, line_chart
from lvad_perception.report.style import STYLE
from lvad_perception.report.tables import (
    comparison_table,
    detection_table,
    facts_table,
    headline_tiles,
    legend,
    segmentation_tables,
)
from lvad_perception.types import UInt8
from lvad_perception.vocabulary import DETECTION, DRIVABLE, SEMANTIC

_JPEG_QUALITY: Final = 85
_WIDEST_PX: Final = 720
"""Pictures are shrunk to this width: three stand side by side."""


@dataclass(frozen=True, slots=True, eq=False)
class Overlay:
    """One example image of the report.

    Attributes:
        caption: the image's name and what to see.
        image: uint8 [H, W, 3], RGB.
        truth: the same with the annotation drawn on it, or None where there is none.
        prediction: the same with what the model says drawn on it.
    """

    caption: str
    image: UInt8
    truth: UInt8 | None
    prediction: UInt8


def write_report(
    path: Path,
    *,
    title: str,
    summary: str = "",
    facts: Mapping[str, object] | None = None,
    commands: Sequence[str] = (),
    curves: Mapping[str, Sequence[Point]] | None = None,
    metrics: Mapping[str, Metrics] | None = None,
    overlays: Sequence[Overlay] = (),
) -> None:
    """Write the report. Sections without content are left out.

    Args:
        path: HTML file to write; its folder is created.
        title: heading of the page.
        summary: one or two sentences below it.
        facts: name -> value, such as versions, sizes and times.
        commands: command lines that made the results, as one would type them.
        curves: name -> (step, value) points; the first is shown large, it is the total.
        metrics: name of the evaluation -> its metrics; the first one makes the headline.
        overlays: example images.

    Raises:
        ImageError: the file cannot be written, or a picture is not uint8 RGB.
    """
    sections = [
        ("Results", _results(metrics or {})),
        ("Examples", _examples(overlays)),
        ("Training", curve_charts(curves or {})),
        ("Per class", detection_table(metrics or {}) + segmentation_tables(metrics or {})),
        ("How it was made", provenance(facts or {}, commands)),
    ]
    write_page(path, title=title, summary=summary, sections=sections)


def write_page(path: Path, *, title: str, summary: str, sections: Sequence[tuple[str, str]]) -> None:
    """Write a page of sections, each a heading and HTML; those without content are left out.

    Args:
        path: HTML file to write; its folder is created.
        title: heading of the page.
        summary: one or two sentences below it.
        sections: headings and their HTML, in the order of the page.

    Raises:
        ImageError: the file cannot be written.
    """
    shown = [(name, name.lower().replace(" ", "-"), content) for name, content in sections if content]
    links = "".join(f'<a href="#{anchor}">{escape(name)}</a>' for name, anchor, _ in shown)
    body = "".join(
        f'<section id="{anchor}"><h2>{escape(name)}</h2>{content}</section>' for name, anchor, content in shown
    )
    lead = f'<p class="lead">{escape(summary)}</p>' if summary else ""
    page = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>"
        f"<body><header><h1>{escape(title)}</h1>{lead}<nav>{links}</nav></header><main>{body}</main></body></html>\n"
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(page, encoding="utf-8")
    except OSError as err:
        raise ImageError(f"the report {path} cannot be written ({err.strerror}); choose a writable folder") from err


def _results(metrics: Mapping[str, Metrics]) -> str:
    if not metrics:
        return ""
    name, first = next(iter(metrics.items()))
    return f'<p class="source">{escape(name)}, in percent</p>{headline_tiles(first)}{comparison_table(metrics)}'


def _examples(overlays: Sequence[Overlay]) -> str:
    if not overlays:
        return ""
    figures = []
    for overlay in overlays:
        panels = [("image", overlay.image), ("truth", overlay.truth), ("prediction", overlay.prediction)]
        pictures = "".join(
            f'<div><img loading="lazy" src="{_data_uri(picture)}" alt="{escape(f"{overlay.caption}: {kind}")}">'
            f"<span>{kind}</span></div>"
            for kind, picture in panels
            if picture is not None
        )
        caption = f"<figcaption>{escape(overlay.caption)}</figcaption>"
        figures.append(f'<figure>{caption}<div class="panels">{pictures}</div></figure>')
    keys = "".join(
        f"<h3>{name}</h3>{legend(vocabulary)}"
        for name, vocabulary in (("Boxes", DETECTION), ("Semantic classes", SEMANTIC), ("Drivable area", DRIVABLE))
    )
    return f'{"".join(figures)}<details class="legends"><summary>Colours</summary>{keys}</details>'


def curve_charts(curves: Mapping[str, Sequence[Point]], *, first_wide: bool = True) -> str:
    """Curves as HTML, each with a linear and a logarithmic axis to switch between; one such group a page.

    Args:
        curves: name -> (step, value) points.
        first_wide: the first curve is the total and shown large.
    """
    if not curves:
        return ""
    charts = []
    for place, (name, points) in enumerate(curves.items()):
        wide = first_wide and place == 0
        size_wh = (960, 300) if wide else (380, 200)
        both = "".join(
            f'<div class="{kind}">{line_chart(points, name=name, log=kind == "log", size_wh=size_wh)}</div>'
            for kind in ("linear", "log")
        )
        last = f" <span>last {points[-1][1]:.4g}</span>" if len(points) else ""
        charts.append(
            f'<figure class="chart{" wide" if wide else ""}"><figcaption>{escape(name)}{last}</figcaption>'
            f"{both}</figure>"
        )
    # Two radio buttons and the style sheet switch the axis; the page has no script.
    switch = (
        '<input type="radio" name="axis" id="axis-linear" checked><label for="axis-linear">linear</label>'
        '<input type="radio" name="axis" id="axis-log"><label for="axis-log">logarithmic</label>'
    )
    note = '<p class="source">thin: every logged step; bold: running mean; x: optimiser steps</p>'
    return f'{note}{switch}<div class="charts">{"".join(charts)}</div>'


def provenance(facts: Mapping[str, object], commands: Sequence[str]) -> str:
    """Names with their values, then command lines, as HTML."""
    listed = f"<pre>{escape(chr(10).join(commands))}</pre>" if commands else ""
    return (facts_table(facts) if facts else "") + (f"<h3>Commands</h3>{listed}" if listed else "")


def _data_uri(picture: UInt8) -> str:
    """An RGB picture as an embedded JPEG."""
    if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8 or picture.size == 0:
        raise ImageError(
            f"a picture of shape {picture.shape} and type {picture.dtype} is not uint8 RGB; convert it before reporting"
        )
    height, width = picture.shape[:2]
    if width > _WIDEST_PX:
        size_wh = (_WIDEST_PX, max(1, round(height * _WIDEST_PX / width)))
        picture = np.asarray(cv2.resize(picture, size_wh, interpolation=cv2.INTER_AREA), np.uint8)
    options = [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]
    _, data = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), options)
    return "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode("ascii")
