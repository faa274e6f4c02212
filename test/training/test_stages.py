import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import pytest
import torch
import yaml

from lvad_perception.errors import CheckpointError, ConfigError, EvaluationError, LabelError
from lvad_perception.files import removed_on_error
from lvad_perception.media.images import read_image
from lvad_perception.postprocess import to_predictions
from lvad_perception.preprocess import letterbox_image
from lvad_perception.vocabulary import TASKS
from lvad_training.build import build_model, network_of
from lvad_training.checkpoints import Checkpoint, load_checkpoint, save_checkpoint
from lvad_training.decoding.decode import decode
from lvad_training.recipe.config import batch_norm_of, recipe_to_dict
from lvad_training.training import loop, stages
from lvad_training.training import train as training
from lvad_training.training.environment import read_environments
from lvad_training.training.provenance import checkpoint_digest
from lvad_training.training.records import RECORD, write_record
from lvad_training.training.stages import plan
from lvad_training.zoo.importing import import_checkpoint

from .zoo_files import mmseg_semantic_fpn

STAGES = {
    "setting": "disjoint_balance",
    "teach": {"steps": 3},
    "pseudo": {"box_score": 0.05, "mask_confidence": 0.0},
    "adapt": {"steps": 3},
}
EVERY = ["teach-detection", "teach-semantic", "teach-drivable", "pseudo", "adapt", "finetune"]


@pytest.fixture
def recipe_of(blobs, make_recipe, tmp_path, tiny_text_encoder):
    """A recipe of all stages with language, in a folder of its own."""

    def make(name="run", **sections):
        language = {"text_encoder": {"kind": "huggingface", "name": str(tiny_text_encoder)}, "context": 2}
        small = {"layers": 1, "width": 16, "heads": 2}
        base = {"model": {"language": {**language, **small}}, "stages": STAGES, "output": str(tmp_path / name)}
        for section, changes in sections.items():
            base[section] = {**base[section], **changes} if isinstance(base.get(section), dict) else changes
        return make_recipe(blobs, **base)

    return make


@pytest.fixture
def run(recipe_of):
    """Run a recipe; returns the log and the folder of the last stage."""

    def start(name="run", *, only=None, resume=False, overwrite=False, **sections):
        said = []
        folder = stages.run(
            recipe_of(name, **sections),
            resume=resume,
            overwrite=overwrite,
            only=only,
            progress=False,
            log=said.append,
        )
        return said, folder

    return start


