import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest
import torch
import yaml

from lvad_perception.errors import CheckpointError, ConfigError, DatasetError, ImageError, NonFiniteLossError
from lvad_training.checkpoints import Checkpoint, load_checkpoint, save_checkpoint
from lvad_training.model.published import load_backbone
from lvad_training.recipe.config import load_recipe, recipe_to_dict
from lvad_training.recipe.schema import BackboneConfig
from lvad_training.training.loop import check_finite
from lvad_training.training.runs import CHECKPOINT
from lvad_training.training.schedule import learning_rate_factor, parameter_groups
from lvad_training.training.train import train


def losses(folder):
    return [json.loads(line)["terms"]["total"] for line in (folder / "losses.jsonl").read_text().splitlines()]


@pytest.fixture
def run(blobs, make_recipe, tmp_path):
    """Train the small network in a folder; returns its losses."""

    def start(name="run", *, resume=False, overwrite=False, **train_changes):
        recipe = make_recipe(blobs, train=train_changes, output=str(tmp_path / name))
        train(recipe, resume=resume, overwrite=overwrite, progress=False)
        return losses(tmp_path / name)

    return start


def test_the_same_seed_repeats_and_another_does_not(run):
    assert run("a") == run("b")
    assert run("a", overwrite=True) != run("c", seed=1)


def test_training_learns_an_easy_data_set(run, tmp_path):
    found = run(steps=120, batch_size=6, learning_rate=3e-3, warmup_steps=10, checkpoint_every=120)
    assert sum(found[-5:]) < 0.4 * sum(found[:5])
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["drivable"]["three_class"]["pixel_accuracy"] > 90
    assert metrics["semantic"]["scores"]["mean_iou"] > 60


def test_a_run_leaves_everything_that_describes_it(run, tmp_path, make_recipe, blobs):
    run()
    folder = tmp_path / "run"
    names = {path.name for path in folder.iterdir()}
    described = {"recipe.yaml", "environment.json", "losses.jsonl", "metrics.json", "evaluation.npz", "tensorboard"}
    assert names == {"checkpoint.pt", "model.pt"} | described
    recipe = make_recipe(blobs, output=str(folder))
    assert yaml.safe_load((folder / "recipe.yaml").read_text()) == json.loads(json.dumps(recipe_to_dict(recipe)))
    model = load_checkpoint(folder / "model.pt")
    assert model.resume is None
    assert model.metrics == json.loads((folder / "metrics.json").read_text())
    first = json.loads((folder / "losses.jsonl").read_text().splitlines()[0])
    assert {"box_class", "semantic_dice", "drivable_pixel", "total"} <= first["terms"].keys()


@pytest.mark.parametrize("accumulate", [1, 2])
def test_resuming_after_a_lost_process_gives_the_same_losses(run, tmp_path, accumulate, stop_at):
    whole = run("whole", steps=5, accumulate=accumulate)
    with stop_at(3):
        run("killed", steps=5, accumulate=accumulate)
    assert losses(tmp_path / "killed") == whole[:3]
    assert load_checkpoint(tmp_path / "killed" / CHECKPOINT).step == 2
    torch.manual_seed(99)  # chance comes from the checkpoint, not from what this process drew before
    assert run("killed", steps=5, accumulate=accumulate, resume=True) == whole
    assert run("killed", steps=5, accumulate=accumulate, resume=True) == whole  # nothing left to do
    assert (tmp_path / "killed" / "model.pt").is_file()


def test_evaluating_during_training_changes_no_loss(run):
    assert run("evaluated", steps=5, evaluate_every=2) == run("plain", steps=5)


