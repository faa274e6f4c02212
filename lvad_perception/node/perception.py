"""The lifecycle node: images of cameras in, detections and masks out.

Threads:

* *executor* (``main.py`` starts it): runs every callback of ROS: images, transitions, services, parameters,
  diagnostics. It alone writes the attributes of ``PerceptionNode`` and puts received images into the mailbox.
* *worker*, *decoder*, *publisher* (``worker.py``): from the mailbox to the published results, from activate to
  deactivate. They use only what ``_start`` gives the ``Worker``.

There is no lock here: ``Mailbox``, ``CameraHealth`` and ``CameraOutputs``, which the threads share, have their own, and
``Perceiver.set_thresholds`` replaces a reference. So a model of any speed always gets the newest frames, and services
answer meanwhile.
"""

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from typing import Final

import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus
from diagnostic_updater import DiagnosticStatusWrapper, Updater
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn

from lvad_perception.engines import open_engine
from lvad_perception.errors import ConfigError, LvadError
from lvad_perception.messages import Message, ros_types, stamp_ns
from lvad_perception.node.declaration import DeclaredParameters
from lvad_perception.node.decoding import prepare_decoding
from lvad_perception.node.diagnostics import (
    STALE_AFTER_S,
    CameraState,
    EngineState,
    Verdict,
    fill_camera,
    fill_node,
    judge,
)
from lvad_perception.node.health import CameraHealth
from lvad_perception.node.inputs import CameraInput
from lvad_perception.node.mailbox import Mailbox
from lvad_perception.node.outputs import CameraOutputs, OutputOptions
from lvad_perception.node.parameters import CameraParameters, NodeParameters
from lvad_perception.node.transitions import attempt
from lvad_perception.node.worker import ActiveCamera, Worker
from lvad_perception.perceiver import Perceiver
from lvad_perception.preprocess import PAD_VALUE
from lvad_perception.topics import CAMERA_INFO_TOPIC

_REMIND_EVERY_S: Final = 10.0
_NODE_STATUS: Final = "all cameras"
_LOSSLESS_DEPTH: Final = 4
"""Images per camera that are queued in the node in lossless mode; further ones wait in the middleware."""