def test_a_record_that_cannot_be_written_leaves_no_folder(tmp_path, monkeypatch):
    def full(_descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    folder = tmp_path / "deep/er"
    with pytest.raises(ConfigError, match="No space left"), removed_on_error(folder / RECORD, unless=lambda: False):
        write_record(folder, {}, "running", 0.0)
    assert list(tmp_path.iterdir()) == []


def weights(folder):
    return load_checkpoint(folder / "model.pt").weights


def test_a_recipe_without_stages_is_one_training(make_recipe, tmp_path):
    recipe = make_recipe(tmp_path, output=str(tmp_path / "run"))
    (stage,) = plan(recipe)
    assert (stage.name, stage.folder, stage.recipe) == ("finetune", tmp_path / "run", recipe)


def test_the_plan_is_the_recipe_in_order(recipe_of, tmp_path):
    found = plan(recipe_of())
    assert [stage.name for stage in found] == EVERY
    by_name = {stage.name: stage.recipe for stage in found}
    assert by_name["teach-semantic"].model.tasks == ("semantic",)
    assert by_name["teach-semantic"].model.language is None
    assert by_name["teach-semantic"].data.pseudo is None
    assert by_name["adapt"].train.freeze == "backbone"
    assert by_name["finetune"].train.freeze == "nothing"
    assert by_name["finetune"].train.start_from == str(tmp_path / "run" / "adapt" / "model.pt")
    assert batch_norm_of(by_name["finetune"]) == batch_norm_of(by_name["teach-semantic"]) == "batch"
    recipe = recipe_of(model={"backbone": {"weights": "timm"}})
    by_name = {stage.name: stage.recipe for stage in plan(recipe)}
    assert batch_norm_of(by_name["finetune"]) == batch_norm_of(by_name["teach-semantic"]) == "frozen"
    assert by_name["finetune"].data.pseudo == str(tmp_path / "run" / "pseudo")
    assert {recipe.data.lists for recipe in by_name.values()} == {str(tmp_path / "run" / "lists.json")}


def test_teachers_and_pseudo_labels_can_be_shared(recipe_of, tmp_path):
    found = {stage.name: stage.folder for stage in plan(recipe_of(stages={"shared": str(tmp_path / "shared")}))}
    assert found["teach-detection"] == tmp_path / "shared" / "teach-detection"
    assert found["pseudo"] == tmp_path / "shared" / "pseudo"
    assert found["finetune"] == tmp_path / "run" / "finetune"


def test_all_stages_run_and_are_skipped_when_up_to_date(run, tmp_path, monkeypatch):
    said, folder = run()
    assert [line.split()[1] for line in said if line.startswith("[")] == [*(f"{name}:" for name in EVERY)]
    assert all("starts in" in line for line in said if line.startswith("["))
    assert folder == tmp_path / "run" / "finetune"
    first = weights(folder)
    for name in EVERY:
        record = json.loads((tmp_path / "run" / name / "stage.json").read_text())
        assert record["state"] == "done"
        assert record["version"]
    for name in ("adapt", "finetune", "teach-detection"):
        assert {"recipe.yaml", "metrics.json", "model.pt", "losses.jsonl"} <= {
            path.name for path in (tmp_path / "run" / name).iterdir()
        }
    with monkeypatch.context() as patch:
        patch.setattr(stages, "build_text_encoder", lambda _: pytest.fail("nothing is to run that needs it"))
        said, _ = run()
    assert [line for line in said if "up to date" not in line] == []
    assert all(torch.equal(value, first[name]) for name, value in weights(folder).items())
    assert all(torch.equal(value, first[name]) for name, value in weights(run("again")[1]).items())


def test_adapting_leaves_the_backbone_bit_for_bit(run, tmp_path):
    run(train={"weight_decay": 0.1})
    teacher_start = weights(tmp_path / "run" / "teach-semantic")
    adapted, finetuned = weights(tmp_path / "run" / "adapt"), weights(tmp_path / "run" / "finetune")
    torch.manual_seed(0)
    untrained = build_model(load_checkpoint(tmp_path / "run" / "teach-semantic" / "model.pt").recipe.model).state_dict()
    backbone = [name for name in adapted if name.startswith("backbone.")]
    assert backbone
    assert all(torch.equal(adapted[name], untrained[name]) for name in backbone)
    assert not all(torch.equal(finetuned[name], untrained[name]) for name in backbone)
    assert not all(torch.equal(teacher_start[name], untrained[name]) for name in backbone)


def test_a_changed_stage_is_done_again_only_when_allowed(run, tmp_path):
    run()
    with pytest.raises(ConfigError, match=r"adapt: inputs of stage adapt changed since it ran \(train\); give"):
        run(stages={"adapt": {"steps": 2}})
    said, _ = run(stages={"adapt": {"steps": 2}}, overwrite=True)
    did = [line.split()[1].rstrip(":") for line in said if "starts in" in line]
    assert did == ["adapt", "finetune"]


def test_one_stage_runs_alone(run, tmp_path):
    with pytest.raises(ConfigError, match=r"model.pt: is not there; run the stage that writes it"):
        run(only="pseudo")
    with pytest.raises(ConfigError, match=r"--stage teach: this recipe has no such stage; it has teach-detection, "):
        run(only="teach")
    _, folder = run(only="teach-drivable")
    assert folder == tmp_path / "run" / "teach-drivable"
    assert not (tmp_path / "run" / "finetune").exists()


def test_the_final_model_is_measured_again(run, tmp_path):
    with pytest.raises(ConfigError, match="run the recipe without --stage first"):
        run(only="evaluate")
    run(stages={"adapt": None, "teach": None})
    path = tmp_path / "run" / "finetune" / "metrics.json"
    before = json.loads(path.read_text())
    path.unlink()
    run(only="evaluate", stages={"adapt": None, "teach": None})
    assert json.loads(path.read_text()) == before


def test_a_stage_that_cannot_be_measured_does_not_stop_the_next_ones(run, tmp_path, monkeypatch):
    """Its model is done, and only its evaluation is done again."""
    changes = {"stages": {"teach": None}}
    original, broken = training.examine_checkpoint, ["adapt", "finetune"]

    def examine(checkpoint, **options):
        if any(checkpoint.recipe.output.endswith(name) for name in broken):
            raise LabelError("mask a.png cannot be decoded; replace it")
        return original(checkpoint, **options)

    monkeypatch.setattr(training, "examine_checkpoint", examine)
    with pytest.raises(EvaluationError, match=r"model.pt is finished, but was not evaluated: mask a.png") as one:
        run(**changes)
    assert f"lvad-train run {tmp_path}/run/finetune/recipe.yaml --stage evaluate" in str(one.value)
    weights = {name: load_checkpoint(tmp_path / "run" / name / "model.pt").weights for name in broken}
    broken.remove("adapt")
    with pytest.raises(EvaluationError, match=r"finetune/model.pt"):
        run(**changes)
    assert (tmp_path / "run" / "adapt" / "metrics.json").is_file()
    broken.clear()
    said, folder = run(**changes)
    assert all("up to date" in line for line in said)
    assert load_checkpoint(folder / "model.pt").metrics == json.loads((folder / "metrics.json").read_text())
    for name, before in weights.items():
        after = load_checkpoint(tmp_path / "run" / name / "model.pt").weights
        assert all(torch.equal(after[key], value) for key, value in before.items())


def test_other_lists_are_not_overwritten(run):
    run(stages={"adapt": None, "teach": None})
    with pytest.raises(ConfigError, match=r"lists.json: holds other lists than setting disjoint_balance with seed 1"):
        run(stages={"adapt": None, "teach": None}, train={"seed": 1}, overwrite=True)


ONE = {"teach": None, "adapt": None, "setting": "full"}


@pytest.fixture
def data(blobs, tmp_path):
    """A copy of the data set, to be changed."""
    return shutil.copytree(blobs, tmp_path / "data")


def move_a_box(root):
    path = root / "labels/det_20/det_val.json"
    entries = json.loads(path.read_text())
    entries[2]["labels"][0]["box2d"]["x1"] += 3
    path.write_text(json.dumps(entries))


def test_changed_labels_run_a_stage_again(run, data):
    options = {"stages": ONE, "data": {"root": str(data)}}
    run(**options)
    move_a_box(data)
    with pytest.raises(ConfigError, match=r"changed since it ran \(detection labels of val\); give --overwrite"):
        run(**options)
    said, _ = run(overwrite=True, **options)
    assert "finetune: starts in" in said[-1]
    assert "up to date" in run(**options)[0][-1]


def test_other_data_to_measure_on_measures_again_and_trains_nothing(run):
    _, folder = run(stages=ONE)
    before, weights_before = json.loads((folder / "metrics.json").read_text()), weights(folder)
    said, _ = run(stages=ONE, data={"val_only": ["blob1", "blob2"]})
    assert said[-1].endswith(f"up to date in {folder}, and measured again")
    after = json.loads((folder / "metrics.json").read_text())
    assert (before["detection"]["images"], after["detection"]["images"]) == (6, 2)
    assert load_checkpoint(folder / "model.pt").recipe.data.val_only == ("blob1", "blob2")
    assert all(torch.equal(value, weights_before[name]) for name, value in weights(folder).items())
    said, _ = run(stages=ONE, data={"val_only": ["blob1", "blob2"]})
    assert said[-1].endswith(f"up to date in {folder}")


def test_a_stage_whose_model_is_gone_is_made_again(run):
    _, folder = run(stages=ONE)
    goal = weights(folder)
    (folder / "model.pt").unlink()
    said, _ = run(stages=ONE)
    assert "finetune: goes on" in said[-1]
    assert all(torch.equal(value, goal[name]) for name, value in weights(folder).items())
    for name in ("model.pt", "checkpoint.pt"):
        (folder / name).unlink()
    run(stages=ONE)
    assert all(torch.equal(value, goal[name]) for name, value in weights(folder).items())


def test_pseudo_labels_whose_report_is_gone_are_made_again(run, tmp_path):
    _, folder = run(stages={"adapt": None})
    (tmp_path / "run/pseudo/pseudo.json").unlink()
    said, _ = run(stages={"adapt": None})
    assert "pseudo: goes on" in said[3]
    assert (tmp_path / "run/pseudo/pseudo.json").is_file()
    assert said[-1].endswith(f"up to date in {folder}")  # the labels are what they were


def test_a_run_that_no_record_describes_is_not_overwritten(run):
    _, folder = run(stages=ONE)
    (folder / "stage.json").unlink()
    before = (folder / "model.pt").read_bytes()
    with pytest.raises(ConfigError, match=r"finetune: holds checkpoint.pt of a run that no stage.json describes; give"):
        run(stages=ONE)
    with pytest.raises(ConfigError, match=r"the recipe changed since this run began \(in train\)"):
        run(stages=ONE, resume=True, train={"steps": 5})
    assert (folder / "model.pt").read_bytes() == before
    assert not (folder / "stage.json").exists()
    run(stages=ONE, resume=True)
    assert "up to date" in run(stages=ONE)[0][-1]
    (folder / "stage.json").unlink()
    assert "starts" in run(stages=ONE, overwrite=True)[0][-1]


def test_anybodys_pseudo_labels_serve_adapt(run, data):
    own = {"stages": {"teach": None, "setting": "full"}, "data": {"pseudo": str(data)}}
    said, _ = run(**own)
    assert ["adapt" in said[0], "finetune" in said[1]] == [True, True]
    move_a_box(data)
    with pytest.raises(ConfigError, match=r"inputs of stage adapt changed since it ran \(data.pseudo\)"):
        run(**own)


@pytest.mark.slow
def test_killed_in_the_middle_of_each_stage_it_ends_the_same(run, recipe_of, tmp_path):
    twelve = {"steps": 12}
    changes = {"train": {**twelve, "checkpoint_every": 2}, "stages": {"teach": twelve, "adapt": twelve}}
    _, whole = run("whole", **changes)
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe_to_dict(recipe_of("killed", **changes))))
    command = [sys.executable, "-m", "lvad_training.cli", "run", str(path), "--quiet", "--resume"]
    for name in EVERY:
        process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL)
        folder = tmp_path / "killed" / name
        marks = ("checkpoint.pt",) if name != "pseudo" else ("stage.json",)
        deadline = time.monotonic() + 120
        while not all((folder / mark).is_file() for mark in marks) and time.monotonic() < deadline:
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        assert json.loads((folder / "stage.json").read_text())["state"] == "running"
    subprocess.run(command, check=True)
    goal = weights(whole)
    assert all(torch.equal(value, goal[name]) for name, value in weights(tmp_path / "killed" / "finetune").items())


