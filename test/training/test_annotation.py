import json
import pickle
import shutil

import numpy as np
import pytest

from lvad_perception.datasets.bdd100k import open_split
from lvad_training.data.annotation import Annotation
from lvad_training.data.settings import Lists

SIZE_HW = (24, 32)


@pytest.fixture
def split(tree):
    """Four images: a has everything, b boxes and a drivable mask, c a semantic mask, d nothing."""
    for name in "abcd":
        tree.image(name)
    tree.detections({"a": [("car", 1, 2, 9, 9)], "b": []})
    for name in "ac":
        tree.mask(f"labels/sem_seg/masks/train/{name}.png", np.full(SIZE_HW, 1))
    for name in "ab":
        tree.mask(f"labels/drivable/masks/train/{name}.png", np.full(SIZE_HW, 1))
    return open_split(tree.root, "train")


@pytest.fixture
def pseudo(tree, split):
    """Labels of b, c and d by teachers: boxes for b, c and d, drivable masks for c and d, semantic masks for b."""
    folder = tree.root.parent / "pseudo"
    for name in "bcd":
        (folder / "images/100k/train").mkdir(parents=True, exist_ok=True)
        shutil.copy(split.image_path("abcd".index(name)), folder / "images/100k/train")
    boxes = [{"category": "bus", "box2d": {"x1": 0, "y1": 0, "x2": 9, "y2": 9}}] * 2
    path = folder / "labels/det_20/det_train.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps([{"name": f"{name}.jpg", "labels": boxes} for name in "bcd"]))
    for place, names in (("sem_seg", "b"), ("drivable", "cd")):
        for name in names:
            tree.mask(folder / f"labels/{place}/masks/train/{name}.png", np.full(SIZE_HW, 2))
    return open_split(folder, "train")


def lists(**images):
    return Lists("disjoint_normal", 0, "train", False, {task: tuple(names) for task, names in images.items()})


def names(split, flags):
    return "".join(split.name_of(int(index)) for index in np.flatnonzero(flags))


def told(truth):
    """What a truth says: number of boxes and the value of each mask, None where it says nothing."""
    masks = [None if mask is None else int(mask[0, 0]) for mask in (truth.semantic, truth.drivable)]
    return (None if truth.boxes is None else len(truth.boxes), *masks)


def test_without_lists_and_pseudo_labels_it_is_the_splits_own(split):
    annotation = Annotation(split)
    assert len(annotation) == 4
    for index in range(4):
        assert told(annotation.truth(index, SIZE_HW)) == told(split.truth(index, SIZE_HW))
    assert names(split, annotation.labelled_for("semantic")) == "ac"


def test_only_what_the_lists_name_counts(split):
    annotation = Annotation(split, lists=lists(detection="b", semantic="a"))
    assert [told(annotation.truth(index, SIZE_HW)) for index in range(4)] == [
        (None, 1, None),
        (0, None, None),
        (None, None, None),
        (None, None, None),
    ]
    assert names(split, annotation.true_for("detection")) == "b"
    assert not annotation.true_for("drivable").any()


def test_pseudo_labels_fill_only_the_gaps(split, pseudo):
    annotation = Annotation(split, pseudo=pseudo)
    assert [told(annotation.truth(index, SIZE_HW)) for index in range(4)] == [
        (1, 1, 1),  # all true, and the pseudo split does not have it
        (0, 2, 1),  # annotated-and-empty is no gap
        (2, 1, 2),
        (2, None, 2),
    ]
    for task, labelled in {"detection": "abcd", "semantic": "abc", "drivable": "abcd"}.items():
        assert names(split, annotation.labelled_for(task)) == labelled
    assert names(split, annotation.true_for("detection")) == "ab"


def test_pseudo_labels_fill_what_the_lists_leave_out(split, pseudo):
    annotation = Annotation(split, lists=lists(detection="a", semantic="c", drivable="b"), pseudo=pseudo)
    assert [told(annotation.truth(index, SIZE_HW)) for index in range(4)] == [
        (1, None, None),
        (2, 2, 1),
        (2, 1, 2),
        (2, None, 2),
    ]


def test_other_tasks_are_not_read(split, pseudo):
    split.mask_path(0, "semantic").write_bytes(b"broken")
    assert told(Annotation(split, tasks=["detection"]).truth(0, SIZE_HW)) == (1, None, None)
    annotation = Annotation(split, pseudo=pseudo)
    assert told(annotation.truth(0, SIZE_HW, "drivable")) == (None, None, 1)
    assert told(annotation.truth(2, SIZE_HW, "detection")) == (2, None, None)


def test_it_can_be_pickled(split, pseudo):
    annotation = Annotation(split, lists=lists(detection="a", drivable="b"), pseudo=pseudo)
    there = pickle.loads(pickle.dumps(annotation))
    assert [told(there.truth(i, SIZE_HW)) for i in range(4)] == [told(annotation.truth(i, SIZE_HW)) for i in range(4)]
