"""Reproducing the paper's tables, with a runner that writes metrics instead of training."""

import argparse
import json
import re
from dataclasses import replace

import pytest

from lvad_perception.errors import ConfigError, DatasetError, LvadError, NonFiniteLossError
from lvad_training import stages
from lvad_training.config import load_recipe
from lvad_training.records import write_record
from lvad_training.reproduce.base import PAPER_EPOCHS, base_recipe, images_of
from lvad_training.reproduce.command import add_reproduce
from lvad_training.reproduce.paper import FIGURES
from lvad_training.reproduce.render import NONE
from lvad_training.reproduce.results import COLUMNS, Cell, collect
from lvad_training.reproduce.run import ReproduceError, reproduce
from lvad_training.reproduce.tables import ADAPTED_ROWS, LV_ADAPTER, SELF_TRAINING, TABLES, TEACHERS
from lvad_training.reproduce.trainings import budget, trainings

BOXES = {"ap": 26.44, "ap50": 50.5, "ap75": 23.7, "ap_small": None, "ap_medium": None, "ap_large": None, "ar100": 40.0}


def some_metrics(tasks, shift):
    """Metrics of an evaluation, each ``shift`` better than at 0."""
    pixels = {"pixel_accuracy": 93.0 + shift, "iou": {}, "constant_mean_iou": 2.5}
    masks = {"images": 6, "truth_share": {}}
    drivable = {
        **masks,
        "official": {**pixels, "mean_iou": 90.0 + shift},
        "three_class": {**pixels, "mean_iou": 80.0 + shift},
    }
    found = {
        "detection": {"images": 6, "scores": {**BOXES, "ap": 26.0 + shift, "truth": 9}, "per_class": {}},
        "semantic": {**masks, "scores": {**pixels, "mean_iou": 60.0 + shift}},
        "drivable": drivable,
    }
    return {task: scores if task in tasks else None for task, scores in found.items()}


class FakeRunner:
    """Plans as the real one and, instead of training, writes what a training leaves behind."""

    plan = staticmethod(stages.plan)

    def __init__(self, stop_after=None, diverging=(), measured=("detection", "semantic", "drivable"), better=None):
        self.trained = []
        self.better = better or {}
        self.measured = measured
        self.stop_after = stop_after
        self.diverging = diverging

    def run(self, recipe, *, resume=False, only=None, progress=True):
        assert resume, "a row that was interrupted has to go on"
        for stage in stages.plan(recipe):
            if only not in (None, stage.name) or (stage.folder / "metrics.json").exists():
                continue
            if len(self.trained) == self.stop_after:
                raise KeyboardInterrupt
            if any(part in str(stage.folder) for part in self.diverging):
                raise NonFiniteLossError("step 3: loss total is nan on images a.jpg; lower train.learning_rate")
            self.trained.append(stage.folder)
            stage.folder.mkdir(parents=True)
            tasks = {*stage.recipe.model.tasks} & {*self.measured}
            shift = sum(points for part, points in self.better.items() if part in str(stage.folder))
            metrics = some_metrics(tasks, 2.0 * stage.recipe.train.seed + shift)
            (stage.folder / "metrics.json").write_text(json.dumps(metrics))
            if stage.name == "pseudo":
                (stage.folder / "pseudo.txt").write_text("car 0.40 <17 boxes>\n")
            steps = range(1, stage.recipe.train.steps + 1)
            lines = [json.dumps({"step": step, "terms": {"total": 9.0 / step}}) for step in steps]
            (stage.folder / "losses.jsonl").write_text("\n".join(lines) + '\n{"step": 4, "te')
        return stage.folder


@pytest.fixture
def make_base(blobs):
    """``make_base(*overrides)``: a small base recipe."""

    def make(*overrides):
        given = ["data.train_split=val", *overrides]
        return base_recipe(recipe=None, preset=None, data=blobs, smoke=True, overrides=given)

    return make


