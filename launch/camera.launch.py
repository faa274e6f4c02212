"""Start the perception node for one or many cameras; it configures and activates itself.

    ros2 launch lvad_perception camera.launch.py model:=model.onnx image:=/camera/image_raw
    ros2 launch lvad_perception camera.launch.py model:=model.onnx cameras:="front=/front/image_raw/compressed rear"

An argument that is not given is not passed on: the parameters have their defaults in the node alone.
"""

from pathlib import Path
from typing import Any

import yaml
from launch.actions import DeclareLaunchArgument, OpaqueFunction, RegisterEventHandler
from launch.event_handlers import OnProcessExit
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from launch import LaunchContext, LaunchDescription

OPTIONAL = "Empty: as in params_file or the node's default."
ARGUMENTS = {
    "model": f"Model file, .onnx. Required unless params_file names it. {OPTIONAL}",
    "cameras": "Names of the cameras, separated by spaces, each with =TOPIC of its images where that is not "
    f"<camera>/image_raw: 'front=/front/image_raw/compressed rear'. {OPTIONAL}",
    "image": f"Image topic of a single camera; one that ends in /compressed carries CompressedImage. {OPTIONAL}",
    "params_file": "YAML file with parameters of the node; the arguments above override it.",
    "parameters": "Further parameters of the node as YAML, '{score_threshold: 0.5, overlay_alpha: 0.3}'; they override "
    "all others.",
    "namespace": "Namespace of the node and its relative topics.",
    "remappings": "Other names for topics, separated by spaces: 'front/detections:=/objects'.",
}


def generate_launch_description() -> LaunchDescription:
    log_level = DeclareLaunchArgument(
        "log_level",
        default_value="info",
        choices=["debug", "info", "warn", "error", "fatal"],
        description="Least severity that the node logs.",
    )
    declared = [DeclareLaunchArgument(name, default_value="", description=text) for name, text in ARGUMENTS.items()]
    return LaunchDescription([*declared, log_level, OpaqueFunction(function=start_node)])


def start_node(context: LaunchContext) -> list:
    given = {name: LaunchConfiguration(name).perform(context) for name in ARGUMENTS}
    if given["params_file"] and not Path(given["params_file"]).is_file():
        raise RuntimeError(f"params_file {given['params_file']} does not exist; give the path of a YAML file")
    model = {"model": given["model"]} if given["model"] else {}
    sources = [given["params_file"], model | cameras(given["cameras"], given["image"]), further(given["parameters"])]
    node = Node(
        package="lvad_perception",
        executable="perception",
        name="perception",
        namespace=given["namespace"],
        # Activated by launch, it would have to be discovered first, by a node that launch would have to start.
        arguments=["--activate"],
        parameters=[source for source in sources if source],  # a later source overrides an earlier one
        remappings=[remapping(text) for text in given["remappings"].split()],
        ros_arguments=["--log-level", ["perception:=", LaunchConfiguration("log_level")]],
        output="screen",
        emulate_tty=True,
    )
    return [RegisterEventHandler(OnProcessExit(target_action=node, on_exit=fail)), node]


def fail(_event: object, context: LaunchContext) -> None:
    if not context.is_shutdown:  # only an exception ends a launch with a non-zero status
        raise RuntimeError("the perception node ended; its last message above says why")


def cameras(names: str, image: str) -> dict[str, Any]:
    topics = dict(entry.partition("=")[::2] for entry in names.split())
    if image and (len(topics) > 1 or any(topics.values())):
        raise RuntimeError("image is for one camera; write cameras:='front=/front/image_raw rear=/rear/image_raw'")
    if image:
        topics = {next(iter(topics), "camera"): image}
    image_topics = {f"{camera}.image_topic": topic for camera, topic in topics.items() if topic}
    return {"cameras": list(topics), **image_topics} if topics else {}


def further(text: str) -> dict[str, Any]:
    try:
        values = yaml.safe_load(text) if text else {}
    except yaml.YAMLError:
        values = None
    if not isinstance(values, dict):
        raise RuntimeError(f"parameters is {text!r}; write it as YAML, like '{{score_threshold: 0.5}}'")
    return flat(values)


def flat(values: dict, prefix: str = "") -> dict[str, Any]:
    """Full names, also of a class called 0, which YAML reads as a number; launch accepts texts only."""
    named = {}
    for name, value in values.items():
        if value is None or value == []:
            raise RuntimeError(f"parameter {prefix}{name} has no value; give it one or leave it out")
        named |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return named


def remapping(text: str) -> tuple[str, str]:
    source, _, target = text.partition(":=")
    if not (source and target):
        raise RuntimeError(f"remappings has {text!r}; write each as from:=to, separated by spaces")
    return source, target
