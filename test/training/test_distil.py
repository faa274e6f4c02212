"""A student of given teachers on images and videos without labels: ``lvad-train distil``."""

import json
import os
import shutil
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch

from lvad_perception.datasets.bdd100k import open_split
from lvad_perception.errors import ConfigError
from lvad_perception.media.video import write_video
from lvad_perception.vocabulary import TASKS
from lvad_training.build import build_model
from lvad_training.checkpoints import Checkpoint, load_checkpoint, save_checkpoint
from lvad_training.cli import main
from lvad_training.distil import choose_teachers, distil_recipe, divide
from lvad_training.pretrain.frames import Frame
from lvad_training.recipe.config import batch_norm_of

from .conftest import SMALL_CONVOLUTIONS, small_recipe

STUDENT = {
    "network_hw": [64, 96],
    "backbone": {"name": "resnet18", "options": {"channels": [8, 8, 16, 16], "stem_width": 8}},
    "neck_width": 16,
    **SMALL_CONVOLUTIONS,
}
TRAIN = {"steps": 3, "batch_size": 2, "warmup_steps": 1, "start_from": None, "precision": "no", "checkpoint_every": 1}


@pytest.fixture(scope="module")
def teachers(tmp_path_factory):
    """Checkpoints for boxes and for both masks, of other sizes than the student."""
    folder = tmp_path_factory.mktemp("teachers")
    for name, tasks, network_hw in (("det", ("detection",), [96, 160]), ("masks", ("semantic", "drivable"), [128, 96])):
        others = {task: None for task in TASKS if task not in tasks}
        recipe = small_recipe(model={**others, "network_hw": network_hw, "score_threshold": 0.1})
        torch.manual_seed(1)
        save_checkpoint(folder / f"{name}.pt", Checkpoint(recipe, 1, build_model(recipe.model).state_dict()))
    return [folder / "det.pt", folder / "masks.pt"]


@pytest.fixture(scope="module")
def drives(tmp_path_factory, blobs):
    """Images at two depths and in two formats, with masks that are no images, and a video of five seconds."""
    pytest.importorskip("av")
    root = tmp_path_factory.mktemp("drives")
    shutil.copytree(blobs / "images/100k/val", root / "one/a b")
    shutil.copytree(blobs / "labels", root / "labels")
    for name in ("one/x.webp", "one/ä.png"):
        cv2.imwrite(str(root / name), np.full((64, 96, 3), 99, np.uint8))
    write_video(root / "drive.mp4", (np.full((64, 96, 3), 5 * index, np.uint8) for index in range(50)), 10)
    return root


@pytest.fixture
def distil(teachers, drives, tmp_path, capsys):
    """Run the command; returns its status and what it printed."""

    def start(*words, data=drives, files=teachers, output=tmp_path / "run", student=STUDENT):
        given = [f"model={json.dumps(student)}", f"train={json.dumps(TRAIN)}", "data.workers=0"]
        settings = [word for text in given for word in ("--set", text)]
        places = ["--data", str(data), "--output", str(output)]
        status = main(["distil", "--teachers", *map(str, files), *places, "--quiet", *settings, *words])
        printed = capsys.readouterr()
        return status, printed.out + printed.err

    return start


def test_images_and_videos_become_a_measured_student(distil, tmp_path):
    status, said = distil("--held-out", "0.2")
    assert status == 0
    run = tmp_path / "run"
    assert "18 frames of " in said
    assert ", 3 of them held out" in said  # of 6, 2 and 10
    assert f"export it: lvad-train export {run}/finetune/model.pt {run}/model.onnx\n" in said
    model = load_checkpoint(run / "finetune/model.pt")
    assert (model.step, model.recipe.model.tasks) == (3, tuple(TASKS))
    assert [model.metrics[task]["images"] for task in TASKS] == [3, 3, 3]
    train, held_out = (open_split(root, name) for root, name in ((run / "pseudo", "train"), (run / "data", "val")))
    assert (len(train), len(held_out)) == (15, 3)
    for split in (train, held_out):
        assert all(split.annotated_for(task).all() for task in TASKS)
    names = json.loads((run / "unlabelled/frames.json").read_text())
    assert sorted(names["val"].values()) == ["drive.mp4@4000", "drive.mp4@4500", "one/a b/blob5.png"]
    assert {name for name in names["train"] if "webp" in names["train"][name]} == {
        name for name in names["train"] if name.startswith("one_x-") and name.endswith(".jpg")
    }
    status, said = distil("--held-out", "0.2")
    assert (status, said.count("up to date")) == (0, 3)


def test_a_killed_run_goes_on_with_the_same_weights(distil, tmp_path, stop_at):
    distil(output=tmp_path / "whole")
    with stop_at(2):
        distil()
    status, said = distil()
    assert status == 2
    assert "stage finetune was interrupted; give --resume to go on with it" in said
    status, said = distil("--resume")
    assert status == 0
    assert "finetune: goes on" in said
    whole, found = (load_checkpoint(tmp_path / name / "finetune/model.pt").weights for name in ("whole", "run"))
    assert all(torch.equal(found[name], value) for name, value in whole.items())


def test_other_frames_are_labelled_again_only_when_allowed(distil, blobs, tmp_path):
    images = shutil.copytree(blobs / "images/100k/val", tmp_path / "images")
    assert distil("--held-out", "0", data=images)[0] == 0
    (images / "blob5.png").unlink()
    status, said = distil("--held-out", "0", data=images)
    assert status == 2
    assert "inputs of stage pseudo changed since it ran (" in said
    assert "images of train" in said
    assert "give --overwrite" in said
    status, said = distil("--held-out", "0", "--overwrite", data=images)
    assert status == 0
    assert len(open_split(tmp_path / "run/pseudo", "train")) == 5


