"""Report sections with frames: image, truth and predictions, ranked by loss."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import zip_longest
from typing import Final

import cv2
import numpy as np

from lvad_perception.media.overlay import draw_predictions, draw_truth
from lvad_perception.metrics import worst_first
from lvad_perception.metrics.findings import ATTRIBUTES, Excess
from lvad_perception.report.evaluation import WIDEST_PX, KeptFrame, encode_webp, evenly_spaced
from lvad_perception.report.run import Run
from lvad_perception.report.tables import legend
from lvad_perception.types import UInt8
from lvad_perception.vocabulary import TASKS, Vocabulary, vocabularies_of

_NAMES: Final = {"detection": "boxes", "semantic": "semantic mask", "drivable": "drivable area"}


@dataclass(frozen=True, slots=True)
class _FrameOfRun:
    """One frame of a run: its loss above the median, and the images if the run kept them."""

    run: Run
    excess: Excess | None
    kept: KeptFrame | None


def worst_names(runs: Sequence[Run], count: int) -> list[str]:
    """Names of the worst kept frames, taken from the runs' rankings in turn; at most ``count``."""
    names: dict[str, None] = {}
    rankings = []
    for run in runs:
        if run.evaluation is not None:
            kept = {frame.name for frame in run.evaluation.kept}
            ranked = worst_first(run.evaluation.findings.frames)[:count]
            rankings.append([excess.frame.name for excess in ranked if excess.frame.name in kept])
    for rank in zip_longest(*rankings):
        names |= {name: None for name in rank if name is not None}
    return list(names)[:count]


def even_names(runs: Sequence[Run]) -> list[str]:
    """Names of the evenly spaced frames that runs kept; the same for all runs on the same images."""
    names: dict[str, None] = {}
    for run in runs:
        if run.evaluation is not None:
            kept = {frame.name for frame in run.evaluation.kept}
            frames = run.evaluation.findings.frames
            chosen = [frames[index].name for index in evenly_spaced(len(frames))]
            names |= {name: None for name in chosen if name in kept}
    return list(names)


def worst_section(runs: Sequence[Run], names: Sequence[str], score_threshold: float) -> str:
    """The worst frames, each with image, truth and every run's prediction; empty when there are none.

    Args:
        runs: all runs of the report.
        names: of the frames, worst first.
        score_threshold: minimum score of the boxes drawn.
    """
    if not names:
        return ""
    frames = [frame for run in runs if run.findings is not None for frame in run.findings.frames[:1]]
    by_loss = {bool(frame.losses) for frame in frames}
    error = "its error (100 minus F1 of the boxes, or mean IoU of a mask)"
    measure = f"its training loss, or without one {error}," if len(by_loss) > 1 else "its training loss"
    measure = measure if True in by_loss else error
    several = " The list takes frames from the runs in turn." if len(frames) > 1 else ""
    note = (
        f'<p class="source">A frame is ranked by how far {measure} is above the median; each term is compared over the '
        f"frames that are annotated for it.{several} Click an image, or press space on it, to enlarge it.</p>"
    )
    return note + _figures(runs, names, score_threshold, numbered=True) + _colours(runs)


def other_section(runs: Sequence[Run], names: Sequence[str], score_threshold: float) -> str:
    """Other frames, good and bad; arguments as for ``worst_section``."""
    return _figures(runs, names, score_threshold, numbered=False)


def picture(image: UInt8, label: str) -> str:
    """An embedded RGB image, at most ``WIDEST_PX`` wide, that a click or the space bar enlarges."""
    height, width = image.shape[:2]
    if width > WIDEST_PX:
        size_wh = (WIDEST_PX, max(1, round(height * WIDEST_PX / width)))
        image = np.asarray(cv2.resize(image, size_wh, interpolation=cv2.INTER_AREA), np.uint8)
    address = "data:image/webp;base64," + base64.b64encode(encode_webp(image)).decode("ascii")
    size = f'width="{image.shape[1]}" height="{image.shape[0]}"'
    return (
        f'<label class="zoom"><input type="checkbox" aria-label="Enlarge {escape(label)}">'
        f'<img {size} src="{address}" alt="{escape(label)}"></label>'
    )


