import pytest

from lvad_perception.errors import ConfigError, DatasetError
from lvad_training import demo as demo_module
from lvad_training.config import load_recipe
from lvad_training.demo import DemoError, demo, fit_network_size


@pytest.mark.parametrize(
    ("source_hw", "network_hw"),
    [((720, 1280), (256, 448)), ((360, 480), (288, 384)), ((100, 100), (320, 320)), ((1280, 720), (448, 256))],
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
    assert recipe.model.network_hw == (288, 384)
    assert (recipe.data.train_split, recipe.data.val_split) == ("val", "val")
    assert "report.html" in capsys.readouterr().out


def test_the_demo_starts_from_the_shipped_checkpoint(small_split, commands, tmp_path):
    demo(tmp_path / "out", data=small_split, images=5, steps=3, seed=0, from_scratch=False)
    recipe = load_recipe(tmp_path / "out" / "recipe.yaml")
    assert recipe.train.start_from == "shipped/tiny"


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
