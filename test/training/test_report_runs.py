"""The report of several runs, made from their folders, and the evaluation that they keep for it."""

import json
import shutil

import numpy as np
import pytest
import torch
import yaml

from lvad_perception.errors import DatasetError
from lvad_perception.metrics import worst_first
from lvad_perception.report.evaluation import read_evaluation
from lvad_training.build import build_criterion, network_of
from lvad_training.checkpoints import load_checkpoint
from lvad_training.cli import main
from lvad_training.data.annotation import Annotation
from lvad_training.data.batches import recipe_split
from lvad_training.data.torch_datasets import TrainingSet
from lvad_training.data.transforms import TrainingTransform
from lvad_training.report import read_folder, short_names
from lvad_training.samples import collate
from lvad_training.training.evaluation import evaluate_checkpoint, examine_checkpoint
from lvad_training.training.train import train

from .conftest import small_recipe


@pytest.fixture(scope="module")
def runs(blobs, tmp_path_factory):
    """Folders of two short trainings; the second has another seed and is measured during training."""
    root = tmp_path_factory.mktemp("runs")
    for name, changes in (("first", {}), ("second", {"seed": 1, "evaluate_every": 2})):
        train(small_recipe(blobs, output=str(root / name), train=changes), progress=False)
    return [root / "first", root / "second"]


@pytest.fixture
def copied(runs, tmp_path):
    """A copy of the first run, to be damaged."""
    return shutil.copytree(runs[0], tmp_path / "copied")


def test_the_losses_of_a_frame_are_those_that_training_would_see(runs):
    """Of each frame alone, without augmentation, although they are evaluated in batches of two."""
    checkpoint = load_checkpoint(runs[0] / "model.pt")
    recipe = checkpoint.recipe
    found = {frame.name: frame.losses for frame in examine_checkpoint(checkpoint).findings.frames}
    net = network_of(checkpoint, source="test").eval()
    criterion = build_criterion(recipe.model, recipe.loss)
    samples = TrainingSet(
        Annotation(recipe_split(recipe, "val")), TrainingTransform.without_augmentation(recipe.model.network_hw)
    )
    for index in range(len(samples)):
        batch = collate([samples[0, index, None]])
        with torch.no_grad():
            terms = criterion(net(batch.images), batch)
        assert found[batch.names[0]] == pytest.approx({name: float(value) for name, value in terms.items()}, rel=1e-3)
    assert len(found) == 6


def test_the_kept_evaluation_names_the_measured_data(runs):
    kept = read_evaluation(runs[0] / "evaluation.npz", remedy="")
    again = examine_checkpoint(load_checkpoint(runs[0] / "model.pt"))
    assert kept.findings.metrics == again.findings.metrics == evaluate_checkpoint(load_checkpoint(runs[0] / "model.pt"))
    assert kept.findings.frames == again.findings.frames
    assert kept.findings.classes == again.findings.classes
    assert json.loads((runs[0] / "metrics.json").read_text()) == json.loads(json.dumps(kept.findings.metrics.to_dict()))
    assert kept.kept[0].name == worst_first(kept.findings.frames)[0].frame.name
    for read, made in zip(kept.kept, again.kept, strict=True):
        assert (read.predictions.semantic == made.predictions.semantic).all()
        assert (read.truth.boxes.boxes_xyxy == made.truth.boxes.boxes_xyxy).all()
        assert abs(read.image.astype(int) - made.image).mean() < 8  # WebP


def test_runs_stand_side_by_side(runs, tmp_path, capsys):
    output = tmp_path / "new" / "report.html"
    assert main(["report", *map(str, runs), "--output", str(output), "--title", "Two seeds", "--frames", "2"]) == 0
    said = capsys.readouterr()
    assert f"{output}: " in said.out
    assert said.err == ""
    page = output.read_text()
    for wanted in (
        "Two seeds",
        "2 runs side by side, 4 training steps",
        "prediction: second",
        "train.seed",
        "box_l1",
    ):
        assert wanted in page, wanted
    assert page.count('<figure class="frame">') >= 2
    assert ">Validation during training<" in page


