"""The lifecycle node: images of cameras in, detections and masks out.

Two threads share the work. The executor's thread receives messages and leaves the newest one in the mailbox; it also
runs the transitions. The worker's thread takes it from there: decode, infer, publish. So a model of any speed always
sees the newest frame, and services answer while it works.
"""

import threading
import time
import traceback
from collections.abc import Callable

import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus
from diagnostic_updater import DiagnosticStatusWrapper, Updater
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.subscription import Subscription
from sensor_msgs.msg import CompressedImage, Image

from lvad_perception.engines import open_engine
from lvad_perception.errors import LvadError
from lvad_perception.messages import Message, ros_types, stamp_ns
from lvad_perception.node.decoding import decode
from lvad_perception.node.diagnostics import STALE_AFTER_S, CameraState, Verdict, fill_camera, fill_node, judge
from lvad_perception.node.health import CameraHealth
from lvad_perception.node.mailbox import Frame, Mailbox
from lvad_perception.node.outputs import CameraOutputs, OutputOptions
from lvad_perception.node.parameters import CameraParameters, NodeParameters, declare_parameters
from lvad_perception.perceiver import Perceiver, Timings
from lvad_perception.preprocess import PAD_VALUE
from lvad_perception.types import UInt8

_REMIND_EVERY_S = 10.0
_NODE_STATUS = "all cameras"