def _figures(runs: Sequence[Run], names: Sequence[str], score_threshold: float, *, numbered: bool) -> str:
    figures = []
    excesses = [{e.frame.name: e for e in worst_first(run.findings.frames)} if run.findings else {} for run in runs]
    kept = [{frame.name: frame for frame in run.evaluation.kept} if run.evaluation else {} for run in runs]
    for rank, name in enumerate(names, start=1):
        views = [
            _FrameOfRun(run, excess.get(name), frames.get(name))
            for run, excess, frames in zip(runs, excesses, kept, strict=True)
        ]
        frame, known = next((view.kept, _classes(view.run)) for view in views if view.kept is not None)
        panels = [picture_panel(frame.image, f"{name}: image", "image")]
        if any(part is not None for part in (frame.truth.boxes, frame.truth.semantic, frame.truth.drivable)):
            panels.append(
                picture_panel(draw_truth(frame.image, frame.truth, vocabularies=known), f"{name}: truth", "truth")
            )
        for view in views:
            if view.kept is not None:
                drawn = draw_predictions(
                    frame.image, view.kept.predictions, score_threshold=score_threshold, vocabularies=_classes(view.run)
                )
                title = "prediction" if len(runs) == 1 else f"prediction: {view.run.name}"
                panels.append(picture_panel(drawn, f"{name}: {title}", title))
        caption = f"<figcaption><b>{f'{rank}. ' if numbered else ''}{escape(name)}</b>{_reasons(views)}</figcaption>"
        figures.append(f'<figure class="frame">{caption}<div class="panels">{"".join(panels)}</div></figure>')
    return "".join(figures)


def picture_panel(image: UInt8, label: str, below: str) -> str:
    """An image with a caption below it."""
    return f"<div>{picture(image, label)}<span>{escape(below)}</span></div>"


def _reasons(views: Sequence[_FrameOfRun]) -> str:
    """Attributes of the frame, and for each run its loss and the terms that are above the median."""
    several = len(views) > 1
    stated = next((view.excess.frame.attributes for view in views if view.excess is not None), {})
    chips = "".join(f"<i>{escape(stated[name])}</i>" for name in ATTRIBUTES if stated.get(name))
    lines = []
    for view in views:
        if view.excess is not None:
            excess = view.excess
            by_loss = bool(excess.frame.losses)
            what = f"loss {excess.total:.2f}" if by_loss else f"error {excess.total:.1f} %"
            parts = [
                f"{escape(_NAMES.get(part, part))} {value:+.2f}"
                for part, value in list(excess.parts.items())[:3]
                if value > 0 < excess.above
            ]
            because = f": {', '.join(parts)}" if parts else ""
            who = f"{escape(view.run.name)}: " if several else ""
            side = "above" if excess.above >= 0 else "below"
            lines.append(f"<span>{who}{what}, {abs(excess.above):.2f} {side} the median{because}</span>")
    return (f' <span class="chips">{chips}</span>' if chips else "") + "".join(lines)


def _classes(run: Run) -> dict[str, Vocabulary]:
    return dict(TASKS) if run.findings is None else vocabularies_of(run.findings.classes)


def _colours(runs: Sequence[Run]) -> str:
    classes = next((_classes(run) for run in runs if run.findings is not None), dict(TASKS))
    titles = {"detection": "Boxes", "semantic": "Semantic classes", "drivable": "Drivable area"}
    keys = "".join(f"<h3>{title}</h3>{legend(classes[task])}" for task, title in titles.items())
    return f'<details class="legends"><summary>Colours of the classes</summary>{keys}</details>'
