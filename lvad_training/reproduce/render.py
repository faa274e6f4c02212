"""Renders a table with ours beside the paper's figures, as Markdown and as a self-contained HTML page."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from lvad_perception.report import curve_charts, provenance
from lvad_training.reproduce.paper import FIGURES
from lvad_training.reproduce.results import COLUMNS, Cell, RowResult
from lvad_training.reproduce.tables import Table

NONE = "\N{EN DASH}"
NOT_RUN = "not run"
ABSENT = "absent"
BESIDE = ("paper", "seeds", "seed")
"""Columns that the page prints in a muted colour."""
DATA_SETS = {"bdd100k": "BDD100K", "nuimages": "nuImages"}
"""Vocabulary of a table -> data set of the paper's figures."""
DIFFERENCES = "Difference to the first row of the same setting, seed by seed"


@dataclass(frozen=True, slots=True)
class Context:
    """The content of a page beside the rows.

    Attributes:
        seeds: number of requested seeds.
        metadata: name -> value of the conditions.
        pseudo: setting and seed -> the report of its pseudo labels, as text.
        smoke: say that the figures mean nothing.
    """

    seeds: int
    metadata: Mapping[str, object]
    pseudo: Mapping[str, str]
    smoke: bool = False


def to_markdown(table: Table, results: Sequence[RowResult], context: Context) -> str:
    """The page as Markdown: the table, all measurements and their conditions."""
    parts = [f"# {heading(table)}", summary(table, context)]
    parts.append(_markdown_table(*headline(table, results, context.seeds)))
    parts.append("\n".join(f"* {_markdown(note)}" for note in notes(table, results)))
    compared = differences(table, results)
    if compared is not None:
        parts += [f"## {DIFFERENCES}", _markdown_table(*compared)]
    parts += ["## Everything measured", _markdown_table(*everything(results))]
    if context.pseudo:
        parts.append("## Pseudo labels")
        parts += [f"{_markdown(name)}:\n\n{_listing(text)}" for name, text in context.pseudo.items()]
    rows = [[name, str(value)] for name, value in context.metadata.items()]
    parts += ["## How it was made", _markdown_table(["", ""], rows)]
    return "\n\n".join(parts) + "\n"


def to_sections(table: Table, results: Sequence[RowResult], context: Context) -> list[tuple[str, str]]:
    """The page as (heading, HTML) of its sections, with the learning curves."""
    listed = "".join(f"<li>{escape(note)}</li>" for note in notes(table, results))
    compared = differences(table, results)
    curves = {f"{result.row.title}, {name}": points for result in results for name, points in result.curves.items()}
    charts = curve_charts(curves, first_wide=False)
    remark = (
        '<p class="source">Total training loss over the steps of adapt and finetune. Rows learn from different labels '
        "and so have different totals: only the shapes compare.</p>"
    )
    plain = {name: value for name, value in context.metadata.items() if name != "commands"}
    return [
        (
            "Results",
            _html_table("Ours beside the paper's, in percent", *headline(table, results, context.seeds))
            + f"<ul>{listed}</ul>"
            + ("" if compared is None else _html_table(DIFFERENCES, *compared)),
        ),
        ("Everything measured", _html_table("All columns, in percent", *everything(results))),
        ("Training", remark + charts if charts else ""),
        (
            "Pseudo labels",
            "".join(
                f'<details class="legends"><summary>{escape(name)}</summary><pre>{escape(text)}</pre></details>'
                for name, text in context.pseudo.items()
            ),
        ),
        ("How it was made", provenance(plain, str(context.metadata.get("commands", "")).splitlines())),
    ]


def heading(table: Table) -> str:
    """The table's printed name and its caption."""
    return f"Table {table.name.removeprefix('table')}: {table.caption}"


def summary(table: Table, context: Context) -> str:
    """A sentence or two on what the figures are."""
    over = f"Mean ± sample standard deviation over {context.seeds} seeds" if context.seeds > 1 else "One seed"
    text = f"{over}, in percent; beside ours, the figures that the paper gives for {DATA_SETS[table.vocabulary]}."
    return f"{text} A smoke run: it shows that every row runs, its figures mean nothing." if context.smoke else text


def headline(table: Table, results: Sequence[RowResult], seeds: int) -> tuple[list[str], list[list[str]]]:
    """Heads and rows of the main table: each of our columns, followed by the paper's where it has one."""
    figures = FIGURES[table.name]
    published = {key for row in figures.values() for key in row}
    heads = ["", "seeds"]
    for key in table.columns:
        heads += [COLUMNS[key].title, "paper"] if key in published else [COLUMNS[key].title]
    rows = []
    for result in results:
        row = [result.row.title, f"{len(result.metrics)} of {seeds}"]
        for key in table.columns:
            row.append(_text(result, key))
            if key in published:
                figure = figures.get(result.row.key, {}).get(key)
                row.append(NONE if figure is None else f"{figure:.1f}")
        rows.append(row)
    constant = next((metrics for result in results for metrics in result.metrics.values()), None)
    if constant is not None:
        row = ["one class everywhere, at best", ""]
        for key in table.columns:
            value = COLUMNS[key].read(constant, constant=True)
            row += [NONE if value is None else f"{value:.1f}"] + ([""] if key in published else [])
        rows.append(row)
    return heads, rows


