import pickle
import shutil
import subprocess
import sys

import numpy as np
import PIL.Image
import pytest

from lvad_perception.datasets.bdd100k import find_splits, open_split
from lvad_perception.errors import DatasetError, LabelError
from lvad_perception.media.images import read_image
from lvad_perception.vocabulary import UNLABELED

SIZE_HW = (24, 32)
ALL_TASKS = {"detection", "semantic", "drivable"}


def by_name(split):
    return {split.name_of(i): i for i in range(len(split))}


def ids(value, size_hw=SIZE_HW):
    return np.full(size_hw, value, np.uint8)


def polygon(category, **attributes):
    vertices = [[0, 0], [8, 0], [8, 4], [0, 4]]
    return {
        "category": category,
        "attributes": attributes,
        "poly2d": [{"vertices": vertices, "types": "LLLL", "closed": True}],
    }


def test_frames_are_images_with_their_annotated_tasks(tree):
    for name in "abcd":
        tree.image(name)
    tree.detections({"a": [("car", 1, 2, 5, 6)], "b": [], "ghost": [("car", 1, 2, 5, 6)]})
    tree.mask("labels/sem_seg/masks/train/a.png", ids(3))
    tree.mask("labels/drivable/masks/train/c.png", ids(1))
    split = open_split(tree.root, "train")
    assert [split.name_of(i) for i in range(len(split))] == ["a", "b", "c", "d"]
    assert [split.annotated(i) for i in range(4)] == [{"detection", "semantic"}, {"detection"}, {"drivable"}, set()]
    whole, empty, drivable, bare = (split.truth(i, SIZE_HW) for i in range(4))
    np.testing.assert_array_equal(whole.boxes.boxes_xyxy, [[1, 2, 6, 7]])
    assert (whole.semantic == 3).all()
    assert whole.drivable is None
    assert len(empty.boxes) == 0
    assert empty.boxes.boxes_xyxy.shape == (0, 4)
    assert drivable.boxes is None
    assert (drivable.drivable == 1).all()
    assert (bare.boxes, bare.semantic, bare.drivable) == (None, None, None)


def test_images_attributes_and_times(tree):
    path = tree.image("a", suffix=".png")
    tree.image("b")
    tree.detections({"a": []})
    split = open_split(tree.root, "train")
    assert split.image_path(0) == path
    assert read_image(split.image_path(0)).shape == (*SIZE_HW, 3)
    assert split.attributes(0) == {"weather": "clear"}
    assert split.timestamp_ms(0) == 10000
    assert split.attributes(1) == {}
    assert split.timestamp_ms(1) is None


def test_the_same_name_in_100k_and_10k_is_one_frame_with_both_annotations(tree):
    path = tree.image("a", image_set="100k")
    tree.image("a", image_set="10k")
    tree.image("only-10k", image_set="10k")
    tree.detections({"a": [("car", 1, 2, 5, 6)]})
    for name in ("a", "only-10k"):
        tree.mask(f"labels/sem_seg/masks/train/{name}.png", ids(3))
    split = open_split(tree.root, "train")
    assert len(split) == 2
    assert split.image_path(0) == path
    assert split.annotated(0) == {"detection", "semantic"}
    assert split.annotated(1) == {"semantic"}


def test_boxes_are_clipped_and_those_outside_left_out(tree):
    tree.image("a")
    tree.detections(
        {"a": [("car", -5, -5, 3, 3), ("bus", 30, 20, 99, 99), ("rider", 32, 0, 40, 9), ("truck", 4, -9, 9, -2)]}
    )
    boxes = open_split(tree.root, "train").boxes(0, SIZE_HW)
    np.testing.assert_array_equal(boxes.boxes_xyxy, [[0, 0, 4, 4], [30, 20, 32, 24]])
    assert boxes.labels.tolist() == [2, 4]


def test_splits_are_named_after_the_image_folders(tree):
    tree.image("a", split="monday")
    tree.image("b", split="test_run", image_set="10k")
    flat = tree.root / "images" / "flat"
    flat.mkdir()
    shutil.copy(tree.root / "images" / "100k" / "monday" / "a.jpg", flat)
    tree.detections({"a": []}, split="monday")
    assert find_splits(tree.root) == ["flat", "monday", "test_run"]
    assert open_split(tree.root, "monday").annotated(0) == {"detection"}
    assert open_split(tree.root, "flat").annotated(0) == set()


