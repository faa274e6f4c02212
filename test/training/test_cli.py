import json
import shutil

import msgspec
import pytest
import yaml

from lvad_perception.engines import open_engine
from lvad_training.checkpoints import Checkpoint, load_checkpoint, save_checkpoint
from lvad_training.cli import main
from lvad_training.recipe.config import recipe_to_dict


@pytest.fixture
def recipe_file(blobs, make_recipe, tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe_to_dict(make_recipe(blobs, output=str(tmp_path / "run")))))
    return path


@pytest.fixture
def checkpoint_file(blobs, make_recipe, net, tmp_path):
    save_checkpoint(tmp_path / "model.pt", Checkpoint(make_recipe(blobs), 1, net.state_dict()))
    return tmp_path / "model.pt"


def test_run_trains_and_prints_the_metrics(recipe_file, tmp_path, capsys):
    assert main(["run", str(recipe_file), "--quiet", "--set", "train.steps=2"]) == 0
    out = capsys.readouterr().out
    assert f"model: {tmp_path}/run/model.pt" in out
    assert "drivable, 6 images" in out
    assert load_checkpoint(tmp_path / "run" / "model.pt").step == 2


def test_run_without_a_validation_split_says_so(recipe_file, capsys):
    assert main(["run", str(recipe_file), "--quiet", "--set", "data.val_split=none", "--set", "train.steps=1"]) == 0
    assert "not evaluated" in capsys.readouterr().out


def test_a_validation_that_fails_leaves_a_finished_model_and_says_how_to_measure_it(
    blobs, recipe_file, tmp_path, capsys
):
    """A validation split without labels, beside a training split that has them."""
    root, folder = tmp_path / "data", tmp_path / "run"
    shutil.copytree(blobs, root)
    shutil.copytree(root / "images/100k/val", root / "images/100k/bare")
    bare = [f"data.root={root}", "data.val_split=bare", "train.steps=2", "train.evaluate_every=1"]
    words = ["run", str(recipe_file), "--quiet", *(word for text in bare for word in ("--set", text))]
    assert main(words) == 1
    err = capsys.readouterr().err
    told = f"{root}: no image of split 'bare' is annotated for detection, semantic, drivable; bring its labels or name"
    assert f"warning: the model will be trained but not evaluated: {told}" in err
    assert "warning: step 1 was not evaluated: nothing to evaluate: no image has both a prediction and a truth" in err
    command = f"lvad-train run {folder}/recipe.yaml --stage evaluate"
    assert f"error: {folder}/model.pt is finished, but was not evaluated: nothing to evaluate: " in err
    assert err.endswith(f"; after that measure it with: {command}\n")
    model = load_checkpoint(folder / "model.pt")
    assert (model.step, model.metrics) == (2, None)
    assert not (folder / "metrics.json").exists()

    assert main(command.split()[1:]) == 1
    assert main([*command.split()[1:], "--set", "data.val_split=val"]) == 0
    assert "drivable, 6 images" in capsys.readouterr().out
    measured = load_checkpoint(folder / "model.pt")
    assert measured.metrics == json.loads((folder / "metrics.json").read_text())
    assert (measured.step, measured.version) == (2, model.version)
    data = msgspec.structs.replace(model.recipe.data, val_split="val")
    assert measured.recipe == msgspec.structs.replace(model.recipe, data=data)  # says what its metrics are of
    assert all((value == model.weights[name]).all() for name, value in measured.weights.items())


def test_evaluate_measures_another_data_set(checkpoint_file, small_split, tmp_path, capsys):
    arguments = ["evaluate", str(checkpoint_file), "--data", str(small_split), "--json", str(tmp_path / "m.json")]
    assert main(arguments) == 0
    assert json.loads((tmp_path / "m.json").read_text())["detection"]["images"] == 6
    assert "semantic, 4 images" in capsys.readouterr().out


def test_metrics_that_cannot_be_written_are_one_sentence(checkpoint_file, tmp_path, capsys):
    (tmp_path / "file").touch()
    assert main(["evaluate", str(checkpoint_file), "--json", str(tmp_path / "file" / "m.json")]) == 2
    error = capsys.readouterr().err
    assert f"error: --json {tmp_path}/file/m.json: cannot be written (File exists); name another file" in error


def test_slim_writes_half_precision(checkpoint_file, tmp_path):
    assert main(["slim", str(checkpoint_file), str(tmp_path / "slim.pt")]) == 0
    assert load_checkpoint(tmp_path / "slim.pt").weights["neck.lateral.0.0.weight"].element_size() == 2


def test_data_sample_then_check(tmp_path, capsys):
    assert main(["data", "sample", str(tmp_path / "set"), "--images", "5"]) == 0
    assert main(["data", "check", str(tmp_path / "set"), "--workers", "1"]) == 0
    assert "train" in capsys.readouterr().out


