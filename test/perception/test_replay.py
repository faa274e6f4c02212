import re
import shutil
import tracemalloc

import cv2
import numpy as np
import pytest
from rosbags.interfaces import Qos, QosDurability, QosHistory, QosLiveliness, QosReliability, QosTime
from rosbags.rosbag2 import StoragePlugin, Writer

from lvad_perception import topics
from lvad_perception.bags.cameras import find_cameras
from lvad_perception.bags.convert import from_dataset
from lvad_perception.bags.overlay_video import video_clock
from lvad_perception.bags.reader import open_bag
from lvad_perception.bags.replay import replay
from lvad_perception.bags.writer import create_bag
from lvad_perception.errors import BagError
from lvad_perception.messages import (
    check_label_info,
    detections_from_message,
    image_from_compressed,
    image_to_message,
    make_header,
    mask_from_message,
    mask_to_message,
    rosbags_types,
    rosbags_typestore,
    stamp_ns,
)
from lvad_perception.perceiver import Perceiver
from lvad_perception.topics import TASK_TOPICS
from lvad_perception.vocabulary import DRIVABLE, TASKS

from .bag_contents import contents, profiles_as_humble_reads_them
from .mcap_files import channel, message, schema, write_mcap

TYPES = rosbags_types()
START = 1_600_000_000_000_000_000


def write_images(path, topics, count=5, *, spoil=(), size_hw=(36, 48), storage="mcap"):
    """A bag with raw images on each topic; those at the indices in ``spoil`` are cut short."""
    random = np.random.default_rng(1)
    with create_bag(path, storage=storage) as bag:
        for index in range(count):
            stamp = START + index * 100_000_000
            for topic in topics:
                header = make_header(stamp + 7, "lens", types=TYPES)
                msg = image_to_message(random.integers(0, 256, (*size_hw, 3), np.uint8), header, types=TYPES)
                if index in spoil:
                    msg.data = msg.data[:30]
                bag.write(topic, msg, stamp)
    return path


def write_compressed(path, images, *, image_format="jpeg"):
    with create_bag(path) as bag:
        for index, data in enumerate(images):
            header = make_header(START + index * 100_000_000, "lens", types=TYPES)
            msg = TYPES.CompressedImage(header=header, format=image_format, data=np.frombuffer(data, np.uint8))
            bag.write("/front/image_raw/compressed", msg, START + index * 100_000_000)
    return path


@pytest.fixture
def perceiver(fake_engine):
    return Perceiver(fake_engine, score_threshold=0.0)


@pytest.fixture
def reported():
    return []


