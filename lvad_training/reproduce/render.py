"""A table as Markdown and as one self-contained HTML page: ours beside the paper's figures."""

from collections.abc import Mapping, Sequence
from html import escape

from lvad_perception.report import curve_charts, provenance
from lvad_training.reproduce.paper import FIGURES
from lvad_training.reproduce.results import COLUMNS, Cell, RowResult
from lvad_training.reproduce.tables import Table

NONE = "\N{EN DASH}"
NOT_RUN = "not run"
BESIDE = ("paper", "seeds", "seed")
"""Columns that the page prints in a softer colour."""


def to_markdown(
    table: Table, results: Sequence[RowResult], *, facts: Mapping[str, object], seeds: int, smoke: bool = False
) -> str:
    """The table, everything measured, and how, as Markdown.

    Args:
        table: its caption and columns.
        results: its rows.
        facts: name -> value, of the conditions.
        seeds: how many were asked for.
        smoke: say that the figures mean nothing.
    """
    parts = [f"# {heading(table)}", summary(seeds, smoke=smoke)]
    parts.append(_markdown_table(*headline(table, results, seeds)))
    parts += [f"* {note}" for note in notes(table, results)]
    parts.append("## Everything measured")
    parts.append(_markdown_table(*everything(results)))
    parts.append("## How it was made")
    rows = [[name, str(value).replace("\n", "<br>")] for name, value in facts.items()]
    parts.append(_markdown_table(["", ""], rows))
    text = "\n\n".join(parts) + "\n"
    return text.replace("\n\n* ", "\n* ").replace("|\n* ", "|\n\n* ")


def to_sections(
    table: Table, results: Sequence[RowResult], *, facts: Mapping[str, object], seeds: int
) -> list[tuple[str, str]]:
    """The same as headings and HTML, with the learning curves; the arguments are those of ``to_markdown``."""
    listed = "".join(f"<li>{escape(note)}</li>" for note in notes(table, results))
    curves = {f"{result.row.title}, {name}": points for result in results for name, points in result.curves.items()}
    charts = curve_charts(curves, first_wide=False)
    remark = (
        '<p class="source">Total training loss over the steps of adapt and finetune. Rows learn from different labels '
        "and so have different totals: only the shapes compare.</p>"
    )
    plain = {name: value for name, value in facts.items() if name != "commands"}
    return [
        (
            "Results",
            _html_table("Ours beside the paper's, in percent", *headline(table, results, seeds)) + f"<ul>{listed}</ul>",
        ),
        ("Everything measured", _html_table("All columns, in percent", *everything(results))),
        ("Training", remark + charts if charts else ""),
        ("How it was made", provenance(plain, str(facts.get("commands", "")).splitlines())),
    ]


def heading(table: Table) -> str:
    """The table's name for people and its caption."""
    return f"Table {table.name.removeprefix('table')}: {table.caption}"


def summary(seeds: int, *, smoke: bool) -> str:
    """What the figures are, in a sentence or two."""
    over = f"Mean ± sample standard deviation over {seeds} seeds" if seeds > 1 else "One seed"
    text = f"{over}, in percent; beside ours, the figures that the paper gives for BDD100K."
    return f"{text} A smoke run: it shows that every row runs, its figures mean nothing." if smoke else text


def headline(table: Table, results: Sequence[RowResult], seeds: int) -> tuple[list[str], list[list[str]]]:
    """Heads and rows of the main table: each of our columns with the paper's behind it, where the paper has it."""
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


def everything(results: Sequence[RowResult]) -> tuple[list[str], list[list[str]]]:
    """Heads and rows of the table with all columns, one line per row and seed."""
    heads = ["", "seed", *(column.title for column in COLUMNS.values())]
    rows = []
    for result in results:
        for seed, metrics in sorted(result.metrics.items()):
            values = [column.read(metrics) for column in COLUMNS.values()]
            rows.append([result.row.title, str(seed), *(NONE if value is None else f"{value:.1f}" for value in values)])
    return heads, rows


def notes(table: Table, results: Sequence[RowResult]) -> list[str]:
    """What a reader has to know of the columns, and which trainings failed."""
    found = []
    if "drivable_miou" in table.columns:
        found.append(
            "DA mIoU is over direct, alternative and background. The paper does not say which mean it gives; its pixel "
            "accuracies of 97 % beside an mIoU of 83 are those of all three classes. The official one of the BDD100K "
            "toolkit drops pixels whose truth is background."
        )
    found.append("The rows share budget, seeds and backbone weights; docs/method.md says how each is read.")
    found += [
        f"{result.row.title}, seed {seed}: {reason}" for result in results for seed, reason in result.failures.items()
    ]
    return found


def _text(result: RowResult, key: str) -> str:
    if not result.metrics:
        return "failed" if result.failures else NOT_RUN
    cell = result.cell(key)
    return NONE if cell is None else cell_text(cell)


def cell_text(cell: Cell) -> str:
    """Mean and deviation with one decimal; one seed has no deviation."""
    return f"{cell.mean:.1f}" if cell.deviation is None else f"{cell.mean:.1f} ± {cell.deviation:.1f}"


def _markdown_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(text.replace("|", "\\|") for text in line) + " |" for line in lines)


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
