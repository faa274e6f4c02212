"""Several label files of a split: copies, other formats, names that two of them list."""

import json
import logging

import numpy as np
import pytest

from lvad_perception.datasets.bdd100k import open_split
from lvad_perception.errors import LabelError

SIZE_HW = (24, 32)
BOX = {"x1": 1, "y1": 1, "x2": 2, "y2": 2}
OTHER_FORMATS = {
    "COCO's format": {"images": [], "annotations": [], "categories": []},
    "COCO's format of results": [{"image_id": 1, "category_id": 3, "bbox": [1, 2, 3, 4], "score": 0.5}],
    "Datumaro's format, as CVAT exports it": {"info": {}, "categories": {}, "items": []},
    "CVAT's task backup": [{"version": 0, "tags": [], "shapes": [], "tracks": []}],
    "a table of nuScenes or nuImages": [{"token": "7", "name": "vehicle.car", "description": ""}],
    "labelme's format": {"version": "5.0", "flags": {}, "shapes": [], "imagePath": "a.jpg"},
    "Label Studio's format": [{"id": 1, "data": {"image": "a.jpg"}, "annotations": []}],
    "VGG Image Annotator's format": {"a.jpg12": {"filename": "a.jpg", "size": 12, "regions": []}},
    "Cityscapes' format": {"imgHeight": 2, "imgWidth": 2, "objects": []},
    "OpenLABEL's format": {"openlabel": {"frames": {}}},
    "JSON of another kind": {"car": 7},
}


def entries(category, *names):
    return [{"name": f"{name}.jpg", "labels": [{"category": category, "box2d": BOX}]} for name in names]


def opened(tree, split="val"):
    """The split, and (file name, sentence) of every report."""
    reported = []
    found = open_split(tree.root, split, report=reported.append)
    return found, [line.rpartition("/")[2] for line in reported]


def labels(split):
    """Frame name -> class ids of its boxes, None where it is not annotated."""
    found = {split.name_of(i): split.boxes(i, SIZE_HW) for i in range(len(split))}
    return {name: None if boxes is None else boxes.labels.tolist() for name, boxes in found.items()}


@pytest.fixture
def two_images(tree):
    for name in "ab":
        tree.image(name, split="val")
    return tree


@pytest.mark.parametrize(
    "copy",
    [
        "det_val-orig",
        "det_val (1)",
        "det_val - Copy",
        "Copy of det_val",
        "det_val_backup",
        "det_val.bak",
        "det_val_old",
    ],
)
@pytest.mark.parametrize("published", ["det_val", "det_v2_val_release"])
def test_the_published_name_wins_over_a_copy_even_for_frames_that_it_lists_no_more(two_images, copy, published):
    two_images.json(f"labels/det_20/{published}.json", entries("car", "b"))
    (two_images.root / f"labels/det_20/{copy}.json").write_text(json.dumps(entries("bus", "a", "b")))
    split, reported = opened(two_images)
    assert labels(split) == {"a": None, "b": [2]}
    assert reported == [f"{copy}.json: a copy by its name; {published}.json counts, so it is not used"]


def test_a_broken_copy_stops_nothing_and_a_copy_alone_is_used(two_images):
    two_images.json("labels/det_20/det_val.json", entries("car", "a"))
    copy = two_images.json("labels/det_20/det_val (1).json", [])
    copy.write_text("[{")
    assert labels(opened(two_images)[0]) == {"a": [2], "b": None}
    (two_images.root / "labels/det_20/det_val.json").unlink()
    copy.write_text(json.dumps(entries("bus", "a")))
    split, reported = opened(two_images)
    assert labels(split) == {"a": [4], "b": None}
    assert reported == []


def test_a_file_with_the_published_files_frames_is_a_copy_under_any_name(two_images):
    two_images.json("labels/det_20/det_val.json", entries("car", "b"))
    two_images.json("labels/det_20/det_a_first_val.json", entries("bus", "a", "b"))
    split, reported = opened(two_images)
    assert labels(split) == {"a": None, "b": [2]}
    assert reported == ["det_a_first_val.json: 1 of its 2 frames are in det_val.json as well, which counts; not used"]


def test_a_file_with_more_frames_is_used_and_shared_frames_are_reported(two_images):
    two_images.json("labels/det_20/det_val.json", entries("car", "a"))
    two_images.json("labels/det_20/det_val_more.json", entries("bus", "b", "x", "y"))
    split, reported = opened(two_images)
    assert (labels(split), reported) == ({"a": [2], "b": [4]}, [])
    two_images.json("labels/det_20/det_val_more.json", entries("bus", "a", "b", "x"))
    split, reported = opened(two_images)
    assert labels(split) == {"a": [2], "b": [4]}
    path = two_images.root.resolve() / "labels/det_20/det_val.json"
    assert reported == [f"{path.name} as well, whose entries count"]
    (note,) = split.notes
    assert note.message == f"1 of its 3 frames are in {path} as well, whose entries count"
    assert note.file.name == "det_val_more.json"