class TestResults:
    @pytest.fixture(params=["mcap", "sqlite3"])
    def bags(self, request, small_split, tmp_path):
        from_dataset(small_split, "val", tmp_path / "in", storage=request.param)
        return tmp_path / "in", tmp_path / "out", request.param

    def test_they_are_the_perceivers_under_the_source_header(self, bags, perceiver, make_engine):
        source, output, storage = bags
        summary = replay(source, perceiver, output, storage=storage, confidence=True)
        assert summary.cameras == {"/camera/image_raw/compressed": 8}
        assert (summary.images, summary.detections) == (8, 32)
        found = contents(output)
        alone = Perceiver(make_engine(), score_threshold=0.0)
        for index, (stamp, _, image_msg) in enumerate(found["/camera/image_raw/compressed"]):
            (expected,) = alone([image_from_compressed(image_msg)])
            results = {
                topic: found[f"/camera/{topic}"][index]
                for topic in ("detections", "segmentation", "drivable_area", "segmentation/confidence")
            }
            for bag_stamp, _, msg in results.values():
                assert bag_stamp == stamp
                assert stamp_ns(msg.header) == stamp_ns(image_msg.header)
                assert msg.header.frame_id == image_msg.header.frame_id
            detections = detections_from_message(results["detections"][2])
            np.testing.assert_allclose(detections.boxes_xyxy, expected.detections.boxes_xyxy, atol=1e-9)
            np.testing.assert_array_equal(detections.scores, expected.detections.scores)
            np.testing.assert_array_equal(mask_from_message(results["segmentation"][2]), expected.semantic)
            np.testing.assert_array_equal(mask_from_message(results["drivable_area"][2]), expected.drivable)
            confidence = mask_from_message(results["segmentation/confidence"][2])
            np.testing.assert_array_equal(confidence, expected.semantic_confidence)

    def test_the_classes_of_each_task_are_listed_once(self, bags, perceiver):
        source, output, _ = bags
        replay(source, perceiver, output)
        found = contents(output)
        for task, topic in TASK_TOPICS.items():
            ((stamp, _, info),) = found[f"/camera/{topic}/label_info"]
            check_label_info(info, TASKS[task], source="bag")
            assert stamp == found[f"/camera/{topic}"][0][0]

    def test_the_source_is_copied_byte_for_byte(self, bags, perceiver):
        source, output, _ = bags
        replay(source, perceiver, output)
        before, after = contents(source), contents(output)
        assert set(before) < set(after)
        for topic, messages in before.items():
            assert [item[:2] for item in after[topic]] == [item[:2] for item in messages]

    @pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
    def test_the_qos_of_a_newer_bag_plays_on_humble(self, tmp_path, perceiver, storage):
        """Version 9, which Jazzy and Lyrical record, names the policies; what is copied of it has Humble's numbers."""
        best_effort = Qos(
            QosHistory.KEEP_LAST,
            5,
            QosReliability.BEST_EFFORT,
            QosDurability.VOLATILE,
            QosTime(0, 0),
            QosTime(2, 500),
            QosLiveliness.AUTOMATIC,
            QosTime(0, 0),
            False,
        )
        source = write_images(tmp_path / "in", ["/front/image_raw"])
        newer = tmp_path / "newer"
        with open_bag(source) as reader, Writer(newer, version=9, storage_plugin=StoragePlugin[storage.upper()]) as bag:
            store = rosbags_typestore()
            topic = bag.add_connection(
                "/front/image_raw", "sensor_msgs/msg/Image", typestore=store, offered_qos_profiles=[best_effort]
            )
            for _, stamp, raw in reader.messages(reader.connections):
                bag.write(topic, stamp, raw)
        assert "reliability: best_effort" in (newer / "metadata.yaml").read_text()
        replay(newer, perceiver, tmp_path / "out", storage=storage)
        assert profiles_as_humble_reads_them(tmp_path / "out")["/front/image_raw"] == [
            {
                "history": 1,
                "depth": 5,
                "reliability": 2,
                "durability": 2,
                "deadline": {"sec": 0, "nsec": 0},
                "lifespan": {"sec": 2, "nsec": 500},
                "liveliness": 1,
                "liveliness_lease_duration": {"sec": 0, "nsec": 0},
                "avoid_ros_namespace_conventions": False,
            }
        ]

    def test_images_can_be_left_out(self, bags, perceiver):
        source, output, _ = bags
        replay(source, perceiver, output, images=False)
        topics = contents(output).keys()
        assert "/camera/image_raw/compressed" not in topics
        assert {"/camera/name", "/camera/truth/detections", "/camera/detections"} <= topics
        assert "/camera/segmentation/confidence" not in topics

    def test_a_replayed_bag_can_be_replayed(self, bags, perceiver, make_engine):
        source, output, _ = bags
        replay(source, perceiver, output)
        sure = Perceiver(make_engine(), score_threshold=1.0)
        again = replay(output, sure, output.with_name("again"))
        assert (again.images, again.detections) == (8, 0)
        assert len(contents(output.with_name("again"))["/camera/detections"]) == 8

    def test_where_the_predictions_come_from_is_recorded(self, bags, perceiver):
        source, output, _ = bags
        replay(source, perceiver, output)
        with open_bag(output) as reader:
            assert reader.custom_data == {
                "lvad_source": "bdd100k",
                "lvad_split": "val",
                "lvad_weights_sha256": "0" * 64,
                "lvad_score_threshold": "0.0",
            }

    def test_a_task_that_the_model_lacks_has_no_topic(self, tmp_path, make_engine, make_manifest):
        manifest = make_manifest(classes={"drivable": DRIVABLE.names})
        source = write_images(tmp_path / "in", ["/front/image_raw"])
        replay(source, Perceiver(make_engine(manifest)), tmp_path / "out")
        assert set(contents(tmp_path / "out")) == {
            "/front/image_raw",
            "/front/drivable_area",
            "/front/drivable_area/label_info",
        }


