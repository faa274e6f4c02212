"""Play an annotated bag into the perception node and evaluate the results: a table and a JSON file when the bag ends.

    ros2 launch lvad_perception evaluate.launch.py bag:=val_bag model:=model.onnx

Every image is processed: the player waits while the node is behind.
"""

from pathlib import Path

from launch.actions import DeclareLaunchArgument, EmitEvent, OpaqueFunction, RegisterEventHandler
from launch.event_handlers import OnProcessExit
from launch.events import Shutdown
from launch.events.process import ProcessExited
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from launch import LaunchContext, LaunchDescription
from lvad_perception.bags.playing import plan_playback
from lvad_perception.errors import LvadError
from lvad_perception.node.bag_launch import PlayedBag

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


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription([*ARGUMENTS, OpaqueFunction(function=start)])


def start(context: LaunchContext) -> list:
    given = {argument.name: LaunchConfiguration(argument.name).perform(context) for argument in ARGUMENTS}
    try:
        playback = plan_playback(Path(given["bag"]).expanduser(), topics=given["topics"].split(), annotated=True)
        bag = PlayedBag(playback, given, camera_launch=Path(__file__).with_name("camera.launch.py"))
    except LvadError as err:
        raise RuntimeError(str(err)) from None
    # It resumes the player, which starts paused, when everybody is connected.
    evaluation = Node(
        package="lvad_perception",
        executable="evaluation",
        name="evaluation",
        parameters=[{"json": given["json"]}],
        output="screen",
        emulate_tty=True,
    )

    def ended(event: ProcessExited, context: LaunchContext) -> list:
        if context.is_shutdown:
            return []
        if event.returncode:
            raise RuntimeError("the evaluation found nothing to measure; its last message above says why")
        return [EmitEvent(event=Shutdown(reason="the evaluation is complete"))]

    return [
        RegisterEventHandler(OnProcessExit(target_action=evaluation, on_exit=ended)),
        *bag.actions(),
        evaluation,
    ]
