"""Tables of metrics with bars as HTML, all evaluations side by side."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Final

from lvad_perception.metrics import Metrics, SegmentationScores, SliceScores
from lvad_perception.report.charts import STYLES
from lvad_perception.vocabulary import Rgb, Vocabulary, vocabulary_of

Evaluations = Mapping[str, Metrics | None]
"""Name -> metrics; None leaves the run's column empty."""
Slices = Mapping[str, Mapping[str, SliceScores]]
Numbers = Sequence[float | None]
"""One number per evaluation, in their order; None where it has none."""

_NONE: Final = "&ndash;"
_ABSENT: Final = "\N{EN DASH}"
_FEW: Final = 30
"""Scores over fewer frames are marked, since they are unreliable."""


def headline_tiles(metrics: Metrics) -> str:
    """The main numbers of one evaluation as tiles."""
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
    """All headline numbers, one column per evaluation, the best of a row in bold."""
    columns = [_headlines(metrics) for metrics in evaluations.values()]
    body = []
    for name in columns[0]:
        numbers = [column[name] for column in columns]
        best = _best(numbers)
        body.append(
            _row(
                escape(name),
                [
                    f'<td class="num">{_bar(number, index, best=index in best)}</td>'
                    for index, number in enumerate(numbers)
                ],
            )
        )
    return _table("All evaluations, in percent", ["", *evaluations], body)


def _headlines(metrics: Metrics | None) -> dict[str, float | None]:
    boxes = None if metrics is None or metrics.detection is None else metrics.detection.scores
    semantic = None if metrics is None or metrics.semantic is None else metrics.semantic.scores
    drivable = None if metrics is None else metrics.drivable
    three, official = (None, None) if drivable is None else (drivable.three_class, drivable.official)
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
    """Average precision of each class that occurs in the truth, a bar for each evaluation."""
    tasks = [None if metrics is None else metrics.detection for metrics in evaluations.values()]
    if not any(tasks):
        return ""
    body = []
    names = dict.fromkeys(name for task in tasks if task is not None for name in task.per_class)
    for label, color in _coloured("detection", names):
        scores = [None if task is None else task.per_class.get(label) for task in tasks]
        count = max((score.truth for score in scores if score is not None), default=0)
        if not count:
            continue
        cells = [
            f'<td class="num">{count:,}</td>',
            _bars([None if score is None else score.ap50 for score in scores]),
            _bars([None if score is None else score.ap for score in scores]),
        ]
        body.append(_row(_swatch(color) + escape(label), cells))
    return _table("Boxes: average precision per class, in percent", ["class", "truth boxes", "AP50", "AP"], body)


def segmentation_tables(evaluations: Evaluations) -> str:
    """IoU of each class for both segmentation tasks, a bar for each evaluation."""
    semantic = [None if metrics is None else metrics.semantic for metrics in evaluations.values()]
    drivable = [None if metrics is None else metrics.drivable for metrics in evaluations.values()]
    tables = []
    if first := next((task for task in semantic if task is not None), None):
        columns = {"IoU": [None if task is None else task.scores.iou for task in semantic]}
        caption = "Semantic segmentation: IoU per class, in percent"
        tables.append(_iou_table(caption, "semantic", columns, first.truth_share))
    if found := next((task for task in drivable if task is not None), None):
        columns = {
            "IoU, 3 classes": [None if task is None else task.three_class.iou for task in drivable],
            "IoU, official": [None if task is None else task.official.iou for task in drivable],
        }
        tables.append(_iou_table("Drivable area: IoU per class, in percent", "drivable", columns, found.truth_share))
    return "".join(tables)


def slice_tables(slices: Sequence[Slices]) -> str:
    """Scores by weather, scene and time of day, a bar for each evaluation; empty when no evaluation has slices.

    Args:
        slices: for each evaluation, attribute -> value -> scores; may be empty.
    """
    tables = []
    titles = {"weather": "weather", "scene": "scene", "timeofday": "time of day"}
    for attribute in dict.fromkeys(name for each in slices for name in each):
        values = dict.fromkeys(value for each in slices for value in each.get(attribute, {}))
        body = []
        for value in values:
            scores = [each.get(attribute, {}).get(value) for each in slices]
            count = max(score.images for score in scores if score is not None)
            few = '<span class="few"> few</span>' if count < _FEW else ""
            cells = [f'<td class="num">{count:,}{few}</td>']
            for kind in ("ap50", "ap", "semantic", "drivable"):
                cells.append(_bars([None if score is None else getattr(score, kind) for score in scores]))
            body.append(_row(escape(value), cells))
        title = titles.get(attribute, attribute)
        heads = [title, "frames", "boxes AP50", "boxes AP", "semantic mIoU", "drivable mIoU"]
        tables.append(_table(f"By {title}, in percent", heads, body))
    return "".join(tables)