def test_without_held_out_frames_nothing_is_measured_and_that_is_said(distil, blobs, teachers, tmp_path):
    """One teacher alone: the student has its tasks only."""
    given = {"data": blobs / "images/100k/val", "files": teachers[1:]}
    status, said = distil(**given)
    assert status == 2
    assert "no checkpoint of --teachers has a head for detection, so the model cannot learn it; name one" in said
    student = {key: value for key, value in STUDENT.items() if key != "detection"}
    status, said = distil("--held-out", "0.1", student=student, **given)
    assert status == 0
    assert "6 frames of " in said
    assert "0 of them held out: the model will not be measured" in said
    assert "not evaluated: " in said
    model = load_checkpoint(tmp_path / "run/finetune/model.pt")
    assert model.metrics is None
    assert model.recipe.model.tasks == ("semantic", "drivable")


def test_the_last_frames_of_each_sequence_are_held_out(tmp_path):
    frames = [Frame(f"{place}{i}", tmp_path, place) for place, count in (("a", 10), ("b", 4)) for i in range(count)]
    splits = divide(frames, 0.25)
    assert [frame.name for frame in splits["val"]] == ["a8", "a9", "b3"]
    assert len(splits["train"]) == 11
    assert divide(frames, 0.99)["train"][0].name == "a0"
    assert {frame.sequence for frame in divide(frames, 0.99)["train"]} == {"a", "b"}


def test_the_first_checkpoint_with_a_head_labels(teachers):
    found = choose_teachers([teachers[0], "shipped/edge"])
    assert found.files == {"detection": str(teachers[0]), "semantic": "shipped/edge", "drivable": "shipped/edge"}
    assert found.box_score == 0.1
    recipe = distil_recipe(found, teachers[0].parent / "run")
    assert recipe.stages.pseudo.box_score == 0.1
    assert (recipe.preset, recipe.train.start_from) == ("edge", "shipped/edge")
    assert batch_norm_of(recipe) == "batch"  # the shipped statistics are those of rendered images
    overridden = distil_recipe(found, teachers[0].parent / "run", overrides=["stages.pseudo.box_score=0.7"])
    assert overridden.stages.pseudo.box_score == 0.7
    with pytest.raises(ConfigError, match=r"det.pt would label nothing, since a file before it has its heads \(det"):
        choose_teachers(["shipped/edge", teachers[0]])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--held-out", "1"], "--held-out 1 is no share; give a number from 0 to below 1, such as 0.1"),
        (["--fps", "nan"], "--fps nan takes no frames; give a number above 0"),
        (["--set", "data.root=x"], "distil: data.root follows from the other options; leave it out of --set"),
        (["--set", "output=x"], "distil: output (give --output) follows from the other options"),
        (["--set", "stages.teachers.detection=x"], "distil: stages.teachers (give --teachers) follows from the other"),
        (["--set", "stages.shared=x"], "distil: stages.shared follows from the other options"),
        (["--set", "stages=null"], "distil: stages.teachers (give --teachers) follows from the other"),
        (["--set", "train.stesp=1"], "unknown field `stesp`"),
        (["--data", "nowhere"], "nowhere: no such folder; give a folder of images or videos with --data"),
        (["--teachers", "gone.pt"], "gone.pt: no such checkpoint"),
    ],
)
def test_bad_input_is_one_sentence_and_leaves_nothing(distil, tmp_path, words, message):
    status, said = distil(*words)
    assert status == 2
    assert message in said
    assert len(said.splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_a_teacher_with_other_classes_is_refused(distil, tmp_path):
    recipe = small_recipe(model={"vocabulary": "nuimages", "semantic": None, "drivable": None})
    other = tmp_path / "other.pt"
    save_checkpoint(other, Checkpoint(recipe, 1, build_model(recipe.model).state_dict()))
    student = {key: value for key, value in STUDENT.items() if key not in ("semantic", "drivable")}
    status, said = distil(files=[other], student=student)
    assert status == 2
    assert "other.pt was trained in the classes of nuimages, and this recipe has those of bdd100k; give a" in said
    assert not (tmp_path / "run").exists()


def test_a_place_without_links_is_named(distil, tmp_path, monkeypatch):
    def refused(*_arguments, **_options):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("pathlib.Path.symlink_to", refused)
    status, said = distil()
    assert status == 2
    assert "links to the frames cannot be written (Operation not permitted); choose another --output" in said


def _labels(output):
    """Path -> content of the labels that the teachers made."""
    files = [path for name in ("pseudo", "held-out/pseudo") for path in (output / name / "labels").rglob("*.*")]
    return {path.relative_to(output).as_posix(): path.read_bytes() for path in files}


@pytest.mark.slow
def test_two_processes_share_the_frames(distil, teachers, drives, tmp_path):
    """The labels are those of one process."""
    assert distil()[0] == 0
    given = (f"model={json.dumps(STUDENT)}", f"train={json.dumps(TRAIN)}", "data.workers=0")
    settings = [word for text in given for word in ("--set", text)]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    places = ["--data", str(drives), "--output", str(tmp_path / "two")]
    command = ["distil", "--teachers", *map(str, teachers), *places, "--quiet", *settings]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    subprocess.run([*launcher, "-m", "lvad_training.cli", *command], check=True, env=environment)
    one, two = (_labels(tmp_path / name) for name in ("run", "two"))
    assert len(one) == 2 + 2 * 18  # a file of boxes for each split, two masks for each frame
    assert one == two
    assert load_checkpoint(tmp_path / "two/finetune/model.pt").metrics is not None
