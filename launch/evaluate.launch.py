"""Play an annotated bag into the perception node and measure its results: a table, and a JSON file, when the bag ends.

    ros2 launch lvad_perception evaluate.launch.py bag:=val_bag model:=model.onnx

Every image is processed: the player waits while the node is behind.
"""

import tempfile
from pathlib import Path

from launch.actions import (
    DeclareLaunchArgument,
    EmitEvent,
    ExecuteProcess,
    IncludeLaunchDescription,
    OpaqueCoroutine,
    OpaqueFunction,
    RegisterEventHandler,
)
from launch.event_handlers import OnProcessExit, OnShutdown
from launch.events import Shutdown
from launch.events.process import ProcessExited
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.ros_adapters import get_ros_node

from launch import Event, EventHandler, LaunchContext, LaunchDescription
from lvad_perception.bags.playing import plan_playback
from lvad_perception.errors import LvadError

ARGUMENTS = [
    DeclareLaunchArgument("bag", description="Bag with images and annotation, from lvad-perception bag from-dataset."),
    DeclareLaunchArgument("model", description="Model file, .onnx."),
    DeclareLaunchArgument("json", default_value="metrics.json", description="File for the metrics; empty for none."),
    DeclareLaunchArgument(
        "topics", default_value="", description="Image topics of the bag, separated by spaces; empty: every camera's."
    ),
    DeclareLaunchArgument("rate", default_value="1.0", description="Speed of the player, which waits for the node."),
    DeclareLaunchArgument("params_file", default_value="", description="YAML file with parameters of the node."),
    DeclareLaunchArgument(
        "parameters", default_value="", description="Further parameters of the node as YAML: '{threads: 2}'."
    ),
    DeclareLaunchArgument("log_level", default_value="info", description="Least severity that the node logs."),
]


class NodeListens(Event):
    name = "the perception node listens to the cameras"


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription([*ARGUMENTS, OpaqueFunction(function=start)])


def start(context: LaunchContext) -> list:
    given = {argument.name: LaunchConfiguration(argument.name).perform(context) for argument in ARGUMENTS}
    try:
        playback = plan_playback(Path(given["bag"]).expanduser(), topics=given["topics"].split(), annotated=True)
        arguments = playback.camera_arguments(given)
    except LvadError as err:
        raise RuntimeError(str(err)) from None
    folder = tempfile.TemporaryDirectory()
    qos = Path(folder.name, "qos.yaml")
    playback.write_qos(qos)
    perception = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(Path(__file__).with_name("camera.launch.py"))),
        launch_arguments=arguments.items(),
    )
    evaluation = Node(
        package="lvad_perception",
        executable="evaluation",
        name="evaluation",
        parameters=[{"json": given["json"]}],
        output="screen",
        emulate_tty=True,
    )
    player = ExecuteProcess(cmd=playback.play_command(qos, rate=given["rate"]), name="player", output="screen")

    async def announce(context: LaunchContext) -> None:
        if await playback.node_listens(get_ros_node(context), ended=lambda: context.is_shutdown):
            await context.emit_event(NodeListens())

    def ended(event: ProcessExited, context: LaunchContext) -> list:
        if context.is_shutdown:
            return []
        if event.returncode:
            raise RuntimeError("the evaluation found nothing to measure; its last message above says why")
        return [EmitEvent(event=Shutdown(reason="the evaluation is complete"))]

    def played(event: ProcessExited, context: LaunchContext) -> None:
        if event.returncode and not context.is_shutdown:
            raise RuntimeError("the bag could not be played; the player's last message above says why")

    handlers = [
        # The player begins, paused, once the node listens; the evaluation lets it go when everybody is connected.
        EventHandler(matcher=lambda event: isinstance(event, NodeListens), entities=[player]),
        OnProcessExit(target_action=evaluation, on_exit=ended),
        OnProcessExit(target_action=player, on_exit=played),
        OnShutdown(on_shutdown=lambda *_: folder.cleanup()),
    ]
    return [
        *(RegisterEventHandler(handler) for handler in handlers),
        perception,
        evaluation,
        OpaqueCoroutine(coroutine=announce),
    ]
