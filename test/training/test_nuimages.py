"""nuImages' reader on a small tree in the published schema; the published files were not available."""

import json
import pickle

import numpy as np
import pytest

from lvad_perception.datasets import layout
from lvad_perception.datasets.nuimages import find_splits, is_nuimages, open_split, table
from lvad_perception.datasets.nuimages.categories import class_id
from lvad_perception.errors import DatasetError, LabelError
from lvad_perception.vocabulary import NUIMAGES_DETECTION, NUIMAGES_SEMANTIC, UNLABELED

from .nuimages_tree import CATEGORIES, SIZE_HW, NuTree, area, street, token

pytest.importorskip("pycocotools", reason="pycocotools, which makes the masks, is not installed")

CAR, TRUCK, BARRIER, SURFACE, BACKGROUND = (
    NUIMAGES_SEMANTIC.index(name) for name in ("car", "truck", "barrier", "driveable_surface", "background")
)


@pytest.fixture
def tree(tmp_path):
    return NuTree(tmp_path / "nuimages")


def opened(tree, **options):
    return open_split(tree.write(), "train", **options)


def test_key_frames_of_cameras_are_the_images(tree):
    tree.image(2000, camera="CAM_BACK")
    tree.image(1000)
    lidar = dict(tree.tables["sample_data"][0], token=token("lidar"), filename="samples/LIDAR_TOP/x.pcd.bin")
    tree.tables["sample_data"].append({**lidar, "calibrated_sensor_token": token("calibrated", "LIDAR_TOP")})
    split = opened(tree)
    assert is_nuimages(tree.root)
    assert find_splits(tree.root) == ["train"]
    names = [split.name_of(i) for i in range(len(split))]
    assert names == [f"n003-2018-01-02-11-48-43+0800__CAM_{camera}" for camera in ("BACK__2000", "FRONT__1000")]
    assert all(split.image_path(i).is_file() for i in range(2))
    assert split.attributes(0) == {"camera": "CAM_BACK", "location": "singapore-onenorth"}


def test_cameras_can_be_chosen(tree):
    for stamp, camera in ((1, "CAM_FRONT"), (2, "CAM_BACK"), (3, "CAM_FRONT")):
        tree.thing(tree.image(stamp, camera=camera), "vehicle.car", area(0, 0, stamp, 9))
    split = opened(tree, cameras=("CAM_FRONT",))
    assert [split.attributes(i)["camera"] for i in range(len(split))] == ["CAM_FRONT"] * 2
    assert [split.boxes(i, SIZE_HW).boxes_xyxy[0, 2] for i in range(2)] == [1, 3]
    with pytest.raises(DatasetError, match="has no camera CAM_LEFT; it has CAM_BACK, CAM_FRONT"):
        open_split(tree.root, "train", cameras=("CAM_LEFT",))


def test_masks_are_drawn_as_the_devkit_draws_them(tree):
    """Surfaces first in their table's order, then objects by token, later ones on top; the rest is background."""
    image = tree.image(1)
    other = tree.image(2)
    tree.thing(image, "vehicle.truck", area(10, 10, 30, 40), order=2)
    tree.thing(image, "vehicle.car", area(20, 20, 40, 50), order=1)  # drawn before the truck
    tree.thing(other, "movable_object.barrier", area(0, 0, 80, 60), order=3)
    tree.surface(image, "flat.driveable_surface", area(0, 30, 80, 60))
    tree.surface(image, "vehicle.ego", area(0, 50, 80, 60))
    expected = np.full(SIZE_HW, BACKGROUND, np.uint8)
    expected[30:] = SURFACE
    expected[50:] = UNLABELED
    expected[20:50, 20:40] = CAR
    expected[10:40, 10:30] = TRUCK
    split = opened(tree)
    assert np.array_equal(split.semantic(0, SIZE_HW), expected)
    assert (split.semantic(1, SIZE_HW) == BARRIER).all()


def test_any_mask_equals_pycocotools(tree):
    random = np.random.default_rng(0)
    masks = [random.random(SIZE_HW) < share for share in (0.001, 0.1, 0.5, 0.9, 1.0)]
    for mask in masks:
        tree.thing(tree.image(len(tree.tables["sample"])), "vehicle.car", mask)
    split = opened(tree)
    for index, mask in enumerate(masks):
        assert np.array_equal(split.semantic(index, SIZE_HW), np.where(mask, CAR, BACKGROUND))