@pytest.mark.slow
def test_a_killed_process_resumes_to_the_same_losses(run, blobs, make_recipe, tmp_path):
    whole = run("whole", steps=16)
    recipe = make_recipe(blobs, train={"steps": 16}, output=str(tmp_path / "killed"))
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe_to_dict(recipe)))
    command = [sys.executable, "-m", "lvad_training.cli", "run", str(path), "--quiet", "--resume"]
    process = subprocess.Popen(command, env={**os.environ, "PYTHONHASHSEED": "0"})
    deadline = time.monotonic() + 120
    while not (tmp_path / "killed" / CHECKPOINT).is_file() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "killed" / "model.pt").exists()
    subprocess.run(command, check=True)
    assert losses(tmp_path / "killed") == pytest.approx(whole, rel=1e-6)


def test_a_run_is_not_overwritten_by_accident(run):
    run()
    with pytest.raises(ConfigError, match=r"holds a run already; give --resume, --overwrite or another output"):
        run()


def test_a_result_without_its_checkpoint_is_not_resumed_over(run, tmp_path):
    run()
    (tmp_path / "run" / CHECKPOINT).unlink()
    with pytest.raises(ConfigError, match=r"holds model.pt, but no checkpoint.pt to resume from; give --overwrite"):
        run(resume=True)
    assert (tmp_path / "run" / "model.pt").is_file()


def test_resuming_with_another_recipe_is_refused(run):
    run()
    with pytest.raises(ConfigError, match=r"the recipe changed since this run began \(in train\)"):
        run(resume=True, learning_rate=0.5)


def test_training_starts_from_given_weights(run, tmp_path):
    run("first", steps=30, learning_rate=3e-3)
    assert run("again", start_from=str(tmp_path / "first" / "model.pt"))[0] < 0.8 * run("anew")[0]


def test_batch_norm_of_a_pretrained_backbone_stays_as_it_was(run, tmp_path):
    run("first")
    start = load_checkpoint(tmp_path / "first" / "model.pt").weights
    for mode, kept in (("auto", True), ("batch", False)):
        run(mode, start_from=str(tmp_path / "first" / "model.pt"), batch_norm=mode)
        after = load_checkpoint(tmp_path / mode / "model.pt").weights
        for name in ("running_mean", "running_var", "weight", "bias"):
            name = f"backbone.features.bn1.{name}"
            assert torch.equal(after[name], start[name]) is kept, name
        assert not torch.equal(after["backbone.features.conv1.weight"], start["backbone.features.conv1.weight"])


def test_a_run_that_began_before_batch_norm_was_a_key_resumes(run, tmp_path, stop_at):
    whole = run("whole")
    with stop_at(3):
        run("killed")
    path = tmp_path / "killed" / CHECKPOINT
    content = torch.load(path, weights_only=True)
    content["recipe"]["train"].pop("batch_norm")
    content["recipe"]["model"]["detection"].pop("canonical_px")
    torch.save(content, path)
    assert run("killed", resume=True) == whole


def test_a_backbone_starts_from_a_file(run, make_recipe, blobs, tmp_path, net):
    weights = {name: value * 0 + 0.01 for name, value in net.backbone.features.state_dict().items()}
    torch.save({**weights, "fc.weight": torch.zeros(3)}, tmp_path / "backbone.pth")
    report = load_backbone(net.backbone, BackboneConfig(name="resnet18", weights=str(tmp_path / "backbone.pth")))
    assert "fc" in report.to_text()
    assert net.backbone.features.conv1.weight.unique().tolist() == pytest.approx([0.01])
    torch.save({"layer9.weight": torch.zeros(3)}, tmp_path / "other.pth")
    recipe = make_recipe(blobs, output=str(tmp_path / "run"))
    backbone = msgspec.structs.replace(recipe.model.backbone, weights=str(tmp_path / "other.pth"))
    recipe = msgspec.structs.replace(recipe, model=msgspec.structs.replace(recipe.model, backbone=backbone))
    with pytest.raises(CheckpointError, match=r"other.pth: "):
        train(recipe, progress=False)


