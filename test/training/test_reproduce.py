"""The page of a table: its content for fake trainings, and after interruptions."""

import json
import re

import pytest

from lvad_perception.errors import ConfigError, DatasetError
from lvad_training.reproduce.render import NONE, Context, to_markdown, to_sections
from lvad_training.reproduce.results import Cell, RowResult, collect
from lvad_training.reproduce.run import ReproduceError, reproduce
from lvad_training.reproduce.tables import TABLES
from lvad_training.reproduce.trainings import TableRun
from lvad_training.training.environment import read_environments
from lvad_training.training.records import write_record

from .table_runs import FakeRunner, run_table


def test_the_page_sets_ours_beside_the_papers(make_base, tmp_path):
    page, _ = run_table("table1", make_base(), tmp_path, FakeRunner(), seeds=2)
    markdown = page.with_suffix(".md").read_text()
    row = next(line for line in markdown.splitlines() if line.startswith("| LV-Adapter |"))
    # seeds 0 and 1 give 60 and 62: mean 61, sample standard deviation sqrt(2)
    assert row.split("|")[2:6] == [" 2 of 2 ", " 61.0 ± 1.4 ", " 62.2 ", " 81.0 ± 1.4 "]
    assert "DA mIoU official | mAP | paper" in markdown
    for fact in ("data set", "6 images", "budget", "6 steps", "hardware", "torch", "lvad-train reproduce"):
        assert fact in markdown
    assert "disjoint_normal, seed 1:\n\n```\ncar 0.40 <17 boxes>\n```" in markdown
    html = page.read_text()
    assert "car 0.40 &lt;17 boxes&gt;" in html
    assert "61.0 ± 1.4" in html
    assert "Zeroing loss, seed 1" in html
    assert html.count("<svg") == 2 * 6 * 2  # linear and logarithmic, rows, seeds
    assert not re.search(r"""(src|href)=["']?(http|//|/)|<script""", html)
    content = json.loads(page.with_suffix(".json").read_text())
    assert content["rows"]["zeroing"]["summary"]["ap"]["values"] == [26.0, 28.0]
    assert content["rows"]["zeroing"]["seeds"]["1"]["metrics"]["semantic"]["scores"]["pixel_accuracy"] == 95.0


def test_foreign_text_is_escaped_in_cells_and_html():
    bad = "a | b\nc <script>alert(1)</script> [x](javascript:alert(2)) `d` \\ & e"
    context = Context(1, {bad: bad, "commands": bad}, {bad: f"```\n{bad}\n````"})
    table = TABLES["table1"]
    results = [RowResult(row, {}, {0: bad}, {bad: [(0, 1.0), (1, 2.0)]}) for row in table.rows[:1]]
    markdown = to_markdown(table, results, context)
    outside = re.sub(r"^(`{3,})\n.*?\n\1$", "", markdown, flags=re.MULTILINE | re.DOTALL)
    assert "<script>" not in outside
    assert "](javascript" not in outside.replace("\\](", "")
    assert "`````\n```\n" in markdown
    row = next(line for line in outside.splitlines() if line.startswith("| a "))
    assert row == (
        "| a \\| b<br>c &lt;script&gt;alert(1)&lt;/script&gt; \\[x\\](javascript:alert(2)) \\`d\\` \\\\ &amp; e " * 2
        + "|"
    )
    html = "".join(content for _, content in to_sections(table, results, context))
    assert "<script>" not in html
    assert "&lt;script&gt;" in html


def test_differences_are_taken_seed_by_seed(make_base, tmp_path):
    """Both rows have 2 points more with seed 1, so their difference does not vary."""
    page, _ = run_table("table10", make_base(), tmp_path, FakeRunner(better={"lv_adapter": 0.5}), seeds=2)
    markdown = page.with_suffix(".md").read_text()
    assert "| Single task + LV-Adapter against Single task | 2 | +0.5 ± 0.0 | +0.5 ± 0.0 |" in markdown
    assert "61.5 ± 1.4" in markdown


def test_one_seed_shows_no_deviation(make_base, tmp_path):
    page, _ = run_table("table6", make_base(), tmp_path, FakeRunner())
    markdown = page.with_suffix(".md").read_text()
    assert "| Learned prompts | 1 of 1 | 60.0 | 62.2 |" in markdown
    assert "seed by seed" not in markdown


def test_single_task_rows_are_the_teachers(make_base, tmp_path):
    runner = FakeRunner()
    page, said = run_table("table10", make_base(), tmp_path, runner)
    assert "teach-semantic" in " ".join(said)
    assert [folder.name for folder in runner.trained[:3]] == ["teach-detection", "teach-semantic", "teach-drivable"]
    assert not any(folder.name == "pseudo" for folder in runner.trained)
    row = json.loads(page.with_suffix(".json").read_text())["rows"]["single_task"]
    assert {key: found["mean"] for key, found in row["summary"].items() if key != "ap75"} == {
        "semantic_miou": 60.0,
        "semantic_accuracy": 93.0,
        "drivable_miou": 80.0,
        "drivable_official": 90.0,
        "drivable_accuracy": 93.0,
        "ap": 26.0,
        "ap50": 50.5,
    }


