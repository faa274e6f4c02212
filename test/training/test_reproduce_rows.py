"""The rows of the paper's tables: their recipes, budgets and order."""

import re

import pytest

from lvad_perception.errors import ConfigError, DatasetError
from lvad_training.reproduce.base import PAPER_EPOCHS, base_recipe, images_of
from lvad_training.reproduce.paper import FIGURES
from lvad_training.reproduce.run import reproduce
from lvad_training.reproduce.tables import ADAPTED_ROWS, LV_ADAPTER, SELF_TRAINING, TABLES
from lvad_training.reproduce.trainings import budget, trainings

from .table_runs import FakeRunner, plans, run_table


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
    arguments = {"out": tmp_path, "runner": runner, "log": lambda _: None}
    reproduce(TABLES["table6"], base, seeds=2, first_seed=1, command="second machine", **arguments)
    assert not any("seed0" in str(folder) for folder in runner.trained)
    assert "| Learned prompts | 1 of 2 | 62.0 |" in (tmp_path / "table6.md").read_text()
    reproduce(TABLES["table6"], base, seeds=1, command="first machine", **arguments)
    page = reproduce(TABLES["table6"], base, seeds=2, first_seed=1, command="second machine", **arguments)
    markdown = page.with_suffix(".md").read_text()
    assert "| Learned prompts | 2 of 2 | 61.0 ± 1.4 |" in markdown
    assert "| commands | first machine<br>second machine |" in markdown


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
        ("stages.teachers.semantic=a.pt", "each row decides about stages.teachers itself"),
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
