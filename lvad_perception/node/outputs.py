"""The publishers of one camera's results.

Threads: the publisher's thread calls ``publish``; the executor's thread calls ``update``, ``destroy`` and, for each
received image, ``wanted``; the worker's thread reads ``wanted_tasks``. ``CameraOutputs._lock`` serialises ``publish``,
``update`` and ``destroy``, so that options change and publishers end between two frames. The reads take no lock: a
subscription that is counted a frame late does no harm.
"""

import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Final

import cv2
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy

from lvad_perception.errors import MessageError
from lvad_perception.manifest import Manifest
from lvad_perception.media.overlay import draw_predictions
from lvad_perception.messages import (
    DetectionMessages,
    Message,
    MessageTypes,
    image_to_message,
    jpeg_to_message,
    label_info_to_message,
    make_header,
    mask_to_message,
    vision_info_to_message,
)
from lvad_perception.node.camera_info import camera_info_at_network_size, camera_info_of_image
from lvad_perception.node.health import LOG_PERIOD_S
from lvad_perception.postprocess import predictions_to_network
from lvad_perception.preprocess import fit_letterbox, letterbox_image
from lvad_perception.topics import (
    CAMERA_INFO_TOPIC,
    CONFIDENCE,
    LABEL_INFO,
    OVERLAY,
    OVERLAY_JPEG,
    TASK_TOPICS,
    VISION_INFO,
)
from lvad_perception.types import Predictions, Size, UInt8

# Reliable reaches every subscriber, best-effort ones included. The depth of a few frames bridges a short delay of a
# subscriber, and one that is slow for long delays nobody.
RESULTS_QOS: Final = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=5, reliability=ReliabilityPolicy.RELIABLE)
# For evaluation: messages are kept until every subscriber has them; with many unacknowledged ones publishing waits.
LOSSLESS_QOS: Final = QoSProfile(history=HistoryPolicy.KEEP_ALL, depth=0, reliability=ReliabilityPolicy.RELIABLE)
LATCHED_QOS: Final = QoSProfile(
    history=HistoryPolicy.KEEP_LAST,
    depth=1,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
)

_DETECTIONS: Final = TASK_TOPICS["detection"]
_SEGMENTATION: Final = TASK_TOPICS["semantic"]
_DRIVABLE: Final = TASK_TOPICS["drivable"]
_OVERLAYS: Final = (OVERLAY, OVERLAY_JPEG)
_TOPICS_OF_TASK: Final = {
    task: (topic, CONFIDENCE) if task == "semantic" else (topic,) for task, topic in TASK_TOPICS.items()
}


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputOptions:
    """Options of a camera's results; all of them can change while frames flow.

    Attributes:
        overlay_alpha: weight of the mask colours in the overlay, 0 (invisible) to 1 (opaque).
        jpeg_quality: of the compressed overlay, 1 to 100.
        network_size: publish masks, boxes, overlay and CameraInfo in network pixels, letterbox border included,
            instead of source pixels.
        camera_info: publish the camera's CameraInfo beside the results, with the header of each processed image.
    """

    overlay_alpha: float
    jpeg_quality: int
    network_size: bool
    camera_info: bool