def plans(table, base, *, seed, out):
    """All trainings of a table's rows, with any backbone in the place of published files."""
    for row in table.rows:
        methods = tuple(
            replace(method, backbone=base.model.backbone if method.pretraining else None) for method in row.methods
        )
        for training in trainings(base, replace(row, methods=methods), seed=seed, out=out):
            yield row, training


def run_table(name, base, out, runner, *, seeds=1):
    said = []
    command = "lvad-train reproduce"
    page = reproduce(
        TABLES[name], base, out=out, seeds=seeds, runner=runner, command=command, progress=False, say=said.append
    )
    return page, said


def test_every_row_has_the_papers_figures():
    for table in TABLES.values():
        assert [row.key for row in table.rows] == list(FIGURES[table.name])
        for row in table.rows:
            figures = FIGURES[table.name][row.key]
            alone = table.name == "table11" and row.methods[0].task is not None  # a network of one task
            assert set(figures) <= set(table.columns)
            assert alone or set(table.columns) - set(figures) <= {"drivable_official"}
            assert all(0 < value < 100 for value in figures.values())


@pytest.mark.parametrize("name", TABLES)
def test_every_row_is_a_valid_recipe_with_the_same_budget(name, make_base, tmp_path):
    """Each derived recipe passes the checks, and adapt with finetune is as long as finetune alone."""
    base = make_base("train.steps=72")
    for row, training in plans(TABLES[name], base, seed=1, out=tmp_path):
        recipe = training.recipe
        adapt = recipe.stages.adapt.steps if recipe.stages.adapt else 0
        total = 94 if row.key == "12+35" else 82 if row.key == "6+35" else 72
        assert adapt + recipe.train.steps == total
        assert recipe.train.seed == 1
        assert recipe.stages.shared == str(tmp_path / row.folder / "seed1")
        assert recipe.stages.teach is None or recipe.stages.teach.steps == 72


def test_rows_differ_as_the_paper_says(make_base, tmp_path):
    base = make_base()
    recipes = {}
    for table in TABLES.values():
        for row, training in plans(table, base, seed=0, out=tmp_path):
            recipes.setdefault((table.name, row.key), training.recipe)
    one = {key: recipe for (table, key), recipe in recipes.items() if table == "table1"}
    assert [recipe.data.sampler for recipe in one.values()] == [
        *("shuffle", "uniform", "weighted", "round_robin", "shuffle", "shuffle")
    ]
    assert [recipe.stages.teach is not None for recipe in one.values()] == [False] * 4 + [True] * 2
    assert [recipe.stages.adapt is not None for recipe in one.values()] == [False] * 5 + [True]
    assert one["lv_adapter"].model.language.l2v
    assert one["self_training"].model.language is None

    parts = {
        key: (recipe.model.language.score_map, recipe.model.language.v2l, recipe.model.language.l2v)
        for (table, key), recipe in recipes.items()
        if table == "table4" and recipe.model.language is not None
    }
    assert parts == {"prompt": (True, False, False), "v2l": (True, True, False), "l2v": (False, False, True)}
    prompts = [recipe.model.language.prompts for (table, _), recipe in recipes.items() if table == "table6"]
    assert prompts == ["engineering", "ensembling", "learned"]
    assert all(recipe.model.language is None for (table, _), recipe in recipes.items() if table == "table5")
    alone = [part.recipe for part in trainings(base, TABLES["table10"].rows[1], seed=0, out=tmp_path)]
    assert [recipe.model.tasks for recipe in alone] == [("detection",), ("semantic",), ("drivable",)]
    assert all(recipe.stages.teach is None and recipe.stages.adapt and recipe.model.language for recipe in alone)
    assert all(row.methods[0].adapt for row in ADAPTED_ROWS)


