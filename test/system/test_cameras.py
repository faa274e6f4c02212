"""Several cameras in one node: batched through one engine, none delayed by another, each in order of its own."""

import threading
import time

import numpy as np
import pytest
from frames import HOSTILE_COMPRESSED, HOSTILE_RAW, compressed_message, listen_to_all, mask_of, raw_message, trigger

from lvad_perception.perceiver import Perceiver

TWO = {"cameras": ["front", "rear"]}


@pytest.fixture
def use_engine(monkeypatch):
    """A function that has the node work with this engine instead of a model file."""

    def use(engine):
        monkeypatch.setattr("lvad_perception.node.perception.open_engine", lambda *_, **__: engine)
        return engine

    return use


@pytest.fixture
def play(robot):
    """A function that publishes an image on a topic, stamped 0, 1, 2, … s, every so often until the test ends."""
    stop = threading.Event()
    threads = []

    def run(topic, message, period_s):
        while not stop.wait(period_s):
            robot.publish(topic, message)
            message.header.stamp.sec += 1

    def start(camera, image, *, period_s=0.02, spoil=False):
        message = raw_message(image, stamp_s=0)
        message.header.frame_id = f"{camera}_optical"
        message.step -= spoil
        threads.append(threading.Thread(target=run, args=(f"/{camera}/image_raw", message, period_s)))
        threads[-1].start()

    yield start
    stop.set()
    for thread in threads:
        thread.join()


def test_each_camera_gets_its_own_results(
    tiny_model_file, fake_engine, make_active_node, robot, images, play, wait_until
):
    make_active_node(model=str(tiny_model_file), **TWO)
    results = {camera: listen_to_all(robot, camera) for camera in TWO["cameras"]}
    play("front", images[0])
    play("rear", images[1])
    wait_until(lambda: all(all(topics.values()) for topics in results.values()), what="a result on every topic")
    for camera, image in (("front", images[0]), ("rear", images[1])):
        (expected,) = Perceiver(fake_engine)([image])
        for message in results[camera]["segmentation"]:
            assert message.header.frame_id == f"{camera}_optical"
            np.testing.assert_array_equal(mask_of(message), expected.semantic)


def test_cameras_share_batches(make_engine, use_engine, make_active_node, robot, images, play, wait_until):
    class Slow(make_engine):
        def infer(self, batch):
            time.sleep(0.05)  # so that both cameras have a frame waiting
            return super().infer(batch)

    engine = use_engine(Slow())
    make_active_node(model="any", **TWO)
    front, rear = (listen_to_all(robot, camera)["segmentation"] for camera in TWO["cameras"])
    play("front", images[0])
    play("rear", images[1])
    wait_until(lambda: front and rear)
    batches, results = len(engine.batches), len(front) + len(rear)
    wait_until(lambda: len(front) + len(rear) >= results + 20)
    assert len(engine.batches) - batches <= 13  # 20 results took 10 batches of 2


def test_images_of_a_batch_are_decoded_side_by_side(
    make_engine, use_engine, make_active_node, robot, images, play, wait_until, monkeypatch
):
    from lvad_perception.node import worker

    class Slow(make_engine):
        def infer(self, batch):
            time.sleep(0.05)  # so that both cameras have a frame waiting
            return super().infer(batch)

    use_engine(Slow())
    decode, together, met = worker.decode, threading.Barrier(2), []

    def decode_together(message, **options):
        try:
            met.append(together.wait(1.0))
        except threading.BrokenBarrierError:
            together.reset()  # the other camera had no frame yet
        return decode(message, **options)

    monkeypatch.setattr(worker, "decode", decode_together)
    make_active_node(model="any", **TWO)
    results = [listen_to_all(robot, camera)["segmentation"] for camera in TWO["cameras"]]
    play("front", images[0])
    play("rear", images[1])
    wait_until(lambda: len(met) >= 6 and all(results))


