"""The perception node in this process, driven by transitions, under real ROS 2."""

import threading
import time

import cv2
import numpy as np
import pytest

from lvad_perception.errors import ConfigError, EngineError
from lvad_perception.perceiver import Perceiver
from lvad_perception.vocabulary import DETECTION, DRIVABLE, SEMANTIC

TOPIC = "/camera/image_raw"
SIZE_HW = (90, 160)


@pytest.fixture
def make_node(spin):
    """A function that starts the node with the given parameters."""
    from rclpy.parameter import Parameter

    from lvad_perception.node.perception import PerceptionNode

    def make(**parameters):
        return spin(PerceptionNode(parameter_overrides=[Parameter(name, value=v) for name, v in parameters.items()]))

    return make


@pytest.fixture
def make_active_node(make_node, robot, wait_until):
    """A function that also configures and activates it and waits until the camera is connected."""

    def make(**parameters):
        node = make_node(**parameters)
        assert node.trigger_configure().name == "SUCCESS"
        assert node.trigger_activate().name == "SUCCESS"
        return node

    return make


@pytest.fixture
def images():
    """Random images, uint8 [H, W, 3] RGB."""
    random = np.random.default_rng(7)
    return random.integers(0, 256, (4, *SIZE_HW, 3), dtype=np.uint8)


def raw_message(image, *, stamp_s=12, encoding="rgb8"):
    from lvad_perception.messages import image_to_message, make_header, ros_types

    header = make_header(stamp_s * 1_000_000_000 + 34, "camera_optical", types=ros_types())
    return image_to_message(image, header, encoding=encoding, types=ros_types())


def compressed_message(image, *, stamp_s=12, cut=None):
    from lvad_perception.messages import make_header, ros_types

    types = ros_types()
    data = cv2.imencode(".png", image[:, :, ::-1])[1][:cut]
    header = make_header(stamp_s * 1_000_000_000, "camera_optical", types=types)
    return types.CompressedImage(header=header, format="png", data=types.pack(data))


def state_of(node):
    return node._state_machine.current_state[1]


def listen_to_all(robot):
    from sensor_msgs.msg import Image
    from vision_msgs.msg import Detection2DArray

    return {
        "detections": robot.listen("/camera/detections", Detection2DArray),
        "segmentation": robot.listen("/camera/segmentation", Image),
        "segmentation/confidence": robot.listen("/camera/segmentation/confidence", Image),
        "drivable_area": robot.listen("/camera/drivable_area", Image),
        "overlay": robot.listen("/camera/overlay", Image),
    }


def mask_of(message):
    return np.frombuffer(message.data, np.uint8).reshape(message.height, message.width)


def test_image_comes_out_as_detections_and_masks(
    tiny_model_file, fake_engine, make_active_node, robot, images, wait_until
):
    make_active_node(model=str(tiny_model_file))
    results = listen_to_all(robot)
    message = raw_message(images[0])

    def arrived():
        robot.publish(TOPIC, message)
        time.sleep(0.05)
        return all(results.values())

    wait_until(arrived, what="a result on each topic")
    (expected,) = Perceiver(fake_engine)([images[0]])
    for received in results.values():
        assert received[0].header == message.header
    np.testing.assert_array_equal(mask_of(results["segmentation"][0]), expected.semantic)
    np.testing.assert_array_equal(mask_of(results["drivable_area"][0]), expected.drivable)
    np.testing.assert_array_equal(mask_of(results["segmentation/confidence"][0]), expected.semantic_confidence)
    assert {results[topic][0].encoding for topic in ("segmentation", "drivable_area")} == {"mono8"}
    assert results["overlay"][0].encoding == "rgb8"
    best = results["detections"][0].detections[0]
    assert best.header == message.header
    assert best.results[0].hypothesis.class_id == DETECTION.names[expected.detections.labels[0]]
    assert best.results[0].hypothesis.score == pytest.approx(expected.detections.scores[0], abs=1e-6)
    x1, y1, x2, y2 = expected.detections.boxes_xyxy[0]
    assert (best.bbox.center.position.x, best.bbox.size_y) == pytest.approx(((x1 + x2) / 2, y2 - y1), abs=1e-4)


def test_compressed_images_are_taken_by_the_name_of_the_topic(
    tiny_model_file, fake_engine, make_active_node, robot, images, wait_until
):
    make_active_node(model=str(tiny_model_file), **{"camera.image_topic": f"{TOPIC}/compressed"})
    results = listen_to_all(robot)
    message = compressed_message(images[0])

    def arrived():
        robot.publish(f"{TOPIC}/compressed", message)
        time.sleep(0.05)
        return bool(results["segmentation"])

    wait_until(arrived, what="a segmentation")
    (expected,) = Perceiver(fake_engine)([images[0]])
    np.testing.assert_array_equal(mask_of(results["segmentation"][0]), expected.semantic)