def test_data_check_fails_where_training_would(small_split, tmp_path, capsys):
    root = shutil.copytree(small_split, tmp_path / "data")
    image = next((root / "images/100k/val").glob("*.jpg"))
    image.write_bytes(image.read_bytes()[:100])
    assert main(["data", "check", str(root), "--workers", "1"]) == 1
    assert image.name in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "nothing.yaml"], "nothing.yaml: the recipe cannot be read"),
        (["run", "RECIPE", "--set", "data.root=nowhere"], "nowhere is not a folder"),
        (["run", "RECIPE", "--set", "train.speed=1"], "unknown field `speed`"),
        (["run", "RECIPE", "--set", "train.start_from=no.pt"], "no.pt: no such checkpoint"),
        (["run", "RECIPE", "--set", "data.train_split=dusk"], "dusk"),
        (["evaluate", "nothing.pt"], "nothing.pt: no such checkpoint"),
        (["evaluate", "CHECKPOINT", "--split", "dusk"], "dusk"),
        (["export", "nothing.pt", "model.onnx"], "nothing.pt: no such checkpoint"),
        (["export", "CHECKPOINT", "model.engine"], "a model file ends in .onnx or .pt2"),
        (["export", "CHECKPOINT", "model.onnx", "--size", "200x100"], "two multiples of 32"),
        (["export", "CHECKPOINT", "model.onnx", "--images", "EMPTY"], "no .jpg or .png image to compare on"),
        (["data", "check", "nowhere"], "nowhere"),
        (["data", "check", "EMPTY"], "EMPTY"),
        (["demo", "--data", "nowhere", "--out", "EMPTY"], "nowhere"),
    ],
)
def test_bad_input_is_one_sentence_and_status_2(
    arguments, message, recipe_file, checkpoint_file, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "EMPTY").mkdir()
    names = {"RECIPE": str(recipe_file), "CHECKPOINT": str(checkpoint_file)}
    assert main([names.get(word, word) for word in arguments]) == 2
    err = capsys.readouterr().err
    assert err.startswith("lvad-train: error: ")
    assert message in err
    assert err.count("\n") == 1
    assert "Traceback" not in err


@pytest.mark.parametrize("option", ["--size", "--camera-size"])
@pytest.mark.parametrize("size", ["1280", "1280x", "0x720", "720p", "1280 720"])
def test_a_size_is_width_x_height(option, size, checkpoint_file, capsys):
    with pytest.raises(SystemExit) as end:
        main(["export", str(checkpoint_file), "model.onnx", option, size])
    assert end.value.code == 2
    assert f"{size!r} is no size; write it as 1280x720" in capsys.readouterr().err


def test_export_for_a_camera_tells_how_well_it_agrees(checkpoint_file, tmp_path, capsys):
    pytest.importorskip("onnxscript", reason="the extra export is not installed")
    path = tmp_path / "camera.pt2"
    assert main(["export", str(checkpoint_file), str(path), "--camera-size", "192x128"]) == 0
    out = capsys.readouterr().out
    assert "the exported program agrees with torch on 6 images" in out
    manifest = open_engine(path).manifest
    assert (manifest.camera_hw, manifest.network_hw) == ((128, 192), (64, 96))


def test_export_at_another_network_size(checkpoint_file, tmp_path):
    pytest.importorskip("onnxscript", reason="the extra export is not installed")
    path = tmp_path / "wide.pt2"
    assert main(["export", str(checkpoint_file), str(path), "--size", "128x64"]) == 0
    assert open_engine(path).manifest.network_hw == (64, 128)


def test_interrupting_tells_how_to_go_on(recipe_file, monkeypatch, capsys):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("lvad_training.training.stages.train", interrupt)
    assert main(["run", str(recipe_file)]) == 130
    assert "--resume" in capsys.readouterr().err


def test_a_tilde_in_an_argument_is_the_home_folder_and_never_a_folder_of_that_name(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    assert main(["data", "sample", "~/set", "--images", "5", "--workers", "1"]) == 0
    assert main(["data", "lists", "~/set", "~/lists.json", "--setting", "full"]) == 0
    assert (tmp_path / "home" / "lists.json").is_file()
    assert main(["run", "~/recipe.yaml"]) == 2
    assert f"error: {tmp_path}/home/recipe.yaml: the recipe cannot be read" in capsys.readouterr().err
    assert main(["report", "~/run", "--output", "~/page.html"]) == 2
    assert f"{tmp_path}/home/run" in capsys.readouterr().err
    assert main(["data", "check", "~nobody-at-all/set"]) == 2
    assert "root is '~nobody-at-all/set', and there is no such home folder" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


def test_names_that_would_steer_a_terminal_are_escaped(tree, capsys):
    tree.image("a")
    tree.detections({"a": [("\x1b]0;owned\x07car", 1, 2, 5, 6)]})
    assert main(["data", "check", str(tree.root), "--workers", "1"]) == 0
    out = capsys.readouterr().out
    assert "unknown category '\\x1b]0;owned\\x07car' of 1 label" in out
    assert main(["data", "check", "no\x1b[2Jset"]) == 2
    assert "no\\x1b[2Jset is not a folder" in capsys.readouterr().err