def metadata_table(metadata: Mapping[str, object]) -> str:
    """Names and values in two columns; line breaks in values are kept."""
    rows = []
    for name, value in metadata.items():
        text = escape(str(value))
        rows.append(_row(escape(name), [f"<td>{f'<pre>{text}</pre>' if chr(10) in text else text}</td>"]))
    return f'<div class="scroll"><table class="facts"><tbody>{"".join(rows)}</tbody></table></div>'


def settings_table(settings: Mapping[str, Mapping[str, object]]) -> str:
    """The settings that differ between runs, one column per run; empty when there are none.

    Args:
        settings: name of the run -> name of the setting -> value.
    """
    names = dict.fromkeys(name for each in settings.values() for name in each)
    body = []
    for name in names:
        values = [str(each.get(name, _ABSENT)) for each in settings.values()]
        if len(set(values)) > 1:
            body.append(_row(escape(name), [f"<td>{escape(value)}</td>" for value in values]))
    if len(settings) < 2 or not body:
        return ""
    return _table("What differs between the recipes", ["", *settings], body, kind="settings")


def percent(value: float | None) -> str:
    """A number with one decimal, or a dash for None and NaN, as HTML."""
    return _NONE if value is None or value != value else f"{value:.1f}"


def legend(vocabulary: Vocabulary) -> str:
    """A legend of a task's classes in their overlay colours."""
    items = zip(vocabulary.names, vocabulary.colors, strict=True)
    return '<p class="legend">' + "".join(f"<span>{_swatch(c)}{escape(n)}</span>" for n, c in items) + "</p>"


def _constant(scores: SegmentationScores) -> str:
    return f"best constant prediction {percent(scores.constant_mean_iou)}"


def _iou_table(
    caption: str,
    task: str,
    columns: Mapping[str, Sequence[Mapping[str, float | None] | None]],
    share: Mapping[str, float],
) -> str:
    body = []
    names = dict.fromkeys(name for column in columns.values() for iou in column if iou is not None for name in iou)
    for label, color in _coloured(task, names):
        found = [[None if iou is None else iou.get(label) for iou in column] for column in columns.values()]
        if all(number is None for numbers in found for number in numbers):
            continue
        cells = [f'<td class="num">{share.get(label, 0.0):.2f}</td>', *map(_bars, found)]
        body.append(_row(_swatch(color) + escape(label), cells))
    return _table(caption, ["class", "% of truth pixels", *columns], body)


def _table(caption: str, heads: Iterable[str], body: Sequence[str], *, kind: str = "figures") -> str:
    head = "".join(f'<th scope="col">{escape(name)}</th>' if name else "<td></td>" for name in heads)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(caption)}"><table class="{kind}">'
        f"<caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead>"
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


def _row(head: str, cells: Iterable[str]) -> str:
    return f'<tr><th scope="row">{head}</th>{"".join(cells)}</tr>'


def _bars(numbers: Numbers) -> str:
    """A cell with one bar per evaluation, stacked; a single dash when none has a number."""
    if all(number is None for number in numbers):
        return f'<td class="num none">{_NONE}</td>'
    best = _best(numbers)
    return f'<td class="num">{"".join(_bar(n, index, best=index in best) for index, n in enumerate(numbers))}</td>'


def _bar(value: float | None, index: int, *, best: bool) -> str:
    """A number in percent beside a bar of that length, in the colour of its evaluation."""
    if value is None or value != value:
        return f'<span class="line none"><b>{_NONE}</b></span>'
    length = min(max(value, 0.0), 100.0)
    kind = "line best" if best else "line"
    return (
        f'<span class="{kind}"><span class="bar s{index % STYLES}"><i style="width:{length:.1f}%"></i></span>'
        f"<b>{percent(value)}</b></span>"
    )


def _best(numbers: Numbers) -> set[int]:
    """Indices of the highest number as printed; empty when only one evaluation has a number, or all are equal."""
    known = {index: round(number, 1) for index, number in enumerate(numbers) if number is not None}
    highest = max(known.values(), default=0.0)
    return {index for index, number in known.items() if number == highest} if len(set(known.values())) > 1 else set()


def _coloured(task: str, names: Iterable[str]) -> Iterable[tuple[str, Rgb]]:
    """Class names of a task with their overlay colours."""
    vocabulary = vocabulary_of(task, tuple(names))
    return zip(vocabulary.names, vocabulary.colors, strict=True)


def _swatch(color: Rgb) -> str:
    return f'<i class="swatch" style="background:rgb({color[0]},{color[1]},{color[2]})"></i>'