def test_a_missing_text_encoder_is_named_before_anything_is_trained(run, tmp_path):
    tower = {"kind": "huggingface", "name": str(tmp_path / "gone")}
    language = {"text_encoder": tower, "context": 2, "layers": 1, "width": 16, "heads": 2}
    for setting in ("disjoint_balance", "full"):
        with pytest.raises(CheckpointError, match=r"gone: no such folder; give model.language.text_encoder.name"):
            run(model={"language": language}, stages={"setting": setting})
        assert not (tmp_path / "run").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here, and takes fp16")
def test_a_stage_that_is_refused_before_it_began_may_run_with_another_recipe(run, tmp_path):
    one = {"teach": None, "adapt": None, "setting": "full"}
    with pytest.raises(ConfigError, match="fp16 needs a CUDA GPU"):
        run(stages=one, train={"precision": "fp16"})
    assert not (tmp_path / "run").exists()
    said, _ = run(stages=one)
    assert "finetune: starts" in said[-1]


@pytest.fixture
def save_teacher(make_recipe, tmp_path):
    """Write a checkpoint of a model for some tasks, with random weights and a size of its own; returns its path."""

    def save(name, *tasks, seed=1, network_hw=(96, 160)):
        others = {task: None for task in TASKS if task not in tasks}
        recipe = make_recipe(model={**others, "network_hw": list(network_hw)})
        torch.manual_seed(seed)
        path = tmp_path / f"{name}.pt"
        save_checkpoint(path, Checkpoint(recipe, 1, build_model(recipe.model).state_dict()))
        return str(path)

    return save


