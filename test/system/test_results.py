"""Messages that the node publishes under real ROS, for every kind of image and in both sizes."""

import time

import cv2
import numpy as np
import pytest
from frames import TOPIC, compressed_message, listen_to_all, mask_of, raw_message

from lvad_perception.perceiver import Perceiver
from lvad_perception.preprocess import letterbox_image
from lvad_perception.vocabulary import UNLABELED

SHOWN = slice(6, 42)  # rows of the tiny network's input that show an image of 160x90


@pytest.fixture
def send_until(robot, wait_until):
    """A function that publishes a message until the condition holds."""

    def send(message, condition, *, topic=TOPIC, what="a result"):
        def arrived():
            robot.publish(topic, message)
            time.sleep(0.03)
            return condition()

        wait_until(arrived, what=what)

    return send


def message_in(encoding, image, *, padding=0, big_endian=False):
    """An image message whose rows are random but for rgb8 and bgr8: what counts is that all read the same."""
    from lvad_perception.messages import ros_types

    message = raw_message(image)
    height, width = image.shape[:2]
    pixel_bytes = {"mono8": 1, "bayer_grbg8": 1, "nv12": 1, "yuv422_yuy2": 2, "mono16": 2, "rgba8": 4, "rgb16": 6}
    step = pixel_bytes.get(encoding, 3) * width + padding
    rows = 3 * height // 2 if encoding == "nv12" else height
    data = np.random.default_rng(11).integers(0, 256, (rows, step), dtype=np.uint8)
    message.encoding, message.step, message.is_bigendian = encoding, step, int(big_endian)
    message.data = ros_types().pack(data)
    return message


@pytest.mark.parametrize(
    ("encoding", "layout"),
    [
        ("rgb8", {"padding": 32}),
        ("bgr8", {"padding": 5}),
        ("rgba8", {}),
        ("mono8", {}),
        ("mono16", {"big_endian": True}),
        ("rgb16", {}),
        ("yuv422_yuy2", {}),
        ("nv12", {}),
        ("bayer_grbg8", {}),
    ],
)
def test_images_of_any_encoding_are_seen_as_in_a_replay_without_ros(
    tiny_model_file, fake_engine, make_active_node, robot, images, send_until, encoding, layout
):
    from lvad_perception.messages import image_from_message

    make_active_node(model=str(tiny_model_file))
    results = listen_to_all(robot)
    message = message_in(encoding, images[0], **layout)
    send_until(message, lambda: all(results.values()))
    (expected,) = Perceiver(fake_engine)([image_from_message(message)])
    np.testing.assert_array_equal(mask_of(results["segmentation"][0]), expected.semantic)
    np.testing.assert_array_equal(mask_of(results["drivable_area"][0]), expected.drivable)
    assert len(results["detections"][0].detections) == len(expected.detections)
    assert results["overlay"][0].header == message.header


def test_images_of_image_transport(tiny_model_file, fake_engine, make_active_node, robot, images, send_until):
    make_active_node(model=str(tiny_model_file), **{"camera.image_topic": TOPIC, "camera.transport": "compressed"})
    results = listen_to_all(robot)
    message = compressed_message(images[0])
    message.format = "rgb8; png compressed bgr8"
    send_until(message, lambda: results["segmentation"], topic=f"{TOPIC}/compressed")
    (expected,) = Perceiver(fake_engine)([images[0]])
    np.testing.assert_array_equal(mask_of(results["segmentation"][0]), expected.semantic)


def test_the_model_is_described_to_who_comes_late(tiny_model_file, make_active_node, robot, wait_until):
    from vision_msgs.msg import LabelInfo, VisionInfo

    make_active_node(model=str(tiny_model_file))
    info = robot.listen("/camera/detections/vision_info", VisionInfo, latched=True)
    wait_until(lambda: info)
    assert info[0].method == "test 000000000000"
    labels = robot.listen(info[0].database_location, LabelInfo, latched=True)
    wait_until(lambda: labels)
    assert labels[0].class_map[2].class_name == "car"


def test_results_in_network_pixels_with_the_camera_info_that_fits(
    tiny_model_file, reference, make_active_node, robot, images, send_until
):
    from sensor_msgs.msg import CameraInfo, CompressedImage

    parameters = {"output_size": "network", "camera.camera_info_topic": "/driver/camera_info"}
    make_active_node(model=str(tiny_model_file), **parameters)
    results = listen_to_all(robot)
    jpegs = robot.listen("/camera/overlay/compressed", CompressedImage)
    infos = robot.listen("/camera/camera_info", CameraInfo)
    info = CameraInfo(height=90, width=160)
    info.k = np.array([100.0, 0, 79.5, 0, 100.0, 44.5, 0, 0, 1])
    message = raw_message(images[0])

    def all_arrived():
        robot.publish("/driver/camera_info", info)
        return all([*results.values(), jpegs, infos])

    send_until(message, all_arrived)
    raw = reference(letterbox_image(images[0], (48, 64))[0][None])
    for topic, mask in (("segmentation", raw.semantic), ("drivable_area", raw.drivable)):
        published = mask_of(results[topic][0])
        np.testing.assert_array_equal(published[SHOWN], mask[0][SHOWN])
        assert (published[: SHOWN.start] == UNLABELED).all()
    x, y = (getattr(results["detections"][0].detections[0].bbox.center.position, axis) for axis in "xy")
    assert (x % 16, 6 <= y <= 42) == (0, True)  # the centre of a quarter of the network's input, cut at the border
    assert (results["overlay"][0].height, results["overlay"][0].width) == (48, 64)
    # 0.4 times the source, six rows lower; the centre of the image stays its centre.
    np.testing.assert_allclose(infos[0].k, [40, 0, 31.5, 0, 40, 23.5, 0, 0, 1])
    assert (infos[0].height, infos[0].width) == (48, 64)
    assert {received[0].header.stamp.sec for received in (*results.values(), jpegs, infos)} == {12}
    assert (jpegs[0].header, jpegs[0].format) == (message.header, "rgb8; jpeg compressed bgr8")
    assert cv2.imdecode(np.frombuffer(jpegs[0].data, np.uint8), cv2.IMREAD_COLOR).shape == (48, 64, 3)


def test_the_diagnostics_follow_the_worst_camera_down_and_up(
    tiny_model_file, make_active_node, robot, images, send_until
):
    from diagnostic_msgs.msg import DiagnosticArray

    received = robot.listen("/diagnostics", DiagnosticArray)
    make_active_node(model=str(tiny_model_file), **{"diagnostic_updater.period": 0.2})
    listen_to_all(robot)
    bad = raw_message(images[0])
    bad.encoding = "32FC1"

    def says(text, level):
        newest = {status.name: status for status in received[-1].status} if received else {}
        camera, node = newest.get("perception: camera"), newest.get("perception: all cameras")
        return (
            camera is not None
            and text in camera.message
            and {camera.level, node.level} == {level}
            and (level == b"\0" or camera.message in node.message)
        )

    send_until(bad, lambda: says("skipped and none processed: image encoding '32FC1' is not one of", b"\2"))
    send_until(raw_message(images[0]), lambda: says("frames a second", b"\0"))
    values = {value.key: value.value for status in received[-1].status for value in status.values}
    assert int(values["frames corrupt"]) > 0
    assert float(values["memory of the process [MB]"]) > 1
    parts = [key for key in values if key.startswith("of which") and key.endswith("median [ms]")]
    assert [key.split()[2].strip(",") for key in parts] == [
        "wait",
        "decode",
        "preprocess",
        "engine",
        "postprocess",
        "publish",
    ]
