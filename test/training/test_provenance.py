"""Inputs of a training: every changed input is named, and nothing else counts."""

import json
import os
import shutil
from dataclasses import replace

import cv2
import pytest
import torch

from lvad_perception import provenance as digests
from lvad_perception.errors import ConfigError
from lvad_perception.provenance import changed, content_digest, digest, file_digest
from lvad_training import checkpoints
from lvad_training.checkpoints import Checkpoint, save_checkpoint
from lvad_training.data.settings import make_lists, write_lists
from lvad_training.training.provenance import (
    check_resumed,
    checkpoint_digest,
    data_inputs,
    fingerprint,
    measuring_inputs,
    pseudo_inputs,
    start_inputs,
    training_inputs,
)

from .conftest import SMALL_CONVOLUTIONS

TASKS = ("detection", "semantic", "drivable")


@pytest.fixture
def data(blobs, tmp_path):
    """A copy of the data set, to be changed."""
    return shutil.copytree(blobs, tmp_path / "data")


def rewrite(path, content):
    """New content at a later time, as editors and copies leave it."""
    before = path.stat().st_mtime_ns
    path.write_bytes(content)
    os.utime(path, ns=(before + 10**9, before + 10**9))


def move_a_box(root):
    path = root / "labels/det_20/det_val.json"
    entries = json.loads(path.read_text())
    entries[2]["labels"][0]["box2d"]["x1"] += 1
    rewrite(path, json.dumps(entries).encode())


def change_a_pixel(root, task="sem_seg"):
    path = root / f"labels/{task}/masks/val/blob1.png"
    mask = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    mask[0, 0] = 0 if mask[0, 0] else 1
    rewrite(path, cv2.imencode(".png", mask)[1].tobytes())


def exchange_a_byte(root):
    """The size stays."""
    path = root / "labels/sem_seg/masks/val/blob1.png"
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    rewrite(path, bytes(content))


class TestData:
    @pytest.mark.parametrize(
        ("change", "name"),
        [
            (move_a_box, "detection labels of val"),
            (change_a_pixel, "semantic labels of val"),
            (exchange_a_byte, "semantic labels of val"),
            (lambda root: change_a_pixel(root, "drivable"), "drivable labels of val"),
            (lambda root: (root / "labels/drivable/masks/val/blob1.png").unlink(), "drivable labels of val"),
            (lambda root: rewrite(root / "images/100k/val/blob3.png", b"another"), "images of val"),
        ],
    )
    def test_whatever_changes_is_named(self, data, make_recipe, change, name):
        recipe = make_recipe(data)
        before = data_inputs(recipe, TASKS)
        change(data)
        assert changed(before, data_inputs(recipe, TASKS)) == [name]

    def test_labels_of_other_tasks_do_not_count(self, data, make_recipe):
        recipe = make_recipe(data)
        before = data_inputs(recipe, ["detection"])
        change_a_pixel(data)
        assert data_inputs(recipe, ["detection"]) == before

    def test_the_same_data_elsewhere_and_at_another_time_are_the_same(self, data, tmp_path, make_recipe):
        before = data_inputs(make_recipe(data), TASKS)
        moved = shutil.copytree(data, tmp_path / "moved", copy_function=shutil.copyfile)
        assert data_inputs(make_recipe(moved), TASKS) == before

    def test_lists(self, data, tmp_path, make_recipe):
        from lvad_perception.datasets.bdd100k import open_split

        path = tmp_path / "lists.json"
        recipe = make_recipe(data, data={"lists": str(path)})
        inputs = []
        for seed in (0, 1):
            write_lists(make_lists(open_split(data, "val"), setting="disjoint_balance", seed=seed), path)
            inputs.append(data_inputs(recipe, TASKS))
        assert changed(*inputs) == ["data.lists"]

    def test_anybodys_pseudo_labels(self, data, tmp_path, make_recipe):
        own = shutil.copytree(data, tmp_path / "own")
        recipe = make_recipe(data, data={"pseudo": str(own)})
        before = data_inputs(recipe, TASKS)
        move_a_box(own)
        assert changed(before, data_inputs(recipe, TASKS)) == ["data.pseudo"]
        assert changed(before, data_inputs(make_recipe(data), TASKS)) == ["data.pseudo"]

    def test_pseudo_labels_that_are_being_made_are_refused(self, data, tmp_path, make_recipe):
        (tmp_path / "pseudo/unfinished").mkdir(parents=True)
        with pytest.raises(ConfigError, match="these pseudo labels are not finished; go on with them first"):
            data_inputs(make_recipe(data, data={"pseudo": str(tmp_path / "pseudo")}), TASKS)