def test_boxes_are_the_ten_classes(tree):
    """Boxes include hidden parts of objects; other categories and invisible objects are left out."""
    image = tree.image(1)
    tree.thing(image, "vehicle.car", area(10, 10, 20, 20), bbox=[5, 6, 30, 99], order=1)
    tree.thing(image, "movable_object.trafficcone", area(1, 1, 3, 5), order=2)
    tree.thing(image, "vehicle.emergency.police", area(40, 40, 50, 50), order=3)
    tree.thing(image, "vehicle.truck", None, bbox=[50, 5, 60, 15], order=4)
    tree.thing(image, "vehicle.truck", area(0, 0, 5, 5), bbox=[7, 5, 7, 15], order=5)
    split = opened(tree)
    boxes = split.boxes(0, SIZE_HW)
    assert boxes.boxes_xyxy.tolist() == [[5, 6, 30, 60], [1, 1, 3, 5]]  # clipped to the image
    assert [NUIMAGES_DETECTION.names[label] for label in boxes.labels] == ["car", "traffic_cone"]
    assert not boxes.crowd.any()
    assert split.raw_boxes(0)[0][0].tolist() == [5, 6, 30, 99]
    assert (split.semantic(0, SIZE_HW)[40:50, 40:50] == UNLABELED).all()
    assert split.table.problems.maskless == 1
    assert split.table.problems.degenerate_boxes[0] == 1


def test_an_image_without_anything_is_annotated_and_empty(tree):
    tree.image(1)
    tree.thing(tree.image(2), "vehicle.car", area(0, 0, 5, 5))
    truth = opened(tree).truth(0, SIZE_HW)
    assert len(truth.boxes) == 0
    assert (truth.semantic == BACKGROUND).all()
    assert truth.drivable is None


def test_the_test_version_is_not_annotated(tmp_path):
    tree = NuTree(tmp_path, "v1.0-test")
    tree.image(1)
    split = open_split(tree.write(), "test")
    assert split.annotated(0) == frozenset()
    assert not split.annotated_for("detection").any()
    assert split.truth(0, SIZE_HW).boxes is None
    assert split.truth(0, SIZE_HW).semantic is None


def test_every_category_has_a_class_or_is_not_evaluated():
    detection = [class_id(name) for name in CATEGORIES]
    assert all(label is not None for label in detection)
    assert class_id("vehicle.bus.bendy") == class_id("vehicle.bus.rigid") == NUIMAGES_DETECTION.index("bus")
    assert class_id("vehicle.spaceship") is None


def test_a_pickled_split_returns_the_same_annotation(tmp_path):
    split = open_split(street(tmp_path).write(), "train")
    copy = pickle.loads(pickle.dumps(split))
    assert np.array_equal(copy.semantic(1, SIZE_HW), split.semantic(1, SIZE_HW))
    assert len(pickle.dumps(split)) < 2000


def test_a_second_start_reads_the_cache_unless_a_table_changed(tree, tmp_path, monkeypatch):
    image = tree.image(1)
    tree.thing(image, "vehicle.car", area(0, 0, 9, 9))
    before = opened(tree, cache_dir=tmp_path / "cache")
    monkeypatch.setattr(table, "read_version", None)  # calling it would raise TypeError
    again = open_split(tree.root, "train", cache_dir=tmp_path / "cache")
    assert np.array_equal(again.semantic(0, SIZE_HW), before.semantic(0, SIZE_HW))
    monkeypatch.undo()
    tree.thing(image, "vehicle.truck", area(0, 0, 9, 9), order=99)
    after = opened(tree, cache_dir=tmp_path / "cache")
    assert after.semantic(0, SIZE_HW)[0, 0] == TRUCK
    with pytest.raises(DatasetError, match=r"_ann.json changed while the data set was open; start again"):
        before.semantic(0, SIZE_HW)


def test_dangling_tokens_are_noted_and_the_rest_is_read(tree):
    image = tree.image(1)
    tree.thing(image, "vehicle.car", area(0, 0, 9, 9), order=1)
    lost = tree.thing(token("nowhere"), "vehicle.car", area(0, 0, 9, 9))
    what = tree.thing(image, "vehicle.spaceship", area(20, 20, 30, 30), order=2)
    sweep = tree.surface(token("data", "CAM_FRONT", 2), "flat.driveable_surface", area(0, 0, 80, 60))
    tree.tables["sample_data"][0]["sample_token"] = token("no sample")
    split = opened(tree)
    assert split.table.problems.dangling == {
        "object_ann.sample_data_token": [1, [lost["token"]]],
        "object_ann.category_token": [1, [what["token"]]],
        "surface_ann.sample_data_token": [1, [sweep["token"]]],  # of a sweep, which is no key frame
        "sample_data.sample_token": [1, [image]],
    }
    truth = split.truth(0, SIZE_HW)
    assert truth.boxes.labels.tolist() == [CAR]
    assert (truth.semantic[20:30, 20:30] == UNLABELED).all()  # nobody knows what it is
    assert split.attributes(0) == {"camera": "CAM_FRONT"}


def spoil_counts(row):
    row["mask"]["counts"] = "***"


def spoil_runs(row):
    row["mask"]["counts"] = row["mask"]["counts"][:-4]


