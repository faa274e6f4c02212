"""Two processes on the CPU are one training: losses, gradients, evaluation, errors and waits."""

import json
import shutil

import cv2
import numpy as np
import pytest
import torch

from lvad_perception.errors import ConfigError, EvaluationError, ImageError, NonFiniteLossError
from lvad_training.checkpoints import Checkpoint, load_checkpoint, save_checkpoint
from lvad_training.recipe.config import recipe_to_dict
from lvad_training.reproduce.run import ReproduceError
from lvad_training.training.processes import WAIT_TIMEOUT

from . import two_processes
from .test_pretrain_frames import write_drive


@pytest.fixture(scope="module")
def pair():
    """The two processes."""
    both = two_processes.TwoProcesses()
    yield both
    both.close()


@pytest.mark.parametrize("heads", ["queries", "convolutions"])
def test_half_of_the_batch_each_gives_the_losses_and_gradients_of_one_with_all(pair, heads):
    """However objects and annotation are spread: many here and few there, a task only in one, and in none."""
    first = [["full", "boxes"], ["masks", "drivable"], ["empty", "boxes"]]
    second = [["masks", "empty"], ["boxes", "empty"], ["boxes", "empty"]]
    terms, gradients = two_processes.run_steps(heads, [one + other for one, other in zip(first, second, strict=True)])
    results = pair.run(two_processes.run_own_steps, heads, [first, second])
    assert {name.partition("_")[0] for name in terms[0]} == {"box", "semantic", "drivable", "total"}
    assert {name.partition("_")[0] for name in terms[2]} == {"box", "total"}
    for their_terms, their_gradients in results:
        assert [one.keys() for one in their_terms] == [one.keys() for one in terms]
        for found, wanted in zip(their_terms, terms, strict=True):
            assert found == pytest.approx(wanted, rel=1e-4, abs=1e-5)
        for found, wanted in zip(their_gradients, gradients, strict=True):
            largest = max(float(value.abs().max()) for value in wanted.values())
            for name, value in wanted.items():
                torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-5 * largest, msg=name)


@pytest.mark.parametrize("language", [False, True], ids=["", "language"])
@pytest.mark.parametrize(
    ("task", "head", "section"),
    [
        ("detection", "sparse_rcnn", {}),
        ("detection", "fcos", {"strides": [4, 8, 16, 32, 64]}),
        ("detection", "fcos", {"strides": [8, 16, 32]}),
        ("detection", "fcos", {"strides": [32, 64]}),
        ("semantic", "maskformer", {"memory_stride": 32}),
        ("semantic", "maskformer", {"memory_stride": 16, "pixel_loss": True}),
        ("drivable", "maskformer", {"memory_stride": 4}),
        ("semantic", "semantic_fpn", {}),
        ("drivable", "semantic_fpn", {}),
    ],
    ids=str,
)
def test_every_network_of_one_task_trains(pair, task, head, section, language):
    """Whichever levels of the pyramid its head reads."""
    (losses, weights), other = pair.run(two_processes.train_alone, task, head, section, language)
    assert len(losses) == 3
    assert all(0 < loss < 1e4 for loss in losses)
    assert other == (losses, weights)


def test_batch_norm_is_synchronised_on_gpus_only(pair, blobs, tmp_path):
    for err in pair.run(two_processes.synchronise_batch_norm, str(blobs), str(tmp_path / "run")):
        assert isinstance(err, ConfigError)
        assert str(err) == "train.batch_norm: sync needs GPUs when there are several processes; use frozen or batch"
    assert not (tmp_path / "run").exists()