class TestStart:
    def test_the_backbones_file(self, data, tmp_path, make_recipe):
        path, found = tmp_path / "backbone.pth", []
        recipe = make_recipe(data, model={"backbone": {"weights": str(path)}})
        for content in (b"one", b"two"):
            path.write_bytes(content)
            found.append(training_inputs(recipe))
        moved = path.rename(tmp_path / "moved.pth")
        assert changed(*found) == ["model.backbone.weights"]
        assert training_inputs(make_recipe(data, model={"backbone": {"weights": str(moved)}})) == found[1]

    def test_a_shipped_file(self, tmp_path, make_recipe, net, monkeypatch):
        monkeypatch.setattr(checkpoints, "SHIPPED", tmp_path)
        recipe = make_recipe(train={"start_from": "shipped/one"}, model={"backbone": {"weights": "shipped/one"}})
        found = []
        for bias in (0.0, 1.0):
            weights = {**net.state_dict(), "neck.lateral.0.1.bias": torch.full((16,), bias)}
            save_checkpoint(tmp_path / "one.pt", Checkpoint(make_recipe(), 1, weights))
            found.append(start_inputs(recipe))
        assert changed(*found) == ["model.backbone.weights", "train.start_from"]

    def test_a_checkpoint_counts_by_what_it_computes(self, tmp_path, make_recipe, net):
        path = tmp_path / "model.pt"
        made = Checkpoint(make_recipe(), 1, net.state_dict())
        save_checkpoint(path, made)
        before = checkpoint_digest(path)
        save_checkpoint(path, replace(made, metrics={"measured": "again"}, version="9", recipe=make_recipe("moved")))
        assert checkpoint_digest(path) == before
        save_checkpoint(path, replace(made, weights={**made.weights, "more": torch.zeros(1)}))
        assert checkpoint_digest(path) != before

    def test_the_text_encoders_files(self, tmp_path, make_recipe, tiny_text_encoder):
        folder = shutil.copytree(tiny_text_encoder, tmp_path / "bert")
        tower = {"kind": "huggingface", "name": str(folder)}
        recipe = make_recipe(model={"language": {"text_encoder": tower}})
        before = start_inputs(recipe)
        rewrite(folder / "vocab.txt", (folder / "vocab.txt").read_bytes().replace(b"road", b"lane"))
        assert changed(before, start_inputs(recipe)) == ["model.language.text_encoder"]

    def test_teachers_and_what_is_asked_of_them(self, data, tmp_path, make_recipe, net):
        path = tmp_path / "teacher.pt"
        save_checkpoint(path, Checkpoint(make_recipe(), 1, net.state_dict()))
        stages = {"teach": {"steps": 1}}
        before = pseudo_inputs(make_recipe(data, stages=stages), {"semantic": path})
        again = make_recipe(data, stages=stages, loss={"detection": 2.0}, data={"workers": 1, "augment": {"flip": 0.1}})
        assert pseudo_inputs(again, {"semantic": path}) == before
        wider = make_recipe(data, stages=stages, model={"network_hw": [64, 128]})  # the student's
        assert pseudo_inputs(wider, {"semantic": path}) == before
        fewer = make_recipe(data, stages=stages, model={"max_detections": 3})
        assert changed(before, pseudo_inputs(fewer, {"semantic": path})) == ["model"]
        stricter = make_recipe(data, stages={**stages, "pseudo": {"mask_confidence": 0.9}})
        assert changed(before, pseudo_inputs(stricter, {"semantic": path})) == ["pseudo"]
        save_checkpoint(path, Checkpoint(make_recipe(model={"network_hw": [64, 128]}), 1, net.state_dict()))
        assert changed(before, pseudo_inputs(make_recipe(data, stages=stages), {"semantic": path})) == [
            "teacher of semantic"
        ]
        others = {name: value + 1 for name, value in net.state_dict().items()}
        save_checkpoint(path, Checkpoint(make_recipe(), 1, others))
        assert changed(before, pseudo_inputs(make_recipe(data, stages=stages), {"semantic": path})) == [
            "teacher of semantic"
        ]


FREE = [
    {"output": "elsewhere"},
    *({"data": changes} for changes in ({"root": "x"}, {"workers": 3}, {"val_split": "x"}, {"val_only": ["x"]})),
    *({"train": {key: 1}} for key in ("checkpoint_every", "evaluate_every")),
    {"model": {"score_threshold": 0.9}},
    {"model": {"max_detections": 3}},
]
BOUND = [
    *({"data": {key: ["x"]}} for key in ("exclude", "only", "cameras")),
    {"data": {"augment": {"flip": 0.1}}},
    {"data": {"train_split": "x"}},
    {"data": {"sampler": "uniform"}},
    *({"train": {key: 7}} for key in ("steps", "batch_size", "accumulate", "learning_rate", "seed", "warmup_steps")),
    {"train": {"precision": "bf16"}},
    {"loss": {"detection": 2.0}},
    {"model": {"neck_width": 32}},
]


