import json
import re

import pytest

from lvad_perception.datasets.bdd100k import open_split
from lvad_perception.errors import ConfigError, DatasetError
from lvad_training import demo as demo_module
from lvad_training.checkpoints import resolve_start
from lvad_training.demo import DemoError, demo, fit_network_size, plan_training
from lvad_training.recipe.config import load_recipe


@pytest.mark.parametrize(
    ("source_hw", "network_hw"),
    [((720, 1280), (384, 672)), ((360, 480), (384, 512)), ((100, 100), (448, 448)), ((1280, 720), (672, 384))],
)
def test_the_network_has_the_shape_of_the_images(source_hw, network_hw):
    assert fit_network_size(source_hw, demo_module.NETWORK_PIXELS) == network_hw


@pytest.mark.parametrize("shape", [(32, 4000), (4000, 32), (1, 1)])
def test_extreme_shapes_still_have_a_size(shape):
    height, width = fit_network_size(shape, demo_module.NETWORK_PIXELS)
    assert height % 32 == width % 32 == 0
    assert 0.8 <= height * width / demo_module.NETWORK_PIXELS <= 1.1


@pytest.fixture
def commands(monkeypatch):
    """Command lines that the demo would run."""
    lines = []
    monkeypatch.setattr(demo_module, "_run", lambda *words, **_: lines.append(" ".join(map(str, words))) or lines[-1])
    return lines


def test_the_demo_runs_the_documented_commands_on_the_data_set(small_split, commands, tmp_path, capsys):
    demo(tmp_path / "out", data=small_split, images=5, steps=3, seed=7, from_scratch=True)
    names = [" ".join(line.split()[:2]) for line in commands]
    assert names == [
        "lvad-train run",
        "lvad-train export",
        "lvad-perception bag",
        "lvad-perception replay",
        "lvad-perception evaluate",
        "lvad-perception report",
    ]
    recipe = load_recipe(tmp_path / "out" / "recipe.yaml")
    assert (recipe.train.steps, recipe.train.seed, recipe.train.start_from) == (3, 7, None)
    assert recipe.preset == "edge"
    assert recipe.train.precision == "auto"
    assert recipe.data.val_only == ()
    assert (recipe.data.train_split, recipe.data.val_split) == ("val", "val")
    assert "report.html" in capsys.readouterr().out


def test_the_demo_starts_from_the_shipped_checkpoint(small_split, commands, tmp_path):
    demo(tmp_path / "out", data=small_split, images=5, steps=3, seed=0, from_scratch=False)
    recipe = load_recipe(tmp_path / "out" / "recipe.yaml")
    assert recipe.train.start_from == "shipped/edge"
    assert resolve_start(recipe.train.start_from).is_file()


@pytest.mark.parametrize(
    ("step_s", "elapsed_s", "frames", "steps"),
    [
        (1.0, 35.0, 80, 240),  # 330 - 35 - 45 - 80 / 8
        (2.0, 30.0, 200, 102),
        (0.01, 10.0, 80, 1000),
        (20.0, 100.0, 80, 20),  # a machine that is too slow for the time still trains a little
        (1.0, 1000.0, 80, 20),
    ],
)
def test_the_number_of_steps_follows_from_the_time_of_the_first(step_s, elapsed_s, frames, steps):
    plan = plan_training(step_s, elapsed_s=elapsed_s, frames=frames)
    assert plan.steps == steps
    assert plan.training_s == pytest.approx(steps * step_s)
    if plan.steps > demo_module.FEWEST_STEPS:
        assert elapsed_s + plan.training_s + plan.rest_s <= demo_module.BUDGET_S


def test_the_first_steps_are_timed_and_the_plan_is_printed(small_split, commands, tmp_path, monkeypatch, capsys):
    def run(*words, **_):
        commands.append(" ".join(map(str, words)))
        if "data.val_split=none" in words:
            (tmp_path / "out" / "timing").mkdir()
            times = [9.0] * demo_module.UNTIMED_STEPS + [2.0] * 7
            steps = [json.dumps({"step": i, "terms": {}, "step_s": s}) for i, s in enumerate(times, 1)]
            (tmp_path / "out" / "timing" / "losses.jsonl").write_text("\n".join(steps))
            started = {"first_step": 0, "precision": "no", "asked": "auto", "processes": 1}
            started |= {"hardware": "2 cores of X", "versions": "lvad"}
            (tmp_path / "out" / "timing" / "environment.json").write_text(json.dumps([started]))
        return commands[-1]

    monkeypatch.setattr(demo_module, "_run", run)
    demo(tmp_path / "out", data=small_split, images=5, steps=None, seed=0, from_scratch=True)
    assert [line.split()[1] for line in commands[:2]] == ["run", "run"]
    steps = load_recipe(tmp_path / "out" / "recipe.yaml").train.steps
    assert 100 < steps < 145  # (330 - 45 - ...) / 2
    said = capsys.readouterr().out
    assert "takes 2.00 s in fp32 (train.precision: auto) on 2 cores of X" in said
    assert f"Plan: {steps} steps in {steps * 2 / 60:.1f} minutes" in said
    assert re.search(r"expected end: \d\d:\d\d\.", said)


def test_of_a_large_validation_split_only_the_first_frames_are_measured(small_split, commands, tmp_path, monkeypatch):
    monkeypatch.setattr(demo_module, "VAL_FRAMES", 2)
    demo(tmp_path / "out", data=small_split, images=5, steps=3, seed=0, from_scratch=True)
    recipe = load_recipe(tmp_path / "out" / "recipe.yaml")
    split = open_split(small_split, "val")
    assert recipe.data.val_only == (split.name_of(0), split.name_of(1))
    (converted,) = (line for line in commands if line.startswith("lvad-perception bag from-dataset"))
    assert "--limit 2 " in converted


def test_an_empty_folder_is_named(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match="empty"):
        demo(tmp_path / "out", data=tmp_path / "empty", images=5, steps=3, seed=0, from_scratch=True)


def test_a_folder_that_cannot_be_written_is_one_sentence(small_split, commands, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"--out .*/file/out: cannot be written to \(.*\); name another folder"):
        demo(tmp_path / "file" / "out", data=small_split, images=5, steps=3, seed=0, from_scratch=True)
    assert commands == []


def test_a_failing_command_ends_the_demo(small_split, tmp_path, capfd):
    with pytest.raises(DemoError, match=r"lvad-train run ended with status 2; its message above says why"):
        demo(tmp_path / "out", data=small_split, images=5, steps=0, seed=0, from_scratch=True)
    assert "train.steps must be at least 1" in capfd.readouterr().err