@pytest.mark.parametrize(
    "path",
    [
        "labels/det_20/det_val.json",
        "labels/det_20/det_v2_val_release.json",
        "labels/det_20/val.json",
        "labels/bdd100k_labels_images_val.json",
        "labels/det_val.json",
        "labels/val.json",
        "labels/det_20/val/b.json",
        "labels/100k/val/b.json",
    ],
)
def test_label_files_in_every_folder(tree, path):
    tree.image("b", split="val")
    entry = {"name": "b.jpg", "labels": [{"category": "car", "box2d": {"x1": 1, "y1": 1, "x2": 2, "y2": 2}}]}
    tree.json(path, entry if path.endswith("/b.json") else [entry])
    assert len(open_split(tree.root, "val").boxes(0, SIZE_HW)) == 1


def test_a_split_name_is_a_whole_word_of_the_file_name(tree):
    tree.image("a", split="val")
    tree.json("labels/det_20/det_interval.json", [{"name": "a.jpg"}])
    tree.json("labels/lane_val.json", [{"name": "a.jpg"}])
    assert open_split(tree.root, "val").annotated(0) == set()


def test_release_of_2018_annotates_boxes_and_drivable_areas(tree):
    for name in "ab":
        tree.image(name)
    car = {"category": "car", "box2d": {"x1": 1, "y1": 1, "x2": 2, "y2": 2}}
    tree.json(
        "labels/bdd100k_labels_images_train.json",
        [
            {"name": "a.jpg", "labels": [car, polygon("drivable area", areaType="direct")]},
            {"name": "b.jpg", "labels": [car]},
        ],
    )
    split = open_split(tree.root, "train")
    first, second = split.truth(0, SIZE_HW), split.truth(1, SIZE_HW)
    assert len(first.boxes) == len(second.boxes) == 1
    assert (first.drivable[:4, :8] == 0).all()
    assert (first.drivable == 2).sum() == 24 * 32 - 32
    assert (second.drivable == 2).all()
    assert first.semantic is None


def test_boxes_alone_do_not_annotate_drivable_areas(tree):
    tree.image("a")
    tree.detections({"a": [("car", 1, 1, 2, 2)]})
    assert open_split(tree.root, "train").annotated(0) == {"detection"}


def test_oldest_release_names_and_numbers(tree):
    tree.image("a")
    triples = [[0, 0, "L"], [8, 0, "L"], [8, 4, "L"], [0, 4, "L"]]
    tree.json(
        "labels/100k/train/a.json",
        {
            "name": "a",
            "attributes": {"weather": "rainy"},
            "frames": [
                {
                    "timestamp": 10000,
                    "objects": [
                        {"category": "bike", "id": 0, "box2d": {"x1": 1, "y1": 1, "x2": 2, "y2": 2}},
                        {
                            "category": "area/alternative",
                            "poly2d": triples,
                        },
                    ],
                }
            ],
        },
    )
    tree.mask("seg/labels/train/a_train_id.png", ids(7))
    split = open_split(tree.root, "train")
    truth = split.truth(0, SIZE_HW)
    assert truth.boxes.labels.tolist() == [7]
    assert (truth.semantic == 7).all()
    assert (truth.drivable == 1).sum() == 32
    assert split.attributes(0) == {"weather": "rainy"}
    tree.mask("drivable_maps/labels/train/a_drivable_id.png", ids(1))
    assert (open_split(tree.root, "train").drivable(0, SIZE_HW) == 0).all()


def test_segmentation_by_polygons_and_run_lengths(tree):
    for name in "abc":
        tree.image(name)
    tree.json(
        "labels/sem_seg/polygons/sem_seg_train.json",
        [{"name": "a.jpg", "labels": [polygon("car")]}, {"name": "b.jpg", "labels": None}],
    )
    everywhere = {"category": "direct", "rle": {"counts": [0, 24 * 32], "size": list(SIZE_HW)}}
    tree.json("labels/drivable/rles/drivable_train.json", [{"name": "c.jpg", "labels": [everywhere]}])
    split = open_split(tree.root, "train")
    assert [split.annotated(i) for i in range(3)] == [{"semantic"}, set(), {"drivable"}]
    semantic = split.semantic(0, SIZE_HW)
    assert (semantic[:4, :8] == 13).all()
    assert (semantic == UNLABELED).sum() == 24 * 32 - 32
    assert (split.drivable(2, SIZE_HW) == 0).all()
    with pytest.raises(LabelError, match=r"drivable_train\.json: c: label of 'direct': 'rle' has size 24x32"):
        split.drivable(2, (12, 16))


def test_masks_come_before_colour_maps_and_shapes(tree):
    for name in "ab":
        tree.image(name)
        tree.mask(f"labels/sem_seg/colormaps/train/{name}.png", ids(2))
    tree.mask("labels/sem_seg/masks/train/a.png", ids(1))
    split = open_split(tree.root, "train")
    assert split.semantic(0, SIZE_HW).max() == 1
    assert split.semantic(1, SIZE_HW).max() == 2
    assert split.mask_path(1, "semantic") == tree.root / "labels/sem_seg/colormaps/train/b.png"
    assert split.mask_path(0, "drivable") is None


