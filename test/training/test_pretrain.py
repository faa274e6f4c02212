"""Pretraining end to end with a small network: resume, result, page, and what stops it."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import timm
import torch

from lvad_perception.errors import ConfigError, ImageError, MissingDependencyError, NonFiniteLossError
from lvad_training.cli import main
from lvad_training.model.backbone import timm_backbone
from lvad_training.model.published import load_published
from lvad_training.pretrain.recipe import DEFAULTS, PretrainRecipe, parse_pretrain_recipe

pytest.importorskip("lightly")

from lvad_training.pretrain import training

NARROW = {"channels": [8, 8, 16, 16], "stem_width": 8}
SMALL = {
    "backbone": {"name": "resnet18", "options": NARROW},
    "views": {"size_px": 32, "small_px": 32, "small_count": 1},
    "head": {"hidden": 16, "width": 8, "prototypes": 6},
    "train": {"steps": 5, "batch_size": 4, "warmup_steps": 1, "checkpoint_every": 2, "precision": "no"},
    "neighbours": {"frames": 8, "queries": 2, "shown": 3, "apart": 1},
}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Twelve pictures in two folders, each a colour with a bright block somewhere."""
    root = tmp_path_factory.mktemp("pictures")
    random = np.random.default_rng(0)
    for index in range(12):
        image = np.full((40, 64, 3), random.integers(0, 256, 3), np.uint8)
        y, x = random.integers(0, 24), random.integers(0, 48)
        image[y : y + 16, x : x + 16] = random.integers(0, 256, 3)
        path = root / ("day", "night")[index % 2] / f"{index:02}.png"
        path.parent.mkdir(exist_ok=True)
        cv2.imwrite(str(path), image)
    return root


@pytest.fixture
def run(pictures, tmp_path):
    """Pretrain the small network in a folder; returns its losses."""

    def start(method="moco_v2", name="run", *, resume=False, overwrite=False, root=pictures, **sections):
        content = {**SMALL, "method": method, "output": str(tmp_path / name), "data": {"root": str(root), "workers": 0}}
        for section, changes in sections.items():
            content[section] = {**content[section], **changes}
        recipe = parse_pretrain_recipe(content, source="test")
        training.pretrain(recipe, resume=resume, overwrite=overwrite, progress=False, command="lvad-train pretrain")
        return losses(tmp_path / name)

    return start