def spoil_size(row):
    row["mask"]["size"] = [30, 40]


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (spoil_counts, r"its mask is no run lengths in base64 .*; unpack the metadata again"),
        (spoil_runs, r"'rle' .*; unpack the metadata again"),
        (spoil_size, r"its mask is 40x30 and its image 80x60; unpack images and metadata of the same release"),
        (lambda row: row.update(mask=[1, 2]), r"its mask is no run lengths in base64"),
    ],
)
def test_a_bad_mask_is_named(tree, spoil, said):
    row = tree.thing(tree.image(1), "vehicle.car", area(3, 4, 20, 30))
    spoil(row)
    split = opened(tree)
    with pytest.raises(LabelError, match=rf"object_ann.json: {row['token']} of n003-.*__1: {said}"):
        split.semantic(0, SIZE_HW)
    assert len(split.boxes(0, SIZE_HW)) == 1


def test_a_resized_image_does_not_fit_its_boxes(tree):
    tree.thing(tree.image(1), "vehicle.car", area(3, 4, 20, 30))
    split = opened(tree)
    for read in (split.boxes, split.semantic):
        with pytest.raises(LabelError, match=r"__1.jpg is 40x30 and sample_data states 80x60, .* unpack nuImages' own"):
            read(0, (30, 40))


def without(name):
    def spoil(folder):
        (folder / f"{name}.json").unlink()

    return spoil


def rewritten(name, text):
    def spoil(folder):
        (folder / f"{name}.json").write_text(text)

    return spoil


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (without("sensor"), r"v1.0-train lacks sensor.json; unpack nuimages-v1.0-all-metadata.tgz"),
        (rewritten("sample", ""), r"sample.json is empty; download it again"),
        (rewritten("category", '{"a": 1}'), r"category.json is not a JSON list"),
        (rewritten("log", "[{"), r"log.json is not a JSON list"),
        (rewritten("object_ann", json.dumps([{"token": "a"}])), r"object_ann.json: row 0 is not of nuImages' schema"),
    ],
)
def test_a_table_that_cannot_be_read_is_named(tree, spoil, said):
    tree.image(1)
    tree.write()
    spoil(tree.root / tree.version)
    with pytest.raises(LabelError, match=said):
        open_split(tree.root, "train")


def test_a_version_that_is_not_there_is_named(tree):
    with pytest.raises(DatasetError, match="has no split 'val'; it has train"):
        open_split(tree.write(), "val")


NUSCENES = ("sample_data", "sample", "scene", "instance", "sample_annotation", "sensor", "calibrated_sensor", "log")


def write_nuscenes(root, version="v1.0-mini"):
    (root / version).mkdir(parents=True)
    for name in NUSCENES:
        (root / version / f"{name}.json").write_text("[]")
    (root / "samples").mkdir(exist_ok=True)


@pytest.mark.parametrize("version", ["v1.0-mini", "v1.0-trainval"])
def test_nuscenes_is_named_with_the_remedy(tmp_path, version):
    write_nuscenes(tmp_path, version)
    said = rf"holds nuScenes \(there is {version}/sample_annotation\.json\), .* give nuImages, .* nuimages-v1\.0-all"
    for attempt in (find_splits, lambda root: open_split(root, "mini"), lambda root: layout.open_split(root, "train")):
        with pytest.raises(DatasetError, match=said):
            attempt(tmp_path)


def test_nuscenes_beside_nuimages_is_no_split(tree):
    tree.image(1)
    tree.write()
    write_nuscenes(tree.root, "v1.0-trainval")
    assert find_splits(tree.root) == ["train"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("../../etc/a.jpg", "leaves the data set's folder"),
        ("samples/../../a.jpg", "leaves the data set's folder"),
        ("samples\\..\\..\\a.jpg", "leaves the data set's folder"),
        ("/etc/a.jpg", "is absolute"),
        ("C:\\a.jpg", "is absolute"),
        ("C:a.jpg", "is absolute"),
        ("samples/a\0.jpg", "holds a NUL"),
        pytest.param("samples/" + "a" * 2000 + ".jpg", "is longer than 1024 bytes", id="long"),
    ],
)
def test_file_names_that_leave_the_tree_are_refused(tree, name, said):
    tree.image(1)
    tree.tables["sample_data"][0]["filename"] = name
    tree.write()
    with pytest.raises(LabelError, match=rf"sample_data\.json: the file name .* {said}; unpack nuImages' own metadata"):
        open_split(tree.root, "train")


def test_a_huge_token_fills_no_memory(tree):
    tree.image(1)
    tree.tables["sample_data"][0]["token"] = "a" * 1000
    tree.write()
    with pytest.raises(
        LabelError, match=r"sample_data\.json: row 0 is not of nuImages' schema v1\.0 \(a token of 1000 char"
    ):
        open_split(tree.root, "train")
