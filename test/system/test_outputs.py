"""The topics of one camera, with publishers that only remember: what is published, and what is not even computed."""

import threading
from dataclasses import replace

import cv2
import numpy as np
import pytest

from lvad_perception.types import Detections, Predictions
from lvad_perception.vocabulary import DETECTION, DRIVABLE, SEMANTIC, TASKS, UNLABELED

SIZE_HW = (96, 192)  # twice as wide as high: the network input has a border above and below
NETWORK_HW = (48, 64)
RESIZED = slice(8, 40)  # rows of the network input that show the image
RESULTS = ("detections", "segmentation", "segmentation/confidence", "drivable_area", "overlay", "overlay/compressed")


class FakePublisher:
    def __init__(self, kind, topic, qos):
        self.kind, self.topic_name, self.qos = kind, f"/{topic}", qos
        self.published = []
        self.listeners = 0

    def get_subscription_count(self):
        return self.listeners

    def publish(self, message):
        assert isinstance(message, self.kind)
        self.published.append(message)


class FakeNode:
    """Stands in for the ROS node: publishers by topic, warnings as texts."""

    def __init__(self):
        self.publishers, self.warnings = {}, []

    def create_publisher(self, kind, topic, qos):
        self.publishers[topic] = FakePublisher(kind, topic, qos)
        return self.publishers[topic]

    def destroy_publisher(self, publisher):
        del self.publishers[publisher.topic_name[1:]]

    def get_clock(self):
        return self

    def now(self):
        return self

    nanoseconds = 5_000_000_007

    def get_logger(self):
        return self

    def warning(self, text):
        self.warnings.append(text)

    def listen(self, *topics):
        for publisher in self.publishers.values():
            publisher.listeners = 0
        for topic in topics:
            self.publishers[f"front/{topic}"].listeners = 1

    def published(self, topic):
        return self.publishers[f"front/{topic}"].published


@pytest.fixture
def node():
    return FakeNode()


@pytest.fixture
def types(ros_environment):
    from lvad_perception.messages import ros_types

    return ros_types()


@pytest.fixture
def options(ros_environment):
    from lvad_perception.node.outputs import OutputOptions

    return OutputOptions(overlay_alpha=0.5, jpeg_quality=90, network_size=False, camera_info=False)


@pytest.fixture
def make_outputs(node, types, options, make_manifest):
    """A function that makes the outputs of the camera "front" with some options changed."""
    from lvad_perception.node.outputs import CameraOutputs

    def make(*, manifest=None, **changes):
        return CameraOutputs(node, "front", manifest or make_manifest(), types, replace(options, **changes))

    return make


@pytest.fixture
def header(types):
    from lvad_perception.messages import make_header

    return make_header(1_234_000_000_567, "front_optical", types=types)


@pytest.fixture
def image():
    """uint8 [H, W, 3]"""
    return np.random.default_rng(1).integers(0, 256, (*SIZE_HW, 3), dtype=np.uint8)