def test_mask_of_another_size_is_refused(tree):
    tree.image("a")
    tree.mask("labels/sem_seg/masks/train/a.png", ids(1, (48, 64)))
    with pytest.raises(LabelError, match=r"masks/train/a\.png is 64x48 and its image 32x24; give both the same size"):
        open_split(tree.root, "train").truth(0, SIZE_HW)


def test_masks_with_capital_endings_are_read_and_others_reported(tree):
    for name in "abc":
        tree.image(name)
    tree.mask("labels/sem_seg/masks/train/a.PNG", ids(1))
    tree.mask("labels/sem_seg/masks/train/b.png", ids(2))
    tree.mask("seg/labels/train/c_TRAIN_ID.png", ids(3))
    tree.mask("labels/drivable/masks/train/c.jpg", ids(0))
    tree.mask("drivable_maps/labels/train/b_drivable_id.PNG", ids(1))
    reported = []
    split = open_split(tree.root, "train", report=reported.append)
    assert [split.semantic(i, SIZE_HW).max() for i in range(3)] == [1, 2, 3]
    assert split.drivable(1, SIZE_HW).max() == 0  # renumbered from the old ids
    folder = tree.root / "labels/drivable/masks/train"
    assert reported == [f"{folder}: masks are read from .png, not from 1 others such as c.jpg"]


def test_palettes_of_a_folder_are_read_alike(tree):
    ramp = [value for grey in range(256) for value in (grey, grey, grey)]
    for name, pixels in (("a", ids(0)), ("b", ids(13)), ("c", np.where(np.eye(24, 32), 255, 0).astype(np.uint8))):
        tree.image(name)
        path = tree.mask(f"labels/sem_seg/masks/train/{name}.png", pixels)
        image = PIL.Image.fromarray(pixels)
        image.putpalette(ramp)
        image.save(path)
    split = pickle.loads(pickle.dumps(open_split(tree.root, "train")))
    assert [np.unique(split.semantic(i, SIZE_HW)).tolist() for i in range(3)] == [[0], [13], [0, UNLABELED]]


def test_exif_orientation_is_named_where_sizes_do_not_fit(tree):
    path = tree.image("a", size_hw=(32, 24))
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    PIL.Image.open(path).save(path, exif=exif)
    tree.mask("labels/sem_seg/masks/train/a.png", ids(1))
    with pytest.raises(
        LabelError, match=r"a\.png is 32x24 and its image 24x32; the image's EXIF orientation 6, which is"
    ):
        open_split(tree.root, "train").semantic(0, (32, 24))


@pytest.mark.parametrize(
    "name", ["../../secret", "/etc/passwd", "C:\\\\windows\\\\secret", "..", "file:///etc/passwd", "~/x"]
)
def test_label_names_cannot_leave_the_tree(tree, name):
    tree.image("a")
    (tree.root.parent / "secret.jpg").write_bytes(b"secret")
    tree.json("labels/det_20/det_train.json", [{"name": f"{name}.jpg"}, {"name": name}, {"url": name}])
    split = open_split(tree.root, "train")
    assert [split.image_path(i) for i in range(len(split))] == [tree.root / "images/100k/train/a.jpg"]
    assert split.annotated(0) == set()


def test_wrong_folders_are_refused_with_a_remedy(tree, tmp_path):
    with pytest.raises(DatasetError, match="bdd100k is not a folder; pass the folder that holds"):
        open_split(tree.root, "train")
    path = tree.image("a")
    with pytest.raises(DatasetError, match=r"has no split 'val'; it has train"):
        open_split(tree.root, "val")
    with pytest.raises(DatasetError, match=r"has no folder images/; did you mean .*bdd100k\?"):
        find_splits(tmp_path)
    path.unlink()
    with pytest.raises(DatasetError, match=r"has no images under images/100k/<split>"):
        find_splits(tree.root)
    shutil.rmtree(tree.root / "images")
    with pytest.raises(DatasetError, match=r"has no folder images/; pass the folder"):
        find_splits(tree.root)


def test_an_unreadable_label_file_is_refused(tree):
    tree.image("a")
    tree.detections({"a": []}).write_text('[{"name": "a.jpg", "labels": [')
    with pytest.raises(LabelError, match=r"det_train\.json is not valid JSON"):
        open_split(tree.root, "train")