def test_a_start_may_have_other_heads_and_no_language(run, make_recipe, blobs, tmp_path, tiny_text_encoder):
    run("first")
    start = load_checkpoint(tmp_path / "first" / "model.pt")
    language = {"text_encoder": {"kind": "huggingface", "name": str(tiny_text_encoder)}, "context": 2, "width": 16}
    recipe = make_recipe(
        blobs,
        model={"language": language, "drivable": None},
        train={"start_from": str(tmp_path / "first" / "model.pt"), "learning_rate": 1e-12, "freeze": "backbone"},
        output=str(tmp_path / "second"),
    )
    train(recipe, progress=False)
    found = load_checkpoint(tmp_path / "second" / "model.pt")
    assert found.text_encoder is not None
    assert {name.partition(".")[0] for name in found.weights} == {
        "backbone", "neck", "detection", "semantic", "prompts", "adapter",
    }  # fmt: skip
    for name in ("backbone.features.conv1.weight", "semantic.classify.weight"):
        assert torch.allclose(found.weights[name], start.weights[name], atol=1e-6)


def test_a_bad_image_is_named_whichever_process_read_it(make_small_split, make_recipe, tmp_path):
    root = make_small_split(tmp_path / "data", suffixes=(".jpg",))
    broken = root / "images/100k/val/frame-003.jpg"
    broken.write_bytes(broken.read_bytes()[:200])
    for workers in (0, 1):
        recipe = make_recipe(root, data={"workers": workers}, output=str(tmp_path / f"run{workers}"))
        with pytest.raises(ImageError, match=r"frame-003\.jpg") as caught:
            train(recipe, progress=False)
        assert "Traceback" not in str(caught.value)


def test_a_wrong_folder_leaves_no_output(make_recipe, tmp_path):
    recipe = make_recipe(tmp_path / "nowhere", output=str(tmp_path / "run"))
    with pytest.raises(DatasetError, match="nowhere"):
        train(recipe, progress=False)
    assert not (tmp_path / "run").exists()


def test_images_are_selected_by_prefix(run, make_recipe, blobs, tmp_path):
    recipe = make_recipe(blobs, data={"only": ["nothing"]}, output=str(tmp_path / "x"))
    with pytest.raises(DatasetError, match=r"no image of split 'val' is annotated .* selected by data.only"):
        train(recipe, progress=False)


def test_a_non_finite_loss_names_itself_and_the_images(batch):
    terms = {"box_l1": torch.tensor(1.0), "semantic_dice": torch.tensor(float("nan"))}
    with pytest.raises(NonFiniteLossError, match=r"step 8: loss semantic_dice is nan on images full, drivable only;"):
        check_finite(terms, batch, 7)


def test_a_diverging_run_stops_with_the_reason(run):
    with pytest.raises(NonFiniteLossError, match=r"step \d+: loss \w+ is (nan|inf|-inf) on images blob"):
        run(steps=60, learning_rate=1e30, gradient_clip=0.0, warmup_steps=0)


def test_the_learning_rate_warms_up_and_falls(make_recipe):
    settings = make_recipe(train={"steps": 100, "warmup_steps": 10}).train
    factors = [learning_rate_factor(step, settings) for step in range(100)]
    assert factors[0] == pytest.approx(1 / 11)
    assert factors[:11] == sorted(factors[:11])
    assert factors[10:] == sorted(factors[10:], reverse=True)
    assert factors[-1] < 0.001
    dropped = msgspec.structs.replace(settings, schedule="step")
    assert [learning_rate_factor(step, dropped) for step in (20, 69, 70, 99)] == [1, 1, 0.1, 0.1]
    twice = msgspec.structs.replace(dropped, drop_at=(0.7, 0.9))
    found = [learning_rate_factor(step, twice) for step in (20, 69, 70, 89, 90, 99)]
    assert found == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