class PerceptionNode(LifecycleNode):  # type: ignore[misc]
    """ROS 2 lifecycle node ``perception``.

    configure loads, checks and warms up the model; activate subscribes to the cameras and starts the worker; deactivate
    stops within one frame; cleanup frees the model. A transition that fails logs its reason in one sentence and undoes
    what it had begun: configure and activate return to the previous state, the others to unconfigured. From both the
    node can be configured again.

    Raises:
        ConfigError: a parameter has the wrong type or an impossible value.
    """

    def __init__(self, **node_options: object) -> None:
        try:
            # The classes of the model decide on some parameters, so not all can be declared here.
            super().__init__(
                "perception",
                automatically_declare_parameters_from_overrides=True,
                allow_undeclared_parameters=True,
                **node_options,
            )
        except ValueError as err:
            if "PARAMETER_NOT_SET" not in str(err):
                raise
            raise ConfigError(
                "a parameter has no value, as an empty list has none for ROS; give it one or leave it out"
            ) from err
        self._settings: NodeParameters | None = None
        self._perceiver: Perceiver | None = None
        self._outputs: dict[str, CameraOutputs] = {}
        self._inputs: dict[str, CameraInput] = {}
        self._health: dict[str, CameraHealth] = {}
        self._mailbox: Mailbox[Message] | None = None
        self._worker: Worker | None = None
        self._verdicts: dict[str, Verdict] = {}
        self._reminded_s: dict[str, float] = {}
        self._class_names: tuple[str, ...] = ()  # of the latest model, and the number of different lists so far
        self._class_lists = 0
        try:
            self._parameters_of_ros = DeclaredParameters(
                self, is_configured=lambda: self._settings is not None, apply=self._apply
            )
        except LvadError:
            self.destroy_node()
            raise
        self._diagnostics = Updater(self)
        self._diagnostics.setHardwareID("none")

    # Transitions. rclpy swallows exceptions of these callbacks; ``attempt`` logs them.

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load, check and warm up the model; declare the output topics."""
        return attempt(self.get_logger(), "configure", self._configure, undo=self._release)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Subscribe to the cameras and start working."""
        return attempt(self.get_logger(), "activate", self._start, undo=self._stop)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop within one frame."""
        return attempt(self.get_logger(), "deactivate", self._stop)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free the model."""
        return attempt(self.get_logger(), "clean up", self._release)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop working and free the model, from any state."""
        return attempt(self.get_logger(), "shut down", self.close)

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Release everything and return to unconfigured."""
        attempt(self.get_logger(), "recover", self.close)
        return TransitionCallbackReturn.SUCCESS  # even if that failed: it is logged, and nothing refers to it any more

    def close(self) -> None:
        """Stop working and free the model, from any state; calling it again does nothing."""
        with ExitStack() as steps:
            steps.callback(self._release)
            steps.callback(self._stop)

    def _configure(self) -> None:
        parameters = NodeParameters.from_values(self._parameters_of_ros.values())
        self._refuse_own_camera_info(parameters)
        with ThreadPoolExecutor(1) as loader:  # runtimes release the GIL while they load, so cv_bridge loads meanwhile
            loading = loader.submit(
                open_engine,
                parameters.model,
                threads=parameters.threads,
                runtime=parameters.runtime,
                precision=parameters.precision,
                log=self.get_logger().info,
            )
            self.get_logger().info(f"loading {parameters.model}")
            prepare_decoding()
            engine = loading.result()
        manifest = engine.manifest
        class_names = manifest.classes.get("detection", ())
        try:
            self._perceiver = Perceiver(
                engine,
                score_threshold=parameters.score_threshold,
                class_thresholds=parameters.thresholds_of(class_names),
            )
        except Exception:
            engine.close()
            raise
        self._parameters_of_ros.declare_classes(class_names)
        if class_names != self._class_names:
            self._class_names, self._class_lists = class_names, self._class_lists + 1
        started_s = time.monotonic()
        self._perceiver([np.full((*manifest.input_hw, 3), PAD_VALUE, np.uint8)])
        warm_up_ms = 1000 * (time.monotonic() - started_s)
        for camera in parameters.cameras:
            options = _output_options(parameters, camera)
            self._outputs[camera.name] = CameraOutputs(
                self,
                camera.name,
                manifest,
                ros_types(),
                options,
                database_version=self._class_lists,
                lossless=parameters.lossless,
            )
            self._health[camera.name] = CameraHealth()
            self._diagnostics.add(camera.name, partial(self._diagnose, camera))
        self._diagnostics.add(_NODE_STATUS, self._diagnose_node)  # last, as it summarises the cameras
        self._diagnostics.setHardwareID(engine.description)
        self._settings = parameters
        height, width = manifest.network_hw
        self.get_logger().info(
            f"model {parameters.model}: {', '.join(manifest.classes)} at {width}x{height}, {engine.description}, "
            f"warmed up in {warm_up_ms:.0f} ms"
        )

    def _refuse_own_camera_info(self, parameters: NodeParameters) -> None:
        """Raise ConfigError where the node would receive its own CameraInfo and publish it again, endlessly."""
        for camera in parameters.cameras:
            own = self.resolve_topic_name(f"{camera.name}/{CAMERA_INFO_TOPIC}")
            if camera.camera_info_topic and self.resolve_topic_name(camera.camera_info_topic) == own:
                raise ConfigError(
                    f"parameter {camera.name}.camera_info_topic is {own}, where the node would publish it itself; "
                    "leave it empty, as that topic is already beside the results, or give the camera another name"
                )

    def _release(self) -> None:
        perceiver, outputs, statuses = self._perceiver, self._outputs, [*self._health, _NODE_STATUS]
        self._perceiver = self._settings = None
        self._outputs, self._health, self._verdicts = {}, {}, {}
        with ExitStack() as steps:  # each step runs even if another fails
            steps.callback(self._parameters_of_ros.forget_classes)
            if perceiver is not None:
                steps.callback(perceiver.close)
            for camera_outputs in outputs.values():
                steps.callback(camera_outputs.destroy)
            for name in statuses:
                steps.callback(self._diagnostics.removeByName, name)

    def _start(self) -> None:
        assert self._settings is not None
        assert self._perceiver is not None
        settings = self._settings
        self._mailbox = Mailbox(
            {camera.name: camera.min_interval_s for camera in settings.cameras},
            queue_depth=_LOSSLESS_DEPTH if settings.lossless else None,
        )
        for camera in settings.cameras:
            health = self._health[camera.name] = CameraHealth()
            self._inputs[camera.name] = CameraInput(
                self,
                camera,
                lossless=settings.lossless,
                deliver=partial(self._receive, camera.name),
                jumped=health.count_jump,
            )
        self._worker = Worker(
            mailbox=self._mailbox,
            perceiver=self._perceiver,
            cameras={
                camera.name: ActiveCamera(
                    self._inputs[camera.name], self._outputs[camera.name], self._health[camera.name], camera.most_pixels
                )
                for camera in settings.cameras
            },
            now_ns=self._now_ns,
            logger=self.get_logger(),
        )
        for name, source in self._inputs.items():
            self.get_logger().info(f"{source.topic} -> {', '.join(self._outputs[name].topics)}")
        if settings.lossless:
            self.get_logger().info("lossless: every frame is processed in order, none is replaced by a newer one")

    def _stop(self) -> None:
        inputs, mailbox, worker = self._inputs, self._mailbox, self._worker
        self._inputs, self._mailbox, self._worker = {}, None, None
        with ExitStack() as steps:  # each step runs even if another fails
            if worker is not None:
                steps.callback(worker.stop)
            for source in inputs.values():
                steps.callback(source.destroy)
            if mailbox is not None:
                steps.callback(mailbox.close)

    def _apply(self, parameters: NodeParameters) -> None:
        """Apply the parameters that can change while frames flow."""
        assert self._perceiver is not None
        class_thresholds = parameters.thresholds_of(self._perceiver.manifest.classes.get("detection", ()))
        self._perceiver.set_thresholds(parameters.score_threshold, class_thresholds)
        for camera in parameters.cameras:
            self._outputs[camera.name].update(_output_options(parameters, camera))
            if self._mailbox is not None:
                self._mailbox.limit_rate(camera.name, camera.min_interval_s)
        self._settings = parameters

    def _receive(self, camera: str, message: Message) -> None:
        if self._mailbox is None:
            return
        age_s = (self._now_ns() - stamp_ns(message.header)) / 1e9
        # Skip cameras without subscribers: they would take the model's time from the others.
        wanted = self._outputs[camera].wanted
        replaced = wanted and self._mailbox.put(camera, message)
        self._health[camera].count_received(replaced=replaced, age_s=age_s, wanted=wanted)

    def _now_ns(self) -> int:
        return int(self.get_clock().now().nanoseconds)

    # Diagnostics, by default once a second.

    def _diagnose(self, camera: CameraParameters, status: DiagnosticStatusWrapper) -> DiagnosticStatusWrapper:
        report, source = self._health[camera.name].report(), self._inputs.get(camera.name)
        verdict = judge(
            report,
            self._state_of(camera.name),
            topic=source.topic if source else camera.topic,
            why_silent=source.explain_silence if source else str,
            stale_after_s=STALE_AFTER_S,
            min_interval_s=self._min_interval_s(camera.name),
        )
        now_s = time.monotonic()
        if (
            verdict.level == DiagnosticStatus.ERROR
            and now_s - self._reminded_s.get(camera.name, -np.inf) > _REMIND_EVERY_S
        ):
            self._reminded_s[camera.name] = now_s
            self.get_logger().warning(verdict.sentence)
        self._verdicts[camera.name] = verdict
        fill_camera(status, report, verdict)
        if self._settings is not None and self._settings.lossless:
            status.add("lossless", "every frame in order, none replaced by a newer one")
        return status

    def _diagnose_node(self, status: DiagnosticStatusWrapper) -> DiagnosticStatusWrapper:
        assert self._settings is not None
        assert self._perceiver is not None
        perceiver, model = self._perceiver, str(self._settings.model)
        engine = EngineState(perceiver.description, perceiver.precision, perceiver.device_memory_bytes)
        return fill_node(status, self._verdicts, manifest=perceiver.manifest, engine=engine, model=model)

    def _min_interval_s(self, camera: str) -> float:
        """The current limit, which can change while frames flow."""
        cameras = self._settings.cameras if self._settings is not None else ()
        return next((settings.min_interval_s for settings in cameras if settings.name == camera), 0.0)

    def _state_of(self, camera: str) -> CameraState:
        if self._worker is None:
            return CameraState.INACTIVE
        if not self._worker.is_alive:
            return CameraState.STOPPED
        return CameraState.WORKING if self._outputs[camera].wanted else CameraState.RESTING


def _output_options(parameters: NodeParameters, camera: CameraParameters) -> OutputOptions:
    return OutputOptions(
        overlay_alpha=parameters.overlay_alpha,
        jpeg_quality=parameters.jpeg_quality,
        network_size=parameters.network_size,
        camera_info=bool(camera.camera_info_topic),
    )