class TestCameras:
    def test_each_camera_has_its_own_namespace(self, tmp_path, perceiver):
        source = write_images(tmp_path / "in", ["/front/image_raw", "/rear/image_raw"], count=3)
        summary = replay(source, perceiver, tmp_path / "out")
        assert summary.cameras == {"/front/image_raw": 3, "/rear/image_raw": 3}
        found = contents(tmp_path / "out")
        assert len(found["/front/detections"]) == len(found["/rear/detections"]) == 3

    def test_two_cameras_in_one_namespace_do_not_mix(self, tmp_path, perceiver):
        source = write_images(tmp_path / "in", ["/cam/left", "/cam/right"], count=2)
        replay(source, perceiver, tmp_path / "out")
        assert {"/cam/left/detections", "/cam/right/detections"} <= contents(tmp_path / "out").keys()

    def test_topics_choose(self, tmp_path, perceiver):
        source = write_images(tmp_path / "in", ["/front/image_raw", "/rear/image_raw"], count=2)
        assert replay(source, perceiver, tmp_path / "out", topics=["/rear/image_raw"]).cameras == {"/rear/image_raw": 2}

    def test_an_unknown_topic_lists_the_image_topics(self, tmp_path, perceiver):
        source = write_images(tmp_path / "in", ["/front/image_raw"])
        with pytest.raises(BagError, match=r"no image topic /left; its image topics are /front/image_raw$"):
            replay(source, perceiver, tmp_path / "out", topics=["/left"])

    def test_raw_and_compressed_of_one_camera_are_one_camera(self, tmp_path, small_split, perceiver):
        source = tmp_path / "in"
        with create_bag(source) as bag:
            header = make_header(START, "c", types=TYPES)
            raw = image_to_message(np.zeros((8, 8, 3), np.uint8), header, types=TYPES)
            compressed = TYPES.CompressedImage(header=header, format="jpeg", data=np.zeros(9, np.uint8))
            mask = mask_to_message(np.zeros((8, 8), np.uint8), header, types=TYPES)
            for topic, msg in (
                ("/c/image_raw", raw),
                ("/c/image_raw/compressed", compressed),
                ("/c/segmentation", mask),
                ("/c/truth/segmentation", mask),
                ("/c/depth/compressedDepth", compressed),
            ):
                bag.write(topic, msg, START)
        with open_bag(source) as reader:
            (camera,) = find_cameras(reader.connections, source="bag")
            assert (camera.topic, camera.namespace, camera.compressed) == ("/c/image_raw", "/c", False)
            with pytest.raises(BagError, match="are images of the same camera; name one of them"):
                find_cameras(reader.connections, source="bag", topics=["/c/image_raw", "/c/image_raw/compressed"])

    def test_a_bag_without_images(self, tmp_path, perceiver):
        with create_bag(tmp_path / "in") as bag:
            bag.write("/chatter", TYPES.String(data="hello"), START)
        with pytest.raises(BagError, match=r"has no camera images; its topics are /chatter: record sensor_msgs/Image"):
            replay(tmp_path / "in", perceiver, tmp_path / "out")