def test_tables_share_trainings_teachers_and_pseudo_labels(make_base, tmp_path):
    base, runner = make_base(), FakeRunner()
    run_table("table1", base, tmp_path, runner)
    trained = [folder.relative_to(tmp_path / "disjoint_normal/seed0").as_posix() for folder in runner.trained]
    assert trained == [
        *("zeroing/finetune", "uniform/finetune", "weighted/finetune", "round_robin/finetune"),
        *("teach-detection", "teach-semantic", "teach-drivable", "pseudo", "self_training/finetune"),
        *("lv_adapter-1+5/adapt", "lv_adapter-1+5/finetune"),
    ]
    runner.trained.clear()
    run_table("table4", base, tmp_path, runner)
    assert [folder.parent.name for folder in runner.trained if folder.name == "finetune"] == [
        *("self_training-adapt-1+5", "lv_prompt-1+5", "lv_v2l-1+5")
    ]
    assert not any("teach" in folder.name for folder in runner.trained)


def test_the_first_seed_of_all_rows_comes_first(make_base, tmp_path):
    _, said = run_table("table6", make_base(), tmp_path, FakeRunner(), seeds=2)
    seeds = [int(re.search(r"seed (\d)", line)[1]) for line in said]
    assert seeds == [0, 0, 0, 1, 1, 1]


def test_seeds_can_be_spread_over_several_commands(make_base, tmp_path):
    base, runner = make_base(), FakeRunner()
    arguments = {"out": tmp_path, "runner": runner, "say": lambda _: None}
    reproduce(TABLES["table6"], base, seeds=2, first_seed=1, command="second machine", **arguments)
    assert not any("seed0" in str(folder) for folder in runner.trained)
    assert "| Learned prompts | 1 of 2 | 62.0 |" in (tmp_path / "table6.md").read_text()
    reproduce(TABLES["table6"], base, seeds=1, command="first machine", **arguments)
    page = reproduce(TABLES["table6"], base, seeds=2, first_seed=1, command="second machine", **arguments)
    markdown = page.with_suffix(".md").read_text()
    assert "| Learned prompts | 2 of 2 | 61.0 ± 1.4 |" in markdown
    assert "| commands | first machine<br>second machine |" in markdown


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
        arguments = {"out": tmp_path, "seeds": 1, "runner": runner, "command": command, "say": lambda _: None}
        page = reproduce(TABLES[name], base, **arguments)
    assert json.loads((tmp_path / "disjoint_normal/seed0/teach-semantic/made.json").read_text())["command"] == "first"
    assert "| commands | second<br>first |" in page.with_suffix(".md").read_text()


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


def test_what_has_not_run_is_said_and_not_invented(make_base, tmp_path):
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
    results = collect(TABLES["table10"], base, out=tmp_path, seeds=1, runner=runner)
    assert not results[0].metrics
    assert set(results[0].curves) == {"seed 0, detection", "seed 0, semantic"}


def test_a_row_that_diverges_does_not_stop_the_others(make_base, tmp_path):
    with pytest.raises(ReproduceError, match="1 of 6 trainings diverged"):
        run_table("table1", make_base(), tmp_path, FakeRunner(diverging=["/uniform/"]))
    markdown = (tmp_path / "table1.md").read_text()
    assert "| Uniform sampler | 0 of 1 | failed | 59.9 |" in markdown
    assert "Uniform sampler, seed 0: step 3: loss total is nan" in markdown
    assert "| LV-Adapter | 1 of 1 | 60.0 |" in markdown


def test_curves_join_adapt_and_finetune(make_base, tmp_path):
    base, runner = make_base("train.steps=36"), FakeRunner()
    run_table("table6", base, tmp_path, runner)
    points = collect(TABLES["table6"], base, out=tmp_path, seeds=1, runner=runner)[2].curves["seed 0"]
    assert [step for step, _ in points] == list(range(1, 37))


def test_a_data_set_without_boxes_leaves_a_dash(make_base, tmp_path):
    page, _ = run_table("table6", make_base(), tmp_path, FakeRunner(measured=("semantic", "drivable")))
    row = next(line for line in page.with_suffix(".md").read_text().splitlines() if "Learned" in line)
    assert row.split("|")[8:10] == [f" {NONE} ", " 26.4 "]