def test_a_loss_that_is_not_finite_in_one_ends_both_and_reproduce_goes_on_in_both(pair, make_base, tmp_path):
    steps = [[["full"], ["boxes"]], [["boxes"], ["drivable"]]]
    for err in pair.run(two_processes.run_own_steps, "convolutions", steps, ["drivable"]):
        assert isinstance(err, NonFiniteLossError)
        assert str(err).startswith("step 2: loss drivable_pixel is nan on images drivable; look at their labels")
    (one, trained), (other, _) = pair.run(two_processes.reproduce_table1, make_base(), tmp_path)
    for err in (one, other):
        assert isinstance(err, ReproduceError), err
        assert str(err).startswith("1 of 6 trainings")
    assert trained == ["zeroing", "weighted", "round_robin", "self_training", "lv_adapter-1+5"]
    assert "is nan on images masks" in (tmp_path / "table1.md").read_text()


def test_a_process_waits_no_longer_than_an_hour_nor_than_a_piece_of_work_takes(pair):
    assert pair.run(two_processes.group_timeout) == [WAIT_TIMEOUT, WAIT_TIMEOUT]
    (one, met), (other, met_there) = pair.run(two_processes.share_uneven_work, (1, 12))
    assert (one, other) == ([0], [*range(12)])
    assert met == met_there >= 3
    for err in pair.run(two_processes.share_uneven_work, (12, 2), (1, 1)):
        assert isinstance(err, ImageError)
        assert str(err) == "a.jpg is broken"


def test_a_shared_evaluation_gives_the_metrics_of_one_process(pair, make_recipe, blobs, net, tmp_path):
    path = tmp_path / "model.pt"
    save_checkpoint(path, Checkpoint(make_recipe(blobs), 4, net.state_dict()))
    metrics, frames, kept = two_processes.examine(path)
    for their_metrics, their_frames, their_kept in pair.run(two_processes.examine, path):
        assert their_metrics == metrics
        assert [name for name, *_ in their_frames] == [name for name, *_ in frames]
        for (_, losses, errors), (_, their_losses, their_errors) in zip(frames, their_frames, strict=True):
            assert their_losses == pytest.approx(losses, rel=1e-3)
            assert their_errors == pytest.approx(errors, rel=1e-3)
        assert their_kept == kept


def test_a_broken_mask_that_one_process_finds_leaves_the_model_of_both(pair, make_recipe, blobs, tmp_path):
    root, folder = tmp_path / "data", tmp_path / "run"
    shutil.copytree(blobs, root)
    mask = root / "labels/drivable/masks/val/blob5.png"
    whole = mask.read_bytes()
    mask.write_bytes(whole[:50])
    data = {"only": ["blob0", "blob1", "blob2", "blob3"]}
    recipe = make_recipe(root, data=data, train={"steps": 1, "batch_size": 1}, output=str(folder))
    for err in pair.run(two_processes.train_recipe, recipe_to_dict(recipe)):
        assert isinstance(err, EvaluationError), err
        assert "model.pt is finished, but was not evaluated" in str(err)
        assert "blob5.png" in str(err)
    assert load_checkpoint(folder / "model.pt").metrics is None
    assert not (folder / "metrics.json").exists()
    mask.write_bytes(whole)
    one, other = pair.run(two_processes.evaluate_run, folder)
    assert one == other
    assert one.drivable.images == 6
    assert load_checkpoint(folder / "model.pt").metrics == json.loads((folder / "metrics.json").read_text())


def test_videos_are_shared_for_pretraining(pair, tmp_path):
    for name in ("a.mp4", "b.mp4", "c.mp4"):
        write_drive(tmp_path / "drives" / name, count=20)
    cv2.imwrite(str(tmp_path / "drives/z.png"), np.zeros((8, 8, 3), np.uint8))
    (one, mine), (other, theirs) = pair.run(two_processes.list_frames, tmp_path / "drives", tmp_path / "keep")
    assert one == other
    assert [name for name in one if name.endswith("@0") or name == "z.png"] == [
        "a.mp4@0",
        "b.mp4@0",
        "c.mp4@0",
        "z.png",
    ]
    assert (mine, theirs) == (40, 20)
