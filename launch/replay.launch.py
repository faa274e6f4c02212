"""Play a bag into the perception node and record a bag with its results beside the images and annotation.

    ros2 launch lvad_perception replay.launch.py bag:=val_bag model:=model.onnx output:=recorded

The recording equals what `lvad-perception replay` writes for the same bag: every image is processed, every box is kept.
"""

import asyncio
import time
from pathlib import Path

from launch.actions import DeclareLaunchArgument, ExecuteProcess, OpaqueFunction, RegisterEventHandler
from launch.event_handlers import OnProcessExit, OnProcessStart
from launch.events import Shutdown
from launch.substitutions import LaunchConfiguration
from launch_ros.ros_adapters import get_ros_node
from rosbag2_interfaces.srv import Resume

from launch import LaunchContext, LaunchDescription
from lvad_perception.bags.paths import check_output
from lvad_perception.bags.playing import Playback, plan_playback
from lvad_perception.errors import LvadError
from lvad_perception.node.bag_launch import PlayedBag
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
        description="After the bag, wait until no result has arrived for this time, in seconds.",
    ),
    DeclareLaunchArgument("params_file", default_value="", description="YAML file with parameters of the node."),
    DeclareLaunchArgument(
        "parameters",
        default_value="",
        description="Further parameters of the node as YAML: '{lossless: false}' for the newest image only.",
    ),
    DeclareLaunchArgument("log_level", default_value="info", description="Least severity that the node logs."),
]


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription([*ARGUMENTS, OpaqueFunction(function=start)])


def start(context: LaunchContext) -> list:
    given = {argument.name: LaunchConfiguration(argument.name).perform(context) for argument in ARGUMENTS}
    output = Path(given["output"]).expanduser()
    try:
        check_output(output, overwrite=False)
        playback = plan_playback(Path(given["bag"]).expanduser(), topics=given["topics"].split())
        bag = PlayedBag(playback, given, camera_launch=Path(__file__).with_name("camera.launch.py"))
    except LvadError as err:
        raise RuntimeError(str(err).replace(" or replace it with --overwrite", "")) from None
    recorder = ExecuteProcess(
        cmd=playback.record_command(bag.qos, output), name="recorder", output="screen", sigterm_timeout="60"
    )
    results = Results(context, playback)

    def on_playing(_event: object, context: LaunchContext) -> None:
        context.add_completion_future(context.asyncio_loop.create_task(resume_when_connected(context, playback)))

    def on_played(context: LaunchContext) -> None:
        work = finish(context, results, float(given["drain"]))
        context.add_completion_future(context.asyncio_loop.create_task(work))

    def on_recorded(_event: object, context: LaunchContext) -> None:
        if not context.is_shutdown:
            raise RuntimeError("the recorder ended; its last message above says why")

    return [
        RegisterEventHandler(OnProcessStart(target_action=bag.player, on_start=on_playing)),
        RegisterEventHandler(OnProcessExit(target_action=recorder, on_exit=on_recorded)),
        *bag.actions(recorder, on_played=on_played),
    ]


class Results:
    """Counts the published results per camera and task. Launch's ROS thread counts, its event loop reads."""

    def __init__(self, context: LaunchContext, playback: Playback) -> None:
        from sensor_msgs.msg import Image
        from vision_msgs.msg import Detection2DArray

        self.images = playback.images
        # Complete from the start: the event loop iterates over it while the other thread counts.
        self.counts = {(topic, task): 0 for topic in self.images for task in TASK_TOPICS}
        self.received_s = time.monotonic()
        ros = get_ros_node(context)
        for camera in playback.cameras.values():
            for task in TASK_TOPICS:
                kind = Detection2DArray if task == "detection" else Image
                key = (camera.topic, task)
                # Not deserialised: only their number matters.
                ros.create_subscription(kind, camera.result(task), lambda _, key=key: self.count(key), 50, raw=True)

    def count(self, key: tuple[str, str]) -> None:
        self.counts[key] += 1
        self.received_s = time.monotonic()

    @property
    def complete(self) -> bool:
        """Whether all results have arrived: every camera has some, and each of its tasks with any has one per image."""
        counts = {key: count for key, count in self.counts.items() if count}
        all_counted = all(count >= self.images[topic] for (topic, _), count in counts.items())
        return all_counted and {topic for topic, _ in counts} == set(self.images)


async def resume_when_connected(context: LaunchContext, playback: Playback) -> None:
    """Resume the player once the recorder has subscribed to all topics and the node to the images."""
    ros = get_ros_node(context)
    resume = ros.create_client(Resume, "/rosbag2_player/resume")
    expected = {topic: 2 if topic in playback.images else 1 for topic in playback.topics}
    connected_s = None
    while not context.is_shutdown:
        if not all(ros.count_subscribers(topic) >= count for topic, count in expected.items()):
            connected_s = None
        elif connected_s is None:
            connected_s = time.monotonic()
        elif time.monotonic() - connected_s > SETTLE_S and resume.service_is_ready():
            resume.call_async(Resume.Request())
            return
        await asyncio.sleep(0.05)


async def finish(context: LaunchContext, results: Results, drain_s: float) -> None:
    """End the launch when every image has its results, or none has arrived for ``drain_s``."""
    results.received_s = time.monotonic()
    while not context.is_shutdown:
        quiet_s = time.monotonic() - results.received_s
        if quiet_s > (SETTLE_S if results.complete else drain_s):
            await context.emit_event(Shutdown(reason="the bag is replayed"))
            return
        await asyncio.sleep(0.05)
