"""The node that measures results against the annotation of a bag that is being played.

It finds its topics by name, without configuration: it subscribes to ``<camera>/detections``, ``/segmentation`` and
``/drivable_area`` wherever a counterpart ``<camera>/truth/…`` exists. It controls the player by the player's services:
it resumes a paused player once all publishers and subscribers are connected, and pauses it while results are missing,
so that a model of any speed sees every frame in bounded memory. The bag has ended when annotation has no publisher.

Everything runs in the executor's thread; there is no lock.
"""

import time
from typing import Any, Final

from rclpy.exceptions import InvalidParameterTypeException, ParameterException
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rosbag2_interfaces.srv import Pause, Resume
from sensor_msgs.msg import Image
from vision_msgs.msg import Detection2DArray, LabelInfo

from lvad_perception.bags.error_log import ErrorLog
from lvad_perception.bags.pairing import Pairing
from lvad_perception.errors import ConfigError, DatasetError, LvadError
from lvad_perception.messages import Message
from lvad_perception.metrics import Metrics
from lvad_perception.node.ros_parameter import Change, Parameter
from lvad_perception.topics import DETECTIONS, IMAGE, LABELS, Side, listing, message_type, side_of

_CLASSES: Final = {DETECTIONS: Detection2DArray, IMAGE: Image, LABELS: LabelInfo}
_POLL_PERIOD_S: Final = 0.2
_SETTLE_S: Final = 1.0
"""After this time without a new topic, discovery counts as complete."""
_JSON: Final = Parameter("json", "", "File for the metrics as JSON; empty for none.", change=Change.START)
_PLAYER: Final = Parameter(
    "player", "/rosbag2_player", "Full name of the node that plays the bag.", change=Change.START
)
_WINDOW: Final = Parameter(
    "window", 8, "The player waits while so many annotated images have no result.", (1, 64), change=Change.START
)
_TIMEOUT_S: Final = Parameter(
    "timeout_s",
    30.0,
    "The evaluation ends when nothing has arrived for so long, in seconds; must be longer than a frame takes.",
    (1.0, 3600.0),
    change=Change.START,
)


class EvaluationNode(Node):  # type: ignore[misc]
    """Listens to results and annotation until the bag ends.

    Attributes:
        json_file: value of the parameter ``json``.
        done: the bag has ended, or ``problem`` is set.
        problem: an error that ended the evaluation, which ``finish`` raises; or None.

    Raises:
        ConfigError: a parameter has the wrong type or an impossible value.
    """

    def __init__(self, **node_options: object) -> None:
        super().__init__("evaluation", **node_options)
        try:
            self.json_file, player, self._window, self._timeout_s = (
                self.declare_parameter(row.name, row.default, row.descriptor()).value
                for row in (_JSON, _PLAYER, _WINDOW, _TIMEOUT_S)
            )
        except (InvalidParameterTypeException, ParameterException) as err:
            self.destroy_node()
            raise ConfigError(f"{str(err).rstrip('.')}; correct the parameter") from err
        self.done = False
        self.problem: LvadError | None = None
        self._problems = ErrorLog(self.get_logger().warning)
        self._pairing = Pairing(self._problems)
        self._sides: dict[str, Side] = {}
        self._annotation: set[str] = set()
        self._changed_s = self._received_s = time.monotonic()
        self._holding = self._started = False
        self._pause = self.create_client(Pause, f"{player}/pause")
        self._resume = self.create_client(Resume, f"{player}/resume")
        self.create_timer(_POLL_PERIOD_S, self._poll)
        self.get_logger().info("waiting for results and annotation: <camera>/... and <camera>/truth/...")

    def finish(self) -> Metrics:
        """The metrics of all paired messages. Raises DatasetError, one sentence, when nothing was paired."""
        if self.problem is not None:
            raise self.problem
        try:
            return self._pairing.finish()
        except DatasetError as err:
            raise DatasetError(self._explain_nothing()) from err

    def _explain_nothing(self) -> str:
        halves = {truth: [s.topic for s in self._sides.values() if s.truth is truth] for truth in (True, False)}
        if not self._annotation:
            return (
                "nothing to evaluate: nobody published annotation; play a bag that was made with: "
                "lvad-perception bag from-dataset"
            )
        if not halves[False]:
            return (
                f"nothing to evaluate: nobody publishes results for {listing(self._annotation)}; activate the "
                "perception node with a camera of that name and a model that has the task"
            )
        return (
            f"nothing to evaluate: no result on {listing(halves[False])} has the stamp of an annotated image; "
            "give the node the images of the annotated bag"
        )

    # Discovery of topics and the end of the bag, by timer.

    def _poll(self) -> None:
        now = time.monotonic()
        self._subscribe()
        if not self._annotation:
            return
        quiet_s = now - max(self._received_s, self._changed_s)
        playing = any(self.count_publishers(topic) for topic in self._annotation)
        if not self._started and self._sides and now - self._changed_s > _SETTLE_S and playing:
            self._started = True
            self._call(self._resume)
            self.get_logger().info(f"listening to {listing(self._sides)}")
        if not playing and (not self._pairing.in_flight and quiet_s > _SETTLE_S):
            self.done = True
        elif quiet_s > self._timeout_s:
            if playing and self._holding:  # the missing results do not come, as those of corrupt images
                self._hold_player(False)
                self._received_s = now
            else:
                self.done = True

    def _subscribe(self) -> None:
        """Subscribe to the tasks that have both results and annotation."""
        found = {
            side.topic: (side, _CLASSES[message_type(types[0])])
            for topic, types in self.get_topic_names_and_types()
            if (side := side_of(topic, types[0])) is not None and self.count_publishers(topic)
        }
        annotation = {topic for topic, (side, _) in found.items() if side.truth and not side.label_info}
        halves = {
            truth: {(s.camera, s.task) for s, _ in found.values() if s.truth is truth and not s.label_info}
            for truth in (True, False)
        }
        if not annotation <= self._annotation:
            self._annotation |= annotation
            self._changed_s = time.monotonic()
        for topic, (side, kind) in found.items():
            if topic in self._sides or (side.camera, side.task) not in halves[True] & halves[False]:
                continue
            self._sides[topic] = side
            self._changed_s = time.monotonic()
            self.create_subscription(kind, topic, lambda msg, side=side: self._receive(side, msg), _qos(side))

    # Messages.

    def _receive(self, side: Side, msg: Message) -> None:
        self._received_s = time.monotonic()
        stamp = msg.header.stamp
        try:
            self._pairing.add(side, msg, f"stamped {stamp.sec}.{stamp.nanosec:09d}")
        except LvadError as err:
            self.problem, self.done = err, True
            return
        in_flight = self._pairing.in_flight
        if in_flight >= self._window and not self._holding:
            self._hold_player(True)
        elif in_flight <= self._window // 2 and self._holding:
            self._hold_player(False)

    def _hold_player(self, holding: bool) -> None:
        self._holding = holding
        self._call(self._pause if holding else self._resume)

    def _call(self, client: Any) -> None:
        if client.service_is_ready():  # other players have no such service and are not paused
            client.call_async(client.srv_type.Request())


def _qos(side: Side) -> QoSProfile:
    """Keep every message; label info was published before this node subscribed."""
    if side.label_info:
        return QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    return QoSProfile(history=HistoryPolicy.KEEP_ALL, reliability=ReliabilityPolicy.RELIABLE)