def test_ten_cycles_leave_nothing_behind(tiny_model_file, make_node):
    node = make_node(model=str(tiny_model_file))
    threads = threading.active_count()
    publishers = len(list(node.publishers))
    for _ in range(10):
        for trigger in (node.trigger_configure, node.trigger_activate, node.trigger_deactivate, node.trigger_cleanup):
            assert trigger().name == "SUCCESS"
        assert state_of(node) == "unconfigured"
    assert node._perceiver is None
    assert node._worker is None
    assert threading.active_count() == threads
    assert len(list(node.publishers)) == publishers
    assert list(node.subscriptions) == []


def test_active_node_can_be_shut_down(tiny_model_file, make_active_node):
    node = make_active_node(model=str(tiny_model_file))
    assert node.trigger_shutdown().name == "SUCCESS"
    assert state_of(node) == "finalized"
    assert node._perceiver is None


def test_failed_configure_says_why_and_can_be_repeated(tiny_model_file, tmp_path, make_node, capfd):
    from rclpy.parameter import Parameter

    truncated = tmp_path / "truncated.onnx"
    truncated.write_bytes(tiny_model_file.read_bytes()[:100])
    node = make_node()
    for model, sentence in (
        ("", "cannot configure: parameter model is empty; set it to the .onnx file that lvad-train export wrote"),
        (str(tmp_path / "absent.onnx"), "absent.onnx does not exist; "),
        (str(truncated), "truncated.onnx cannot be loaded as an ONNX model"),
    ):
        node.set_parameters([Parameter("model", value=model)])
        assert node.trigger_configure().name == "FAILURE"
        assert state_of(node) == "unconfigured"
        err = capfd.readouterr().err
        assert sentence in err
        assert "Traceback" not in err
    node.set_parameters([Parameter("model", value=str(tiny_model_file))])
    assert node.trigger_configure().name == "SUCCESS"
    assert state_of(node) == "inactive"


def test_corrupt_frames_are_reported_once_and_skipped(
    tiny_model_file, make_active_node, robot, images, wait_until, capfd
):
    node = make_active_node(model=str(tiny_model_file))
    results = listen_to_all(robot)
    good, bad = raw_message(images[0], stamp_s=99), raw_message(images[1], stamp_s=7)
    bad.step = 5

    def skipped_twice():
        robot.publish(TOPIC, bad)
        time.sleep(0.02)
        return node._health["camera"].report().skipped >= 2

    wait_until(skipped_twice)

    def arrived():
        robot.publish(TOPIC, good)
        time.sleep(0.05)
        return bool(results["drivable_area"])

    wait_until(arrived, what="a result of the good frame")
    assert {message.header.stamp.sec for message in results["drivable_area"]} == {99}
    err = capfd.readouterr().err
    assert err.count("skipped") == 1
    assert f"{TOPIC}: frame stamped 7.000000034 skipped (1 so far): step 5 is shorter than a row" in err


def test_corrupt_compressed_frame_is_skipped(tiny_model_file, make_active_node, robot, images, wait_until, capfd):
    node = make_active_node(model=str(tiny_model_file), **{"camera.transport": "compressed"})
    listen_to_all(robot)

    def skipped():
        robot.publish(f"{TOPIC}/compressed", compressed_message(images[0], cut=30))
        time.sleep(0.05)
        return node._health["camera"].report().skipped

    wait_until(skipped)
    assert "compressed image (png)" in capfd.readouterr().err


def test_failing_engine_costs_a_frame_not_the_node(
    tiny_model_file, make_active_node, make_engine, robot, images, wait_until, monkeypatch, capfd
):
    class Moody(make_engine):
        moods = iter([None, EngineError("out of memory; close something"), ValueError("surprise")])

        def infer(self, batch):
            if error := next(self.moods, None):
                raise error
            return super().infer(batch)

    monkeypatch.setattr("lvad_perception.node.perception.open_engine", lambda *_, **__: Moody())
    node = make_active_node(model=str(tiny_model_file))
    results = listen_to_all(robot)

    def arrived():
        robot.publish(TOPIC, raw_message(images[0]))
        time.sleep(0.05)
        return bool(results["segmentation"])

    wait_until(arrived)
    assert node._health["camera"].report().skipped == 2
    assert "out of memory; close something" in capfd.readouterr().err