class TestBadInput:
    def test_malformed_images_are_reported_counted_and_skipped(self, tmp_path, perceiver, reported):
        source = write_images(tmp_path / "in", ["/front/image_raw"], count=6, spoil=(1, 4))
        summary = replay(source, perceiver, tmp_path / "out", report=reported.append)
        assert summary.cameras == {"/front/image_raw": 4}
        assert summary.skipped == {"/front/image_raw": 2}
        assert [line.split(":")[0] for line in reported] == [
            "/front/image_raw message 1 at 1600000000.100000000",
            "/front/image_raw message 4 at 1600000000.400000000",
        ]
        assert "needs 5184 bytes but carries 30" in reported[0]
        found = contents(tmp_path / "out")
        assert len(found["/front/image_raw"]) == 6
        assert [stamp - START for stamp, _, _ in found["/front/detections"]] == [0, 2e8, 3e8, 5e8]

    def test_a_flood_of_problems_is_counted_not_printed(self, tmp_path, perceiver, reported):
        source = write_images(tmp_path / "in", ["/front/image_raw"], count=50, spoil=range(1, 50))
        summary = replay(source, perceiver, tmp_path / "out", report=reported.append)
        assert summary.skipped == {"/front/image_raw": 49}
        assert len(reported) == 21
        assert reported[-1] == "/front/image_raw: further problems are only counted"

    def test_nothing_but_malformed_images(self, tmp_path, perceiver, reported):
        source = write_images(tmp_path / "in", ["/front/image_raw"], count=2, spoil=(0, 1))
        with pytest.raises(BagError, match=r"none of the 2 images in .* can be decoded; record rgb8"):
            replay(source, perceiver, tmp_path / "out", report=reported.append)
        assert [path.name for path in tmp_path.iterdir()] == ["in"]

    @pytest.mark.parametrize("damage", ["zeros", "garbage", "hole", "early end"])
    def test_a_jpeg_that_is_damaged_inside(self, tmp_path, perceiver, reported, damage):
        """OpenCV decodes it to grey or shifted blocks and says nothing."""
        pytest.importorskip("simplejpeg", reason="simplejpeg is not installed")
        pixels = np.random.default_rng(0).integers(0, 256, (96, 128, 3), np.uint8)
        jpeg = bytes(cv2.imencode(".jpg", cv2.GaussianBlur(pixels, (5, 5), 2))[1])
        half = len(jpeg) // 2
        spoilt = {
            "zeros": jpeg[:half] + bytes(200) + jpeg[half + 200 :],
            "garbage": jpeg[:half] + np.random.default_rng(1).bytes(200) + jpeg[half + 200 :],
            "hole": jpeg[:half] + jpeg[half + 300 :],
            "early end": jpeg[:half] + b"\xff\xd9" + jpeg[half + 2 :],
        }[damage]
        write_compressed(tmp_path / "in", [jpeg, spoilt, jpeg])
        summary = replay(tmp_path / "in", perceiver, tmp_path / "out", report=reported.append)
        assert (summary.images, summary.skipped) == (2, {"/front/image_raw/compressed": 1})
        (line,) = reported
        assert line.startswith(
            "/front/image_raw/compressed message 1 at 1600000000.100000000: compressed image (jpeg) is"
        )
        assert re.search(r"is damaged: Corrupt JPEG data: .*; record it again$", line)
        assert [msg.data for *_, msg in contents(tmp_path / "out")["/front/image_raw/compressed"]][
            1
        ].tobytes() == spoilt

    def test_messages_that_the_bag_counts_and_does_not_hold(self, tmp_path, perceiver, reported):
        source = write_images(tmp_path / "in", ["/front/image_raw"], count=6, spoil=(1,))
        metadata = source / "metadata.yaml"
        metadata.write_text(metadata.read_text().replace("message_count: 6", "message_count: 9"))
        summary = replay(source, perceiver, tmp_path / "out", report=reported.append)
        assert (summary.cameras, summary.skipped) == ({"/front/image_raw": 5}, {"/front/image_raw": 4})
        assert reported[1].startswith("/front/image_raw 3 of 9 messages: ")

    def test_bytes_that_are_no_message(self, tmp_path, perceiver, reported):
        source = tmp_path / "in"
        write_images(source, ["/front/image_raw"], count=2, storage="sqlite3")
        import sqlite3

        with sqlite3.connect(source / "in.db3") as database:
            database.execute("UPDATE messages SET data = x'0001000000' WHERE id = 1")
        database.close()
        assert replay(source, perceiver, tmp_path / "out", report=reported.append).images == 1
        assert "message 0 at 1600000000.000000000: its 5 bytes are no sensor_msgs/msg/Image" in reported[0]

    def test_the_output_cannot_be_the_input(self, tmp_path, perceiver):
        source = write_images(tmp_path / "in", ["/front/image_raw"])
        for name in (source, source / "in.mcap"):
            with pytest.raises(BagError, match="is the bag to be replayed; choose another name"):
                replay(name, perceiver, source, overwrite=True)

    def test_an_existing_output(self, tmp_path, perceiver):
        source = write_images(tmp_path / "in", ["/front/image_raw"])
        (tmp_path / "out").mkdir()
        with pytest.raises(BagError, match="exists already"):
            replay(source, perceiver, tmp_path / "out")

    def test_a_failing_engine_leaves_no_output(self, tmp_path, fake_engine):
        source = write_images(tmp_path / "in", ["/front/image_raw"])

        def fail(images):
            raise KeyboardInterrupt

        fake_engine.infer = fail
        with pytest.raises(KeyboardInterrupt):
            replay(source, Perceiver(fake_engine), tmp_path / "out")
        assert [path.name for path in tmp_path.iterdir()] == ["in"]

    @pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
    def test_a_truncated_bag(self, tmp_path, perceiver, storage):
        source = write_images(tmp_path / "in", ["/front/image_raw"], storage=storage)
        file = source / ("in.mcap" if storage == "mcap" else "in.db3")
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
        with pytest.raises(BagError, match=r"(cannot be read as a bag|its storage is damaged) .*recover"):
            replay(source, perceiver, tmp_path / "out")
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize(
        ("name", "sentence"),
        [
            ("gone", "does not exist; name a bag folder"),
            ("empty", "is no bag: it has neither metadata.yaml"),
            ("notes.txt", "is no bag; name a bag folder"),
            ("old.bag", "is a ROS 1 bag; convert it with: rosbags-convert"),
            ("broken", "cannot be read as a bag"),
            ("bare", r"has no metadata.yaml; name the storage file itself: .*bare/x\.mcap"),
        ],
    )
    def test_what_is_no_bag(self, tmp_path, perceiver, name, sentence):
        for folder in ("empty", "broken", "bare"):
            (tmp_path / folder).mkdir()
        (tmp_path / "notes.txt").write_text("x")
        (tmp_path / "old.bag").write_text("#ROSBAG V2.0")
        (tmp_path / "broken" / "metadata.yaml").write_text("a: [")
        (tmp_path / "bare" / "x.mcap").write_text("")
        with pytest.raises(BagError, match=sentence):
            replay(tmp_path / name, perceiver, tmp_path / "out")

    def test_an_empty_bag(self, tmp_path, perceiver):
        write_images(tmp_path / "in", ["/front/image_raw"], count=0)
        with pytest.raises(BagError, match="holds no messages; record it again"):
            replay(tmp_path / "in", perceiver, tmp_path / "out")


