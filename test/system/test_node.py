"""The perception node in this process, driven by transitions, under real ROS 2."""

import threading
import time

import numpy as np
import pytest
from frames import TOPIC, compressed_message, listen_to_all, mask_of, raw_message, trigger

from lvad_perception.errors import EngineError
from lvad_perception.perceiver import Perceiver
from lvad_perception.vocabulary import DETECTION, DRIVABLE, SEMANTIC


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


def test_the_next_frame_is_inferred_while_one_is_published(
    tiny_model_file, make_active_node, make_engine, robot, images, wait_until, monkeypatch
):
    from lvad_perception.node.outputs import CameraOutputs

    inferred_both, waited = threading.Event(), []

    class Counting(make_engine):
        inferred = 0

        def infer(self, batch):
            self.inferred += 1
            if self.inferred == 3:  # after the warm-up's and the first frame's
                inferred_both.set()
            return super().infer(batch)

    publish = CameraOutputs.publish

    def publish_when_both_are_inferred(*arguments):
        waited.append(inferred_both.wait(5.0))
        publish(*arguments)

    monkeypatch.setattr("lvad_perception.node.perception.open_engine", lambda *_, **__: Counting())
    monkeypatch.setattr(CameraOutputs, "publish", publish_when_both_are_inferred)
    make_active_node(model=str(tiny_model_file))
    results = listen_to_all(robot)["detections"]
    wait_until(lambda: robot.publish(TOPIC, raw_message(images[0])) or inferred_both.wait(0.05), seconds=20.0)
    wait_until(lambda: results)
    assert waited[0]


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
    assert trigger(node, "deactivate") == "SUCCESS"
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
    assert trigger(node, "configure") == "SUCCESS"
    for topic, vocabulary in (("segmentation", SEMANTIC), ("drivable_area", DRIVABLE)):
        received = robot.listen(f"/front/{topic}/label_info", LabelInfo, latched=True)
        wait_until(lambda received=received: received, what=f"{topic} labels")
        assert {entry.class_id: entry.class_name for entry in received[0].class_map} == dict(
            enumerate(vocabulary.names)
        )


def test_topics_are_named_as_in_bags(tiny_model_file, make_node):
    from lvad_perception import topics

    node = make_node(model=str(tiny_model_file))
    trigger(node, "configure")
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
    wait_until(lambda: says("published as sensor_msgs/msg/CompressedImage, not sensor_msgs/msg/Image; set ", b"\2"))


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