def test_dead_camera_delays_nobody_and_is_named_in_the_diagnostics(
    tiny_model_file, make_active_node, robot, images, play, wait_until, monkeypatch
):
    from diagnostic_msgs.msg import DiagnosticArray

    monkeypatch.setattr("lvad_perception.node.perception.STALE_AFTER_S", 0.3)
    diagnostics = robot.listen("/diagnostics", DiagnosticArray)
    node = make_active_node(model=str(tiny_model_file), **TWO, **{"diagnostic_updater.period": 0.1})
    front = listen_to_all(robot, "front")["segmentation"]
    play("front", images[0])
    wait_until(lambda: len(front) >= 30)
    assert node._health["front"].report().latency_ms[0] < 200

    def says(camera, level, text):
        statuses = [status for message in diagnostics[-3:] for status in message.status]
        return any(
            status.name == f"perception: {camera}" and status.level == level and text in status.message
            for status in statuses
        )

    wait_until(lambda: says("rear", b"\2", "no image on /rear/image_raw for 0 s: nobody publishes it"))
    wait_until(lambda: not says("front", b"\2", ""))


def test_camera_that_sends_garbage_costs_the_others_nothing(
    tiny_model_file, make_active_node, robot, images, play, wait_until, capfd
):
    node = make_active_node(model=str(tiny_model_file), **TWO)
    front, rear = (listen_to_all(robot, camera)["segmentation"] for camera in TWO["cameras"])
    play("front", images[0])
    play("rear", images[1], spoil=True)
    wait_until(lambda: len(front) >= 30)
    wait_until(lambda: node._health["rear"].report().corrupt >= 10)
    assert node._health["front"].report().skipped == 0
    assert rear == []
    assert capfd.readouterr().err.count("/rear/image_raw: frame stamped") == 1


def hostile_messages(transport):
    """Messages that no camera sends, and how the node names each."""
    from lvad_perception.messages import ros_types

    types = ros_types()
    if transport == "compressed":
        for image_format, data, sentence in HOSTILE_COMPRESSED.values():
            yield types.CompressedImage(format=image_format, data=types.pack(np.frombuffer(data, np.uint8))), sentence
        return
    for changes, sentence in HOSTILE_RAW.values():
        message = raw_message(np.zeros((90, 160, 3), np.uint8))
        for name, value in changes.items():
            setattr(message, name, value)
        yield message, sentence


@pytest.mark.parametrize("transport", ["compressed", "raw"])
def test_camera_that_sends_what_would_do_harm_is_named_and_stops_no_other(
    tiny_model_file, make_active_node, robot, images, play, wait_until, capfd, monkeypatch, transport
):
    from lvad_perception.node import health
    from lvad_perception.node.diagnostics import resident_mb

    monkeypatch.setattr(health, "LOG_PERIOD_S", 0.0)  # each is told, not the first within five seconds
    topic = "/rear/image_raw" + "/compressed" * (transport == "compressed")
    node = make_active_node(model=str(tiny_model_file), runtime="onnxruntime", **TWO, **{"rear.image_topic": topic})
    front, rear = (listen_to_all(robot, camera)["segmentation"] for camera in TWO["cameras"])
    play("front", images[0])
    wait_until(lambda: front)
    before_mb = resident_mb()
    for message, sentence in hostile_messages(transport):
        results, told = len(front), []

        def is_told(message=message, sentence=sentence, told=told):
            robot.publish(topic, message)
            time.sleep(0.05)
            told += capfd.readouterr().err.splitlines()
            return any(f"{topic}: frame stamped " in line and sentence in line for line in told)

        wait_until(is_told, what=sentence)
        wait_until(lambda count=results: len(front) > count + 2, what="further results of the other camera")
    assert node._health["front"].report().skipped == 0
    assert node._worker.is_alive
    assert rear == []
    assert resident_mb() - before_mb < 100
    good = raw_message(images[1]) if transport == "raw" else compressed_message(images[1])
    wait_until(lambda: robot.publish(topic, good) or time.sleep(0.05) or rear)


def test_a_camera_of_more_pixels_than_it_may_have_is_refused_alone(
    tiny_model_file, make_active_node, robot, images, play, wait_until, capfd
):
    node = make_active_node(model=str(tiny_model_file), runtime="onnxruntime", **TWO, **{"rear.max_megapixels": 0.01})
    front, rear = (listen_to_all(robot, camera)["segmentation"] for camera in TWO["cameras"])
    play("front", images[0])
    play("rear", images[1])
    wait_until(lambda: len(front) >= 3)
    wait_until(lambda: node._health["rear"].report().corrupt >= 3)
    assert rear == []
    assert "an image of 160x90 pixels has more than 0.01 megapixels and is not processed" in capfd.readouterr().err


