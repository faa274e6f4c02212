"""Play a bag into the perception node and record a bag that holds its results beside the images and annotation.

    ros2 launch lvad_perception replay.launch.py bag:=val_bag model:=model.onnx output:=recorded

The recording is what `lvad-perception replay` writes of the same bag: every image is processed, every box is kept.
"""

import asyncio
import tempfile
import time
from pathlib import Path

from launch.actions import (
    DeclareLaunchArgument,
    ExecuteProcess,
    IncludeLaunchDescription,
    OpaqueCoroutine,
    OpaqueFunction,
    RegisterEventHandler,
)
from launch.event_handlers import OnProcessExit, OnProcessStart, OnShutdown
from launch.events import Shutdown
from launch.events.process import ProcessExited
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.ros_adapters import get_ros_node
from rosbag2_interfaces.srv import Resume

from launch import Event, EventHandler, LaunchContext, LaunchDescription
from lvad_perception.bags.paths import check_output
from lvad_perception.bags.playing import Playback, plan_playback
from lvad_perception.errors import LvadError
from lvad_perception.topics import TASK_TOPICS

SETTLE_S = 1.0
ARGUMENTS = [
    DeclareLaunchArgument("bag", description="Bag folder with images."),
    DeclareLaunchArgument("model", description="Model file, .onnx."),
    DeclareLaunchArgument("output", description="Bag folder to create."),
    DeclareLaunchArgument(
        "topics", default_value="", description="Image topics of the bag, separated by spaces; empty: every camera's."
    ),
    DeclareLaunchArgument("rate", default_value="1.0", description="Speed of the player."),
    DeclareLaunchArgument(
        "drain",
        default_value="10.0",
        description="After the bag, wait until no result has come for so long, in seconds.",
    ),
    DeclareLaunchArgument("params_file", default_value="", description="YAML file with parameters of the node."),
    DeclareLaunchArgument(
        "parameters",
        default_value="",
        description="Further parameters of the node as YAML: '{lossless: false}' for the newest image only.",
    ),
    DeclareLaunchArgument("log_level", default_value="info", description="Least severity that the node logs."),
]


class NodeListens(Event):
    name = "the perception node listens to the cameras"


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription([*ARGUMENTS, OpaqueFunction(function=start)])


def start(context: LaunchContext) -> list:
    given = {argument.name: LaunchConfiguration(argument.name).perform(context) for argument in ARGUMENTS}
    output = Path(given["output"]).expanduser()
    try:
        check_output(output, overwrite=False)
        playback = plan_playback(Path(given["bag"]).expanduser(), topics=given["topics"].split())
        arguments = playback.camera_arguments(given)
    except LvadError as err:
        raise RuntimeError(str(err).replace(" or replace it with --overwrite", "")) from None
    folder = tempfile.TemporaryDirectory()
    qos = Path(folder.name, "qos.yaml")
    playback.write_qos(qos)
    perception = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(Path(__file__).with_name("camera.launch.py"))),
        launch_arguments=arguments.items(),
    )
    recorder = ExecuteProcess(
        cmd=playback.record_command(qos, output), name="recorder", output="screen", sigterm_timeout="60"
    )
    player = ExecuteProcess(cmd=playback.play_command(qos, rate=given["rate"]), name="player", output="screen")

    async def announce(context: LaunchContext) -> None:
        if await playback.node_listens(get_ros_node(context), ended=lambda: context.is_shutdown):
            await context.emit_event(NodeListens())

    def on_playing(_event: object, context: LaunchContext) -> None:
        context.add_completion_future(context.asyncio_loop.create_task(resume_when_connected(context, playback)))

    def on_played(event: ProcessExited, context: LaunchContext) -> None:
        if context.is_shutdown:
            return
        if event.returncode:
            raise RuntimeError("the bag could not be played; the player's last message above says why")
        work = finish(context, results, float(given["drain"]))
        context.add_completion_future(context.asyncio_loop.create_task(work))

    def on_recorded(_event: object, context: LaunchContext) -> None:
        if not context.is_shutdown:
            raise RuntimeError("the recorder ended; its last message above says why")

    results = Results(context, playback)
    handlers = [
        # The player begins, paused, once the node listens.
        EventHandler(matcher=lambda event: isinstance(event, NodeListens), entities=[recorder, player]),
        OnProcessStart(target_action=player, on_start=on_playing),
        OnProcessExit(target_action=player, on_exit=on_played),
        OnProcessExit(target_action=recorder, on_exit=on_recorded),
        OnShutdown(on_shutdown=lambda *_: folder.cleanup()),
    ]
    return [*(RegisterEventHandler(handler) for handler in handlers), perception, OpaqueCoroutine(coroutine=announce)]


class Results:
    """Counts the results that the node publishes."""

    def __init__(self, context: LaunchContext, playback: Playback) -> None:
        from sensor_msgs.msg import Image
        from vision_msgs.msg import Detection2DArray

        self.images = playback.images
        self.counts: dict[tuple[str, str], int] = {}
        self.heard_s = time.monotonic()
        ros = get_ros_node(context)
        for camera in playback.cameras.values():
            for task in TASK_TOPICS:
                kind = Detection2DArray if task == "detection" else Image
                key = (camera.topic, task)
                # Unparsed: only their number matters.
                ros.create_subscription(kind, camera.result(task), lambda _, key=key: self.count(key), 50, raw=True)

    def count(self, key: tuple[str, str]) -> None:
        self.counts[key] = self.counts.get(key, 0) + 1
        self.heard_s = time.monotonic()

    @property
    def complete(self) -> bool:
        """Whether every task that publishes at all has a result for each image of its camera."""
        images = {topic for topic, _ in self.counts}
        full = all(count >= self.images[topic] for (topic, _), count in self.counts.items())
        return full and images == set(self.images)


async def resume_when_connected(context: LaunchContext, playback: Playback) -> None:
    """Let the player go when the recorder listens to everything, and the node to the images."""
    ros = get_ros_node(context)
    resume = ros.create_client(Resume, "/rosbag2_player/resume")
    wanted = {topic: 2 if topic in playback.images else 1 for topic in playback.topics}
    connected_s = None
    while not context.is_shutdown:
        if not all(ros.count_subscribers(topic) >= count for topic, count in wanted.items()):
            connected_s = None
        elif connected_s is None:
            connected_s = time.monotonic()
        elif time.monotonic() - connected_s > SETTLE_S and resume.service_is_ready():
            resume.call_async(Resume.Request())
            return
        await asyncio.sleep(0.05)


async def finish(context: LaunchContext, results: Results, drain_s: float) -> None:
    """End the launch when every image has its results, or none have come for a while."""
    results.heard_s = time.monotonic()
    while not context.is_shutdown:
        quiet_s = time.monotonic() - results.heard_s
        if quiet_s > (SETTLE_S if results.complete else drain_s):
            await context.emit_event(Shutdown(reason="the bag is replayed"))
            return
        await asyncio.sleep(0.05)
