"""The subscriptions of one camera: its images, and its CameraInfo where a topic is given.

Everything runs in the executor's thread. The publisher's thread reads ``CameraInput.camera_info``, a reference that the
executor's replaces, without a lock.
"""

from collections.abc import Callable
from typing import Final

from rclpy.node import Node
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from lvad_perception.messages import Message, stamp_ns
from lvad_perception.node.parameters import CameraParameters

# Deep enough that bursts reach the mailbox, which keeps the newest and counts the others.
_DEPTH: Final = 5
_JUMP_LOG_PERIOD_S: Final = 1.0
"""Two drivers with different clocks on one topic would otherwise fill the log."""


class CameraInput:
    """The subscriptions of one camera.

    Args:
        node: the node that subscribes.
        camera: the topics, their type and reliability.
        lossless: the middleware keeps every image until the node receives it.
        deliver: called with each image message.
        jumped: called when a stamp is older than the one before: a bag has restarted or a clock was set.

    Attributes:
        topic: full name of the image topic, after remapping.
        camera_info: the newest ``sensor_msgs/CameraInfo``, or None before the first or without a topic for it.
    """

    def __init__(
        self,
        node: Node,
        camera: CameraParameters,
        *,
        lossless: bool,
        deliver: Callable[[Message], None],
        jumped: Callable[[], None],
    ) -> None:
        self._node = node
        self._camera = camera
        self._lossless = lossless
        self._deliver = deliver
        self._jumped = jumped
        self._newest_ns: int | None = None
        self.camera_info: Message | None = None
        self.topic: str = node.resolve_topic_name(camera.topic)
        reliability = ReliabilityPolicy.RELIABLE if camera.reliable else ReliabilityPolicy.BEST_EFFORT
        history = HistoryPolicy.KEEP_ALL if lossless else HistoryPolicy.KEEP_LAST
        self._subscriptions = [
            node.create_subscription(
                CompressedImage if camera.compressed else Image,
                camera.topic,
                self._receive,
                QoSProfile(history=history, depth=_DEPTH, reliability=reliability),
            )
        ]
        if camera.camera_info_topic:
            self._subscriptions.append(
                node.create_subscription(
                    CameraInfo,
                    camera.camera_info_topic,
                    self._receive_camera_info,
                    QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=1, reliability=ReliabilityPolicy.BEST_EFFORT),
                )
            )

    def destroy(self) -> None:
        """Destroy the subscriptions."""
        while self._subscriptions:
            self._node.destroy_subscription(self._subscriptions.pop())

    def explain_silence(self) -> str:
        """The reason why no image arrives, as far as the ROS graph shows, with a remedy."""
        name = self._camera.name
        publishers = self._node.get_publishers_info_by_topic(self.topic)
        if not publishers:
            return f"nobody publishes it; start the camera or set {name}.image_topic"
        wanted = f"sensor_msgs/msg/{'CompressedImage' if self._camera.compressed else 'Image'}"
        types = {publisher.topic_type for publisher in publishers}
        if wanted not in types:
            found = ", ".join(sorted(types))
            return f"it is published as {found}, not {wanted}; set {name}.transport or {name}.image_topic"
        reliabilities = {publisher.qos_profile.reliability for publisher in publishers}
        if self._camera.reliable and ReliabilityPolicy.RELIABLE not in reliabilities:
            parameter = "lossless to false" if self._lossless else f"{name}.reliability to best_effort"
            return f"its publisher is best effort; set {parameter}"
        if not self._camera.reliable and ReliabilityPolicy.RELIABLE in reliabilities:
            # A large image has many packets, and best effort drops it when one of them is lost.
            lost = "or packets are lost on the way"
            return f"its publisher sends nothing, {lost}; check the camera, or set {name}.reliability to reliable"
        return "its publisher sends nothing; check the camera"

    def _receive(self, message: Message) -> None:
        self._watch_stamp(stamp_ns(message.header))
        self._deliver(message)

    def _receive_camera_info(self, message: Message) -> None:
        self.camera_info = message

    def _watch_stamp(self, stamp: int) -> None:
        before, self._newest_ns = self._newest_ns, stamp
        if before is not None and stamp < before:
            self._jumped()
            self._node.get_logger().warning(
                f"{self.topic}: the stamps jumped back by {(before - stamp) / 1e9:.3f} s; a bag began again or a clock "
                "was set, and the frames are processed as they come",
                throttle_duration_sec=_JUMP_LOG_PERIOD_S,
            )
