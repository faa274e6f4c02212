"""Simulated cameras and subscribers for the node under test, each in a process of its own."""

import multiprocessing
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

OUTPUTS = {
    "detections": "Detection2DArray",
    "segmentation": "Image",
    "segmentation/confidence": "Image",
    "drivable_area": "Image",
    "overlay": "Image",
    "overlay/compressed": "CompressedImage",
}
"""Topic of a result, relative to its camera -> message type."""


class Robot:
    """Publishes images and counts the results, in a child process; a context manager.

    Args:
        camera: name of the node's camera.
        size_hw: of the images.
        jpeg: publish ``sensor_msgs/CompressedImage``, else rgb8 ``Image``.
        outputs: results that are subscribed to, keys of ``OUTPUTS``.
    """

    def __init__(self, *, camera: str, size_hw: tuple[int, int], jpeg: bool, outputs: Sequence[str]) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, other = context.Pipe()
        self._process = context.Process(
            target=_run_robot, args=(other, camera, size_hw, jpeg, tuple(outputs)), daemon=True
        )
        self._process.start()
        self._pipe.recv()  # sent when the publisher exists

    def one_at_a_time(self, count: int, *, timeout_s: float = 30.0) -> list[float]:
        """Publish ``count`` images, each after all results of the previous one have arrived.

        Returns:
            Seconds from publishing an image to the arrival of its last result, one per image.

        Raises:
            TimeoutError: results did not arrive.
        """
        self._pipe.send((count, timeout_s))
        answer = self._pipe.recv()
        if isinstance(answer, str):
            raise TimeoutError(answer)
        return answer

    def __enter__(self) -> "Robot":
        return self

    def __exit__(self, *_: object) -> None:
        self._pipe.send(None)
        self._process.join(10.0)


class Camera:
    """Publishes images at a fixed rate, in a child process, and times the first result; a context manager.

    Args:
        camera: name of the node's camera.
        size_hw: of the images.
        jpeg: publish ``sensor_msgs/CompressedImage``, else rgb8 ``Image``.
    """

    def __init__(self, *, camera: str, size_hw: tuple[int, int], jpeg: bool) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, other = context.Pipe()
        self._process = context.Process(target=_run_camera, args=(other, camera, size_hw, jpeg), daemon=True)
        self._process.start()
        self._pipe.recv()  # sent when the publisher exists

    def first_result(self, *, rate_hz: float, timeout_s: float, alive: Callable[[], bool]) -> float | None:
        """Publish images until detections arrive.

        Args:
            rate_hz: images a second.
            timeout_s: how long to wait.
            alive: returns whether results can still arrive.

        Returns:
            Their time of arrival by ``time.monotonic``; None if none arrived.
        """
        self._pipe.send((rate_hz, True))
        end_s = time.monotonic() + timeout_s
        while time.monotonic() < end_s and alive():
            if self._pipe.poll(0.2):
                return float(self._pipe.recv())
        return None

    def publish_only(self, *, rate_hz: float) -> None:
        """Go on publishing images at ``rate_hz``, without a subscription to the results."""
        self._pipe.send((rate_hz, False))

    def __enter__(self) -> "Camera":
        return self

    def __exit__(self, *_: object) -> None:
        self._pipe.send(None)
        self._process.join(10.0)


def image_message(size_hw: tuple[int, int], *, jpeg: bool, seed: int = 1) -> Any:
    """A ROS message with a smooth random image with some noise, without a stamp."""
    import cv2

    from lvad_perception.messages import image_to_message, jpeg_to_message, make_header, ros_types

    height, width = size_hw
    random = np.random.default_rng(seed)
    small = random.integers(0, 256, (max(height // 40, 2), max(width // 40, 2), 3), np.uint8)
    image = cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC).astype(np.int16)
    image = np.clip(image + random.integers(-6, 7, image.shape), 0, 255).astype(np.uint8)
    header = make_header(0, "camera", types=ros_types())
    if jpeg:
        encoded = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 90])[1]
        return jpeg_to_message(encoded, header, types=ros_types())
    return image_to_message(image, header, types=ros_types())


