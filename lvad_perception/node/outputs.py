"""The topics of one camera's results."""

from collections.abc import Collection
from typing import Any

from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy

from lvad_perception.messages import (
    Message,
    MessageTypes,
    detections_to_message,
    image_to_message,
    label_info_to_message,
    make_header,
    mask_to_message,
)
from lvad_perception.overlay import draw_predictions
from lvad_perception.types import Predictions, UInt8
from lvad_perception.vocabulary import DRIVABLE, SEMANTIC

# Reliable reaches every subscriber, best effort ones included; a few frames deep, so that one who is slow for a moment
# misses nothing and one who is slow for long delays nobody.
RESULTS_QOS = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=5, reliability=ReliabilityPolicy.RELIABLE)
LATCHED_QOS = QoSProfile(
    history=HistoryPolicy.KEEP_LAST,
    depth=1,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
)


class CameraOutputs:
    """The publishers of one camera. What nobody subscribes to is neither built nor sent.

    Args:
        node: the node that publishes.
        camera: prefix of the topics.
        tasks: the model's tasks; other tasks get no topic.
        types: ROS's message classes.
    """

    def __init__(self, node: Node, camera: str, tasks: Collection[str], types: MessageTypes) -> None:
        from sensor_msgs.msg import Image
        from vision_msgs.msg import Detection2DArray, LabelInfo

        self._node = node
        self._types = types
        self._publishers: dict[str, Publisher] = {}
        self._latched: list[Publisher] = []
        if "detection" in tasks:
            self._publishers["detections"] = node.create_publisher(
                Detection2DArray, f"{camera}/detections", RESULTS_QOS
            )
        for vocabulary, topic in ((SEMANTIC, "segmentation"), (DRIVABLE, "drivable_area")):
            if vocabulary.task in tasks:
                self._publishers[topic] = node.create_publisher(Image, f"{camera}/{topic}", RESULTS_QOS)
                latched = node.create_publisher(LabelInfo, f"{camera}/{topic}/label_info", LATCHED_QOS)
                header = make_header(node.get_clock().now().nanoseconds, "", types=types)
                latched.publish(label_info_to_message(vocabulary, header, types=types))
                self._latched.append(latched)
        if "semantic" in tasks:
            self._publishers["segmentation/confidence"] = node.create_publisher(
                Image, f"{camera}/segmentation/confidence", RESULTS_QOS
            )
        self._publishers["overlay"] = node.create_publisher(Image, f"{camera}/overlay", RESULTS_QOS)

    @property
    def topics(self) -> list[str]:
        """Full names of the topics, after remapping."""
        return [publisher.topic_name for publisher in self._publishers.values()]

    @property
    def wanted(self) -> bool:
        """Whether anybody subscribes to any result."""
        return any(self._is_wanted(topic) for topic in self._publishers)

    def publish(self, image: UInt8, predictions: Predictions, header: Message) -> None:
        """Publish one frame's results.

        Args:
            image: uint8 [H, W, 3], RGB, the source image.
            predictions: what the model says about it.
            header: the source message's, used as it is.
        """
        if predictions.detections is not None and self._is_wanted("detections"):
            self._send("detections", detections_to_message(predictions.detections, header, types=self._types))
        if predictions.semantic is not None and self._is_wanted("segmentation"):
            self._send("segmentation", mask_to_message(predictions.semantic, header, types=self._types))
        if predictions.semantic_confidence is not None and self._is_wanted("segmentation/confidence"):
            confidence = mask_to_message(predictions.semantic_confidence, header, types=self._types)
            self._send("segmentation/confidence", confidence)
        if predictions.drivable is not None and self._is_wanted("drivable_area"):
            self._send("drivable_area", mask_to_message(predictions.drivable, header, types=self._types))
        if self._is_wanted("overlay"):
            # The perceiver has applied the threshold: what is published is what is drawn.
            drawn = draw_predictions(image, predictions, score_threshold=0.0)
            self._send("overlay", image_to_message(drawn, header, types=self._types))

    def destroy(self) -> None:
        """Withdraw the topics."""
        for publisher in [*self._publishers.values(), *self._latched]:
            self._node.destroy_publisher(publisher)
        self._publishers.clear()
        self._latched.clear()

    def _is_wanted(self, topic: str) -> bool:
        publisher = self._publishers.get(topic)
        return publisher is not None and publisher.get_subscription_count() > 0

    def _send(self, topic: str, message: Any) -> None:
        self._publishers[topic].publish(message)