class TestVideos:
    """Packets of a video are no images, whatever message they come in."""

    @pytest.mark.parametrize("msgtype", topics.VIDEO_PACKETS)
    def test_a_type_of_their_own(self, tmp_path, perceiver, msgtype):
        path = write_mcap(
            tmp_path / "x.mcap", schema(name=msgtype), channel(topic="/front/video"), message(0, data=b"a")
        )
        sentence = "has no camera images, only packets of a video on /front/video; decode the video to images"
        with pytest.raises(BagError, match=sentence):
            replay(path, perceiver, tmp_path / "out")
        with pytest.raises(
            BagError, match=r"the messages of /front/video in .* are packets of a video, no images; decode"
        ):
            replay(path, perceiver, tmp_path / "out", topics=["/front/video"])

    @pytest.mark.parametrize(
        ("image_format", "start"),
        [
            ("h264", b"x"),
            ("H265", b"x"),
            ("hevc", b"x"),
            ("bgr8; h264", b"x"),
            ("", b"\0\0\0\1"),
            ("jpeg", b"\0\0\1\x67"),
        ],
    )
    def test_compressed_images(self, tmp_path, perceiver, reported, image_format, start):
        write_compressed(tmp_path / "in", [start + bytes(range(60))] * 2, image_format=image_format)
        with pytest.raises(
            BagError, match=r"none of the 2 images in .* can be decoded; decode the video to images, as"
        ):
            replay(tmp_path / "in", perceiver, tmp_path / "out", report=reported.append)
        assert "is a packet of a video, an image only together with those before it; decode the video" in reported[0]

    @pytest.mark.parametrize(("topic", "lost"), [("/rear/video", 3), ("/camera/image_raw/ffmpeg", 0)])
    def test_another_camera_is_reported_and_the_same_one_is_not(self, tmp_path, perceiver, reported, topic, lost):
        path = write_mcap(
            *(tmp_path / "x.mcap", schema(), schema(2, "ffmpeg_image_transport_msgs/msg/FFMPEGPacket")),
            *(channel(), channel(2, topic, of=2), message(0), *(message(place, key=2) for place in range(3))),
        )
        assert replay(path, perceiver, tmp_path / "out", report=reported.append).images == 1
        assert [line.split(";")[0] for line in reported] == (
            [f"{topic} all 3 messages: they are packets of a video, no images, and are left out"] if lost else []
        )
        reported.clear()
        replay(path, perceiver, tmp_path / "named", topics=["/camera/image_raw"], report=reported.append)
        assert reported == []