@pytest.fixture
def given(save_teacher, tmp_path):
    """A checkpoint for each task: networks of three sizes; the last is a published file that was imported."""
    torch.save({"state_dict": mmseg_semantic_fpn(3)}, tmp_path / "published.pth")
    imported, _ = import_checkpoint(tmp_path / "published.pth", ["model.network_hw=[32,64]"])
    save_checkpoint(tmp_path / "drivable.pt", imported)
    return {
        "detection": save_teacher("detection", "detection"),
        "semantic": save_teacher("semantic", "semantic", "drivable", network_hw=(128, 96)),
        "drivable": str(tmp_path / "drivable.pt"),
    }


UNTAUGHT = {"teach": None, "adapt": None}


def labels_of(folder):
    """Relative path -> content of pseudo labels."""
    files = (path for path in (folder / "labels").rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_given_checkpoints_label_at_once(run, given, tmp_path):
    """Each in its own network size, and as its own network computes."""
    said, folder = run(stages={**UNTAUGHT, "teachers": given})
    stages_run = [line.split()[1] for line in said if line.startswith("[")]
    assert stages_run == ["pseudo:", "finetune:"]
    labels = labels_of(tmp_path / "run/pseudo")
    made = {path.split("/")[1] for path in labels}
    assert made == {"det_20", "sem_seg", "drivable"}
    lists = json.loads((tmp_path / "run/lists.json").read_text())["images"]
    unlabelled = sorted({name for task in ("detection", "semantic") for name in lists[task]})
    assert sorted(path.split("/")[-1] for path in labels if "drivable" in path) == [f"{n}.png" for n in unlabelled]
    network = network_of(load_checkpoint(Path(given["drivable"])), source="test").eval()
    image, letterbox = letterbox_image(
        read_image(tmp_path / f"run/pseudo/images/100k/val/{unlabelled[0]}.png"), (32, 64)
    )
    with torch.no_grad():
        raw = loop.to_raw(decode(network(torch.from_numpy(image.transpose(2, 0, 1).copy())[None]), (32, 64), 20))
    mask = cv2.imread(str(tmp_path / f"run/pseudo/labels/drivable/masks/val/{unlabelled[0]}.png"), cv2.IMREAD_UNCHANGED)
    assert (mask == to_predictions(raw, 0, letterbox).drivable).mean() > 0.99
    assert load_checkpoint(folder / "model.pt").recipe.model.network_hw == (64, 96)
    assert all("up to date" in line for line in run(stages={**UNTAUGHT, "teachers": given})[0])


def test_some_tasks_are_taught_and_others_given(run, given, tmp_path):
    said, _ = run(stages={"adapt": None, "teachers": {"semantic": given["semantic"]}})
    stages_run = [line.split()[1] for line in said if line.startswith("[")]
    assert stages_run == ["teach-detection:", "teach-drivable:", "pseudo:", "finetune:"]
    record = json.loads((tmp_path / "run/pseudo/stage.json").read_text())["inputs"]
    assert record["teacher of semantic"] == checkpoint_digest(Path(given["semantic"]))


def test_a_task_without_teacher_keeps_its_annotation_alone(run, given, tmp_path):
    run(stages={**UNTAUGHT, "teachers": {"semantic": given["semantic"]}})
    assert {path.split("/")[1] for path in labels_of(tmp_path / "run/pseudo")} == {"sem_seg"}


def test_a_changed_checkpoint_labels_again(run, given, save_teacher, tmp_path):
    settings = {**UNTAUGHT, "teachers": given}
    run(stages=settings)
    before = labels_of(tmp_path / "run/pseudo")
    moved = str(shutil.copy(given["semantic"], tmp_path / "moved.pt"))
    said, _ = run(stages={**UNTAUGHT, "teachers": {**given, "semantic": moved}})
    assert all("up to date" in line for line in said)  # the content counts, the path does not
    save_teacher("semantic", "semantic", "drivable", network_hw=(128, 96), seed=2)
    with pytest.raises(ConfigError, match=r"inputs of stage pseudo changed since it ran \(teacher of semantic\); give"):
        run(stages=settings)
    said, _ = run(stages=settings, overwrite=True)
    assert ["starts in" in line for line in said] == [True, True]
    after = labels_of(tmp_path / "run/pseudo")
    assert after.keys() == before.keys()
    assert {path.split("/")[1] for path in after if after[path] != before[path]} == {"sem_seg"}


def test_images_without_any_annotation_are_labelled_where_asked(run, given, data, tmp_path):
    for name in ("labels/drivable/masks/val", "labels/sem_seg/masks/val"):
        (data / f"{name}/blob3.png").unlink()
    path = data / "labels/det_20/det_val.json"
    path.write_text(json.dumps([entry for entry in json.loads(path.read_text()) if entry["name"] != "blob3.png"]))
    settings = {**UNTAUGHT, "setting": "full", "teachers": given}
    run(data={"root": str(data)}, stages=settings)
    assert [path for path in labels_of(tmp_path / "run/pseudo") if path.endswith(".png")] == []
    every = {**settings, "pseudo": {**STAGES["pseudo"], "images": "all"}}
    _, folder = run("every", data={"root": str(data)}, stages=every)
    assert {path for path in labels_of(tmp_path / "every/pseudo") if path.endswith(".png")} == {
        f"labels/{task}/masks/val/blob3.png" for task in ("sem_seg", "drivable")
    }
    assert folder.is_dir()


@pytest.mark.parametrize(
    ("task", "file", "message"),
    [
        (
            "detection",
            "semantic",
            "stages.teachers.detection: .*semantic.pt has no head for detection, but for semantic, d",
        ),
        ("semantic", "gone", "gone.pt: no such checkpoint; check the path"),
        (
            "semantic",
            "published",
            "published.pth: not a checkpoint of this package; give a file that lvad-train run or import wrote",
        ),
        (
            "semantic",
            "nuimages",
            "nuimages.pt was trained in the classes of nuimages, and this recipe has those of bdd1",
        ),
        ("semantic", "shipped/none", "shipped/none: no such starting checkpoint; the package ships shipped/edge"),
    ],
)
def test_a_checkpoint_that_cannot_teach_is_refused_before_anything_is_written(
    task, file, message, run, given, make_recipe, tmp_path
):
    recipe = make_recipe(model={"vocabulary": "nuimages", "drivable": None})
    save_checkpoint(tmp_path / "nuimages.pt", Checkpoint(recipe, 1, build_model(recipe.model).state_dict()))
    suffix = {"published": ".pth", "shipped/none": ""}.get(file, ".pt")
    path = file if file.startswith("shipped/") else str(tmp_path / f"{file}{suffix}")
    with pytest.raises((ConfigError, CheckpointError), match=message):
        run(stages={**UNTAUGHT, "teachers": {**given, task: path}})
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_two_processes_on_cpus_run_every_stage_together_whatever_launched_them(recipe_of, tmp_path):
    """torchrun says nothing of CPUs; each stage still has one main process."""
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe_to_dict(recipe_of(train={"steps": 3, "batch_size": 1}))))
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    environment = {name: value for name, value in os.environ.items() if name != "ACCELERATE_USE_CPU"}
    done = subprocess.run(
        [*launcher, "-m", "lvad_training.cli", "run", str(path), "--quiet"],
        check=True,
        env={**environment, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )
    begun = [
        line.split()[1].rstrip(":")
        for line in done.stdout.splitlines()
        if line.startswith("[") and " starts in " in line
    ]
    assert begun == EVERY
    for stage in EVERY:
        assert json.loads((tmp_path / "run" / stage / RECORD).read_text())["state"] == "done"
        if stage != "pseudo":
            (ran,) = read_environments(tmp_path / "run" / stage)
            assert ran.processes == 2