def test_the_curves_are_those_of_the_log(runs):
    run = read_folder(runs[1], "second")
    log = [json.loads(line) for line in (runs[1] / "losses.jsonl").read_text().splitlines()]
    assert run.losses["total"] == [(line["step"], line["terms"]["total"]) for line in log]
    assert run.step_values["learning rate"] == [(line["step"], line["learning_rate"]) for line in log]
    steps = [step for step, _ in run.validation["Semantic mIoU"]]
    assert steps == [2, 4]
    assert run.validation["Semantic mIoU"][-1][1] == pytest.approx(run.measured.semantic.scores.mean_iou, rel=1e-5)
    assert run.settings["train.seed"] == 1
    assert "output" not in run.settings


def test_an_older_run_says_how_to_get_the_rest_and_then_has_it(copied, tmp_path, capsys):
    (copied / "evaluation.npz").unlink()
    output = tmp_path / "report.html"
    assert main(["report", str(copied), "-o", str(output)]) == 0
    command = f"lvad-train evaluate {copied}/model.pt --keep"
    assert command in capsys.readouterr().err
    assert command in output.read_text()
    assert ">Confusion<" not in output.read_text()
    assert main(command.split()[1:]) == 0
    assert "for lvad-train report" in capsys.readouterr().out
    assert main(["report", str(copied), "-o", str(output)]) == 0
    assert capsys.readouterr().err == ""
    assert ">Confusion<" in output.read_text()


def test_a_run_under_way_shows_its_curves(copied, tmp_path, capsys):
    for name in ("evaluation.npz", "metrics.json", "model.pt"):
        (copied / name).unlink()
    with (copied / "losses.jsonl").open("a") as curve:
        curve.write('{"step": 5, "ter')  # being written just now
    assert main(["report", str(copied), "-o", str(tmp_path / "r.html")]) == 0
    assert "has not ended, so it shows curves only" in capsys.readouterr().err
    assert ">Training<" in (tmp_path / "r.html").read_text()


def test_the_last_stage_of_several_is_shown(runs, copied):
    copied.rename(copied.parent / "finetune")
    assert read_folder(copied.parent, "staged").measured == read_folder(runs[0], "first").measured


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "evaluation.npz").write_bytes(b"PK\x03\x04 cut"), "is damaged or of another version"),
        (lambda folder: (folder / "metrics.json").write_text("{"), "cannot be read as metrics"),
        (lambda folder: (folder / "losses.jsonl").write_text('{"no": "step"}\n'), "cannot be read as losses"),
        (lambda folder: (folder / "recipe.yaml").write_text("a: [b"), "cannot be read as a recipe"),
        (lambda folder: [path.unlink() for path in folder.glob("*.*")], "is not the folder of a training run"),
    ],
)
def test_a_spoilt_run_is_named_in_a_sentence(copied, tmp_path, capsys, spoil, message):
    spoil(copied)
    assert main(["report", str(copied), "-o", str(tmp_path / "r.html")]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert str(copied) in said
    assert said.count("\n") == 1


def test_a_missing_run_and_one_named_twice_are_refused(runs, tmp_path, capsys):
    with pytest.raises(DatasetError, match="does not exist; give the output folder of lvad-train run"):
        read_folder(tmp_path / "nothing", "nothing")
    assert main(["report", str(runs[0]), str(runs[0]), "-o", str(tmp_path / "r.html")]) == 2
    assert "the same run is named twice" in capsys.readouterr().err
    assert main(["report", str(runs[0]), "-o", str(tmp_path / "r.html"), "--frames", "-1"]) == 2
    assert "--frames -1 is negative" in capsys.readouterr().err


def test_names_are_as_short_as_they_may_be(tmp_path):
    assert short_names([tmp_path / "a" / "run", tmp_path / "b" / "run"]) == ["a/run", "b/run"]
    assert short_names([tmp_path / "a", tmp_path / "b"]) == ["a", "b"]
    assert short_names([tmp_path / "a"]) == ["a"]


def test_an_evaluation_of_another_format_is_refused(copied):
    path = copied / "evaluation.npz"
    with np.load(path) as file:
        arrays = dict(file)
    metadata = json.loads(arrays["facts"].tobytes())
    arrays["facts"] = np.frombuffer(json.dumps({**metadata, "format": 99}).encode(), np.uint8)
    np.savez(path, **arrays)
    with pytest.raises(DatasetError, match=r"format 99, not 1\); measure again"):
        read_evaluation(path, remedy="measure again")
    assert read_evaluation(copied / "nothing.npz", remedy="") is None
    assert yaml.safe_load((copied / "recipe.yaml").read_text())["preset"] == "tiny"