class PerceptionNode(LifecycleNode):  # type: ignore[misc]
    """ROS 2 lifecycle node ``perception``.

    configure loads, checks and warms up the model; activate subscribes to the cameras and starts the worker; deactivate
    stops within one frame; cleanup frees the model. A transition that fails says why in one sentence and leaves the
    node in the state that it was in, so that it can be tried again.

    Raises:
        ConfigError: a parameter has the wrong type or an impossible value.
    """

    def __init__(self, **node_options: object) -> None:
        super().__init__("perception", automatically_declare_parameters_from_overrides=True, **node_options)
        self._settings: NodeParameters | None = None
        self._perceiver: Perceiver | None = None
        self._outputs: dict[str, CameraOutputs] = {}
        self._topics: dict[str, str] = {}  # camera -> full name of its topic, after remapping
        self._inputs: list[Subscription] = []
        self._health: dict[str, CameraHealth] = {}
        self._mailbox: Mailbox[Message] | None = None
        self._worker: threading.Thread | None = None
        self._verdicts: dict[str, Verdict] = {}
        self._reminded_s = 0.0
        try:
            self._read_parameters = declare_parameters(self)
        except LvadError:
            self.destroy_node()
            raise
        self._diagnostics = Updater(self)
        self._diagnostics.setHardwareID("none")

    # Transitions. rclpy swallows exceptions here, so each is caught and said.

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load, check and warm up the model; declare the output topics."""
        return self._attempt("configure", self._configure, undo=self._release)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Subscribe to the cameras and start working."""
        return self._attempt("activate", self._start, undo=self._stop)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop within one frame."""
        return self._attempt("deactivate", self._stop)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free the model."""
        return self._attempt("clean up", self._release)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop and free, from whatever state."""
        return self._attempt("shut down", self.close)

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Back to unconfigured, with nothing held."""
        return self._attempt("recover", self.close)

    def close(self) -> None:
        """Stop working and free the model, whatever the state; calling it again does nothing."""
        self._stop()
        self._release()

    def _attempt(
        self, action: str, work: Callable[[], None], *, undo: Callable[[], None] | None = None
    ) -> TransitionCallbackReturn:
        try:
            work()
        except Exception as err:
            sentence = str(err) if isinstance(err, LvadError) else f"unexpected {type(err).__name__}: {err}"
            self.get_logger().error(f"cannot {action}: {sentence}")
            if not isinstance(err, LvadError):
                self.get_logger().debug(traceback.format_exc())
            if undo is not None:
                undo()
            return TransitionCallbackReturn.FAILURE
        return TransitionCallbackReturn.SUCCESS

    def _configure(self) -> None:
        parameters = NodeParameters.from_values(self._read_parameters())
        engine = open_engine(parameters.model, threads=parameters.threads)
        self._perceiver = Perceiver(engine, score_threshold=parameters.score_threshold)
        manifest = engine.manifest
        started_s = time.monotonic()
        self._perceiver([np.full((*manifest.network_hw, 3), PAD_VALUE, np.uint8)])
        warm_up_ms = 1000 * (time.monotonic() - started_s)
        self._settings = parameters
        options = OutputOptions(overlay_alpha=0.5, jpeg_quality=90, network_size=False, camera_info=False)
        for camera in parameters.cameras:
            self._outputs[camera.name] = CameraOutputs(self, camera.name, manifest, ros_types(), options)
            self._health[camera.name] = CameraHealth()
            self._diagnostics.add(camera.name, lambda status, camera=camera: self._diagnose(status, camera))
        self._diagnostics.add(_NODE_STATUS, self._diagnose_node)  # the last: it sums up the cameras
        self._diagnostics.setHardwareID(engine.description)
        height, width = manifest.network_hw
        self.get_logger().info(
            f"model {parameters.model}: {', '.join(manifest.classes)} at {width}x{height}, {engine.description}, "
            f"warmed up in {warm_up_ms:.0f} ms"
        )

    def _release(self) -> None:
        for name in (*self._health, _NODE_STATUS):
            self._diagnostics.removeByName(name)
        for outputs in self._outputs.values():
            outputs.destroy()
        self._outputs, self._health, self._verdicts = {}, {}, {}
        if self._perceiver is not None:
            self._perceiver.close()
        self._perceiver = self._settings = None

    def _start(self) -> None:
        assert self._settings is not None
        assert self._perceiver is not None
        cameras = self._settings.cameras
        self._mailbox = Mailbox({camera.name: camera.min_interval_s for camera in cameras})
        self._health = {camera.name: CameraHealth() for camera in cameras}
        self._topics = {camera.name: self.resolve_topic_name(camera.topic) for camera in cameras}
        for camera in cameras:
            reliability = ReliabilityPolicy.RELIABLE if camera.reliable else ReliabilityPolicy.BEST_EFFORT
            subscription = self.create_subscription(
                CompressedImage if camera.compressed else Image,
                camera.topic,
                lambda message, name=camera.name: self._receive(name, message),
                # Deep enough that bursts reach the mailbox, where the newest wins and the others are counted.
                QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=5, reliability=reliability),
            )
            self._inputs.append(subscription)
        self._worker = threading.Thread(
            target=self._work, args=(self._mailbox, self._perceiver), name="perception worker"
        )
        self._worker.start()
        for camera in cameras:
            outputs = ", ".join(self._outputs[camera.name].topics)
            self.get_logger().info(f"{self._topics[camera.name]} -> {outputs}")

    def _stop(self) -> None:
        for subscription in self._inputs:
            self.destroy_subscription(subscription)
        self._inputs = []
        if self._mailbox is not None:
            self._mailbox.close()
        if self._worker is not None:
            self._worker.join()
        self._mailbox = self._worker = None

    # The executor's thread.

    def _receive(self, camera: str, message: Message) -> None:
        if self._mailbox is not None:
            age_s = self._age_s(message)
            self._health[camera].count_received(replaced=self._mailbox.put(camera, message), age_s=age_s)

    # The worker's thread.

    def _work(self, mailbox: Mailbox[Message], perceiver: Perceiver) -> None:
        while frames := mailbox.take():
            wanted = [frame for frame in frames if self._outputs[frame.camera].wanted]
            decoded = [decoded for frame in wanted if (decoded := self._decode(frame)) is not None]
            if not decoded:
                continue
            try:
                results = perceiver([image for _, image, _ in decoded])
                shared_ms = _timings_ms(perceiver.last_timings)
                for (frame, image, parts_ms), predictions in zip(decoded, results, strict=True):
                    began_s = time.monotonic()
                    self._outputs[frame.camera].publish(image, predictions, frame.message.header)
                    publish_ms = 1000 * (time.monotonic() - began_s)
                    self._health[frame.camera].count_published(
                        received_s=frame.received_s,
                        age_s=self._age_s(frame.message),
                        parts_ms={**parts_ms, **shared_ms, "publish": publish_ms},
                    )
            except Exception as err:  # the cameras go on; a failure that lasts shows in the log and the diagnostics
                for frame, _, _ in decoded:
                    self._skip(frame, err)

    def _decode(self, frame: Frame[Message]) -> tuple[Frame[Message], UInt8, dict[str, float]] | None:
        """The frame, uint8 [H, W, 3] RGB and the time spent; None for a bad frame, which is counted and logged."""
        began_s = time.monotonic()
        try:
            image = decode(frame.message)
        except Exception as err:
            self._skip(frame, err, corrupt=True)
            return None
        decode_ms = 1000 * (time.monotonic() - began_s)
        return frame, image, {"wait": 1000 * (began_s - frame.received_s), "decode": decode_ms}

    def _age_s(self, message: Message) -> float:
        """Time from the header's stamp until now."""
        return float(self.get_clock().now().nanoseconds - stamp_ns(message.header)) / 1e9

    def _skip(self, frame: Frame[Message], err: Exception, *, corrupt: bool = False) -> None:
        sentence = str(err) if isinstance(err, LvadError) else f"unexpected {type(err).__name__}: {err}"
        skipped = self._health[frame.camera].count_skipped(sentence, corrupt=corrupt)
        if skipped:
            topic, stamp = self._topics[frame.camera], frame.message.header.stamp
            self.get_logger().error(
                f"{topic}: frame stamped {stamp.sec}.{stamp.nanosec:09d} skipped ({skipped} so far): {sentence}"
            )

    # Diagnostics, once a second in the executor's thread.

    def _diagnose(self, status: DiagnosticStatusWrapper, camera: CameraParameters) -> DiagnosticStatusWrapper:
        report = self._health[camera.name].report()
        verdict = judge(
            report,
            self._state_of(camera.name),
            topic=self._topics.get(camera.name, camera.topic),
            why_silent=lambda: self._explain_silence(camera),
            stale_after_s=STALE_AFTER_S,
        )
        if verdict.level == DiagnosticStatus.ERROR and time.monotonic() - self._reminded_s > _REMIND_EVERY_S:
            self._reminded_s = time.monotonic()
            self.get_logger().warning(verdict.sentence)
        self._verdicts[camera.name] = verdict
        return fill_camera(status, report, verdict)

    def _diagnose_node(self, status: DiagnosticStatusWrapper) -> DiagnosticStatusWrapper:
        assert self._settings is not None
        assert self._perceiver is not None
        manifest, engine = self._perceiver.manifest, self._perceiver.description
        return fill_node(status, self._verdicts, manifest=manifest, engine=engine, model=str(self._settings.model))

    def _state_of(self, camera: str) -> CameraState:
        if self._worker is None:
            return CameraState.INACTIVE
        if not self._worker.is_alive():
            return CameraState.STOPPED
        return CameraState.WORKING if self._outputs[camera].wanted else CameraState.RESTING

    def _explain_silence(self, camera: CameraParameters) -> str:
        """Why no image comes, as far as the graph tells."""
        publishers = self.get_publishers_info_by_topic(self._topics[camera.name])
        if not publishers:
            return "nobody publishes it; start the camera or set image_topic"
        wanted = f"sensor_msgs/msg/{'CompressedImage' if camera.compressed else 'Image'}"
        types = {publisher.topic_type for publisher in publishers}
        if wanted not in types:
            return f"it is published as {', '.join(sorted(types))}, not {wanted}; set transport or image_topic"
        reliabilities = {publisher.qos_profile.reliability for publisher in publishers}
        if camera.reliable and ReliabilityPolicy.RELIABLE not in reliabilities:
            return "its publisher is best effort; set reliability to best_effort"
        return "its publisher sends nothing; check the camera"


def _timings_ms(timings: Timings | None) -> dict[str, float]:
    """The perceiver's parts of a frame's latency."""
    if timings is None:
        return {}
    return {
        "preprocess": timings.preprocess_ns / 1e6,
        "engine": timings.engine_ns / 1e6,
        "postprocess": timings.postprocess_ns / 1e6,
    }