def test_the_paper_recipe_has_the_learning_rates_of_each_method(net):
    """Sparse R-CNN 2.5e-5, MaskFormer 1e-4 with a tenth for the backbone, as in their configurations."""
    settings = load_recipe(Path("config/lv_adapter.yaml")).train
    names = {id(parameter): name for name, parameter in net.named_parameters()}
    rates = {names[id(each)]: group["lr"] for group in parameter_groups(net, settings) for each in group["params"]}
    assert len(rates) == len(names)
    for name, rate in rates.items():
        expected = {"backbone": 1e-5, "detection": 2.5e-5}.get(name.partition(".")[0], 1e-4)
        assert rate == pytest.approx(expected), name
    assert len(parameter_groups(net, msgspec.structs.replace(settings, detection_multiplier=1.0))) == 4


def test_norms_biases_and_learned_inputs_do_not_decay(net, make_recipe):
    settings = make_recipe(train={"weight_decay": 0.1, "backbone_multiplier": 0.5, "learning_rate": 1.0}).train
    names = {id(parameter): name for name, parameter in net.named_parameters()}
    groups = parameter_groups(net, settings)
    of = {names[id(p)]: group for group in groups for p in group["params"]}
    assert len(of) == len(names)
    assert of["backbone.features.conv1.weight"]["weight_decay"] == 0.1
    assert of["backbone.features.conv1.weight"]["lr"] == 0.5
    for name in ("detection.boxes", "semantic.query_content", "neck.lateral.0.1.weight", "semantic.classify.bias"):
        assert (of[name]["weight_decay"], of[name]["lr"]) == (0.0, 1.0)


def test_a_run_goes_on_with_other_data_to_measure_on_but_not_to_learn_from(blobs, make_recipe, tmp_path, stop_at):
    root = shutil.copytree(blobs, tmp_path / "data")

    def start(**data):
        train(make_recipe(root, data={"root": str(root), **data}, output=str(tmp_path / "run")), resume=True)

    with stop_at(3):
        start()
    labels = root / "labels/det_20/det_val.json"
    content = labels.read_bytes()
    labels.write_bytes(content.replace(b'"car"', b'"bus"'))
    with pytest.raises(
        ConfigError, match=r"inputs of this run changed since it began \(detection labels of val\); restore them"
    ):
        start()
    labels.write_bytes(content)
    with pytest.raises(ConfigError, match=r"inputs of this run changed since it began \(data.pseudo\)"):
        start(pseudo=str(blobs))
    start(val_only=["blob1"])
    assert json.loads((tmp_path / "run/metrics.json").read_text())["detection"]["images"] == 1


def test_a_final_file_cannot_be_resumed(run, tmp_path):
    run()
    folder = tmp_path / "run"
    full = load_checkpoint(folder / CHECKPOINT)
    save_checkpoint(folder / CHECKPOINT, Checkpoint(**{**_fields(full), "resume": None}))
    with pytest.raises(CheckpointError, match=r"resume needs checkpoint.pt, not model.pt"):
        run(resume=True)


def _fields(checkpoint):
    return {field.name: getattr(checkpoint, field.name) for field in dataclasses.fields(checkpoint)}


@pytest.mark.slow
def test_two_processes_train_together_and_resume(blobs, make_recipe, tmp_path):
    def launch(steps, *arguments):
        train_changes = {"steps": steps, "batch_size": 1, "schedule": "step", "drop_at": 1.0}
        recipe = make_recipe(blobs, train=train_changes, output=str(tmp_path / "run"))
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump(recipe_to_dict(recipe)))
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
        command = [*launcher, "-m", "lvad_training.cli", "run", str(path), "--quiet", *arguments]
        subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"})
        return losses(tmp_path / "run")

    assert len(launch(4)) == 4
    whole = losses(tmp_path / "run")
    assert len(load_checkpoint(tmp_path / "run" / CHECKPOINT).resume["random"]) == 2
    (tmp_path / "run" / "model.pt").unlink()
    assert launch(4, "--resume") == whole
    assert (tmp_path / "run" / "model.pt").is_file()
