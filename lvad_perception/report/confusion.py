"""Report sections with precision-recall curves and confusion matrices."""

from collections.abc import Sequence
from html import escape
from typing import Final

import numpy as np
import numpy.typing as npt

from lvad_perception.metrics import Findings
from lvad_perception.metrics.matching import MATCH_IOU
from lvad_perception.report.charts import Series, recall_chart
from lvad_perception.report.run import Run, run_keys
from lvad_perception.report.tables import percent

_LEAST_SHOWN: Final = 0.5
"""Cells with a smaller share in percent are left blank, so that the matrix can be read at a glance."""
_TITLES: Final = {
    "detection": f"Boxes at IoU {MATCH_IOU}",
    "semantic": "Pixels of the semantic mask",
    "drivable": "Pixels of the drivable area",
}


def recall_section(runs: Sequence[Run]) -> str:
    """A chart with all runs for each class that occurs; empty when no run has precision-recall curves."""
    evaluated = [(index, run, run.findings) for index, run in enumerate(runs) if run.findings is not None]
    charts = []
    for name in dict.fromkeys(name for _, _, findings in evaluated for name in findings.classes["detection"]):
        series, marks, scores = [], [], []
        for index, run, findings in evaluated:
            curve = findings.precision.get(name)
            if curve is None:
                continue
            recalls = np.linspace(0, 100, len(curve))
            points = [(float(x), float(y)) for x, y in zip(recalls, curve, strict=True)]
            series.append(Series(index, run.name if len(runs) > 1 else "", points))
            label = findings.classes["detection"].index(name)
            mark = _operating_point(findings.confusions.get("detection"), label)
            marks += [] if mark is None else [Series(index, "", [mark])]
            scores.append(percent(float(curve.mean())))
        if series:
            caption = f"{escape(name)} <span>AP50 {' · '.join(scores)}</span>"
            drawn = recall_chart(series, marks, name=name)
            charts.append(f'<figure class="chart"><figcaption>{caption}</figcaption>{drawn}</figure>')
    if not charts:
        return ""
    thresholds = dict.fromkeys(f"{findings.score_threshold:g}" for _, _, findings in evaluated)
    note = (
        f'<p class="source">Precision (up) over recall (right) of boxes at IoU {MATCH_IOU}, in percent. The ring '
        f"marks the boxes with a score of at least {' or '.join(thresholds)}.</p>"
    )
    return f'{run_keys(runs)}{note}<div class="charts small">{"".join(charts)}</div>'


def confusion_section(runs: Sequence[Run]) -> str:
    """A collapsible matrix for each task and run; the first one of each task is open."""
    parts = []
    for task, title in _TITLES.items():
        shown = [run for run in runs if run.findings is not None and task in run.findings.confusions]
        for index, run in enumerate(shown):
            assert run.findings is not None
            caption = title if len(runs) == 1 else f"{title}: {run.name}"
            table = _matrix(task, run.findings, caption)
            state = " open" if index == 0 else ""
            parts.append(f"<details{state}><summary>{escape(caption)}</summary>{table}</details>")
    return "".join(parts)


def _matrix(task: str, findings: Findings, caption: str) -> str:
    counts, threshold, classes = findings.confusions[task], findings.score_threshold, findings.classes[task]
    names = [*classes, "background" if task == "detection" else "no class"]
    last = len(names) - 1
    square = np.zeros((last + 1, last + 1), np.int64)
    square[: len(counts)] = counts
    known = len(classes)
    columns = [index for index in range(last + 1) if square[index].any() or square[:, index].any()]
    rows = [index for index in columns if square[index].any()]
    shares = 100.0 * square / np.maximum(square.sum(1, keepdims=True), 1)
    if task == "detection":
        note = (
            f"Rows: truth; columns: predictions with a score of at least {threshold:g}. Each row is in percent of the "
            "objects of its class; the column background counts missed objects. Last row: percent of the boxes "
            "predicted as a class that match no object."
        )
        shares[last] = 100.0 * square[last] / np.maximum(square.sum(0), 1)
        if not square[:, :last].any():
            note += f" No box reaches a score of {threshold:g}."
    else:
        note = "Rows: truth; columns: predictions. Each row is in percent of the pixels of its class."
    unit = "boxes" if task == "detection" else "pixels"
    head = "".join(f'<th scope="col"><span>{escape(names[column])}</span></th>' for column in columns)
    body = []
    for row in rows:
        cells = "".join(
            _cell(float(shares[row, column]), int(square[row, column]), unit, right=row == column < known)
            for column in columns
        )
        total = f"{int(square[row].sum()):,}"
        name = "false alarm" if task == "detection" and row == known else names[row]
        head_cell = f'<th scope="row">{escape(name)}</th>'
        body.append(f'<tr>{head_cell}{cells}<td class="num">{total}</td></tr>')
    return (
        f'<p class="source">{note}</p><div class="scroll" tabindex="0" role="region" aria-label="{escape(caption)}">'
        f'<table class="matrix"><thead><tr><td></td>{head}<th scope="col"><span>{unit}</span></th></tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


def _cell(share: float, count: int, unit: str, *, right: bool) -> str:
    kind = "right" if right else "wrong"
    if share < _LEAST_SHOWN:
        return f'<td class="{kind}"></td>'
    return f'<td class="{kind}" style="--share:{share:.0f}%" title="{count:,} {unit}">{share:.0f}</td>'


def _operating_point(counts: npt.NDArray[np.int64] | None, label: int) -> tuple[float, float] | None:
    """(recall, precision) in percent at the report's score threshold; None without truth or predictions."""
    if counts is None or not counts[:, label].any() or not counts[label].any():
        return None
    hits = float(counts[label, label])
    return 100.0 * hits / float(counts[label].sum()), 100.0 * hits / float(counts[:, label].sum())