def test_overlay_is_drawn_only_while_somebody_subscribes(
    tiny_model_file, make_active_node, robot, images, wait_until, monkeypatch
):
    from sensor_msgs.msg import Image

    from lvad_perception.node import outputs

    drawn = []
    draw = outputs.draw_predictions
    monkeypatch.setattr(outputs, "draw_predictions", lambda *a, **k: drawn.append(1) or draw(*a, **k))
    make_active_node(model=str(tiny_model_file))
    segmentation = robot.listen("/camera/segmentation", Image)

    def enough(received):
        robot.publish(TOPIC, raw_message(images[0]))
        time.sleep(0.02)
        return len(received) >= 3

    wait_until(lambda: enough(segmentation))
    assert drawn == []
    overlay = robot.listen("/camera/overlay", Image)
    wait_until(lambda: enough(overlay))
    assert drawn


def test_nothing_is_computed_for_nobody(
    tiny_model_file, make_active_node, make_engine, robot, images, wait_until, monkeypatch
):
    engine = make_engine()
    monkeypatch.setattr("lvad_perception.node.perception.open_engine", lambda *_, **__: engine)
    node = make_active_node(model=str(tiny_model_file))

    def received_enough():
        robot.publish(TOPIC, raw_message(images[0]))
        time.sleep(0.02)
        return node._health["camera"].report().received >= 5

    wait_until(received_enough)
    assert len(engine.batches) == 1  # the warm-up


def test_newest_frame_wins_and_deactivate_stops_within_one_frame(
    tiny_model_file, make_active_node, make_engine, robot, images, wait_until, monkeypatch
):
    class Slow(make_engine):
        def infer(self, batch):
            time.sleep(0.25)
            return super().infer(batch)

    monkeypatch.setattr("lvad_perception.node.perception.open_engine", lambda *_, **__: Slow())
    node = make_active_node(model=str(tiny_model_file))
    results = listen_to_all(robot)["detections"]
    wait_until(lambda: node.count_publishers(TOPIC) or robot.publish(TOPIC, raw_message(images[0], stamp_s=0)))
    wait_until(lambda: robot.publish(TOPIC, raw_message(images[0], stamp_s=0)) or results)
    before = len(results)
    for stamp_s in range(1, 41):  # 0.8 s of frames at 50 Hz
        robot.publish(TOPIC, raw_message(images[0], stamp_s=stamp_s))
        time.sleep(0.02)
    wait_until(lambda: results[-1].header.stamp.sec == 40, what="the newest frame's result")
    stamps = [message.header.stamp.sec for message in results[before:]]
    assert stamps == sorted(set(stamps))
    assert len(stamps) <= 6  # not one of 40 was queued
    report = node._health["camera"].report()
    assert report.dropped >= 30

    robot.publish(TOPIC, raw_message(images[0], stamp_s=41))
    started_s = time.monotonic()
    assert node.trigger_deactivate().name == "SUCCESS"
    assert time.monotonic() - started_s < 0.5
    count = len(results)
    robot.publish(TOPIC, raw_message(images[0], stamp_s=42))
    time.sleep(0.5)
    assert len(results) <= count + 1  # the frame that was in work


def test_rate_limit(tiny_model_file, make_active_node, robot, images, wait_until):
    make_active_node(model=str(tiny_model_file), **{"camera.max_rate_hz": 5.0})
    results = listen_to_all(robot)["detections"]
    wait_until(lambda: robot.publish(TOPIC, raw_message(images[0])) or time.sleep(0.02) or results)
    before = len(results)
    end_s = time.monotonic() + 1.0
    while time.monotonic() < end_s:
        robot.publish(TOPIC, raw_message(images[0]))
        time.sleep(0.01)
    assert 3 <= len(results) - before <= 6


def test_label_info_waits_for_late_subscribers(tiny_model_file, make_node, robot, wait_until):
    from vision_msgs.msg import LabelInfo

    node = make_node(model=str(tiny_model_file), cameras=["front"])
    assert node.trigger_configure().name == "SUCCESS"
    for topic, vocabulary in (("segmentation", SEMANTIC), ("drivable_area", DRIVABLE)):
        received = robot.listen(f"/front/{topic}/label_info", LabelInfo, latched=True)
        wait_until(lambda received=received: received, what=f"{topic} labels")
        assert {entry.class_id: entry.class_name for entry in received[0].class_map} == dict(
            enumerate(vocabulary.names)
        )


def test_topics_are_named_as_in_bags(tiny_model_file, make_node):
    from lvad_perception import topics

    node = make_node(model=str(tiny_model_file))
    node.trigger_configure()
    in_bags = {*topics.TASK_TOPICS.values(), topics.CONFIDENCE, topics.OVERLAY, topics.OVERLAY_JPEG}
    assert {f"/camera/{name}" for name in in_bags} == set(node._outputs["camera"].topics)


