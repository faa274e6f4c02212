import errno
import json
import os

import cv2
import numpy as np
import pytest

from lvad_perception.errors import ConfigError, DatasetError
from lvad_perception.vocabulary import DETECTION, DRIVABLE_BACKGROUND, SEMANTIC, UNLABELED
from lvad_training.sample_set import render_sample_set, write
from lvad_training.sample_set.scene import render_scene

SMALL = (96, 160)
_SAME_THING = {"pedestrian": "person"}


def scene_of(number, size_hw=SMALL):
    return render_scene(np.random.default_rng([17, number]), size_hw)


@pytest.fixture(scope="module")
def sample_root(tmp_path_factory):
    out = tmp_path_factory.mktemp("sample") / "set"
    render_sample_set(out, images=10, seed=3, size_hw=SMALL)
    return out


def files_of(root):
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_layout_is_bdd100ks(sample_root):
    for split, count in (("train", 8), ("val", 2)):
        frames = json.loads((sample_root / "labels" / "det_20" / f"det_{split}.json").read_text())
        names = sorted(path.stem for path in (sample_root / "images" / "100k" / split).glob("*.jpg"))
        assert len(names) == count
        assert [frame["name"] for frame in frames] == [f"{name}.jpg" for name in names]
        for kind in ("sem_seg", "drivable"):
            masks = sample_root / "labels" / kind / "masks" / split
            assert sorted(path.stem for path in masks.glob("*.png")) == names
        assert [frame["timestamp"] for frame in frames] == [100 * place for place in range(count)]
        for frame in frames:
            assert set(frame["attributes"]) == {"weather", "timeofday", "scene"}


def test_masks_and_images_are_readable_and_fit(sample_root):
    for image_path in (sample_root / "images").rglob("*.jpg"):
        assert cv2.imread(str(image_path)).shape == (*SMALL, 3)
        split, name = image_path.parent.name, f"{image_path.stem}.png"
        semantic, drivable = (
            cv2.imread(str(sample_root / "labels" / kind / "masks" / split / name), cv2.IMREAD_UNCHANGED)
            for kind in ("sem_seg", "drivable")
        )
        assert semantic.shape == drivable.shape == SMALL
        assert semantic.dtype == drivable.dtype == np.uint8
        assert set(np.unique(semantic)) <= {*range(len(SEMANTIC.names)), UNLABELED}
        assert set(np.unique(drivable)) <= {0, 1, 2}
        # What is driven on is road.
        assert (semantic[drivable != DRIVABLE_BACKGROUND] == SEMANTIC.index("road")).all()


def test_boxes_lie_inside_in_inclusive_pixels_with_known_categories(sample_root):
    frames = json.loads((sample_root / "labels" / "det_20" / "det_train.json").read_text())
    labels = [label for frame in frames for label in frame["labels"]]
    assert labels
    assert len({label["id"] for label in labels}) == len(labels)
    for label in labels:
        assert label["category"] in DETECTION.names
        box = label["box2d"]
        assert 0 <= box["x1"] < box["x2"] <= SMALL[1] - 1
        assert 0 <= box["y1"] < box["y2"] <= SMALL[0] - 1
        assert set(label["attributes"]) == {"occluded", "truncated", "trafficLightColor"}


def test_the_same_seed_gives_the_same_files_whatever_the_number_of_processes(sample_root, tmp_path):
    render_sample_set(tmp_path / "again", images=10, seed=3, size_hw=SMALL, workers=2)
    assert files_of(tmp_path / "again") == files_of(sample_root)


def test_another_seed_gives_other_images(sample_root, tmp_path):
    render_sample_set(tmp_path / "other", images=2, seed=4, size_hw=SMALL)
    name = "images/100k/train/sample-000000.jpg"
    assert files_of(tmp_path / "other")[name] != files_of(sample_root)[name]


@pytest.mark.parametrize("number", range(6))
def test_every_box_is_the_exact_extent_of_what_is_visible(number):
    scene = scene_of(number, (180, 320))
    for box in scene.boxes:
        x1, y1, x2, y2 = box.xyxy
        name = DETECTION.names[box.detection]
        of_class = scene.semantic[y1:y2, x1:x2] == SEMANTIC.index(_SAME_THING.get(name, name))
        # Every edge of the box touches the object's class, and nothing smaller would.
        assert of_class[0].any()
        assert of_class[-1].any()
        assert of_class[:, 0].any()
        assert of_class[:, -1].any()