def differences(table: Table, results: Sequence[RowResult]) -> tuple[list[str], list[list[str]]] | None:
    """Each row minus the first of its setting, seed by seed; None until two rows have two seeds in common.

    Rows with the same seed share lists and teachers, so that much of the random variation cancels.
    """
    rows = []
    first: dict[str, RowResult] = {}
    for result in results:
        baseline = first.setdefault(result.row.setting, result)
        common = sorted(result.metrics.keys() & baseline.metrics.keys())
        if result is baseline or len(common) < 2:
            continue
        cells = []
        for key in table.columns:
            read = COLUMNS[key].read
            pairs = [(read(result.metrics[seed]), read(baseline.metrics[seed])) for seed in common]
            known = tuple(ours - theirs for ours, theirs in pairs if ours is not None and theirs is not None)
            cells.append(cell_text(Cell(known), sign="+") if known else NONE)
        rows.append([f"{result.row.title} against {baseline.row.title}", str(len(common)), *cells])
    return (["", "seeds", *(COLUMNS[key].title for key in table.columns)], rows) if rows else None


def everything(results: Sequence[RowResult]) -> tuple[list[str], list[list[str]]]:
    """Heads and rows of the table of all columns, one line per row and seed."""
    heads = ["", "seed", *(column.title for column in COLUMNS.values())]
    rows = []
    for result in results:
        for seed, metrics in sorted(result.metrics.items()):
            values = [column.read(metrics) for column in COLUMNS.values()]
            rows.append([result.row.title, str(seed), *(NONE if value is None else f"{value:.1f}" for value in values)])
    return heads, rows


def notes(table: Table, results: Sequence[RowResult]) -> list[str]:
    """Remarks on the columns, absent rows and failed trainings."""
    found = []
    if "drivable_miou" in table.columns:
        found.append(
            "DA mIoU is over direct, alternative and background. The paper does not say which mean it gives; its pixel "
            "accuracies of 97 % beside an mIoU of 83 suggest that background counts. The official mean of the BDD100K "
            "toolkit drops pixels whose truth is background."
        )
    if table.vocabulary == "nuimages":
        found.append(
            "SS mIoU is over the ten object classes, the driveable surface and the background, as far as they occur. "
            "The paper does not say which classes its figures are over."
        )
    if table.pretrainings:
        found.append(
            "The rows share budget, seeds and teachers, which have the base recipe's backbone: all learn from the same "
            "pseudo labels. docs/method.md explains our reading of each."
        )
    else:
        found.append("The rows share budget, seeds and backbone weights; docs/method.md explains our reading of each.")
    reasons = dict.fromkeys(result.row.absent for result in results if result.row.absent is not None)
    for reason in reasons:
        titles = "; ".join(result.row.title for result in results if result.row.absent == reason)
        found.append(f"{titles}: {ABSENT}, {reason}.")
    found += [
        f"{result.row.title}, seed {seed}: {reason}" for result in results for seed, reason in result.failures.items()
    ]
    return found


def _text(result: RowResult, key: str) -> str:
    if not result.metrics:
        return ABSENT if result.row.absent is not None else "failed" if result.failures else NOT_RUN
    cell = result.cell(key)
    return NONE if cell is None else cell_text(cell)


def cell_text(cell: Cell, *, sign: str = "") -> str:
    """Mean ± deviation with one decimal; a single seed has no deviation. ``sign`` "+" prints the mean's sign."""
    mean = f"{cell.mean:{sign}.1f}"
    return mean if cell.deviation is None else f"{mean} ± {cell.deviation:.1f}"


def _markdown_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [[_markdown(text) for text in line] for line in (heads, *rows)]
    lines.insert(1, ["---"] * len(heads))
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _markdown(text: str) -> str:
    """Escape a text for one line or cell: no HTML, no links, no end of the cell; line breaks become ``<br>``."""
    plain = escape(text, quote=False)
    for mark in "\\|[]`":
        plain = plain.replace(mark, f"\\{mark}")
    return "<br>".join(plain.splitlines())


def _listing(text: str) -> str:
    """A verbatim block, whose fence is longer than any in the text."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}\n{text}\n{fence}"


def _html_table(caption: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f'<th scope="col">{escape(name)}</th>' if name else "<td></td>" for name in heads)
    body = "".join(
        f'<tr><th scope="row">{escape(row[0])}</th>'
        + "".join(
            f'<td class="num{" none" if head in BESIDE else ""}">{escape(text)}</td>'
            for head, text in zip(heads[1:], row[1:], strict=True)
        )
        + "</tr>"
        for row in rows
    )
    return (
        f'<div class="scroll"><table class="compact"><caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )
