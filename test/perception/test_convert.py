import json
import tracemalloc
from pathlib import Path

import cv2
import numpy as np
import pytest

from lvad_perception.bags.convert import DEFAULT_START_NS, from_dataset, from_video
from lvad_perception.bags.reader import open_bag
from lvad_perception.datasets.bdd100k import open_split
from lvad_perception.errors import BagError, ConfigError, DatasetError
from lvad_perception.media.images import read_image
from lvad_perception.messages import (
    check_label_info,
    image_from_compressed,
    mask_from_message,
    stamp_ns,
    truth_boxes_from_message,
)
from lvad_perception.topics import TASK_TOPICS
from lvad_perception.vocabulary import TASKS

from .bag_contents import POLICIES, contents, profiles_as_humble_reads_them

IMAGE = "/camera/image_raw/compressed"


def messages(bag):
    """Topic -> [(bag stamp, message)]."""
    return {topic: [(stamp, message) for stamp, _, message in found] for topic, found in contents(bag).items()}


class TestFromDataset:
    @pytest.fixture(scope="class", params=["mcap", "sqlite3"])
    def bag(self, request, small_split, tmp_path_factory):
        output = tmp_path_factory.mktemp(request.param) / "bag"
        summary = from_dataset(small_split, "val", output, storage=request.param, rate_hz=20.0, frame_id="front")
        assert (summary.images, summary.problems, summary.duration_s) == (8, 0, 0.35)
        assert summary.truth == {"detection": 6, "semantic": 4, "drivable": 3}
        return output

    def test_images_are_the_files_byte_for_byte(self, bag, small_split):
        split = open_split(small_split, "val")
        found = messages(bag)
        for index, (stamp, msg) in enumerate(found[IMAGE]):
            path = split.image_path(index)
            assert bytes(msg.data) == path.read_bytes()
            assert msg.format == {".jpg": "jpeg", ".png": "png"}[path.suffix]
            np.testing.assert_array_equal(image_from_compressed(msg), read_image(path))
            assert stamp == stamp_ns(msg.header) == DEFAULT_START_NS + index * 50_000_000
            assert msg.header.frame_id == "front"

    def test_names_travel_with_the_same_stamp(self, bag, small_split):
        found = messages(bag)
        split = open_split(small_split, "val")
        assert [msg.data for _, msg in found["/camera/name"]] == [split.name_of(i) for i in range(8)]
        assert [stamp for stamp, _ in found["/camera/name"]] == [stamp for stamp, _ in found[IMAGE]]

    def test_annotation_is_the_splits_and_absent_where_there_is_none(self, bag, small_split):
        found = messages(bag)
        split = open_split(small_split, "val")
        truths = {DEFAULT_START_NS + i * 50_000_000: split.truth(i, (72, 96)) for i in range(8)}
        boxes = {stamp: truth_boxes_from_message(msg) for stamp, msg in found["/camera/truth/detections"]}
        semantic = {stamp: mask_from_message(msg) for stamp, msg in found["/camera/truth/segmentation"]}
        drivable = {stamp: mask_from_message(msg) for stamp, msg in found["/camera/truth/drivable_area"]}
        for stamp, truth in truths.items():
            assert (stamp in boxes, stamp in semantic, stamp in drivable) == (
                truth.boxes is not None,
                truth.semantic is not None,
                truth.drivable is not None,
            )
            if truth.boxes is not None:
                np.testing.assert_array_equal(boxes[stamp].boxes_xyxy, truth.boxes.boxes_xyxy)
                np.testing.assert_array_equal(boxes[stamp].labels, truth.boxes.labels)
                np.testing.assert_array_equal(boxes[stamp].crowd, truth.boxes.crowd)
            if truth.semantic is not None:
                np.testing.assert_array_equal(semantic[stamp], truth.semantic)
            if truth.drivable is not None:
                np.testing.assert_array_equal(drivable[stamp], truth.drivable)
        assert any(len(truth) == 0 for truth in boxes.values()), "annotated and empty is an empty message"
        assert any(truth.crowd.any() for truth in boxes.values())

    def test_classes_are_listed_once_and_latched(self, bag):
        found = messages(bag)
        for task, topic in TASK_TOPICS.items():
            ((_, info),) = found[f"/camera/truth/{topic}/label_info"]
            check_label_info(info, TASKS[task], source="bag")
        with open_bag(bag) as reader:
            profiles = {
                c.topic: [qos.durability.name for qos in c.ext.offered_qos_profiles] for c in reader.connections
            }
        assert profiles["/camera/truth/segmentation/label_info"] == ["TRANSIENT_LOCAL"]
        assert profiles["/camera/truth/segmentation"] == []

    def test_it_plays_on_humble(self, bag):
        profiles = profiles_as_humble_reads_them(bag)
        (latched,) = profiles["/camera/truth/segmentation/label_info"]
        assert {name: latched[name] for name in (*POLICIES, "depth")} == {
            "history": 1,  # rmw's numbers: keep last
            "depth": 1,
            "reliability": 1,  # reliable
            "durability": 1,  # transient local
            "liveliness": 1,  # automatic
        }
        assert latched["lifespan"] == {"sec": 9223372036, "nsec": 854775807}  # RMW_DURATION_INFINITE
        assert profiles[IMAGE] == []

    def test_a_broken_image_or_mask_costs_only_itself(self, tmp_path, make_small_split):
        root = make_small_split(tmp_path / "bdd")
        broken = root / "images/100k/val/frame-002.jpg"
        broken.write_bytes(broken.read_bytes()[:200])
        cv2.imwrite(str(root / "labels/drivable/masks/val/frame-003.png"), np.zeros((10, 10), np.uint8))
        reported = []
        summary = from_dataset(root, "val", tmp_path / "bag", report=reported.append)
        assert (summary.images, summary.problems) == (7, 2)
        assert summary.truth == {"detection": 5, "semantic": 4, "drivable": 2}
        assert len(reported) == 2
        assert "frame-002.jpg: it is a truncated image" in reported[0]
        assert "val drivable labels frame-003" in reported[1]
        assert [msg.data for _, msg in messages(tmp_path / "bag")["/camera/name"]][2] == "frame-003"

    def test_other_image_formats_become_png(self, tmp_path):
        folder = tmp_path / "images/100k/val"
        folder.mkdir(parents=True)
        image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
        cv2.imwrite(str(folder / "a.bmp"), image[..., ::-1])
        from lvad_perception.bags.convert import _encoded_image

        encoded, image_format, size_hw = _encoded_image(folder / "a.bmp")
        assert (image_format, size_hw) == ("png", (20, 30))
        np.testing.assert_array_equal(cv2.imdecode(np.frombuffer(encoded, np.uint8), 1)[..., ::-1], image)

    def test_the_limit_takes_the_first(self, tmp_path, small_split):
        assert from_dataset(small_split, "val", tmp_path / "bag", limit=3).images == 3

    def test_the_same_input_gives_the_same_bag(self, tmp_path, small_split):
        for place in ("a", "b"):
            from_dataset(small_split, "val", tmp_path / place / "bag")
        first, second = ((tmp_path / place / "bag" / "bag.mcap").read_bytes() for place in ("a", "b"))
        assert first == second


class TestRefusals:
    def test_an_unknown_split(self, tmp_path, small_split):
        with pytest.raises(DatasetError, match="test"):
            from_dataset(small_split, "test", tmp_path / "bag")
        assert list(tmp_path.iterdir()) == []

    def test_a_missing_root(self, tmp_path):
        with pytest.raises(DatasetError, match="nowhere"):
            from_dataset(tmp_path / "nowhere", "val", tmp_path / "bag")

    def test_no_image_can_be_read(self, tmp_path, make_small_split):
        root = make_small_split(tmp_path / "bdd", frames=2)
        for path in (root / "images/100k/val").iterdir():
            path.write_bytes(b"")
        with pytest.raises(BagError, match=r"no image of .* split val can be read; copy the images again"):
            from_dataset(root, "val", tmp_path / "out" / "bag", report=lambda line: None)
        assert list((tmp_path / "out").iterdir()) == []

    @pytest.mark.parametrize(
        "setting", [{"rate_hz": 0}, {"limit": 0}, {"start_stamp_ns": -1}, {"camera": "front left"}]
    )
    def test_impossible_settings(self, tmp_path, small_split, setting):
        with pytest.raises(ConfigError, match=str(next(iter(setting.values())))):
            from_dataset(small_split, "val", tmp_path / "bag", **setting)
        assert list(tmp_path.iterdir()) == []

    def test_an_existing_bag_stays_without_overwrite(self, tmp_path, small_split):
        from_dataset(small_split, "val", tmp_path / "bag", limit=2)
        with pytest.raises(BagError, match="exists already; choose another name or replace it with --overwrite"):
            from_dataset(small_split, "val", tmp_path / "bag")
        assert len(messages(tmp_path / "bag")[IMAGE]) == 2
        from_dataset(small_split, "val", tmp_path / "bag", overwrite=True, limit=4)
        assert len(messages(tmp_path / "bag")[IMAGE]) == 4
        assert [path.name for path in tmp_path.iterdir()] == ["bag"]

    def test_a_folder_that_is_no_bag_is_never_replaced(self, tmp_path, small_split):
        (tmp_path / "photos").mkdir()
        (tmp_path / "photos" / "a.txt").write_text("precious")
        with pytest.raises(BagError, match="is no bag folder, so it is not replaced"):
            from_dataset(small_split, "val", tmp_path / "photos", overwrite=True)
        assert (tmp_path / "photos" / "a.txt").read_text() == "precious"

    @pytest.mark.parametrize("interruption", [KeyboardInterrupt, RuntimeError])
    def test_an_interrupted_conversion_leaves_nothing_and_keeps_the_older_bag(
        self, tmp_path, small_split, monkeypatch, interruption
    ):
        from_dataset(small_split, "val", tmp_path / "bag", limit=1)

        def interrupt(self, i, size_hw):
            raise interruption

        monkeypatch.setattr("lvad_perception.datasets.bdd100k.Bdd100kSplit.drivable", interrupt)
        with pytest.raises(interruption):
            from_dataset(small_split, "val", tmp_path / "bag", overwrite=True)
        assert [path.name for path in tmp_path.iterdir()] == ["bag"]
        assert len(messages(tmp_path / "bag")[IMAGE]) == 1

    @pytest.mark.parametrize("interruption", [KeyboardInterrupt, OSError])
    def test_an_interruption_while_it_takes_its_name_keeps_the_older_bag(
        self, tmp_path, small_split, monkeypatch, interruption
    ):
        from_dataset(small_split, "val", tmp_path / "bag", limit=1)
        rename = Path.rename

        def interrupt(path, target):
            if target == tmp_path / "bag" and path.name == "bag":
                raise interruption
            return rename(path, target)

        monkeypatch.setattr(Path, "rename", interrupt)
        monkeypatch.setattr("lvad_perception.bags.writer.exchange", lambda *_: False)  # as where the system cannot
        with pytest.raises(BagError if interruption is OSError else interruption):
            from_dataset(small_split, "val", tmp_path / "bag", overwrite=True)
        assert [path.name for path in tmp_path.iterdir()] == ["bag"]
        assert len(messages(tmp_path / "bag")[IMAGE]) == 1

    def test_a_place_that_cannot_be_written(self, small_split):
        with pytest.raises(BagError, match=r"cannot be written .*; choose a folder with space and permission"):
            from_dataset(small_split, "val", "/proc/bag")


class TestMemory:
    def test_it_does_not_grow_with_the_length(self, tmp_path, make_small_split):
        peaks = {}
        for frames in (120, 480):
            root = make_small_split(tmp_path / f"bdd-{frames}", frames=frames)
            open_split(root, "val")  # parsing labels is another matter
            tracemalloc.start()
            from_dataset(root, "val", tmp_path / f"bag-{frames}")
            peaks[frames] = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        # What may grow is the MCAP index, some tens of bytes a message; the images alone would be megabytes more.
        assert peaks[480] < peaks[120] + 500_000


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    video = pytest.importorskip("lvad_perception.media.video")
    path = tmp_path_factory.mktemp("video") / "clip.mp4"
    frames = (np.full((48, 64, 3), 8 * index, np.uint8) for index in range(20))
    video.write_video(path, frames, 10.0)
    return path


class TestFromVideo:
    def test_stamps_are_the_videos(self, clip, tmp_path):
        summary = from_video(clip, tmp_path / "bag")
        assert (summary.images, round(summary.duration_s, 6)) == (20, 1.9)
        found = messages(tmp_path / "bag")[IMAGE]
        assert [stamp - DEFAULT_START_NS for stamp, _ in found] == [index * 100_000_000 for index in range(20)]
        levels = [int(image_from_compressed(msg).mean()) for _, msg in found]
        np.testing.assert_allclose(levels, [8 * index for index in range(20)], atol=6)

    def test_raw_and_every(self, clip, tmp_path):
        assert from_video(clip, tmp_path / "bag", raw=True, every=5, camera="front").images == 4
        found = messages(tmp_path / "bag")
        assert list(found) == ["/front/image_raw"]
        assert [msg.encoding for _, msg in found["/front/image_raw"]] == ["rgb8"] * 4

    def test_a_missing_video(self, tmp_path, clip):
        with pytest.raises(Exception, match=r"gone\.mp4"):
            from_video(tmp_path / "gone.mp4", tmp_path / "bag")
        assert list(tmp_path.iterdir()) == []

    def test_every_zero(self, clip, tmp_path):
        with pytest.raises(ConfigError, match="every 0th frame is none; give 1 for all"):
            from_video(clip, tmp_path / "bag", every=0)

    @pytest.mark.parametrize(
        ("name", "frames", "seconds"),
        [("carnd_solidWhiteRight_960x540_25fps.mp4", 221, 8.8), ("carnd_test_video_1280x720_orig.mp4", 38, 1.48)],
    )
    def test_real_footage(self, clip, shared_data, tmp_path, name, frames, seconds):
        summary = from_video(shared_data / "video" / name, tmp_path / "bag")
        assert (summary.images, round(summary.duration_s, 2)) == (frames, seconds)


def test_real_data(shared_data, tmp_path):
    summary = from_dataset(shared_data / "camvid-bdd", "val", tmp_path / "bag", limit=20)
    assert (summary.images, summary.problems) == (20, 0)
    assert json.dumps(summary.truth) == '{"detection": 20, "semantic": 20, "drivable": 20}'
