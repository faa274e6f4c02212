import pickle
from dataclasses import fields, is_dataclass
from pathlib import Path

import numpy as np
import pytest

from lvad_perception.datasets.bdd100k import open_split
from lvad_perception.errors import DatasetError, ImageError
from lvad_perception.vocabulary import TASKS
from lvad_training.data import loader
from lvad_training.data.batches import (
    evaluation_batches,
    labelled_images,
    selected_images,
    teacher_images,
    training_batches,
    unlabelled_images,
)
from lvad_training.data.settings import Lists, write_lists

BOXES = {"frame-000", "frame-001", "frame-002", "frame-004", "frame-005", "frame-006"}
SEMANTIC = {"frame-001", "frame-003", "frame-005", "frame-007"}
DRIVABLE = {"frame-000", "frame-003", "frame-006"}
"""What ``small_split`` is annotated for."""


@pytest.fixture
def lists(tmp_path):
    """File of lists that name one or two images per task, two of them (001, 003) annotated for another task too."""
    images = {"detection": ("frame-000", "frame-001"), "semantic": ("frame-003",), "drivable": ("frame-006",)}
    write_lists(Lists("disjoint_normal", 0, "val", True, images), tmp_path / "lists.json")
    return str(tmp_path / "lists.json")


@pytest.fixture
def pseudo(make_small_split, tmp_path):
    """Pseudo labels with drivable masks for all images, and nothing else."""
    root = make_small_split(tmp_path / "pseudo")
    (root / "labels/det_20/det_val.json").unlink()
    for folder in ("labels/sem_seg/masks/val", "labels/drivable/masks/val"):
        for mask in (root / folder).iterdir():
            mask.unlink()
    source = open_split(make_small_split(tmp_path / "other"), "val").mask_path(0, "drivable").read_bytes()
    for index in range(8):
        (root / f"labels/drivable/masks/val/frame-{index:03d}.png").write_bytes(source)
    return str(root)


def labelled(recipe, *, steps=40):
    """Task -> names of the images that training uses and that have targets for it."""
    found = {task: set() for task in TASKS} | {"any": set()}
    for batch in training_batches(recipe, first=0, last=steps, process=0, processes=1):
        for name, targets in zip(batch.names, batch.targets, strict=True):
            has = (targets.boxes_xyxy, targets.semantic, targets.drivable)
            found["any"].add(name)
            for task, target in zip(TASKS, has, strict=True):
                if target is not None:
                    found[task].add(name)
    return found


def same(one, other):
    """Whether dataclasses, lists, tensors and arrays hold the same values."""
    if is_dataclass(one):
        return type(one) is type(other) and all(
            same(getattr(one, field.name), getattr(other, field.name)) for field in fields(one)
        )
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and bool(np.array_equal(one, other))


def names(split, frames):
    return {split.name_of(int(frame)) for frame in frames}


def test_by_default_every_annotation_counts(small_split, make_recipe):
    found = labelled(make_recipe(small_split))
    assert (found["detection"], found["semantic"], found["drivable"]) == (BOXES, SEMANTIC, DRIVABLE)
    assert found["any"] == BOXES | SEMANTIC | DRIVABLE


def test_lists_leave_other_annotation_out(small_split, make_recipe, lists):
    found = labelled(make_recipe(small_split, data={"lists": lists}))
    assert found["detection"] == {"frame-000", "frame-001"}
    assert found["semantic"] == {"frame-003"}
    assert found["drivable"] == {"frame-006"}
    assert found["any"] == {"frame-000", "frame-001", "frame-003", "frame-006"}


def test_images_without_a_label_for_the_model_are_not_used(small_split, make_recipe, lists):
    alone = {"detection": None, "semantic": None}
    assert labelled(make_recipe(small_split, model=alone))["any"] == DRIVABLE
    found = labelled(make_recipe(small_split, model=alone, data={"lists": lists}))
    assert found == {"detection": set(), "semantic": set(), "drivable": {"frame-006"}, "any": {"frame-006"}}


def test_pseudo_labels_fill_the_gaps(small_split, make_recipe, lists, pseudo):
    found = labelled(make_recipe(small_split, data={"lists": lists, "pseudo": pseudo}))
    assert found["detection"] == {"frame-000", "frame-001"}
    assert found["drivable"] == found["any"] == {f"frame-{index:03d}" for index in range(8)}


@pytest.mark.parametrize("sampler", ["uniform", "weighted", "round_robin"])
def test_samplers_learn_one_task_per_step_on_its_images(small_split, make_recipe, lists, sampler):
    recipe = make_recipe(small_split, data={"lists": lists, "sampler": sampler})
    for batch in training_batches(recipe, first=0, last=20, process=0, processes=1):
        present = [
            tuple(target is not None for target in (t.boxes_xyxy, t.semantic, t.drivable)) for t in batch.targets
        ]
        assert present in ([(True, False, False)] * 2, [(False, True, False)] * 2, [(False, False, True)] * 2)
    found = labelled(recipe)
    assert found["detection"] == {"frame-000", "frame-001"}
    assert found["semantic"] == {"frame-003"}


@pytest.mark.parametrize("sampler", ["shuffle", "weighted"])
def test_batches_can_start_at_any_micro_step(small_split, make_recipe, sampler):
    recipe = make_recipe(small_split, data={"sampler": sampler})

    def images(first):
        return list(training_batches(recipe, first=first, last=8, process=1, processes=2))

    whole, resumed = images(0), images(5)
    assert [batch.names for batch in resumed] == [batch.names for batch in whole[5:]]
    assert all((one.images == other.images).all() for one, other in zip(resumed, whole[5:], strict=True))


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_processes_give_the_same_batches_however_they_start(small_split, make_recipe, monkeypatch, method):
    monkeypatch.setattr(loader, "START_METHOD", method)
    monkeypatch.chdir(small_split.parent)  # long after Python started

    def read(workers):
        recipe = make_recipe(small_split.name, data={"workers": workers})
        training = list(training_batches(recipe, first=1, last=4, process=0, processes=1))
        return training, [pair for batch in evaluation_batches(recipe, "val", optional=False) for pair in batch]

    (training, evaluation), (training_here, evaluation_here) = read(1), read(0)
    assert len(training) == 3
    assert len(evaluation) == 8
    assert same(training, training_here)
    assert same(evaluation, evaluation_here)
    assert not same(training[0], training[1])


def test_python_does_not_choose_how_processes_start(small_split, make_recipe):
    batches = training_batches(make_recipe(small_split, data={"workers": 1}), first=0, last=1, process=0, processes=1)
    assert batches.loader.multiprocessing_context.get_start_method() == "forkserver"


@pytest.mark.parametrize("workers", [0, 1])
def test_a_bad_file_ends_the_batches_with_its_sentence(make_small_split, make_recipe, tmp_path, workers):
    root = make_small_split(tmp_path / "spoilt")
    path = open_split(root, "val").image_path(0)
    path.write_bytes(path.read_bytes()[:-40])
    recipe = make_recipe(root, data={"workers": workers})
    with pytest.raises(ImageError, match=rf"{path} is a truncated image"):
        list(training_batches(recipe, first=0, last=4, process=0, processes=1))


def test_what_reaches_other_processes_is_small(small_split, make_recipe, lists, pseudo):
    recipe = make_recipe(small_split, data={"lists": lists, "pseudo": pseudo})
    for batches in (
        training_batches(recipe, first=0, last=1, process=0, processes=1),
        evaluation_batches(recipe, "val", optional=False),
    ):
        assert len(pickle.dumps(batches.loader.dataset)) < 8000


def test_a_sampler_needs_images_of_every_task(small_split, make_recipe):
    data = {"sampler": "uniform", "only": ["frame-002", "frame-004"]}
    with pytest.raises(
        DatasetError, match=r"no training image is annotated for semantic, drivable, and data.sampler un"
    ):
        training_batches(make_recipe(small_split, data=data), first=0, last=1, process=0, processes=1)


