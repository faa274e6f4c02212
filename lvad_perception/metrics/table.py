"""Metrics as aligned text for a terminal or a log."""

from collections.abc import Sequence

from lvad_perception.metrics.detection import DetectionMetrics, DetectionScores
from lvad_perception.metrics.segmentation import DrivableMetrics, SegmentationMetrics

Row = tuple[str, ...]


def metrics_table(
    detection: DetectionMetrics | None, semantic: SegmentationMetrics | None, drivable: DrivableMetrics | None
) -> str:
    """One block per evaluated task, in percent; "-" where the truth defines no number."""
    blocks = []
    if detection is not None:
        blocks.append(_detection(detection))
    if semantic is not None:
        blocks.append(_semantic(semantic))
    if drivable is not None:
        blocks.append(_drivable(drivable))
    return "\n\n".join(blocks)


def _detection(metrics: DetectionMetrics) -> str:
    rows: list[Row] = [
        (f"detection, {_images(metrics.images)}", "AP", "AP50", "AP75", "small", "medium", "large", "AR100", "boxes"),
        _detection_row("all classes", metrics.scores),
    ]
    rows += [_detection_row(name, scores) for name, scores in metrics.per_class.items() if scores.truth]
    return aligned(rows)


def _detection_row(name: str, scores: DetectionScores) -> Row:
    numbers = (scores.ap, scores.ap50, scores.ap75, scores.ap_small, scores.ap_medium, scores.ap_large, scores.ar100)
    return (name, *map(number, numbers), str(scores.truth))


def _semantic(metrics: SegmentationMetrics) -> str:
    scores = metrics.scores
    rows: list[Row] = [
        (f"semantic, {_images(metrics.images)}", "IoU", "truth"),
        (f"mean of {_present(scores.iou)}", number(scores.mean_iou), ""),
        ("best constant prediction", number(scores.constant_mean_iou), ""),
        ("pixel accuracy", number(scores.pixel_accuracy), ""),
    ]
    rows += [
        (name, number(iou), number(metrics.truth_share[name])) for name, iou in scores.iou.items() if iou is not None
    ]
    return aligned(rows)


def _drivable(metrics: DrivableMetrics) -> str:
    official, three_class = metrics.official, metrics.three_class
    rows: list[Row] = [
        (f"drivable, {_images(metrics.images)}", "official", "3-class", "truth"),
        ("mean IoU", number(official.mean_iou), number(three_class.mean_iou), ""),
        ("best constant prediction", number(official.constant_mean_iou), number(three_class.constant_mean_iou), ""),
        ("pixel accuracy", number(official.pixel_accuracy), number(three_class.pixel_accuracy), ""),
    ]
    rows += [
        (name, number(official.iou.get(name)), number(iou), number(metrics.truth_share[name]))
        for name, iou in three_class.iou.items()
        if iou is not None
    ]
    return aligned(rows)


def _images(count: int) -> str:
    return f"{count} image{'' if count == 1 else 's'}"


def _present(iou: dict[str, float | None]) -> str:
    count = sum(value is not None for value in iou.values())
    return f"{count} class{'' if count == 1 else 'es'}"


def number(value: float | None) -> str:
    """A number with one decimal; "-" for None."""
    return "-" if value is None else f"{value:.1f}"


def aligned(rows: Sequence[Row]) -> str:
    """Rows of equal length as lines: the first column left-aligned, the others right-aligned."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *rest in rows:
        cells = [cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True)]
        lines.append("  ".join([first.ljust(widths[0]), *cells]).rstrip())
    return "\n".join(lines)