def message_types() -> dict[str, Any]:
    """Topic of a result -> class of its message."""
    from sensor_msgs.msg import CompressedImage, Image
    from vision_msgs.msg import Detection2DArray

    types = {"Detection2DArray": Detection2DArray, "Image": Image, "CompressedImage": CompressedImage}
    return {topic: types[name] for topic, name in OUTPUTS.items()}


def image_topic(camera: str, *, jpeg: bool) -> str:
    """Topic of a camera's images."""
    return f"/{camera}/image_raw/compressed" if jpeg else f"/{camera}/image_raw"


def _run_robot(pipe: Any, camera: str, size_hw: tuple[int, int], jpeg: bool, outputs: tuple[str, ...]) -> None:
    import rclpy
    from rclpy.executors import SingleThreadedExecutor

    rclpy.init(args=[])
    node = rclpy.create_node("robot")
    message = image_message(size_hw, jpeg=jpeg)
    publisher = node.create_publisher(type(message), image_topic(camera, jpeg=jpeg), 5)
    counts = dict.fromkeys(outputs, 0)

    def count(topic: str) -> None:
        counts[topic] += 1

    for topic in outputs:  # raw: deserialising is not a cost of the node
        node.create_subscription(
            message_types()[topic], f"/{camera}/{topic}", lambda _, topic=topic: count(topic), 10, raw=True
        )
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    pipe.send("ready")
    while (request := pipe.recv()) is not None:
        images, timeout_s = request
        latencies: list[float] = []
        end_s = time.monotonic() + timeout_s
        while publisher.get_subscription_count() == 0 and time.monotonic() < end_s:
            executor.spin_once(timeout_sec=0.05)
        while len(latencies) < images:
            target = {topic: number + 1 for topic, number in counts.items()}
            message.header.stamp = node.get_clock().now().to_msg()
            began_s = time.monotonic()
            publisher.publish(message)
            while any(counts[topic] < number for topic, number in target.items()):
                executor.spin_once(timeout_sec=0.05)
                if time.monotonic() - began_s > timeout_s:
                    break
            else:
                latencies.append(time.monotonic() - began_s)
                continue
            missing = [topic for topic, number in target.items() if counts[topic] < number]
            pipe.send(f"no {', '.join(missing)} of {camera} for {timeout_s:g} s")
            break
        else:
            pipe.send(latencies)
    executor.shutdown()
    node.destroy_node()
    rclpy.shutdown()


def _run_camera(pipe: Any, camera: str, size_hw: tuple[int, int], jpeg: bool) -> None:
    import rclpy
    from rclpy.executors import SingleThreadedExecutor

    rclpy.init(args=[])
    node = rclpy.create_node("camera")
    message = image_message(size_hw, jpeg=jpeg)
    publisher = node.create_publisher(type(message), image_topic(camera, jpeg=jpeg), 5)
    arrivals: list[float] = []

    def send() -> None:
        message.header.stamp = node.get_clock().now().to_msg()
        publisher.publish(message)

    executor = SingleThreadedExecutor()
    executor.add_node(node)
    timer = listener = None
    pipe.send("ready")
    while True:
        if pipe.poll(0.0 if timer else None):
            request = pipe.recv()
            if request is None:
                break
            rate_hz, listening = request
            if timer is not None:
                node.destroy_timer(timer)
            timer = node.create_timer(1 / rate_hz, send)
            if listener is not None:
                node.destroy_subscription(listener)
            listener = (
                node.create_subscription(
                    message_types()["detections"],
                    f"/{camera}/detections",
                    lambda _: arrivals.append(time.monotonic()),
                    10,
                    raw=True,
                )
                if listening
                else None
            )
        executor.spin_once(timeout_sec=0.05)
        if arrivals and listener is not None:
            pipe.send(arrivals[0])
            node.destroy_subscription(listener)
            listener = None
            arrivals.clear()
    executor.shutdown()
    node.destroy_node()
    rclpy.shutdown()
