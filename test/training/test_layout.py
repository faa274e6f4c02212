"""Detection of the data set that a folder holds, and training's errors for one that it cannot use."""

import re

import pytest

from lvad_perception.datasets import bdd100k
from lvad_perception.datasets.layout import find_splits, open_split, vocabulary_name
from lvad_perception.datasets.nuimages import NuImagesSplit
from lvad_perception.errors import DatasetError, VocabularyMismatchError
from lvad_training.data.batches import evaluation_batches, recipe_split, training_batches

from .nuimages_tree import street

NUIMAGES = {"vocabulary": "nuimages", "drivable": None}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    pytest.importorskip("pycocotools", reason="pycocotools, which makes the masks, is not installed")
    return street(tmp_path_factory.mktemp("street") / "nuimages", images=4).write()


@pytest.fixture
def recipe(root, make_recipe):
    """``recipe(**data)``: a small recipe on the tree."""
    return lambda folder=root, **data: make_recipe(
        folder, model=NUIMAGES, data={"train_split": "train", "val_split": "train", **data}
    )


def test_each_folder_is_known(root, blobs):
    assert (vocabulary_name(root), find_splits(root)) == ("nuimages", ["train"])
    assert (vocabulary_name(blobs), find_splits(blobs)) == ("bdd100k", ["val"])
    assert isinstance(open_split(root, "train"), NuImagesSplit)
    assert isinstance(open_split(blobs, "val"), bdd100k.Bdd100kSplit)


def test_training_and_evaluation_read_it(recipe):
    batch = next(iter(training_batches(recipe(), first=0, last=1, process=0, processes=1)))
    for targets in batch.targets:
        assert targets.semantic is not None
        assert targets.drivable is None
        assert set(targets.labels.tolist()) <= {0, 5}  # cars and pedestrians
    pairs = [pair for batch in evaluation_batches(recipe(), "train", optional=False) for pair in batch]
    assert len(pairs) == 4
    assert all(len(truth.boxes) == 2 for _, truth in pairs)


def test_cameras_are_the_recipes(recipe, blobs):
    found = recipe_split(recipe(cameras=("CAM_BACK",)), "train")
    assert [found.attributes(i)["camera"] for i in range(len(found))] == ["CAM_BACK"] * 2
    with pytest.raises(DatasetError, match=r"which has one camera; leave out data\.cameras"):
        open_split(blobs, "val", cameras=("CAM_BACK",))


def test_other_classes_than_the_models_are_named(recipe, root, blobs, make_recipe):
    with pytest.raises(VocabularyMismatchError, match=r"lacks trailer, .* and has rider, .* to bdd100k"):
        recipe_split(recipe(blobs), "val")
    with pytest.raises(VocabularyMismatchError, match=r"has trailer, .* set model\.vocabulary to nuimages"):
        recipe_split(make_recipe(root), "train")


def test_a_folder_of_neither_is_named(recipe, root, tmp_path):
    with pytest.raises(DatasetError, match=r"holds no nuImages: .*; pass the folder that holds samples/"):
        recipe_split(recipe(tmp_path), "train")
    for use in (find_splits, lambda outside: recipe_split(recipe(outside), "train")):
        with pytest.raises(DatasetError, match=re.escape(f"did you mean {root}?")):
            use(root.parent)
    with pytest.raises(DatasetError, match="BDD100K's images"):
        find_splits(tmp_path)