def test_one_topic_with_images_of_both_types_is_refused(tmp_path, perceiver):
    path = write_mcap(
        *(tmp_path / "x.mcap", schema(), schema(2, "sensor_msgs/msg/CompressedImage")),
        *(channel(), channel(2, of=2), message(0), message(1, key=2)),
    )
    with pytest.raises(
        BagError, match="has images of both types, raw and compressed, on /camera/image_raw; record them"
    ):
        replay(path, perceiver, tmp_path / "out")


class TestMemory:
    def test_it_does_not_grow_with_the_length(self, tmp_path, make_engine):
        peaks = {}
        for count in (60, 300):
            source = write_images(tmp_path / f"in-{count}", ["/front/image_raw"], count, size_hw=(72, 96))
            engine = make_engine()
            engine.batches = _Forgetful()
            tracemalloc.start()
            replay(source, Perceiver(engine), tmp_path / f"out-{count}")
            peaks[count] = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        # The images of the longer bag are five megabytes more.
        assert peaks[300] < peaks[60] + 500_000


class _Forgetful(list):
    def append(self, item):
        pass


class TestBagsOfTools:
    """Bags of users' tools."""

    @pytest.mark.parametrize(
        ("name", "images"),
        [
            ("merged_ros2.mcap", {"/camera/image_raw/compressed": 10}),
            ("edited-qos-two-cameras", {"/front/image_raw/compressed": 5, "/rear/image_raw/compressed": 5}),
            ("reindexed-on-humble", {"/cam/image_raw/compressed": 30}),
            ("newer-metadata-version/mcap_asis.mcap", {"/camera/image_raw/compressed": 5}),
        ],
    )
    def test_all_images_are_read(self, shared_data, tmp_path, perceiver, reported, name, images):
        bag = shared_data.parent / "cases" / "bags" / name
        assert replay(bag, perceiver, tmp_path / "out", report=reported.append).cameras == images
        assert reported == []

    @pytest.mark.parametrize(
        ("name", "sentence"),
        [
            ("from_ros1.mcap", "is a recording of ROS 1 in MCAP; convert the .bag file that it was made from with"),
            (
                "newer-metadata-version",
                r"newer rosbag2 .*; update lvad_perception, or name a storage file itself: .*asis",
            ),
        ],
    )
    def test_refused_with_their_own_remedy(self, shared_data, tmp_path, perceiver, name, sentence):
        with pytest.raises(BagError, match=sentence):
            replay(shared_data.parent / "cases" / "bags" / name, perceiver, tmp_path / "out")


class TestRealBags:
    """Bags that others wrote, with the malformed messages that their README tells of."""

    @pytest.mark.parametrize(
        "name", ["rosbags-rs-mcap", "rosbags-rs-sqlite3", "rosbags-rs-sqlite3/test_bag_sqlite3.db3"]
    )
    def test_all_images_malformed(self, shared_data, tmp_path, perceiver, reported, name):
        with pytest.raises(BagError, match="none of the 4 images"):
            replay(shared_data / "bags" / name, perceiver, tmp_path / "out", report=reported.append)
        assert len(reported) == 4
        assert all(line.startswith("/test/sensor_msgs/") for line in reported)

    def test_forty_frames(self, shared_data, tmp_path, perceiver):
        summary = replay(shared_data / "bags" / "own-driving-mcap", perceiver, tmp_path / "out")
        assert summary.cameras == {"/camera/image_raw/compressed": 40}
        assert len(contents(tmp_path / "out")["/camera/segmentation"]) == 40

    def test_the_schema_of_2019(self, shared_data, tmp_path, perceiver):
        folder = shared_data / "bags" / "legacy-2019-no-metadata"
        with pytest.raises(BagError, match=r"has no metadata.yaml; name the storage file itself: .*sample\.db3"):
            replay(folder, perceiver, tmp_path / "out")
        summary = replay(folder / "sample.db3", perceiver, tmp_path / "out")
        assert summary.cameras == {"/image": 1}
        assert set(contents(tmp_path / "out")) >= {"/image", "/detections", "/segmentation", "/drivable_area"}

    def test_missing_storage(self, shared_data, tmp_path, perceiver):
        with pytest.raises(BagError, match=r"metadata-only-surround-vision cannot be read .*files are missing"):
            replay(shared_data / "bags" / "metadata-only-surround-vision", perceiver, tmp_path / "out")