def test_isolated_objects_have_no_pixel_outside_their_box():
    found = 0
    for number in range(12):
        scene = scene_of(number, (180, 320))
        for detection, name in enumerate(DETECTION.names):
            boxes = [box for box in scene.boxes if box.detection == detection]
            if len(boxes) != 1:
                continue
            pixels = scene.semantic == SEMANTIC.index(_SAME_THING.get(name, name))
            x1, y1, x2, y2 = boxes[0].xyxy
            outside = pixels.copy()
            outside[y1:y2, x1:x2] = False
            # Only objects too small for a box may remain.
            count, _, stats, _ = cv2.connectedComponentsWithStats(outside.astype(np.uint8), connectivity=8)
            assert all(min(stats[place, 2:4]) < 4 for place in range(1, count)), (number, name)
            found += 1
    assert found >= 10


def test_images_differ_where_masks_do():
    """The image shows the classes: sky and road differ in colour, and object borders are image edges."""
    for number in range(6):
        scene = scene_of(number, (180, 320))
        border = scene.semantic[:, 1:] != scene.semantic[:, :-1]
        known = (scene.semantic[:, 1:] != UNLABELED) & (scene.semantic[:, :-1] != UNLABELED)
        step = np.abs(scene.image[:, 1:].astype(int) - scene.image[:, :-1]).sum(2)
        assert step[border & known].mean() > 1.5 * step[~border & known].mean()


def test_all_classes_occur_in_a_few_hundred_images():
    semantic, boxes = np.zeros(256, int), np.zeros(len(DETECTION.names), int)
    drivable = np.zeros(3, int)
    for number in range(300):
        scene = scene_of(number, (90, 160))
        semantic += np.bincount(scene.semantic.ravel(), minlength=256)
        drivable += np.bincount(scene.drivable.ravel(), minlength=3)
        boxes += np.bincount([box.detection for box in scene.boxes], minlength=len(boxes))
        if (semantic[: len(SEMANTIC.names)] > 0).all() and (boxes > 0).all():
            break
    assert (semantic[: len(SEMANTIC.names)] > 0).all(), semantic[:19]
    assert (boxes > 0).all(), dict(zip(DETECTION.names, boxes, strict=True))
    assert boxes[DETECTION.index("car")] == boxes.max()
    assert (drivable > 0).all()


def test_an_existing_identical_set_is_kept_and_another_folder_is_refused(sample_root, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in sample_root.rglob("*")}
    render_sample_set(sample_root, images=10, seed=3, size_hw=SMALL)
    assert {path: path.stat().st_mtime_ns for path in sample_root.rglob("*")} == before
    with pytest.raises(DatasetError, match="exists and is not this sample set; choose another folder"):
        render_sample_set(sample_root, images=10, seed=4, size_hw=SMALL)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(DatasetError, match="exists and is not this sample set"):
        render_sample_set(tmp_path, images=2, seed=0, size_hw=SMALL)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_rendering_that_fails_leaves_nothing(tmp_path, monkeypatch):
    def full(path, _pixels, _options):
        path.touch()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(write, "_save", full)
    with pytest.raises(DatasetError, match=r"set \(No space left on device\); choose a writable folder"):
        render_sample_set(tmp_path / "set", images=2, seed=0, size_hw=SMALL)
    assert list(tmp_path.iterdir()) == []


def test_renderings_at_the_same_time_do_not_disturb_each_other(tmp_path, monkeypatch):
    """The second process finishes the same set while the first one writes it."""
    render, made = write._render_one, []

    def render_slowly(*arguments):
        monkeypatch.setattr(write, "_render_one", render)
        made.append(render_sample_set(tmp_path / "set", images=2, seed=0, size_hw=SMALL))
        return render(*arguments)

    monkeypatch.setattr(write, "_render_one", render_slowly)
    made.append(render_sample_set(tmp_path / "set", images=2, seed=0, size_hw=SMALL))
    assert made[0] == made[1]
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"images": 1}, "1 images has no validation split; ask for at least 2"),
        ({"seed": -1}, "seed of a sample set is -1"),
        ({"size_hw": (20, 40)}, "too small; both sides need 64 pixels"),
        ({"workers": 0}, "0 processes; give at least 1"),
    ],
)
def test_impossible_numbers_are_refused(tmp_path, wrong, message):
    with pytest.raises(ConfigError, match=message):
        render_sample_set(tmp_path / "set", **({"images": 2, "seed": 0, "size_hw": SMALL} | wrong))


def test_an_unwritable_folder_is_one_clear_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DatasetError, match=r"cannot be written to .* choose a writable folder"):
        render_sample_set(tmp_path / "file" / "set", images=2, seed=0, size_hw=SMALL)