def test_the_page_names_the_command_that_made_each_row(make_base, tmp_path):
    """A teacher that one table trained keeps its command when another table shows it."""
    base, runner = make_base(), FakeRunner()
    for name, command in (("table1", "first"), ("table3", "second")):
        arguments = {"out": tmp_path, "seeds": 1, "runner": runner, "command": command, "log": lambda _: None}
        page = reproduce(TABLES[name], base, **arguments)
    (start,) = read_environments(tmp_path / "disjoint_normal/seed0/teach-semantic")
    assert start.command == "first"
    text = page.with_suffix(".md").read_text()
    assert "| commands | second<br>first |" in text
    assert f"| hardware | {start.hardware} |" in text
    assert not list(tmp_path.rglob("made.json"))


def test_a_folder_that_cannot_be_written_is_named(make_base, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"file.*choose another --out"):
        run_table("table6", make_base(), tmp_path / "file", FakeRunner())


@pytest.mark.parametrize("stop_after", [0, 2, 5, 8, 10])
def test_an_interrupted_table_goes_on(make_base, tmp_path, stop_after):
    base, first, second = make_base(), FakeRunner(stop_after=stop_after), FakeRunner()
    with pytest.raises(KeyboardInterrupt):
        run_table("table1", base, tmp_path, first)
    page, _ = run_table("table1", base, tmp_path, second)
    assert len(first.trained) == stop_after
    assert len({*first.trained, *second.trained}) == len(first.trained) + len(second.trained) == 11
    assert "not run" not in page.with_suffix(".md").read_text()


def test_missing_results_are_marked(make_base, tmp_path):
    base = make_base()
    with pytest.raises(KeyboardInterrupt):
        run_table("table1", base, tmp_path, FakeRunner(stop_after=2))
    markdown = (tmp_path / "table1.md").read_text()
    rows = {line.split("|")[1].strip(): line for line in markdown.partition("## ")[0].splitlines() if "|" in line}
    assert rows["Uniform sampler"].split("|")[2:5] == [" 1 of 1 ", " 60.0 ", " 59.9 "]
    assert rows["LV-Adapter"].split("|")[2:5] == [" 0 of 1 ", " not run ", " 62.2 "]


def test_a_row_of_several_networks_counts_once_all_are_there(make_base, tmp_path):
    base, runner = make_base(), FakeRunner(stop_after=2)
    with pytest.raises(KeyboardInterrupt):
        run_table("table10", base, tmp_path, runner)
    results = collect(TableRun(TABLES["table10"], base, tmp_path, seeds=1), runner)
    assert not results[0].metrics
    assert set(results[0].curves) == {"seed 0, detection", "seed 0, semantic"}


def test_a_row_that_diverges_does_not_stop_the_others(make_base, tmp_path):
    with pytest.raises(ReproduceError, match="1 of 6 trainings diverged"):
        run_table("table1", make_base(), tmp_path, FakeRunner(diverging=["/uniform/"]))
    markdown = (tmp_path / "table1.md").read_text()
    assert "| Uniform sampler | 0 of 1 | failed | 59.9 |" in markdown
    assert "Uniform sampler, seed 0: step 3: loss total is nan" in markdown
    assert "| LV-Adapter | 1 of 1 | 60.0 |" in markdown


def test_a_row_that_cannot_be_measured_does_not_stop_the_others(make_base, tmp_path):
    runner = FakeRunner(diverging=["/uniform/"], unmeasured=["/weighted/"])
    with pytest.raises(
        ReproduceError, match=r"2 of 6 .* no result, 1 of them as their models could not be evaluated; "
    ):
        run_table("table1", make_base(), tmp_path, runner)
    markdown = (tmp_path / "table1.md").read_text()
    assert "| Weighted sampler | 0 of 1 | failed |" in markdown
    assert "b.png cannot be decoded" in markdown
    assert "| LV-Adapter | 1 of 1 | 60.0 |" in markdown


def test_curves_join_adapt_and_finetune(make_base, tmp_path):
    base, runner = make_base("train.steps=36"), FakeRunner()
    run_table("table6", base, tmp_path, runner)
    points = collect(TableRun(TABLES["table6"], base, tmp_path, seeds=1), runner)[2].curves["seed 0"]
    assert [step for step, _ in points] == list(range(1, 37))


def test_a_data_set_without_boxes_leaves_a_dash(make_base, tmp_path):
    page, _ = run_table("table6", make_base(), tmp_path, FakeRunner(measured=("semantic", "drivable")))
    row = next(line for line in page.with_suffix(".md").read_text().splitlines() if "Learned" in line)
    assert row.split("|")[8:10] == [f" {NONE} ", " 26.4 "]


def test_metrics_that_cannot_be_read_say_what_to_delete(make_base, tmp_path):
    base, runner = make_base(), FakeRunner()
    run_table("table6", base, tmp_path, runner)
    (runner.trained[-1] / "metrics.json").write_text("{")
    with pytest.raises(DatasetError, match=r"metrics.json: cannot be read .* delete .* and run again"):
        collect(TableRun(TABLES["table6"], base, tmp_path, seeds=1), runner)


def test_files_of_a_killed_training_are_not_a_result(make_base, tmp_path):
    base, runner = make_base(), FakeRunner()
    run_table("table6", base, tmp_path, runner)
    write_record(runner.trained[-1], {}, "running", 3.0)
    (runner.trained[-1] / "metrics.json").write_text("{")
    results = collect(TableRun(TABLES["table6"], base, tmp_path, seeds=1), runner)
    assert [len(result.metrics) for result in results] == [1, 1, 0]


def test_a_cell_of_one_value_has_no_deviation():
    assert Cell((5.0,)).deviation is None
    assert Cell((5.0, 7.0)).mean == 6.0