class CameraOutputs:
    """The publishers of one camera. Results without subscribers are neither built nor sent.

    Args:
        node: the node that publishes.
        camera: prefix of the topics.
        manifest: of the model: its tasks, their classes and colours. A task that it lacks has no topic.
        types: ROS's message classes.
        options: initial options.
        database_version: number of the model's class list, for ``VisionInfo``.
        lossless: publishing waits for slow subscribers, so that they receive every result.
    """

    def __init__(
        self,
        node: Node,
        camera: str,
        manifest: Manifest,
        types: MessageTypes,
        options: OutputOptions,
        *,
        database_version: int = 1,
        lossless: bool = False,
    ) -> None:
        from sensor_msgs.msg import CompressedImage, Image
        from vision_msgs.msg import Detection2DArray

        self._node = node
        self._camera = camera
        self._qos = LOSSLESS_QOS if lossless else RESULTS_QOS
        self._network_hw: Size = manifest.network_hw
        self._types = types
        self._vocabularies = manifest.vocabularies
        self._detection_messages = DetectionMessages(manifest.classes.get("detection", ()), types)
        self._lock = threading.Lock()
        self._options = options
        self._publishers: dict[str, Publisher] = {}
        self._latched: list[Publisher] = []
        self._warned, self._warned_s = "", float("-inf")
        kinds = {_DETECTIONS: Detection2DArray, OVERLAY_JPEG: CompressedImage}
        tasks = [task for task in _TOPICS_OF_TASK if task in manifest.classes]
        for topic in (*(topic for task in tasks for topic in _TOPICS_OF_TASK[task]), *_OVERLAYS):
            self._create(topic, kinds.get(topic, Image))
        self._describe(manifest, database_version)
        self.update(options)

    @property
    def topics(self) -> list[str]:
        """Full names of the topics, after remapping, without those that describe the model."""
        return [publisher.topic_name for publisher in self._publishers.values()]

    @property
    def wanted(self) -> bool:
        """Whether any result has a subscriber."""
        return self._has_subscriber(tuple(self._publishers))

    @property
    def wanted_tasks(self) -> frozenset[str]:
        """The model's tasks whose results have a subscriber; a subscriber of the overlay wants all of them."""
        overlay = self._has_subscriber(_OVERLAYS)
        return frozenset(
            task
            for task, topics in _TOPICS_OF_TASK.items()
            if topics[0] in self._publishers and (overlay or self._has_subscriber(topics))
        )

    def update(self, options: OutputOptions) -> None:
        """Apply new options from the next frame on."""
        from sensor_msgs.msg import CameraInfo

        with self._lock:
            self._options = options
            if options.camera_info and CAMERA_INFO_TOPIC not in self._publishers:
                self._create(CAMERA_INFO_TOPIC, CameraInfo)
            elif not options.camera_info and CAMERA_INFO_TOPIC in self._publishers:
                self._node.destroy_publisher(self._publishers.pop(CAMERA_INFO_TOPIC))

    def publish(
        self, image: UInt8, predictions: Predictions, header: Message, camera_info: Message | None = None
    ) -> None:
        """Publish one frame's results.

        Args:
            image: uint8 [H, W, 3], RGB, the source image.
            predictions: the model's, in source pixels.
            header: the source message's, used unchanged.
            camera_info: the camera's newest ``sensor_msgs/CameraInfo``, or None where there is none.
        """
        with self._lock:
            options = self._options
            overlay = self._has_subscriber(_OVERLAYS)
            wanted = self._select_wanted(predictions, overlay=overlay)
            if options.network_size:
                box = fit_letterbox(predictions.size_hw, self._network_hw)
                wanted = predictions_to_network(wanted, box)
                image = letterbox_image(image, self._network_hw)[0] if overlay else image
            self._publish_results(wanted, header)
            if overlay:
                # The perceiver has applied the score threshold, so the overlay shows the published boxes.
                drawn = draw_predictions(
                    image, wanted, score_threshold=0.0, alpha=options.overlay_alpha, vocabularies=self._vocabularies
                )
                self._publish_overlay(drawn, header, options.jpeg_quality)
            if camera_info is not None and self._has_subscriber((CAMERA_INFO_TOPIC,)):
                self._publish_camera_info(camera_info, header, predictions.size_hw, options)

    def destroy(self) -> None:
        """Destroy the publishers."""
        with self._lock:
            for publisher in [*self._publishers.values(), *self._latched]:
                self._node.destroy_publisher(publisher)
            self._publishers.clear()
            self._latched.clear()

    def _create(self, topic: str, kind: Any) -> None:
        self._publishers[topic] = self._node.create_publisher(kind, f"{self._camera}/{topic}", self._qos)

    def _describe(self, manifest: Manifest, database_version: int) -> None:
        """Publish the latched topics: the classes of each task and the model that detects."""
        from vision_msgs.msg import LabelInfo, VisionInfo

        header = make_header(self._node.get_clock().now().nanoseconds, "", types=self._types)
        for task, vocabulary in self._vocabularies.items():
            topic = f"{self._camera}/{_TOPICS_OF_TASK[task][0]}"
            labels = self._node.create_publisher(LabelInfo, f"{topic}/{LABEL_INFO}", LATCHED_QOS)
            labels.publish(label_info_to_message(vocabulary, header, types=self._types))
            self._latched.append(labels)
            if task == "detection":
                info = self._node.create_publisher(VisionInfo, f"{topic}/{VISION_INFO}", LATCHED_QOS)
                info.publish(
                    vision_info_to_message(
                        manifest,
                        header,
                        database_location=labels.topic_name,
                        database_version=database_version,
                        types=self._types,
                    )
                )
                self._latched.append(info)

    def _select_wanted(self, predictions: Predictions, *, overlay: bool) -> Predictions:
        """Drop results without subscribers before any work is spent on them; the overlay shows all but confidence."""

        def keep(topic: str, result: Any) -> Any:
            return result if overlay or self._has_subscriber((topic,)) else None

        return replace(
            predictions,
            detections=keep(_DETECTIONS, predictions.detections),
            semantic=keep(_SEGMENTATION, predictions.semantic),
            drivable=keep(_DRIVABLE, predictions.drivable),
            semantic_confidence=predictions.semantic_confidence if self._has_subscriber((CONFIDENCE,)) else None,
        )

    def _publish_results(self, wanted: Predictions, header: Message) -> None:
        if wanted.detections is not None and self._has_subscriber((_DETECTIONS,)):
            self._send(_DETECTIONS, self._detection_messages.build(wanted.detections, header))
        masks = {_SEGMENTATION: wanted.semantic, CONFIDENCE: wanted.semantic_confidence, _DRIVABLE: wanted.drivable}
        for topic, mask in masks.items():
            if mask is not None and self._has_subscriber((topic,)):
                self._send(topic, mask_to_message(mask, header, types=self._types))

    def _publish_overlay(self, drawn: UInt8, header: Message, jpeg_quality: int) -> None:
        if self._has_subscriber((OVERLAY,)):
            self._send(OVERLAY, image_to_message(drawn, header, types=self._types))
        if self._has_subscriber((OVERLAY_JPEG,)):
            bgr = cv2.cvtColor(drawn, cv2.COLOR_RGB2BGR)
            jpeg = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, jpeg_quality])[1]
            self._send(OVERLAY_JPEG, jpeg_to_message(jpeg, header, types=self._types))

    def _publish_camera_info(
        self, camera_info: Message, header: Message, source_hw: Size, options: OutputOptions
    ) -> None:
        try:
            if options.network_size:
                box = fit_letterbox(source_hw, self._network_hw)
                message = camera_info_at_network_size(camera_info, header, box)
            else:
                message = camera_info_of_image(camera_info, header, source_hw)
        except MessageError as err:  # the other results do not depend on it
            now_s = time.monotonic()
            if str(err) != self._warned and now_s - self._warned_s >= LOG_PERIOD_S:
                self._warned, self._warned_s = str(err), now_s
                self._node.get_logger().warning(f"{self._publishers[CAMERA_INFO_TOPIC].topic_name}: {err}")
            return
        self._send(CAMERA_INFO_TOPIC, message)

    def _has_subscriber(self, topics: Iterable[str]) -> bool:
        """Whether one of the topics has a subscriber."""
        for topic in topics:
            publisher = self._publishers.get(topic)
            if publisher is not None and publisher.get_subscription_count() > 0:
                return True
        return False

    def _send(self, topic: str, message: Message) -> None:
        self._publishers[topic].publish(message)
