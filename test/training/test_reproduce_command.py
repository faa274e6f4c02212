"""``lvad-train reproduce``: its options, its errors, and one table with real trainings."""

import json
import re

import pytest

from lvad_perception.errors import CheckpointError, LvadError
from lvad_training.recipe.config import load_recipe
from lvad_training.reproduce.render import NONE
from lvad_training.reproduce.results import COLUMNS
from lvad_training.reproduce.tables import TABLES, TEACHERS
from lvad_training.training import stages

from .table_runs import FakeRunner, run_command


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


def test_an_interrupted_command_says_how_to_continue(blobs, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(stages, "run", FakeRunner(stop_after=3).run)
    words = ["table1", "--data", blobs, "--smoke", "--set", "data.train_split=val", "--out", tmp_path]
    assert run_command(*words) == 130
    assert "the same command continues" in capsys.readouterr().err
    assert "| Weighted sampler | 1 of 1 |" in (tmp_path / "table1.md").read_text()


def test_a_refused_command_leaves_no_folder(blobs, tmp_path):
    gone = f"model.language.text_encoder={{kind: huggingface, name: {tmp_path / 'gone'}}}"
    words = ["--data", blobs, "--smoke", "--set", "data.train_split=val", "--set", gone]
    with pytest.raises(CheckpointError, match="gone: no such folder"):
        run_command("table6", *words, "--quiet", "--out", tmp_path / "deep/out")
    assert list(tmp_path.iterdir()) == []


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