def test_rate_limit_is_each_cameras_own(tiny_model_file, make_active_node, robot, images, play, wait_until):
    make_active_node(model=str(tiny_model_file), **TWO, **{"rear.max_rate_hz": 5.0})
    front, rear = (listen_to_all(robot, camera)["segmentation"] for camera in TWO["cameras"])
    play("front", images[0])
    play("rear", images[1])
    wait_until(lambda: front and rear)
    before = len(front), len(rear)
    time.sleep(1.0)
    assert len(front) - before[0] >= 15
    assert 3 <= len(rear) - before[1] <= 6


def test_stamps_that_jump_back_stall_nothing_and_are_counted(
    tiny_model_file, make_active_node, robot, images, wait_until, capfd
):
    node = make_active_node(model=str(tiny_model_file), **{"camera.max_rate_hz": 100.0})
    results = listen_to_all(robot)["detections"]
    wait_until(lambda: robot.publish("/camera/image_raw", raw_message(images[0], stamp_s=0)) or results)
    for stamp_s in (1000, 1001, 5, 6, 1002):  # a bag began again at 5
        count = len(results)
        wait_until(
            lambda stamp_s=stamp_s: (
                (robot.publish("/camera/image_raw", raw_message(images[0], stamp_s=stamp_s)) or time.sleep(0.02))
                or results[-1].header.stamp.sec == stamp_s
            )
        )
        assert len(results) > count
    assert node._health["camera"].report().jumps == 1
    err = capfd.readouterr().err
    assert err.count("/camera/image_raw: the stamps jumped back by 996.000 s") == 1


def test_camera_info_goes_with_the_results(tiny_model_file, make_active_node, robot, images, play, wait_until):
    from sensor_msgs.msg import CameraInfo

    topics = {"front.camera_info_topic": "/front/info"}
    node = make_active_node(model=str(tiny_model_file), **TWO, **topics)
    received = robot.listen("/front/camera_info", CameraInfo)
    play("front", images[0])
    info = CameraInfo(height=images[0].shape[0], width=images[0].shape[1], distortion_model="plumb_bob")
    wait_until(lambda: robot.publish("/front/info", info) or time.sleep(0.02) or received)
    assert received[0].distortion_model == "plumb_bob"
    assert received[0].header.frame_id == "front_optical"
    assert node.count_publishers("/rear/camera_info") == 0
    assert "engine" not in node._health["front"].report().parts_ms  # nobody wanted more, so the model rested


def test_camera_info_that_the_node_itself_would_publish_is_refused(tiny_model_file, make_node, capfd):
    node = make_node(model=str(tiny_model_file), **TWO, **{"front.camera_info_topic": "/front/camera_info"})
    assert node.trigger_configure().name == "FAILURE"
    sentence = "cannot configure: parameter front.camera_info_topic is /front/camera_info, where the node would publish"
    assert sentence in capfd.readouterr().err


def test_lossless_processes_every_frame_in_order_however_slow_the_model(
    make_engine, use_engine, make_active_node, robot, images, wait_until
):
    from diagnostic_msgs.msg import DiagnosticArray
    from rclpy.qos import HistoryPolicy, QoSProfile
    from sensor_msgs.msg import Image

    class Slow(make_engine):
        def infer(self, batch):
            time.sleep(0.02)
            return super().infer(batch)

    use_engine(Slow())
    diagnostics = robot.listen("/diagnostics", DiagnosticArray)
    node = make_active_node(model="any", lossless=True, **TWO, **{"diagnostic_updater.period": 0.2})
    results = {camera: listen_to_all(robot, camera)["drivable_area"] for camera in TWO["cameras"]}
    everything = QoSProfile(history=HistoryPolicy.KEEP_ALL, depth=0)
    publishers = {
        camera: robot.node.create_publisher(Image, f"/{camera}/image_raw", everything) for camera in TWO["cameras"]
    }
    wait_until(lambda: all(publisher.get_subscription_count() for publisher in publishers.values()))
    wait_until(lambda: all(node.count_subscribers(f"/{camera}/drivable_area") for camera in publishers))
    wait_until(lambda: all(outputs.wanted for outputs in node._outputs.values()))
    for stamp_s in range(60):  # at once: 60 times faster than the model
        for publisher in publishers.values():
            publisher.publish(raw_message(images[stamp_s % 4], stamp_s=stamp_s))
    wait_until(lambda: all(len(received) >= 60 for received in results.values()), what="every result")
    for camera, received in results.items():
        assert [message.header.stamp.sec for message in received] == list(range(60))
        assert node._health[camera].report().dropped == 0
        publisher = next(found for found in node.publishers if found.topic_name == f"/{camera}/drivable_area")
        assert publisher.qos_profile.history == HistoryPolicy.KEEP_ALL
    values = [value.key for message in diagnostics for status in message.status for value in status.values]
    assert "lossless" in values


