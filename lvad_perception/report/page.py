"""Writes the report page: its sections in order, in one self-contained HTML file."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from lvad_perception.errors import ImageError
from lvad_perception.files import write_whole
from lvad_perception.report.confusion import confusion_section, recall_section
from lvad_perception.report.frames import even_names, other_section, worst_names, worst_section
from lvad_perception.report.run import Run, run_keys
from lvad_perception.report.style import STYLE
from lvad_perception.report.tables import (
    comparison_table,
    detection_table,
    headline_tiles,
    metadata_table,
    segmentation_tables,
    settings_table,
    slice_tables,
)
from lvad_perception.report.training import training_section, validation_section


def write_report(
    path: Path,
    *,
    title: str,
    runs: Sequence[Run],
    summary: str = "",
    metadata: Mapping[str, object] | None = None,
    commands: Sequence[str] = (),
    frames: int = 8,
    score_threshold: float = 0.3,
) -> None:
    """Write the report of one run, or of several side by side. Sections without content are left out.

    Args:
        path: HTML file to write; its folder is created.
        title: heading of the page.
        runs: to show, in this order, with unique names.
        summary: one or two sentences below the title.
        metadata: name -> value, such as versions, of the whole report.
        commands: command lines that produced the results.
        frames: maximum number of worst frames to show, of those that the runs kept.
        score_threshold: minimum score of the boxes drawn on frames.

    Raises:
        ImageError: the file cannot be written, or an image is not uint8 RGB.
    """
    worst = worst_names(runs, frames)
    others = [name for name in even_names(runs) if name not in worst] if frames else []
    sections = [
        ("Results", _results(runs)),
        ("Training", training_section(runs)),
        ("Validation during training", validation_section(runs)),
        ("Per class", _per_class(runs)),
        ("Precision and recall", recall_section(runs)),
        ("Confusion", confusion_section(runs)),
        ("Conditions", _conditions(runs)),
        ("Worst frames", worst_section(runs, worst, score_threshold)),
        ("Other frames", other_section(runs, others, score_threshold)),
        ("How it was made", _made(runs, metadata or {}, commands)),
    ]
    write_page(path, title=title, summary=summary, sections=sections)


def write_page(path: Path, *, title: str, summary: str, sections: Sequence[tuple[str, str]]) -> None:
    """Write a page of sections; empty ones are left out.

    Args:
        path: HTML file to write; its folder is created.
        title: heading of the page.
        summary: one or two sentences below it.
        sections: (heading, HTML), in the order of the page.

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
        write_whole(path, page)
    except OSError as err:
        raise ImageError(f"the report {path} cannot be written ({err.strerror}); choose a writable folder") from err


def _results(runs: Sequence[Run]) -> str:
    notes = "".join(f'<p class="note">{escape(run.name)}: {escape(run.note)}</p>' for run in runs if run.note)
    measured = {run.name: run.measured for run in runs}
    first = next(((name, metrics) for name, metrics in measured.items() if metrics is not None), None)
    if first is None:
        return notes
    images = {frozenset(frame.name for frame in run.findings.frames) for run in runs if run.findings is not None}
    if len(images) > 1:
        notes += '<p class="note">The runs were measured on different images, so their numbers do not compare.</p>'
    alone = len(runs) == 1
    tiles = f'<p class="source">{escape(first[0])}, in percent</p>{headline_tiles(first[1])}' if alone else ""
    return notes + run_keys(runs) + tiles + comparison_table(measured)


def _per_class(runs: Sequence[Run]) -> str:
    measured = {run.name: run.measured for run in runs}
    tables = detection_table(measured) + segmentation_tables(measured)
    return run_keys(runs) + tables if tables else ""


def _conditions(runs: Sequence[Run]) -> str:
    """Slices by weather, scene and time of day, or a note where frames do not state them."""
    if all(run.findings is None for run in runs):
        return ""
    tables = slice_tables([{} if run.findings is None else run.findings.slices for run in runs])
    bare = [run.name for run in runs if run.findings is not None and not run.findings.slices]
    note = (
        f'<p class="note">No frame of {escape(", ".join(bare))} states its weather, scene or time of day. The label '
        "files of BDD100K do, and bags made from them carry it in the topic attributes.</p>"
        if bare
        else ""
    )
    return (run_keys(runs) if tables else "") + note + tables


def _made(runs: Sequence[Run], metadata: Mapping[str, object], commands: Sequence[str]) -> str:
    own = "".join(
        (f"<h3>{escape(run.name)}</h3>" if len(runs) > 1 else "") + metadata_table(run.metadata)
        for run in runs
        if run.metadata
    )
    return (
        settings_table({run.name: run.settings for run in runs if run.settings}) + own + provenance(metadata, commands)
    )


def provenance(metadata: Mapping[str, object], commands: Sequence[str]) -> str:
    """Metadata and command lines as HTML."""
    listed = f"<pre>{escape(chr(10).join(commands))}</pre>" if commands else ""
    return (metadata_table(metadata) if metadata else "") + (f"<h3>Commands</h3>{listed}" if listed else "")