def test_lists_that_select_nothing_are_named(small_split, make_recipe, lists):
    recipe = make_recipe(small_split, data={"lists": lists, "exclude": ["frame-006"]}, model={"semantic": None})
    recipe_of_one = make_recipe(
        small_split, data={"lists": lists, "exclude": ["frame-006"]}, model={"semantic": None, "detection": None}
    )
    assert labelled(recipe)["any"] == {"frame-000", "frame-001"}
    with pytest.raises(DatasetError, match=r"annotated for drivable under .*lists\.json and selected by data.only"):
        labelled(recipe_of_one)


def test_lists_of_another_data_set_are_refused(small_split, make_recipe, lists):
    other = Lists("full", 0, "val", False, {"semantic": ("frame-999",)})
    write_lists(other, Path(lists))
    with pytest.raises(DatasetError, match=r"lists\.json: image 'frame-999' is not in split 'val'"):
        labelled(make_recipe(small_split, data={"lists": lists}))


def test_pseudo_labels_that_are_not_there_are_named(small_split, make_recipe, tmp_path):
    with pytest.raises(DatasetError, match="gone is not a folder"):
        labelled(make_recipe(small_split, data={"pseudo": str(tmp_path / "gone")}))


def evaluated(recipe, split="val"):
    batches = evaluation_batches(recipe, split, optional=False)
    return [sample.name for batch in batches for sample, _ in batch]


def test_a_sequence_can_be_held_out_of_the_training_split(small_split, make_recipe):
    held_out = ("frame-002", "frame-005")
    recipe = make_recipe(small_split, data={"exclude": held_out, "val_only": held_out})
    assert evaluated(recipe) == ["frame-002", "frame-005"]
    assert labelled(recipe)["any"] == (BOXES | SEMANTIC | DRIVABLE) - set(held_out)
    assert names(open_split(small_split, "val"), selected_images(recipe)).isdisjoint(held_out)


def test_evaluation_looks_at_all_annotation(small_split, make_recipe, lists):
    recipe = make_recipe(small_split, data={"lists": lists, "val_only": ["frame-005"]})
    [[(_, truth)]] = evaluation_batches(recipe, "val", optional=False)
    assert truth.boxes is not None
    assert truth.semantic is not None


def test_validation_prefixes_select_from_the_validation_split_alone(small_split, make_recipe):
    recipe = make_recipe(small_split, data={"val_split": "elsewhere", "val_only": ["frame-005"]})
    assert len(evaluated(recipe, "val")) == 8
    assert evaluation_batches(recipe, "elsewhere", optional=True) is None


def test_validation_prefixes_that_select_nothing_are_named(small_split, make_recipe):
    recipe = make_recipe(small_split, data={"val_only": ["x", "y"]})
    with pytest.raises(
        DatasetError, match=r"no image of split 'val' has a name that starts with x or y; correct data\.v"
    ):
        evaluation_batches(recipe, "val", optional=True)


def test_a_teacher_learns_from_labelled_images_and_labels_the_others(small_split, make_recipe, lists):
    recipe = make_recipe(small_split, data={"exclude": ["frame-007"]})
    assert names(*labelled_images(recipe, "semantic")) == SEMANTIC - {"frame-007"}
    assert names(*unlabelled_images(recipe, "semantic")) == (BOXES | DRIVABLE) - SEMANTIC
    listed = make_recipe(small_split, data={"lists": lists}, model={"detection": None, "drivable": None})
    assert names(*labelled_images(listed, "semantic")) == {"frame-003"}
    assert names(*unlabelled_images(listed, "semantic")) == {"frame-000", "frame-001", "frame-006"}


def test_pseudo_labels_are_no_labels_for_a_teacher(small_split, make_recipe, lists, pseudo):
    recipe = make_recipe(small_split, data={"lists": lists, "pseudo": pseudo})
    assert names(*labelled_images(recipe, "drivable")) == {"frame-006"}


def test_a_teacher_sees_images_in_the_given_order(small_split, make_recipe):
    recipe = make_recipe(small_split)
    batches = list(teacher_images(recipe, open_split(small_split, "val"), [6, 1, 3]))
    assert [[sample.name for sample in batch] for batch in batches] == [["frame-006", "frame-001"], ["frame-003"]]
    assert batches[0][0].image.shape == (3, *recipe.model.network_hw)