@pytest.fixture
def predictions():
    """Of all tasks; masks as a network of NETWORK_HW would say them, enlarged by three."""
    random = np.random.default_rng(2)

    def mask(high):
        small = random.integers(0, high, (SIZE_HW[0] // 3, SIZE_HW[1] // 3), dtype=np.uint8)
        return small.repeat(3, axis=0).repeat(3, axis=1)

    detections = Detections(np.float32([[30, 30, 90, 60], [0, 0, 192, 96]]), np.float32([0.75, 0.5]), np.int32([2, 0]))
    return Predictions(SIZE_HW, detections, mask(19), mask(3), mask(256))


def pixels(message):
    return np.frombuffer(message.data, np.uint8).reshape(message.height, message.width, -1).squeeze(2)


def test_every_topic_carries_its_result_and_the_source_header(node, make_outputs, header, image, predictions):
    outputs = make_outputs()
    node.listen(*RESULTS)
    outputs.publish(image, predictions, header)
    for topic in RESULTS:
        (message,) = node.published(topic)
        assert message.header is header
    np.testing.assert_array_equal(pixels(node.published("segmentation")[0]), predictions.semantic)
    np.testing.assert_array_equal(pixels(node.published("drivable_area")[0]), predictions.drivable)
    np.testing.assert_array_equal(pixels(node.published("segmentation/confidence")[0]), predictions.semantic_confidence)
    car, person = node.published("detections")[0].detections
    assert [box.results[0].hypothesis.class_id for box in (car, person)] == ["car", "pedestrian"]
    assert (car.bbox.center.position.x, car.bbox.center.position.y) == (60.0, 45.0)
    assert (car.bbox.size_x, car.bbox.size_y, car.results[0].hypothesis.score) == (60.0, 30.0, 0.75)
    assert all(node.publishers[f"front/{topic}"].qos.reliability.name == "RELIABLE" for topic in RESULTS)


@pytest.mark.parametrize("topic", [None, *RESULTS, "camera_info"])
@pytest.mark.parametrize("network_size", [False, True])
def test_only_what_somebody_subscribes_to_is_computed(
    node, make_outputs, header, image, predictions, monkeypatch, topic, network_size
):
    from sensor_msgs.msg import CameraInfo

    from lvad_perception import postprocess
    from lvad_perception.node import outputs as module

    allowed = {
        "detections": {"DetectionMessages.build", "boxes_to_network"},
        "segmentation": {"mask_to_message", "mask_to_network"},
        "segmentation/confidence": {"mask_to_message", "mask_to_network"},
        "drivable_area": {"mask_to_message", "mask_to_network"},
        "overlay": {"image_to_message", "draw_predictions", "letterbox_image", "mask_to_network", "boxes_to_network"},
        "overlay/compressed": {
            "jpeg_to_message",
            "draw_predictions",
            "letterbox_image",
            "mask_to_network",
            "boxes_to_network",
        },
        "camera_info": {"camera_info_of_image", "camera_info_at_network_size"},
    }
    outputs = make_outputs(network_size=network_size, camera_info=True)

    def refuse(name):
        def refused(*_, **__):
            raise AssertionError(f"{name} was called for nobody")

        return refused

    for name in set().union(*allowed.values()) - allowed.get(topic, set()):
        if name == "DetectionMessages.build":
            monkeypatch.setattr(module.DetectionMessages, "build", refuse(name))
        else:
            monkeypatch.setattr(module if hasattr(module, name) else postprocess, name, refuse(name))
    node.listen(*[topic] if topic else [])
    outputs.publish(image, predictions, header, CameraInfo(height=SIZE_HW[0], width=SIZE_HW[1]))
    for other in (*RESULTS, "camera_info"):
        assert len(node.published(other)) == (other == topic)


@pytest.mark.parametrize(
    ("topics", "tasks"),
    [
        ((), set()),
        (("detections",), {"detection"}),
        (("segmentation/confidence",), {"semantic"}),
        (("segmentation", "drivable_area"), {"semantic", "drivable"}),
        (("overlay",), set(TASKS)),
        (("overlay/compressed",), set(TASKS)),
        (("camera_info",), set()),
    ],
)
def test_wanted_tasks_are_those_with_subscribers(node, make_outputs, topics, tasks):
    outputs = make_outputs(camera_info=True)
    node.listen(*topics)
    assert outputs.wanted == bool(topics)
    assert outputs.wanted_tasks == tasks


def test_a_task_that_is_missing_from_a_frame_is_left_out(node, make_outputs, header, image, predictions):
    outputs = make_outputs()
    node.listen(*RESULTS)
    outputs.publish(image, Predictions(SIZE_HW, None, predictions.semantic, None, None), header)
    assert [topic for topic in RESULTS if node.published(topic)] == ["segmentation", "overlay", "overlay/compressed"]


def test_a_model_without_a_task_has_no_topic_for_it(node, make_outputs, make_manifest):
    outputs = make_outputs(manifest=make_manifest(classes={"drivable": DRIVABLE.names}))
    assert set(outputs.topics) == {"/front/drivable_area", "/front/overlay", "/front/overlay/compressed"}
    assert set(node.publishers) == {topic[1:] for topic in outputs.topics} | {"front/drivable_area/label_info"}
    node.listen("overlay")
    assert outputs.wanted_tasks == {"drivable"}


def test_the_vocabulary_is_latched_beside_each_result(node, make_outputs):
    make_outputs()
    for topic, vocabulary in (("detections", DETECTION), ("segmentation", SEMANTIC), ("drivable_area", DRIVABLE)):
        publisher = node.publishers[f"front/{topic}/label_info"]
        (labels,) = publisher.published
        assert {entry.class_id: entry.class_name for entry in labels.class_map} == dict(enumerate(vocabulary.names))
        assert labels.threshold == 0.0
        assert (labels.header.stamp.sec, labels.header.stamp.nanosec) == (5, 7)
        assert (publisher.qos.durability.name, publisher.qos.reliability.name) == ("TRANSIENT_LOCAL", "RELIABLE")


def test_vision_info_names_the_model_and_where_its_classes_are_listed(node, make_outputs, make_manifest):
    make_outputs(manifest=make_manifest(preset="edge", weights_sha256="0123456789abcdef" * 4))
    publisher = node.publishers["front/detections/vision_info"]
    (info,) = publisher.published
    assert info.method == "edge 0123456789ab"
    assert info.database_location == "/front/detections/label_info"
    assert info.database_version == 1
    assert publisher.qos.durability.name == "TRANSIENT_LOCAL"


def test_the_compressed_overlay_is_the_overlay(node, make_outputs, header, image, predictions):
    outputs = make_outputs(jpeg_quality=100)
    node.listen("overlay", "overlay/compressed")
    outputs.publish(np.full_like(image, (200, 40, 40)), predictions, header)
    message = node.published("overlay/compressed")[0]
    assert message.format == "rgb8; jpeg compressed bgr8"
    decoded = cv2.imdecode(np.frombuffer(message.data, np.uint8), cv2.IMREAD_COLOR)[:, :, ::-1]
    overlay = node.published("overlay")[0]
    drawn = np.frombuffer(overlay.data, np.uint8).reshape(*SIZE_HW, 3)
    assert (overlay.encoding, overlay.step) == ("rgb8", 3 * SIZE_HW[1])
    assert np.abs(decoded.astype(int).mean((0, 1)) - drawn.mean((0, 1))).max() < 2


def test_options_take_effect_with_the_next_frame(node, make_outputs, options, header, image, predictions):
    outputs = make_outputs(overlay_alpha=0.0, jpeg_quality=95)
    node.listen("overlay", "overlay/compressed")
    masks_only = replace(predictions, detections=None)
    outputs.publish(image, masks_only, header)
    outputs.update(replace(options, overlay_alpha=1.0, jpeg_quality=5))
    outputs.publish(image, masks_only, header)
    first, second = (np.frombuffer(m.data, np.uint8).reshape(*SIZE_HW, 3) for m in node.published("overlay"))
    np.testing.assert_array_equal(first, image)
    assert not (second == image).all(axis=2)[predictions.semantic != UNLABELED].any()
    fine, coarse = node.published("overlay/compressed")
    assert len(coarse.data) < len(fine.data) / 2


def test_at_network_size_everything_is_in_network_pixels(node, make_outputs, header, image, predictions):
    outputs = make_outputs(network_size=True)
    node.listen(*RESULTS)
    outputs.publish(image, predictions, header)
    for topic, mask, border in (
        ("segmentation", predictions.semantic, UNLABELED),
        ("drivable_area", predictions.drivable, UNLABELED),
        ("segmentation/confidence", predictions.semantic_confidence, 0),
    ):
        published = pixels(node.published(topic)[0])
        assert published.shape == NETWORK_HW
        np.testing.assert_array_equal(published[RESIZED], mask[1::3, 1::3])  # what the network said
        assert (published[: RESIZED.start] == border).all()
        assert (published[RESIZED.stop :] == border).all()
    car = node.published("detections")[0].detections[0]
    assert (car.bbox.center.position.x, car.bbox.center.position.y) == pytest.approx((20.0, 15.0 + 8.0))
    assert (car.bbox.size_x, car.bbox.size_y) == pytest.approx((20.0, 10.0))
    overlay = node.published("overlay")[0]
    assert (overlay.height, overlay.width) == NETWORK_HW
    drawn = np.frombuffer(overlay.data, np.uint8).reshape(*NETWORK_HW, 3)
    assert (drawn[RESIZED.stop :] == 114).all()  # the border as the network sees it
    jpeg = np.frombuffer(node.published("overlay/compressed")[0].data, np.uint8)
    assert cv2.imdecode(jpeg, cv2.IMREAD_COLOR).shape == (*NETWORK_HW, 3)


def test_camera_info_comes_and_goes_with_its_option(node, make_outputs, options):
    outputs = make_outputs()
    assert "front/camera_info" not in node.publishers
    outputs.update(replace(options, camera_info=True))
    assert "/front/camera_info" in outputs.topics
    outputs.update(replace(options, camera_info=False))
    assert "front/camera_info" not in node.publishers


def test_camera_info_passes_through_with_the_header_of_the_image(node, make_outputs, header, image, predictions):
    from sensor_msgs.msg import CameraInfo

    outputs = make_outputs(camera_info=True)
    node.listen("camera_info")
    info = CameraInfo(height=SIZE_HW[0], width=SIZE_HW[1], k=np.arange(9.0), distortion_model="plumb_bob")
    outputs.publish(image, predictions, header, info)
    outputs.publish(image, predictions, header, None)
    (message,) = node.published("camera_info")
    assert message.header is header
    assert (message.height, message.width, message.distortion_model) == (*SIZE_HW, "plumb_bob")
    np.testing.assert_array_equal(message.k, info.k)
    assert info.header.frame_id == ""  # the camera's own message is left as it was


def test_camera_info_of_other_images_is_warned_of_once_and_costs_no_result(
    node, make_outputs, header, image, predictions
):
    from sensor_msgs.msg import CameraInfo

    outputs = make_outputs(camera_info=True)
    node.listen("camera_info", "segmentation")
    for _ in range(3):
        outputs.publish(image, predictions, header, CameraInfo(height=480, width=640))
    assert node.published("camera_info") == []
    assert len(node.published("segmentation")) == 3
    assert node.warnings == [
        "/front/camera_info: CameraInfo is of 640x480 images but the image is 192x96, so it is not published; "
        "calibrate the camera at the size that it sends"
    ]


def test_camera_info_that_is_wrong_in_turns_is_not_warned_of_each_time(
    node, make_outputs, header, image, predictions, monkeypatch
):
    from sensor_msgs.msg import CameraInfo

    from lvad_perception.node import outputs as module

    now_s = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now_s[0])
    outputs = make_outputs(camera_info=True)
    node.listen("camera_info")
    for height in range(480, 500):
        outputs.publish(image, predictions, header, CameraInfo(height=height, width=640))
    now_s[0] += module.LOG_PERIOD_S
    outputs.publish(image, predictions, header, CameraInfo(height=SIZE_HW[0], width=SIZE_HW[1], d=[float("nan")]))
    assert [warning.partition(",")[0] for warning in node.warnings] == [
        "/front/camera_info: CameraInfo is of 640x480 images but the image is 192x96",
        "/front/camera_info: CameraInfo holds numbers that are not finite",
    ]


@pytest.mark.parametrize("change", ["update", "destroy"])
def test_a_change_waits_for_the_frame_that_is_being_published(
    node, make_outputs, options, header, image, predictions, change
):
    outputs = make_outputs(camera_info=True)
    node.listen("detections", "segmentation")
    publishing, go_on, changed = threading.Event(), threading.Event(), threading.Event()
    publisher = node.publishers["front/detections"]
    send = publisher.publish

    def publish_slowly(message):
        publishing.set()
        assert go_on.wait(10)
        send(message)

    def apply():
        outputs.update(replace(options, camera_info=False)) if change == "update" else outputs.destroy()
        changed.set()

    publisher.publish = publish_slowly
    segmentation = node.published("segmentation")
    frame = threading.Thread(target=outputs.publish, args=(image, predictions, header))
    frame.start()
    assert publishing.wait(10)
    other = threading.Thread(target=apply)
    other.start()
    assert not changed.wait(0.05)
    go_on.set()
    frame.join(10)
    other.join(10)
    assert changed.is_set()
    assert len(segmentation) == 1
    assert "front/camera_info" not in node.publishers


def test_destroy_withdraws_every_topic(node, make_outputs):
    outputs = make_outputs(camera_info=True)
    outputs.destroy()
    assert node.publishers == {}
    assert outputs.topics == []
    assert not outputs.wanted
