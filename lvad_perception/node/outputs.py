"""The topics of one camera's results."""

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
from lvad_perception.node.detection_messages import DetectionMessages
from lvad_perception.node.health import LOG_PERIOD_S
from lvad_perception.postprocess import predictions_to_network
from lvad_perception.preprocess import fit_letterbox, letterbox_image
from lvad_perception.types import Predictions, Size, UInt8

# Reliable reaches every subscriber, best effort ones included; a few frames deep, so that one who is slow for a moment
# misses nothing and one who is slow for long delays nobody.
RESULTS_QOS: Final = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=5, reliability=ReliabilityPolicy.RELIABLE)
# For evaluation: what a subscriber has not received yet is kept until it has, and publishing waits where that is much.
LOSSLESS_QOS: Final = QoSProfile(history=HistoryPolicy.KEEP_ALL, depth=0, reliability=ReliabilityPolicy.RELIABLE)
LATCHED_QOS: Final = QoSProfile(
    history=HistoryPolicy.KEEP_LAST,
    depth=1,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
)

CAMERA_INFO: Final = "camera_info"
_DETECTIONS: Final = "detections"
_SEGMENTATION: Final = "segmentation"
_CONFIDENCE: Final = "segmentation/confidence"
_DRIVABLE: Final = "drivable_area"
_OVERLAY: Final = "overlay"
_OVERLAY_JPEG: Final = "overlay/compressed"
_OVERLAYS: Final = (_OVERLAY, _OVERLAY_JPEG)
_TOPICS_OF_TASK: Final = {
    "detection": (_DETECTIONS,),
    "semantic": (_SEGMENTATION, _CONFIDENCE),
    "drivable": (_DRIVABLE,),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputOptions:
    """What a camera's results look like; all of it can change while frames flow.

    Attributes:
        overlay_alpha: weight of the mask colours in the overlay, 0 (invisible) to 1 (opaque).
        jpeg_quality: of the compressed overlay, 1 to 100.
        network_size: publish masks, boxes, overlay and CameraInfo in network pixels, letterbox border included, not
            in source pixels.
        camera_info: publish the camera's CameraInfo beside the results, with the header of each processed image.
    """

    overlay_alpha: float
    jpeg_quality: int
    network_size: bool
    camera_info: bool


class CameraOutputs:
    """The publishers of one camera. What nobody subscribes to is neither built nor sent.

    ``publish`` runs in the working thread, ``update`` and ``destroy`` in another; they wait for one another.

    Args:
        node: the node that publishes.
        camera: prefix of the topics.
        manifest: of the model, whose classes and their colours it publishes; tasks that it lacks get no topic.
        types: ROS's message classes.
        options: what the results look like.
        database_version: of the model's classes, for ``VisionInfo``.
        lossless: subscribers get every result, also those who are slow; publishing waits for them.
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
        kinds = {_DETECTIONS: Detection2DArray, _OVERLAY_JPEG: CompressedImage}
        tasks = [task for task in _TOPICS_OF_TASK if task in manifest.classes]
        for topic in (*(topic for task in tasks for topic in _TOPICS_OF_TASK[task]), *_OVERLAYS):
            self._create(topic, kinds.get(topic, Image))
        self._describe(manifest, database_version)
        self.update(options)

    @property
    def topics(self) -> list[str]:
        """Full names of the topics, after remapping; those that describe the model are not among them."""
        return [publisher.topic_name for publisher in self._publishers.values()]

    @property
    def wanted(self) -> bool:
        """Whether anybody subscribes to any result."""
        return self._anybody(tuple(self._publishers))

    @property
    def wanted_tasks(self) -> frozenset[str]:
        """The model's tasks whose results somebody subscribes to; the overlay shows all of them."""
        everything = self._anybody(_OVERLAYS)
        return frozenset(
            task
            for task, topics in _TOPICS_OF_TASK.items()
            if topics[0] in self._publishers and (everything or self._anybody(topics))
        )

    def update(self, options: OutputOptions) -> None:
        """Take over new options; they hold from the next frame on."""
        from sensor_msgs.msg import CameraInfo

        with self._lock:
            self._options = options
            if options.camera_info and CAMERA_INFO not in self._publishers:
                self._create(CAMERA_INFO, CameraInfo)
            elif not options.camera_info and CAMERA_INFO in self._publishers:
                self._node.destroy_publisher(self._publishers.pop(CAMERA_INFO))

    def publish(
        self, image: UInt8, predictions: Predictions, header: Message, camera_info: Message | None = None
    ) -> None:
        """Publish one frame's results.

        Args:
            image: uint8 [H, W, 3], RGB, the source image.
            predictions: what the model says about it, in source pixels.
            header: the source message's, used as it is.
            camera_info: the camera's newest ``sensor_msgs/CameraInfo``, or None where there is none.
        """
        with self._lock:
            options = self._options
            drawing = self._anybody(_OVERLAYS)
            found = self._only_wanted(predictions, everything=drawing)
            if options.network_size:
                box = fit_letterbox(predictions.size_hw, self._network_hw)
                found = predictions_to_network(found, box)
                image = letterbox_image(image, self._network_hw)[0] if drawing else image
            self._publish_results(found, header)
            if drawing:
                # The perceiver has applied the threshold: what is published is what is drawn.
                drawn = draw_predictions(
                    image, found, score_threshold=0.0, alpha=options.overlay_alpha, vocabularies=self._vocabularies
                )
                self._publish_overlay(drawn, header, options.jpeg_quality)
            if camera_info is not None and self._anybody((CAMERA_INFO,)):
                self._publish_camera_info(camera_info, header, predictions.size_hw, options)

    def destroy(self) -> None:
        """Withdraw the topics."""
        with self._lock:
            for publisher in [*self._publishers.values(), *self._latched]:
                self._node.destroy_publisher(publisher)
            self._publishers.clear()
            self._latched.clear()

    def _create(self, topic: str, kind: Any) -> None:
        self._publishers[topic] = self._node.create_publisher(kind, f"{self._camera}/{topic}", self._qos)

    def _describe(self, manifest: Manifest, database_version: int) -> None:
        """The latched topics: which classes the ids of each task mean, and which model detects."""
        from vision_msgs.msg import LabelInfo, VisionInfo

        header = make_header(self._node.get_clock().now().nanoseconds, "", types=self._types)
        for task, vocabulary in self._vocabularies.items():
            topic = f"{self._camera}/{_TOPICS_OF_TASK[task][0]}"
            labels = self._node.create_publisher(LabelInfo, f"{topic}/label_info", LATCHED_QOS)
            labels.publish(label_info_to_message(vocabulary, header, types=self._types))
            self._latched.append(labels)
            if task == "detection":
                info = self._node.create_publisher(VisionInfo, f"{topic}/vision_info", LATCHED_QOS)
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

    def _only_wanted(self, predictions: Predictions, *, everything: bool) -> Predictions:
        """Without what nobody sees, so that nothing is done to it."""

        def kept(topic: str, result: Any) -> Any:
            return result if everything or self._anybody((topic,)) else None

        return replace(
            predictions,
            detections=kept(_DETECTIONS, predictions.detections),
            semantic=kept(_SEGMENTATION, predictions.semantic),
            drivable=kept(_DRIVABLE, predictions.drivable),
            semantic_confidence=predictions.semantic_confidence if self._anybody((_CONFIDENCE,)) else None,
        )

    def _publish_results(self, found: Predictions, header: Message) -> None:
        if found.detections is not None and self._anybody((_DETECTIONS,)):
            self._send(_DETECTIONS, self._detection_messages.build(found.detections, header))
        masks = ((_SEGMENTATION, found.semantic), (_CONFIDENCE, found.semantic_confidence), (_DRIVABLE, found.drivable))
        for topic, mask in masks:
            if mask is not None and self._anybody((topic,)):
                self._send(topic, mask_to_message(mask, header, types=self._types))

    def _publish_overlay(self, drawn: UInt8, header: Message, jpeg_quality: int) -> None:
        if self._anybody((_OVERLAY,)):
            self._send(_OVERLAY, image_to_message(drawn, header, types=self._types))
        if self._anybody((_OVERLAY_JPEG,)):
            bgr = cv2.cvtColor(drawn, cv2.COLOR_RGB2BGR)
            jpeg = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, jpeg_quality])[1]
            self._send(_OVERLAY_JPEG, jpeg_to_message(jpeg, header, types=self._types))

    def _publish_camera_info(
        self, camera_info: Message, header: Message, source_hw: Size, options: OutputOptions
    ) -> None:
        try:
            if options.network_size:
                box = fit_letterbox(source_hw, self._network_hw)
                message = camera_info_at_network_size(camera_info, header, box)
            else:
                message = camera_info_of_image(camera_info, header, source_hw)
        except MessageError as err:  # the results are good without it
            now_s = time.monotonic()
            if str(err) != self._warned and now_s - self._warned_s >= LOG_PERIOD_S:
                self._warned, self._warned_s = str(err), now_s
                self._node.get_logger().warning(f"{self._publishers[CAMERA_INFO].topic_name}: {err}")
            return
        self._send(CAMERA_INFO, message)

    def _anybody(self, topics: Iterable[str]) -> bool:
        """Whether anybody subscribes to one of the topics."""
        for topic in topics:
            publisher = self._publishers.get(topic)
            if publisher is not None and publisher.get_subscription_count() > 0:
                return True
        return False

    def _send(self, topic: str, message: Message) -> None:
        self._publishers[topic].publish(message)