def test_splits_pickle_small_and_read_the_same(tree):
    for i in range(50):
        tree.image(f"frame-{i:03d}")
    tree.detections({f"frame-{i:03d}": [("car", i, 2, i + 5, 6)] * 30 for i in range(20)})
    split = open_split(tree.root, "train")
    data = pickle.dumps(split)
    assert len(data) < 5000
    copy = pickle.loads(data)
    np.testing.assert_array_equal(copy.boxes(7, SIZE_HW).boxes_xyxy, split.boxes(7, SIZE_HW).boxes_xyxy)
    assert copy.image_path(49) == split.image_path(49)


def test_of_two_images_with_one_name_the_jpeg_is_used(tree):
    path = tree.image("a", suffix=".jpg")
    tree.image("a", suffix=".png")
    split = open_split(tree.root, "train")
    assert len(split) == 1
    assert split.image_path(0) == path


@pytest.mark.parametrize("package", ["msgspec", "PIL"])
def test_missing_package_is_named(package):
    code = f"import sys; sys.modules[{package!r}] = None; import lvad_perception.datasets.bdd100k"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert f"MissingDependencyError: reading BDD100K needs the Python package '{package}'" in result.stderr


REAL_DETECTIONS = {
    # file -> frame, boxes, of which crowd
    "box_track_first2frames.json": ("b1c66a42-6f7d68ca-0000001", 29, 1),
    "frames_without_labels_key.json": ("b1c9c847-3bda4659", 0, 0),
    "ignored_categories_and_null_labels.json": ("00091078-875c1f73-0000166", 2, 1),
    "names_are_urls_motor_category.json": ("c1ba5ee6-b2cb1e51", 4, 0),
    "prediction_without_box2d.json": ("b1c66a42-6f7d68ca-0000001", 0, 0),
    "predictions_first3frames.json": ("b1c66a42-6f7d68ca-0000001", 32, 0),
    "scalabel_det_nulls_int_ids_b1c66a42.json": ("b1c66a42-6f7d68ca", 4, 0),
}


@pytest.mark.parametrize("name", REAL_DETECTIONS)
def test_real_detection_files(tree, format_cases, name):
    frame, boxes, crowds = REAL_DETECTIONS[name]
    tree.image(frame, split="val", size_hw=(720, 1280))
    (tree.root / "labels" / "det_20").mkdir(parents=True)
    shutil.copy(format_cases / "det" / name, tree.root / "labels" / "det_20" / "det_val.json")
    truth = open_split(tree.root, "val").boxes(0, (720, 1280))
    assert (len(truth), truth.crowd.sum()) == (boxes, crowds)
    if boxes:
        assert truth.boxes_xyxy.min() >= 0
        assert (truth.boxes_xyxy[:, 2:] > truth.boxes_xyxy[:, :2]).all()


def test_real_frame_of_2018(tree, format_cases):
    tree.image("1cd5d614-35d63896", size_hw=(720, 1280))
    (tree.root / "labels").mkdir(parents=True)
    shutil.copy(
        format_cases / "bdd100k_labels_images_2018_one_frame.json",
        tree.root / "labels" / "bdd100k_labels_images_train.json",
    )
    split = open_split(tree.root, "train")
    truth = split.truth(0, (720, 1280))
    assert split.attributes(0) == {"weather": "rainy", "scene": "residential", "timeofday": "dawn/dusk"}
    assert len(truth.boxes) == 12
    assert np.bincount(truth.drivable.ravel()).tolist()[0] == 0
    assert set(np.unique(truth.drivable)) == {1, 2}


def test_real_samples(shared_data):
    root = shared_data / "bdd-samples"
    if not root.is_dir():
        pytest.skip(f"no frames at {root}")
    assert find_splits(root) == ["test", "train", "unnamed", "val"]
    train = open_split(root, "train")
    counts = {task: int(train.annotated_for(task).sum()) for task in ALL_TASKS}
    assert counts == {"detection": 2, "semantic": 16, "drivable": 1}
    boxes = train.boxes(by_name(train)["0000f77c-6257be58"], (720, 1280))
    assert boxes.labels.tolist() == [8, 8, 9, 9, 2, 2, 9]
    np.testing.assert_allclose(boxes.boxes_xyxy[0], [1125.902264, 133.184488, 1157.978645, 211.875445], rtol=1e-6)


def test_real_camvid_is_annotated_for_everything(shared_data):
    root = shared_data / "camvid-bdd"
    if not root.is_dir():
        pytest.skip(f"no frames at {root}")
    train = open_split(root, "train")
    assert len(train) == 367
    assert all(train.annotated(i) == ALL_TASKS for i in range(len(train)))
    truth = train.truth(by_name(train)["0006R0_f03030"], (360, 480))
    assert len(truth.boxes) == 0
    np.testing.assert_array_equal(truth.drivable == 0, truth.semantic == 0)
