"""The sample set in nuImages' layout: the same scenes as in BDD100K's layout."""

import base64
import json

import numpy as np
import pytest

from lvad_perception.datasets import bdd100k
from lvad_perception.datasets.nuimages import open_split
from lvad_perception.datasets.run_lengths import mask_to_rle, rle_to_mask
from lvad_perception.vocabulary import DETECTION, NUIMAGES_DETECTION, NUIMAGES_SEMANTIC, SEMANTIC, UNLABELED
from lvad_training.data.check import check_dataset
from lvad_training.sample_set import render_sample_set

SIZE_HW = (90, 160)
SAME = ("car", "truck", "bus")


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """The training split of one set in both layouts."""
    root = tmp_path_factory.mktemp("sets")
    for layout in ("bdd100k", "nuimages"):
        render_sample_set(root / layout, images=8, seed=3, size_hw=SIZE_HW, layout=layout)
    return bdd100k.open_split(root / "bdd100k", "train"), open_split(root / "nuimages", "train")


def test_both_layouts_annotate_vehicles_and_road_alike(both):
    bdd, nu = both
    assert len(bdd) == len(nu) == 6
    for i in range(len(nu)):
        assert bdd.image_path(i).read_bytes() == nu.image_path(i).read_bytes()
        theirs, ours = bdd.truth(i, SIZE_HW), nu.truth(i, SIZE_HW)
        surface = NUIMAGES_SEMANTIC.index("driveable_surface")
        assert np.array_equal(ours.semantic == surface, theirs.semantic == SEMANTIC.index("road"))
        assert np.array_equal(ours.semantic == UNLABELED, theirs.semantic == UNLABELED)
        for name in SAME:
            boxes = [
                sorted(truth.boxes.boxes_xyxy[truth.boxes.labels == vocabulary.index(name)].tolist())
                for truth, vocabulary in ((theirs, DETECTION), (ours, NUIMAGES_DETECTION))
            ]
            assert boxes[0] == boxes[1]
            # Objects too small for a box have no mask either.
            mine = ours.semantic == NUIMAGES_SEMANTIC.index(name)
            assert not (mine & (theirs.semantic != SEMANTIC.index(name))).any()


def test_data_check_finds_nothing(both):
    report = check_dataset(both[1].root, workers=1, progress=False)
    assert report.problems == []
    assert report.splits["val"].images == 2
    assert report.splits["train"].boxes.sum() > 0


def test_masks_are_coded_as_pycocotools_codes_them(both):
    mask = pytest.importorskip("pycocotools.mask")
    rows = json.loads((both[1].root / "v1.0-train/object_ann.json").read_text())
    assert rows
    for row in rows:
        coded = {"size": row["mask"]["size"], "counts": base64.b64decode(row["mask"]["counts"])}
        assert mask.encode(np.asfortranarray(mask.decode(coded)))["counts"] == coded["counts"]
    random = np.random.default_rng(0)
    for share in (0.0, 0.002, 0.5, 1.0):
        pixels = random.random((37, 53)) < share
        rle = mask_to_rle(pixels)
        assert rle.counts.encode() == mask.encode(np.asfortranarray(pixels.astype(np.uint8)))["counts"]
        assert np.array_equal(rle_to_mask(rle), pixels)