def test_without_a_published_name_both_of_two_files_are_named(two_images):
    two_images.json("labels/det_20/det_val_ann.json", entries("car", "a", "b"))
    two_images.json("labels/det_20/det_val_bob.json", entries("bus", "a"))
    split, _ = opened(two_images)
    assert labels(split) == {"a": [2], "b": [2]}
    (note,) = split.notes
    assert "det_val_ann.json as well, whose entries count" in note.message
    assert note.file.name == "det_val_bob.json"


def test_releases_of_2018_and_2020_may_list_the_same_frames(two_images):
    two_images.json("labels/det_20/det_val.json", entries("car", "a"))
    two_images.json("labels/bdd100k_labels_images_val.json", entries("bus", "a", "b"))
    split, reported = opened(two_images)
    assert (labels(split), reported) == ({"a": [2], "b": [4]}, [])


def test_a_file_of_another_split_is_not_this_ones(two_images):
    two_images.image("n", split="val_night")
    two_images.json("labels/det_20/det_val.json", entries("car", "a"))
    two_images.json("labels/det_20/det_val_night.json", entries("bus", "n", "a"))
    assert opened(two_images)[1] == []
    assert labels(opened(two_images, "val_night")[0]) == {"n": [4]}


@pytest.mark.parametrize("what", OTHER_FORMATS)
def test_other_formats_beside_the_labels_are_skipped_and_reported(two_images, what):
    two_images.json("labels/det_20/det_val.json", entries("car", "a"))
    two_images.json("labels/det_20/det_val_other.json", OTHER_FORMATS[what])
    for _ in range(2):  # from the cache as well
        split, reported = opened(two_images)
        assert labels(split) == {"a": [2], "b": None}
        assert reported == [f"det_val_other.json: {what}, no label file of BDD100K; not used"]


@pytest.mark.parametrize("what", OTHER_FORMATS)
def test_another_format_under_the_published_name_is_refused_by_its_name(two_images, what):
    two_images.json("labels/det_20/det_val.json", OTHER_FORMATS[what])
    with pytest.raises(LabelError, match=rf"det_val\.json is not a BDD100K label file but {what}: .*; convert it"):
        opened(two_images)


def test_xml_named_json_is_reported(two_images):
    two_images.json("labels/det_20/det_val.json", entries("car", "a"))
    path = two_images.json("labels/det_20/det_val_cvat.json", [])
    path.write_text('<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n  <version>1.1</version>\n</annotations>')
    assert opened(two_images)[1] == ["det_val_cvat.json: CVAT's XML, no label file of BDD100K; not used"]


def test_a_frame_folder_prefers_the_file_called_as_its_frame_and_counts_other_formats(two_images):
    for name, category in (("a", "car"), ("a (1)", "bus"), ("a-orig", "bus"), ("Copy of a", "bus")):
        two_images.json(f"labels/100k/val/{name}.json", entries(category, "a")[0])
    two_images.json("labels/100k/val/b.json", OTHER_FORMATS["labelme's format"])
    split, _ = opened(two_images)
    assert labels(split) == {"a": [2], "b": None}
    assert split.tables[0].problems.duplicates == ["a"] * 3
    (note,) = split.notes
    assert note.message == "1 of its files are labelme's format, no label files of BDD100K; not used"


def test_segmentation_files_follow_the_same_rule(two_images):
    everywhere = {"rle": {"counts": [0, 24 * 32], "size": list(SIZE_HW)}}
    for name, category in (("sem_seg_val", "car"), ("sem_seg_val-orig", "road")):
        content = [{"name": "a.jpg", "labels": [{"category": category, **everywhere}]}]
        two_images.json(f"labels/sem_seg/rles/{name}.json", content)
        two_images.json(f"labels/sem_seg/polygons/{name}.json", content)
    split, reported = opened(two_images)
    assert np.unique(split.semantic(0, SIZE_HW)).tolist() == [13]
    assert reported == ["sem_seg_val-orig.json: a copy by its name; sem_seg_val.json counts, so it is not used"] * 2


def test_compressed_files_and_capital_endings(two_images):
    two_images.json("labels/det_20/det_val.json.gz", [])
    reported = opened(two_images)[1]
    assert reported == ["det_val.json.gz: compressed, so it is not read; unpack it"]
    two_images.json("labels/det_20/det_val.JSON", entries("car", "a"))
    assert labels(opened(two_images)[0]) == {"a": [2], "b": None}


def test_a_skipped_file_is_warned_of_once(two_images, caplog):
    two_images.json("labels/det_20/det_val.json", entries("car", "a"))
    two_images.json("labels/det_20/det_val_coco.json", OTHER_FORMATS["COCO's format"])
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            open_split(two_images.root, "val")
    (record,) = caplog.records
    assert record.getMessage().endswith("det_val_coco.json: COCO's format, no label file of BDD100K; not used")