def test_budget_of_the_stages():
    base = type("Adapt", (), {"steps": 100})()
    assert budget(SELF_TRAINING, 1000, base) == (0, 1000)
    assert budget(LV_ADAPTER, 1000, base) == (100, 900)
    assert budget(LV_ADAPTER, 3600, None) == (100, 3500)
    pairs = [budget(row.methods[0], 3600, base) for row in TABLES["table5"].rows]
    assert pairs == [(1200, 2400), (600, 3000), (100, 3500), (600, 3500), (1200, 3500)]
    with pytest.raises(ConfigError, match="leaves none to finetune; give more"):
        budget(LV_ADAPTER, 100, base)


def test_the_base_recipes_student_steps_are_every_rows(make_base, tmp_path):
    base = make_base("train.steps=50", "stages.adapt.steps=10", "stages.teach.steps=7")
    by_key = {row.key: next(trainings(base, row, seed=0, out=tmp_path)).recipe for row in TABLES["table1"].rows}
    assert by_key["zeroing"].train.steps == 60
    assert (by_key["lv_adapter"].stages.adapt.steps, by_key["lv_adapter"].train.steps) == (10, 50)
    assert by_key["lv_adapter"].stages.teach.steps == 7


def test_sizes_belong_to_their_setting(make_base, tmp_path):
    base = make_base("stages.setting=disjoint_normal", "stages.sizes={detection: 2, semantic: 2, drivable: 2}")
    sizes = {
        row.setting: next(trainings(base, row, seed=0, out=tmp_path)).recipe.stages.sizes
        for row in TABLES["table3"].rows
    }
    assert sizes["disjoint_normal"] == {"detection": 2, "semantic": 2, "drivable": 2}
    assert sizes["disjoint_balance"] == sizes["full"] == {}


def test_without_a_budget_it_is_the_papers_epochs(blobs):
    overrides = ["data.train_split=val", "train.batch_size=4", "train.accumulate=2"]
    base = base_recipe(recipe=None, preset="tiny", data=blobs, smoke=False, overrides=overrides)
    assert base.train.steps == PAPER_EPOCHS * 6 / 8
    assert images_of(base) == {"all": 6, "detection": 6, "semantic": 6, "drivable": 6, "val": 6}


def test_only_images_that_are_used_are_counted(make_base):
    counts = images_of(make_base("data.only=[blob1, blob2]", "data.val_only=[blob3]"))
    assert (counts["all"], counts["val"]) == (2, 1)


def test_another_base_recipe_needs_another_folder(make_base, tmp_path):
    run_table("table6", make_base(), tmp_path, FakeRunner())
    run_table("table6", make_base("data.workers=1"), tmp_path, FakeRunner())
    with pytest.raises(ConfigError, match=r"another base recipe \(train.learning_rate changed\).*another --out"):
        run_table("table6", make_base("train.learning_rate=0.1"), tmp_path, FakeRunner())


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.lists=a.json", "each row decides about data.lists itself"),
        ("data.sampler=uniform", "each row decides about data.sampler itself"),
        ("train.seed=3", "--seeds"),
        ("model.semantic=null", "the heads of semantic"),
        ("train.speed=1", "unknown field"),
        ("stages.adapt.steps=0", "stages.adapt.steps must be at least 1"),
    ],
)
def test_a_base_recipe_that_decides_for_the_rows_is_refused(make_base, override, message):
    with pytest.raises(ConfigError, match=message):
        make_base(override)


def test_a_missing_split_is_named(blobs):
    with pytest.raises(DatasetError, match="no split 'train' to train on; it has val"):
        base_recipe(recipe=None, preset=None, data=blobs, smoke=True, overrides=[])


def test_metrics_that_cannot_be_read_say_what_to_delete(make_base, tmp_path):
    base, runner = make_base(), FakeRunner()
    run_table("table6", base, tmp_path, runner)
    (runner.trained[-1] / "metrics.json").write_text("{")
    with pytest.raises(DatasetError, match=r"metrics.json: cannot be read .* delete .* and run again"):
        collect(TABLES["table6"], base, out=tmp_path, seeds=1, runner=runner)