def losses(folder):
    return [json.loads(line)["terms"]["total"] for line in (folder / "losses.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("method", DEFAULTS)
def test_a_killed_run_goes_on_with_the_same_losses_and_its_backbone_loads(run, tmp_path, method, stop_at):
    head = {"queue": 8} if DEFAULTS[method].queue else {}
    whole = run(method, "whole", head=head)
    assert len(set(whole)) == 5
    with stop_at(3):
        run(method, "killed", head=head)
    assert losses(tmp_path / "killed") == whole[:3]
    assert not (tmp_path / "killed/backbone.pt").exists()
    torch.manual_seed(99)
    np.random.seed(99)  # noqa: NPY002  # chance comes from the checkpoint, not from what this process drew before
    assert run(method, "killed", head=head, resume=True) == whole
    assert run(method, "killed", head=head, resume=True) == whole  # nothing left to do

    published = torch.load(tmp_path / "killed/backbone.pt", weights_only=True)["state_dict"]
    uninterrupted = torch.load(tmp_path / "whole/backbone.pt", weights_only=True)["state_dict"]
    backbone = timm_backbone("resnet18", NARROW)
    before = {name: value.clone() for name, value in backbone.features.state_dict().items()}
    report = load_published(backbone, tmp_path / "killed/backbone.pt")
    assert (report.missing, report.left_out, report.folded) == ((), {}, False)
    for name, value in backbone.features.state_dict().items():
        assert torch.equal(value, published[name]), name
        assert torch.equal(value, uninterrupted[name]), name
        assert value.ndim != 4 or not torch.equal(value, before[name]), f"{name} did not learn"
    timm.create_model("resnet18", num_classes=0, **NARROW).load_state_dict(published)  # the same names, all of them


def test_simclr_learns_to_tell_the_pictures_apart(run):
    train = {"steps": 60, "batch_size": 6, "learning_rate": 0.1, "optimizer": "sgd", "checkpoint_every": 60}
    found = run("simclr", train=train, views={"color": 0.1, "gray": 0.0, "blur": 0.0})
    assert sum(found[-5:]) < 0.6 * sum(found[:5])


def test_a_run_leaves_a_page_that_opens_offline(run, tmp_path):
    run("swav")
    folder = tmp_path / "run"
    assert {path.name for path in folder.iterdir()} == {
        *("checkpoint.pt", "backbone.pt", "recipe.yaml", "losses.jsonl", "pretraining.html", "neighbours.png"),
        *("environment.json", "tensorboard"),
    }
    page = (folder / "pretraining.html").read_text()
    assert not re.search(r"""(src|href)=["']?(http|//|/)|<script""", page)
    for text in ("data:image/", "<svg", "5 steps of 4 frames", "spread of features", "lvad-train pretrain", "12 of "):
        assert text in page
    picture = cv2.imread(str(folder / "neighbours.png"))
    assert picture.shape[0] == 2 * (2 * 118 + 6) + 6  # two queries, two lines of pictures and gaps each


def test_the_same_seed_repeats_and_another_does_not(run):
    assert run("byol", "a") == run("byol", "b", data={"workers": 1})
    assert run("byol", "a", overwrite=True) != run("byol", "c", train={"seed": 1})


def test_it_starts_from_given_weights(run, tmp_path):
    run("moco_v2", "first")
    weights = {"weights": str(tmp_path / "first/backbone.pt")}
    run("moco_v2", "second", backbone=weights, train={"learning_rate": 1e-30})
    first, second = (torch.load(tmp_path / name / "backbone.pt", weights_only=True) for name in ("first", "second"))
    assert torch.equal(first["state_dict"]["conv1.weight"], second["state_dict"]["conv1.weight"])


def test_a_run_is_neither_overwritten_nor_continued_as_another(run, pictures, tmp_path):
    run()
    with pytest.raises(ConfigError, match="holds a run already; give --resume, --overwrite or another output"):
        run()
    with pytest.raises(ConfigError, match=r"the recipe changed since this run began \(in views\)"):
        run(resume=True, views={"color": 0.5})
    fewer = tmp_path / "fewer"
    (fewer / "day").mkdir(parents=True)
    for path in (pictures / "day").iterdir():
        (fewer / "day" / path.name).write_bytes(path.read_bytes())
    with pytest.raises(ConfigError, match=r"inputs of this run changed since it began \(frames\); restore them"):
        run(resume=True, root=fewer)


def test_a_result_without_its_checkpoint_is_not_resumed_over(run, tmp_path):
    run()
    (tmp_path / "run" / "checkpoint.pt").unlink()
    with pytest.raises(ConfigError, match=r"holds backbone.pt, but no checkpoint.pt to resume from; give --overwrite"):
        run(resume=True)
    assert (tmp_path / "run" / "backbone.pt").is_file()


def test_a_run_may_go_on_with_other_loader_settings(run):
    whole = run()
    assert run(resume=True, data={"workers": 1}, train={"checkpoint_every": 9}, neighbours={"shown": 1}) == whole


def test_a_diverging_run_names_the_frames(run):
    wanted = r"step \d+: loss contrast is (nan|inf) on images (day|night)/\d\d.png, .*; look at their pixels, lower"
    with pytest.raises(NonFiniteLossError, match=wanted):
        run(train={"steps": 40, "learning_rate": 1e30, "warmup_steps": 0})


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_picture_is_named_whichever_process_read_it(run, pictures, tmp_path, workers):
    root = tmp_path / "broken"
    root.mkdir()
    for path in (pictures / "day").iterdir():
        (root / path.name).write_bytes(path.read_bytes()[:60])
    with pytest.raises(ImageError, match=r"\d\d\.png is a truncated image"):
        run(root=root, data={"workers": workers})


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "pretrain: no images; give --data, a folder of images or videos"),
        (["--data", "nowhere"], "nowhere: no such folder; give a folder of images or videos with --data"),
        (["--data", "{file}"], "neither a folder nor a video"),
        (["--data", "{empty}"], "is selected by data.only and data.exclude; give another folder with --data"),
        (["--data", "{pictures}", "--set", "train.batch_size=99"], "12 frames are fewer than the 99 of a step"),
        (["--data", "{pictures}", "--set", "train.speed=1"], "unknown field `speed`"),
        (["--data", "{pictures}", "--set", "viws.size_px=64"], "did you mean 'views'?"),
        (["--data", "{pictures}", "--set", "views.size_px=8"], "views.size_px must be at least 32"),
        (
            ["--data", "{pictures}", "--steps", "5", "--set", "train.warmup_steps=6"],
            "train.warmup_steps must be at most train.steps",
        ),
        (["--data", "{pictures}", "--method", "simclr", "--set", "head.queue=9"], "simclr has no head.queue"),
        (["--data", "{pictures}", "--set", "head.queue=9"], "head.queue 9 is shorter than the 12 images of a step"),
        (["--data", "{pictures}", "--set", "preset=r99"], "preset 'r99' is unknown; choose one of"),
        (["--data", "{pictures}", "--set", "preset=[r50]"], r"preset ['r50'] is unknown; choose one of"),
        (["--data", "{pictures}", "--set", "backbone.name=resnet9"], "timm cannot make 'resnet9'"),
        (["--data", "{pictures}", "--set", "train.precision=fp16"], "fp16 needs a CUDA GPU"),
        (["--recipe", "nowhere.yaml"], "nowhere.yaml: the recipe cannot be read"),
    ],
)
def test_bad_input_is_one_sentence(words, message, pictures, tmp_path, capsys, monkeypatch):
    if "precision" in " ".join(words) and torch.cuda.is_available():
        pytest.skip("a GPU is here, and takes fp16")
    (tmp_path / "notes.txt").touch()
    (tmp_path / "empty").mkdir()
    places = {"pictures": pictures, "file": tmp_path / "notes.txt", "empty": tmp_path / "empty"}
    given = ["--preset", "tiny", "--set", "data.workers=0", "--set", "train.batch_size=12"]
    given = given if "preset=r99" not in words else []
    words = [*given, *(word.format(**places) for word in words), "--out", str(tmp_path / "run")]
    assert main(["pretrain", *words]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert not (tmp_path / "run/backbone.pt").exists()


def test_without_lightly_the_extra_is_named(pictures, tmp_path, monkeypatch):
    from lvad_training.pretrain import command

    for name in list(sys.modules):
        if name.partition(".")[0] == "lightly" or name.startswith("lvad_training.pretrain."):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "lightly", None)
    monkeypatch.delattr("lvad_training.pretrain.training")
    options = command.argparse.Namespace(
        method=None, preset=None, data=pictures, steps=None, out=None, recipe=None, set=[], resume=False
    )
    with pytest.raises(MissingDependencyError, match=r"pip install 'lvad_perception\[pretrain\]'"):
        command._pretrain(options)