class TestOverlayVideo:
    def test_one_frame_an_image(self, tmp_path, perceiver):
        video = pytest.importorskip("lvad_perception.media.video")
        pytest.importorskip("lvad_perception.media.overlay")
        source = write_images(tmp_path / "in", ["/front/image_raw", "/rear/image_raw"], count=5, spoil=(2,))
        summary = replay(source, perceiver, tmp_path / "out", overlay_video=tmp_path / "overlay.mp4", report=print)
        assert summary.cameras == {"/front/image_raw": 4, "/rear/image_raw": 4}
        stamps = [stamp for stamp, _ in video.read_video(tmp_path / "overlay.mp4")]
        assert len(stamps) == 4
        assert stamps[1] - stamps[0] == 100_000_000

    def test_it_runs_as_the_stamps_do(self, tmp_path, perceiver):
        """Not as the bag is long: the other topics begin earlier and end later, and images are missing."""
        video = pytest.importorskip("lvad_perception.media.video")
        header_ms = [0, 50, 100, 300, 350]
        with create_bag(tmp_path / "in") as bag:
            bag.write("/chatter", TYPES.String(data="early"), START - 60_000_000_000)
            for place, at in enumerate(header_ms):
                header = make_header(START + at * 1_000_000, "lens", types=TYPES)
                msg = image_to_message(np.full((36, 48, 3), 50 * place, np.uint8), header, types=TYPES)
                bag.write("/front/image_raw", msg, START + 7_000_000 * place)  # as a slow disk recorded it
            bag.write("/chatter", TYPES.String(data="late"), START + 60_000_000_000)
        replay(tmp_path / "in", perceiver, tmp_path / "out", overlay_video=tmp_path / "overlay.mp4")
        seen = [stamp for stamp, _ in video.read_video(tmp_path / "overlay.mp4")]
        np.testing.assert_allclose(seen, [at * 1e6 for at in header_ms], atol=20_000)

    @pytest.mark.parametrize(
        ("stamps_ms", "shown_ms"),
        [
            ([5, 38, 71], [0, 33, 66]),
            ([0, 100, 86_400_000, 86_400_100], [0, 100, 1100, 1200]),  # two recordings in one bag
            ([100, 200, 200, 300], [0, 100, 200, 300]),  # a stamp twice
            ([1000, 1040, 0, 40], [0, 40, 80, 120]),  # the clock jumped back
            ([0, 10_000, 20_000], [0, 1000, 2000]),  # a picture each ten seconds
            ([7], [0]),
        ],
    )
    def test_pauses_are_cut_and_time_never_stands_still(self, stamps_ms, shown_ms):
        clock = video_clock()
        assert [clock(stamp * 1_000_000) / 1e6 for stamp in stamps_ms] == shown_ms

    def test_headers_without_a_stamp_leave_it_to_the_bag(self, tmp_path, perceiver):
        video = pytest.importorskip("lvad_perception.media.video")
        with create_bag(tmp_path / "in") as bag:
            for place in range(3):
                msg = image_to_message(
                    np.zeros((36, 48, 3), np.uint8), make_header(0, "lens", types=TYPES), types=TYPES
                )
                bag.write("/front/image_raw", msg, START + 40_000_000 * place)
        replay(tmp_path / "in", perceiver, tmp_path / "out", overlay_video=tmp_path / "overlay.mp4")
        seen = [stamp for stamp, _ in video.read_video(tmp_path / "overlay.mp4")]
        np.testing.assert_allclose(seen, [0, 4e7, 8e7], atol=20_000)

    def test_a_failed_replay_leaves_no_video(self, tmp_path, perceiver):
        pytest.importorskip("lvad_perception.media.video")
        pytest.importorskip("lvad_perception.media.overlay")
        source = write_images(tmp_path / "in", ["/front/image_raw"], count=2, spoil=(0, 1))
        with pytest.raises(BagError):
            replay(
                source, perceiver, tmp_path / "out", overlay_video=tmp_path / "overlay.mp4", report=lambda line: None
            )
        shutil.rmtree(source)
        assert list(tmp_path.iterdir()) == []
