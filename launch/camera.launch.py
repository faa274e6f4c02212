"""Start the perception node for one or many cameras; it configures and activates itself.

    ros2 launch lvad_perception camera.launch.py model:=model.onnx image:=/camera/image_raw
    ros2 launch lvad_perception camera.launch.py model:=model.onnx cameras:="front=/front/image_raw/compressed rear"

The node's parameters have their defaults in the node alone: an argument that is not given is not passed on.
"""

from pathlib import Path
from typing import Any, List  # noqa: UP035

import yaml
from launch.actions import DeclareLaunchArgument, OpaqueFunction, RegisterEventHandler
from launch.event_handlers import OnProcessExit
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

from launch import LaunchContext, LaunchDescription

AS_IT_IS = "Empty: as in params_file or the node's own."
ARGUMENTS = {
    "model": f"Model file, .onnx. Needed unless params_file names it. {AS_IT_IS}",
    "cameras": "Names of the cameras, separated by spaces, each with =TOPIC of its images where that is not "
    f"<camera>/image_raw: 'front=/front/image_raw/compressed rear'. {AS_IT_IS}",
    "image": "Topic of the images when there is one camera; one that ends in /compressed is taken as CompressedImage. "
    f"{AS_IT_IS}",
    "params_file": "YAML file with the node's parameters; the arguments above win over it.",
    "parameters": "Further parameters of the node as YAML, '{score_threshold: 0.5, overlay_alpha: 0.3}'; they win over "
    "all others.",
    "namespace": "Namespace of the node and its relative topics.",
    "remappings": "Other names for topics, separated by spaces: 'front/detections:=/objects'.",
}


def generate_launch_description() -> LaunchDescription:
    declared = [DeclareLaunchArgument(name, default_value="", description=text) for name, text in ARGUMENTS.items()]
    log_level = DeclareLaunchArgument(
        "log_level",
        default_value="info",
        choices=["debug", "info", "warn", "error", "fatal"],
        description="Least severity that the node logs.",
    )
    return LaunchDescription([*declared, log_level, OpaqueFunction(function=start_node)])


def start_node(context: LaunchContext) -> list:
    given = {name: LaunchConfiguration(name).perform(context) for name in ARGUMENTS}
    # The node brings itself up: to do it from here, launch would have to be a node itself and find this one first.
    node = Node(
        package="lvad_perception",
        executable="perception",
        name="perception",
        arguments=["--activate"],
        namespace=given["namespace"],
        parameters=node_parameters(given),
        remappings=[remapping(text) for text in given["remappings"].split()],
        ros_arguments=["--log-level", ["perception:=", LaunchConfiguration("log_level")]],
        output="screen",
        emulate_tty=True,
    )
    return [RegisterEventHandler(OnProcessExit(target_action=node, on_exit=end)), node]


def end(_event: object, context: LaunchContext) -> None:
    if not context.is_shutdown:  # an exception is how a launch file ends a launch with a non-zero status
        raise RuntimeError("the perception node ended; its last message above says why")


def node_parameters(given: dict[str, str]) -> list:
    """The node's parameters in the order in which they win, the last one first."""
    if given["params_file"] and not Path(given["params_file"]).is_file():
        raise RuntimeError(f"params_file {given['params_file']} does not exist; give the path of a YAML file")
    values: dict[str, Any] = {"model": given["model"]} if given["model"] else {}
    topics = dict(entry.partition("=")[::2] for entry in given["cameras"].split())
    if given["image"] and (len(topics) > 1 or any(topics.values())):
        raise RuntimeError("image is for one camera; write cameras:='front=/front/image_raw rear=/rear/image_raw'")
    if given["image"]:
        topics = {next(iter(topics), "camera"): given["image"]}
    if topics:
        values["cameras"] = list(topics)
        values |= {f"{camera}.image_topic": topic for camera, topic in topics.items() if topic}
    values |= further_parameters(given["parameters"])
    # Typed, or launch would make a number of a camera called 2.
    typed = {
        name: ParameterValue(value, value_type=str) if isinstance(value, str) else list_of_texts(value)
        for name, value in values.items()
    }
    return [*([given["params_file"]] if given["params_file"] else []), *([typed] if typed else [])]


def list_of_texts(value: Any) -> Any:
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return ParameterValue(value, value_type=List[str])  # noqa: UP006 launch knows no list[str]
    return value


def further_parameters(text: str) -> dict[str, Any]:
    try:
        values = yaml.safe_load(text) if text else {}
    except yaml.YAMLError:
        values = None
    if not isinstance(values, dict):
        raise RuntimeError(f"parameters is {text!r}; write it as YAML, like '{{score_threshold: 0.5}}'")
    return named_by_texts(values)


def named_by_texts(values: dict) -> dict[str, Any]:
    """Turn a key that YAML reads as a number, such as a class called 0, back into text; launch fails on numbers."""
    return {str(name): named_by_texts(value) if isinstance(value, dict) else value for name, value in values.items()}


def remapping(text: str) -> tuple[str, str]:
    source, _, target = text.partition(":=")
    if not (source and target):
        raise RuntimeError(f"remappings has {text!r}; write each as from:=to, separated by spaces")
    return source, target