def test_what_a_kill_left_behind_is_not_a_result(make_base, tmp_path):
    base, runner = make_base(), FakeRunner()
    run_table("table6", base, tmp_path, runner)
    write_record(runner.trained[-1], {}, "running", 3.0)
    (runner.trained[-1] / "metrics.json").write_text("{")
    results = collect(TABLES["table6"], base, out=tmp_path, seeds=1, runner=runner)
    assert [len(result.metrics) for result in results] == [1, 1, 0]


def test_a_cell_of_one_value_has_no_deviation():
    assert Cell((5.0,)).deviation is None
    assert Cell((5.0, 7.0)).mean == 6.0


def run_command(*words):
    parser = argparse.ArgumentParser()
    add_reproduce(parser.add_subparsers())
    options = parser.parse_args(["reproduce", *map(str, words)])
    return options.run(options)


def test_list_prints_every_row(capsys):
    assert run_command("--list") == 0
    printed = capsys.readouterr().out
    for table in TABLES.values():
        assert table.caption in printed
        assert all(row.key in printed for row in table.rows)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["table99"], "there is no 'table99'; choose one of table1"),
        ([], "no table was named"),
        (["table1", "--seeds", "0"], "--seeds must be at least 1"),
        (["table1", "--seeds", "2", "--first-seed", "2"], "--first-seed must be between 0 and 1"),
        (["table4", "--adapt"], "table4 has its rows with adapt already"),
        (["table1", "--smoke", "--preset", "tiny"], "--smoke is a recipe of its own"),
        (["table1"], "give --data"),
        (["table1", "--data", "nowhere"], "nowhere"),
        (["table1", "--recipe", "nowhere.yaml"], "nowhere.yaml: the recipe cannot be read"),
    ],
)
def test_impossible_commands_say_why(words, message):
    with pytest.raises(LvadError, match=re.escape(message)):
        run_command(*words)


def test_the_command_prints_the_table_and_names_itself(blobs, tmp_path, monkeypatch, capsys):
    runner = FakeRunner()
    monkeypatch.setattr(stages, "run", runner.run)
    words = ["table1", "--adapt", "--data", blobs, "--smoke", "--set", "data.train_split=val", "--out", tmp_path]
    assert run_command(*words) == 0
    printed = capsys.readouterr().out
    assert f"| Round-robin, with adapt | 1 of 1 | 60.0 | {NONE} |" in printed
    typed = f"lvad-train reproduce table1 --data {blobs} --smoke --adapt --set data.train_split=val"
    assert typed in (tmp_path / "table1.md").read_text()
    assert "its figures mean nothing" in printed


def test_an_interrupted_command_says_how_it_goes_on(blobs, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(stages, "run", FakeRunner(stop_after=3).run)
    words = ["table1", "--data", blobs, "--smoke", "--set", "data.train_split=val", "--out", tmp_path]
    assert run_command(*words) == 130
    assert "the same command goes on" in capsys.readouterr().err
    assert "| Weighted sampler | 1 of 1 |" in (tmp_path / "table1.md").read_text()


@pytest.mark.slow
def test_smoke_trains_every_row_of_table_1_for_real(tmp_path, capsys):
    pytest.importorskip("open_clip")
    assert run_command("table1", "--smoke", "--quiet", "--out", tmp_path) == 0
    assert capsys.readouterr().out.count("| 1 of 1 |") == 6
    assert "24 images in 'train'" in (tmp_path / "table1.md").read_text()
    folder = tmp_path / "disjoint_normal/seed0"
    assert {path.parent.name for path in folder.glob("teach-*/model.pt")} == {method.name for method in TEACHERS}
    assert json.loads((folder / "lists.json").read_text())["images"]["semantic"]


def test_the_example_recipe_is_valid(request):
    recipe = load_recipe(request.config.rootpath / "config/reproduce_tiny.yaml")
    assert recipe.preset == "tiny"
    assert recipe.stages.teach.steps > 0
    assert set(COLUMNS) >= set(TABLES["table1"].columns)
