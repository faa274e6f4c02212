"""Metrics as HTML tables with bars: the same rows for every evaluation, side by side."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape

from lvad_perception.metrics import Metrics, SegmentationScores
from lvad_perception.vocabulary import DETECTION, DRIVABLE, SEMANTIC, Rgb, Vocabulary

Evaluations = Mapping[str, Metrics]
_NONE = "&ndash;"


def headline_tiles(metrics: Metrics) -> str:
    """The numbers that a reader looks for first."""
    tiles: list[tuple[str, float | None, str]] = []
    if metrics.detection is not None:
        scores = metrics.detection.scores
        tiles.append(("Boxes AP50", scores.ap50, f"AP {percent(scores.ap)} · AP75 {percent(scores.ap75)}"))
    if metrics.semantic is not None:
        tiles.append(("Semantic mIoU", metrics.semantic.scores.mean_iou, _constant(metrics.semantic.scores)))
        accuracy = metrics.semantic.scores.pixel_accuracy
        tiles.append(("Semantic pixel accuracy", accuracy, f"over {metrics.semantic.images:,} images"))
    if metrics.drivable is not None:
        three, official = metrics.drivable.three_class, metrics.drivable.official
        tiles.append(("Drivable mIoU, 3 classes", three.mean_iou, _constant(three)))
        tiles.append(("Drivable mIoU, official", official.mean_iou, _constant(official)))
    items = (
        f'<li><span class="what">{escape(what)}</span><span class="value">{percent(value)}</span>'
        f'<span class="note">{note}</span></li>'
        for what, value, note in tiles
    )
    return f'<ul class="tiles">{"".join(items)}</ul>'


def comparison_table(evaluations: Evaluations) -> str:
    """All headline numbers, one column per evaluation."""
    columns = [_headlines(metrics) for metrics in evaluations.values()]
    body = [_row(escape(name), [_cell(column[name]) for column in columns]) for name in columns[0]]
    return _table("All evaluations, in percent", ["", *evaluations], body)


def _headlines(metrics: Metrics) -> dict[str, float | None]:
    boxes = None if metrics.detection is None else metrics.detection.scores
    semantic = None if metrics.semantic is None else metrics.semantic.scores
    three = None if metrics.drivable is None else metrics.drivable.three_class
    official = None if metrics.drivable is None else metrics.drivable.official
    return {
        "Boxes AP (IoU 0.50:0.95)": None if boxes is None else boxes.ap,
        "Boxes AP50": None if boxes is None else boxes.ap50,
        "Boxes AP75": None if boxes is None else boxes.ap75,
        "Boxes AP, small": None if boxes is None else boxes.ap_small,
        "Boxes AP, medium": None if boxes is None else boxes.ap_medium,
        "Boxes AP, large": None if boxes is None else boxes.ap_large,
        "Boxes AR100": None if boxes is None else boxes.ar100,
        "Semantic mIoU": None if semantic is None else semantic.mean_iou,
        "Semantic pixel accuracy": None if semantic is None else semantic.pixel_accuracy,
        "Drivable mIoU, 3 classes": None if three is None else three.mean_iou,
        "Drivable mIoU, official (background truth dropped)": None if official is None else official.mean_iou,
        "Drivable pixel accuracy": None if three is None else three.pixel_accuracy,
    }


def detection_table(evaluations: Evaluations) -> str:
    """Average precision per class."""
    shown = {name: m.detection for name, m in evaluations.items() if m.detection is not None}
    if not shown:
        return ""
    heads = ["class", "truth boxes", *(f"{kind}, {name}" for name in shown for kind in ("AP50", "AP"))]
    body = []
    for label, color in zip(DETECTION.names, DETECTION.colors, strict=True):
        scores = [detection.per_class.get(label) for detection in shown.values()]
        counts = [score.truth for score in scores if score is not None]
        cells = [f'<td class="num">{max(counts, default=0):,}</td>']
        for score in scores:
            cells += [_cell(None), _cell(None)] if score is None else [_cell(score.ap50), _cell(score.ap)]
        body.append(_row(_swatch(color) + escape(label), cells))
    return _table("Boxes: average precision per class, in percent", heads, body)


def segmentation_tables(evaluations: Evaluations) -> str:
    """IoU per class of both label map tasks."""
    semantic = {name: m.semantic for name, m in evaluations.items() if m.semantic is not None}
    drivable = {name: m.drivable for name, m in evaluations.items() if m.drivable is not None}
    tables = []
    if semantic:
        columns = {f"IoU, {name}": task.scores.iou for name, task in semantic.items()}
        share = next(iter(semantic.values())).truth_share
        tables.append(_iou_table("Semantic segmentation: IoU per class, in percent", SEMANTIC, columns, share))
    if drivable:
        columns = {}
        for name, found in drivable.items():
            columns[f"IoU 3 classes, {name}"] = found.three_class.iou
            columns[f"IoU official, {name}"] = found.official.iou
        share = next(iter(drivable.values())).truth_share
        tables.append(_iou_table("Drivable area: IoU per class, in percent", DRIVABLE, columns, share))
    return "".join(tables)


def facts_table(facts: Mapping[str, object]) -> str:
    """Names and values in two columns; a value of several lines keeps them."""
    rows = []
    for name, value in facts.items():
        text = escape(str(value))
        rows.append(_row(escape(name), [f"<td>{f'<pre>{text}</pre>' if chr(10) in text else text}</td>"]))
    return f'<div class="scroll"><table class="facts"><tbody>{"".join(rows)}</tbody></table></div>'


def percent(value: float | None) -> str:
    """One decimal; a dash where there is no number, as HTML."""
    return _NONE if value is None or value != value else f"{value:.1f}"


def legend(vocabulary: Vocabulary) -> str:
    """The colours of a task's classes as they appear on overlays."""
    items = zip(vocabulary.names, vocabulary.colors, strict=True)
    return '<p class="legend">' + "".join(f"<span>{_swatch(c)}{escape(n)}</span>" for n, c in items) + "</p>"


def _constant(scores: SegmentationScores) -> str:
    return f"best constant prediction {percent(scores.constant_mean_iou)}"


def _iou_table(
    caption: str, vocabulary: Vocabulary, columns: Mapping[str, Mapping[str, float | None]], share: Mapping[str, float]
) -> str:
    body = []
    for label, color in zip(vocabulary.names, vocabulary.colors, strict=True):
        cells = [f'<td class="num">{share.get(label, 0.0):.2f}</td>']
        cells += [_cell(iou.get(label)) for iou in columns.values()]
        body.append(_row(_swatch(color) + escape(label), cells))
    return _table(caption, ["class", "% of truth pixels", *columns], body)


def _table(caption: str, heads: Iterable[str], body: Sequence[str]) -> str:
    head = "".join(f'<th scope="col">{escape(name)}</th>' if name else "<td></td>" for name in heads)
    return (
        f'<div class="scroll"><table><caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


def _row(head: str, cells: Iterable[str]) -> str:
    return f'<tr><th scope="row">{head}</th>{"".join(cells)}</tr>'


def _cell(value: float | None) -> str:
    """A number in percent over a bar of that length."""
    if value is None or value != value:
        return f'<td class="num none">{_NONE}</td>'
    length = min(max(value, 0.0), 100.0)
    return f'<td class="num"><span class="bar"><i style="width:{length:.1f}%"></i></span><b>{percent(value)}</b></td>'


def _swatch(color: Rgb) -> str:
    return f'<i class="swatch" style="background:rgb({color[0]},{color[1]},{color[2]})"></i>'