def test_lossless_node_can_be_deactivated_while_frames_wait(
    make_engine, use_engine, make_active_node, robot, images, play, wait_until
):
    class Slow(make_engine):
        def infer(self, batch):
            time.sleep(0.2)
            return super().infer(batch)

    use_engine(Slow())
    node = make_active_node(model="any", lossless=True)
    results = listen_to_all(robot)["detections"]
    play("camera", images[0], period_s=0.005)
    wait_until(lambda: results)
    time.sleep(0.3)  # until the queue is full
    started_s = time.monotonic()
    assert trigger(node, "deactivate") == "SUCCESS"
    assert time.monotonic() - started_s < 1.0


def test_clock_that_is_set_back_stalls_nothing(tiny_model_file, make_active_node, robot, images, wait_until):
    from builtin_interfaces.msg import Time
    from rosgraph_msgs.msg import Clock

    node = make_active_node(model=str(tiny_model_file), use_sim_time=True, **{"camera.max_rate_hz": 50.0})
    results = listen_to_all(robot)["detections"]
    for now_s in (1000, 5):
        wait_until(
            lambda now_s=now_s: (
                robot.publish("/clock", Clock(clock=Time(sec=now_s)))
                or time.sleep(0.02)
                or node.get_clock().now().nanoseconds == now_s * 1_000_000_000
            )
        )
        count = len(results)
        wait_until(
            lambda now_s=now_s, count=count: (
                robot.publish("/camera/image_raw", raw_message(images[0], stamp_s=now_s))
                or time.sleep(0.02)
                or len(results) >= count + 5
            )
        )
    report = node._health["camera"].report()
    assert report.jumps == 1
    assert abs(report.newest_age_s) < 1.0


@pytest.mark.parametrize(
    ("parameters", "remedy"),
    [
        ({"camera.reliability": "reliable"}, "is best effort; set camera.reliability to best_effort"),
        ({"lossless": True}, "is best effort; set lossless to false"),
        ({}, "sends nothing; check the camera"),
    ],
)
def test_silent_publisher_is_explained(tiny_model_file, make_active_node, robot, wait_until, parameters, remedy):
    from rclpy.qos import qos_profile_sensor_data
    from sensor_msgs.msg import Image

    node = make_active_node(model=str(tiny_model_file), **parameters)
    robot.node.create_publisher(Image, "/camera/image_raw", qos_profile_sensor_data)
    wait_until(lambda: node._inputs["camera"].explain_silence() == f"its publisher {remedy}")


def test_packets_may_be_lost_where_the_camera_is_reliable_and_the_node_is_not(
    tiny_model_file, make_active_node, robot, wait_until
):
    from sensor_msgs.msg import Image

    node = make_active_node(model=str(tiny_model_file))
    robot.node.create_publisher(Image, "/camera/image_raw", 5)
    wait_until(lambda: "or set camera.reliability to reliable" in node._inputs["camera"].explain_silence())


def test_worker_that_dies_is_an_error_in_the_diagnostics_and_holds_nobody_back(
    tiny_model_file, make_active_node, robot, images, play, wait_until, monkeypatch
):
    from diagnostic_msgs.msg import DiagnosticArray

    diagnostics = robot.listen("/diagnostics", DiagnosticArray)
    node = make_active_node(model=str(tiny_model_file), lossless=True, **{"diagnostic_updater.period": 0.1})
    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    monkeypatch.setattr(node._worker, "_decode", lambda _: (_ for _ in ()).throw(SystemExit))
    listen_to_all(robot)
    play("camera", images[0])
    wait_until(
        lambda: any("the worker has stopped" in status.message for array in diagnostics for status in array.status)
    )
    assert trigger(node, "deactivate") == "SUCCESS"
    assert trigger(node, "activate") == "SUCCESS"
    assert node._worker.is_alive