class TestRecipe:
    @pytest.mark.parametrize("changes", FREE, ids=json.dumps)
    def test_what_does_not_change_the_weights_may_differ(self, make_recipe, changes):
        assert fingerprint(make_recipe(**_with_root(changes))) == fingerprint(make_recipe())

    @pytest.mark.parametrize(
        ("model", "expected"),
        [({}, "a28a1d221f3e"), (SMALL_CONVOLUTIONS, "130ab92d9d84")],
        ids=["queries", "convolutions"],
    )
    def test_keys_that_came_later_leave_the_digests_of_older_runs(self, make_recipe, model, expected):
        """Digests that version 0.1 wrote into checkpoints and stage.json."""
        digests = {section: digest(value)[:12] for section, value in fingerprint(make_recipe(model=model)).items()}
        assert digests == {"data": "07dd1de34fa7", "model": expected, "loss": "b3052bd6795d", "train": "260ad9e578ee"}

    def test_frozen_batch_norm_counts_unless_the_backbone_is_frozen(self, make_recipe):
        for freeze, counts in (("nothing", True), ("backbone", False)):
            one, other = (
                fingerprint(make_recipe(train={"freeze": freeze, "start_from": "a.pt", "batch_norm": mode}))
                for mode in ("auto", "batch")
            )
            assert (one != other) is counts

    @pytest.mark.parametrize("changes", BOUND, ids=json.dumps)
    def test_what_does_may_not(self, make_recipe, changes):
        assert fingerprint(make_recipe(**_with_root(changes))) != fingerprint(make_recipe())

    @pytest.mark.parametrize(
        ("changes", "names"),
        [
            ({"data": {"val_only": ["blob1"]}}, ["data"]),
            ({"model": {"score_threshold": 0.9}}, ["model"]),
            ({"train": {"steps": 9}}, []),
        ],
    )
    def test_what_metrics_depend_on_beside_the_weights(self, data, make_recipe, changes, names):
        assert changed(measuring_inputs(make_recipe(data)), measuring_inputs(make_recipe(data, **changes))) == names

    def test_labels_that_are_measured_on(self, data, make_recipe):
        before = measuring_inputs(make_recipe(data))
        move_a_box(data)
        assert changed(before, measuring_inputs(make_recipe(data))) == ["detection labels of val"]


BEFORE = {"images of train": "a", "model.backbone.weights": "b", "processes": "2"}


class TestResume:
    @pytest.mark.parametrize(
        ("now", "named"),
        [
            ({"images of train": "x"}, r"\(images of train\); restore them, or start anew"),
            ({"processes": "1"}, r"\(processes; it began with processes=2\)"),
            ({"data.pseudo": "new"}, r"\(data.pseudo\)"),
            ({"model.backbone.weights": "x"}, r"\(model.backbone.weights\)"),
        ],
    )
    def test_what_changed_is_named(self, tmp_path, now, named):
        with pytest.raises(ConfigError, match=rf"inputs of this run changed since it began {named}"):
            check_resumed(tmp_path, BEFORE, {**BEFORE, **now})

    def test_a_file_that_it_started_from_may_be_gone_and_old_checkpoints_say_nothing(self, tmp_path):
        check_resumed(tmp_path, BEFORE, {**BEFORE, "model.backbone.weights": digests.ABSENT})
        check_resumed(tmp_path, None, BEFORE)

    def test_processes_do_not_matter_once_all_steps_are_done(self, tmp_path):
        check_resumed(tmp_path, BEFORE, {**BEFORE, "processes": "8"}, ended=True)
        with pytest.raises(ConfigError, match=r"\(images of train\)"):
            check_resumed(tmp_path, BEFORE, {**BEFORE, "images of train": "x"}, ended=True)


class TestContent:
    def test_what_was_read_once_is_not_read_again(self, tmp_path, monkeypatch):
        path = tmp_path / "file"
        path.write_bytes(b"content")
        before = content_digest([path], root=tmp_path, cache_dir=tmp_path / "cache")
        monkeypatch.setattr(digests, "_sha256", None)  # calling it would raise TypeError
        assert content_digest([path], root=tmp_path, cache_dir=tmp_path / "cache") == before

    def test_names_count_but_not_the_order_in_which_files_are_given(self, tmp_path):
        for name in "ab":
            (tmp_path / name).write_text(name)
        both = content_digest([tmp_path / "a", tmp_path / "b"], root=tmp_path)
        assert content_digest([tmp_path / "b", tmp_path / "a"], root=tmp_path) == both
        (tmp_path / "b").rename(tmp_path / "c")
        assert content_digest([tmp_path / "a", tmp_path / "c"], root=tmp_path) != both

    def test_a_file_counts_by_its_content_alone(self, tmp_path):
        (tmp_path / "a").write_text("same")
        (tmp_path / "b").write_text("same")
        assert file_digest(tmp_path / "a") == file_digest(tmp_path / "b") != digests.ABSENT
        assert file_digest(tmp_path / "c") == digests.ABSENT


def _with_root(changes):
    """``make_recipe`` takes the root by itself."""
    if "root" in changes.get("data", {}):
        return {"root": changes["data"]["root"]}
    return changes