def test_the_command_says_how_to_use_the_result(pictures, tmp_path, capsys):
    out = tmp_path / "run"
    words = [f"{section}={json.dumps(content)}" for section, content in SMALL.items()]
    given = ["--method", "densecl", "--data", str(pictures), "--out", str(out), "--quiet", "--set", "data.workers=0"]
    assert main(["pretrain", *given, *(part for text in words for part in ("--set", text))]) == 0
    assert f"--set model.backbone.weights={out / 'backbone.pt'}" in capsys.readouterr().out


def test_the_example_recipe_is_valid(request):
    import yaml

    content = yaml.safe_load((request.config.rootpath / "config/pretrain.yaml").read_text())
    recipe = parse_pretrain_recipe(content, source="config/pretrain.yaml")
    assert isinstance(recipe, PretrainRecipe)
    assert recipe.backbone.name == "resnet50"


@pytest.mark.slow
@pytest.mark.parametrize("method", ["moco_v2", "simclr", "swav"])
def test_two_processes_train_together_and_resume(method, pictures, tmp_path):
    def launch(*arguments):
        content = {**SMALL, "method": method, "data": {"root": str(pictures), "workers": 0}, "output": str(tmp_path)}
        content["train"] = {**SMALL["train"], "steps": 4, "batch_size": 2}
        recipe = tmp_path / "recipe.json"  # JSON is YAML
        recipe.write_text(json.dumps(content))
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
        command = [*launcher, "-m", "lvad_training.cli", "pretrain", "--recipe", str(recipe), "--quiet", *arguments]
        subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"})
        return losses(Path(tmp_path))

    whole = launch()
    assert len(set(whole)) == 4
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert len(state["resume"]["random"]) == 2
    (tmp_path / "backbone.pt").unlink()
    assert launch("--resume") == whole
    assert (tmp_path / "backbone.pt").is_file()