def test_model_without_a_task_has_no_topic_for_it(make_tiny_model, make_manifest, tmp_path, make_active_node):
    classes = {"drivable": DRIVABLE.names}
    model = make_tiny_model(tmp_path / "drivable.onnx", manifest=make_manifest(classes=classes))
    node = make_active_node(model=str(model))
    topics = {publisher.topic_name for publisher in node.publishers}
    assert {"/camera/drivable_area", "/camera/drivable_area/label_info", "/camera/overlay"} <= topics
    assert not {"/camera/detections", "/camera/segmentation"} & topics


def test_silent_camera_is_an_error_in_the_diagnostics_with_the_reason(
    tiny_model_file, make_active_node, robot, images, wait_until, monkeypatch
):
    from diagnostic_msgs.msg import DiagnosticArray

    monkeypatch.setattr("lvad_perception.node.perception.STALE_AFTER_S", 0.2)
    diagnostics = robot.listen("/diagnostics", DiagnosticArray)
    make_active_node(model=str(tiny_model_file), **{"diagnostic_updater.period": 0.1})

    def says(text, level):
        statuses = [status for message in diagnostics for status in message.status]
        return any(text in status.message and status.level == level for status in statuses)

    wait_until(lambda: says("nobody publishes it; start the camera or set camera.image_topic", b"\2"))
    robot.publish(TOPIC, compressed_message(images[0]))  # the wrong type
    wait_until(
        lambda: says("published as sensor_msgs/msg/CompressedImage, not sensor_msgs/msg/Image; set ", b"\2")
    )


def test_diagnostics_count_frames(tiny_model_file, make_active_node, robot, images, wait_until):
    from diagnostic_msgs.msg import DiagnosticArray

    diagnostics = robot.listen("/diagnostics", DiagnosticArray)
    make_active_node(model=str(tiny_model_file), **{"diagnostic_updater.period": 0.2})
    listen_to_all(robot)

    def shown():
        robot.publish(TOPIC, raw_message(images[0]))
        time.sleep(0.02)
        status = diagnostics[-1].status[0] if diagnostics else None
        return status and status.message.endswith("frames a second") and not status.message.startswith("0.0")

    wait_until(shown)
    status = diagnostics[-1].status[0]
    assert status.name == "perception: camera"
    assert status.hardware_id.startswith("ONNX Runtime")
    values = {value.key: value.value for value in status.values}
    assert float(values["input rate [Hz]"]) > 0
    assert float(values["latency from reception, median [ms]"]) > 0


def test_parameters_describe_themselves_and_refuse_nonsense(make_node):
    from rclpy.parameter import Parameter

    node = make_node()
    descriptor = node.describe_parameter("score_threshold")
    assert "confidence" in descriptor.description
    assert (descriptor.floating_point_range[0].from_value, descriptor.floating_point_range[0].to_value) == (-1.0, 1.0)
    assert node.describe_parameter("camera.transport").additional_constraints == (
        "one of auto, raw, compressed; can be changed while the node is unconfigured"
    )
    for name, value, reason in (
        ("camera.transport", "theora", "parameter camera.transport is 'theora'; set it to one of auto, raw, "),
        ("camera.image_topic", "a b", "parameter camera.image_topic is 'a b', which is no ROS name"),
    ):
        (result,) = node.set_parameters([Parameter(name, value=value)])
        assert not result.successful
        assert reason in result.reason
    (result,) = node.set_parameters([Parameter("camera.max_rate_hz", value=-1.0)])
    assert not result.successful


def test_whole_number_is_taken_for_a_decimal_one(make_node):
    node = make_node(score_threshold=1, **{"camera.max_rate_hz": 10})
    assert node.get_parameter("score_threshold").value == 1.0
    assert node.get_parameter("camera.max_rate_hz").value == 10.0


def test_misspelt_parameter_is_warned_of(make_node, capfd):
    make_node(scroe_threshold=0.5)
    assert "parameter scroe_threshold is unknown; did you mean score_threshold?" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ({"threads": "many"}, r"parameter threads is 'many'; set it to a whole number"),
        ({"threads": 1000}, r"parameter threads is 1000; set it to a value from 0 to 256"),
        ({"score_threshold": 1.5}, r"parameter score_threshold is 1.5; set it to a value from -1 to 1"),
    ],
)
def test_impossible_parameter_at_start_is_one_sentence(make_node, parameters, sentence):
    with pytest.raises(ConfigError, match=sentence):
        make_node(**parameters)
