"""Start the perception node for one or many cameras, configure and activate it.

    ros2 launch lvad_perception camera.launch.py model:=model.onnx image:=/camera/image_raw
    ros2 launch lvad_perception camera.launch.py model:=model.onnx cameras:="front=/front/image_raw/compressed rear"

The node's parameters have their defaults in the node alone: an argument that is not given is not passed on.
"""

import asyncio
from pathlib import Path
from typing import Any, List  # noqa: UP035

import yaml
from launch.actions import (
    DeclareLaunchArgument,
    EmitEvent,
    OpaqueFunction,
    RegisterEventHandler,
    UnregisterEventHandler,
)
from launch.event_handlers import OnProcessExit, OnProcessStart
from launch.events import matches_action
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import LifecycleNode
from launch_ros.event_handlers import OnStateTransition
from launch_ros.events.lifecycle import ChangeState
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.ros_adapters import get_ros_node
from lifecycle_msgs.msg import Transition

from launch import Action, LaunchContext, LaunchDescription

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
    node = LifecycleNode(
        package="lvad_perception",
        executable="perception",
        name="perception",
        namespace=given["namespace"],
        parameters=node_parameters(given),
        remappings=[remapping(text) for text in given["remappings"].split()],
        ros_arguments=["--log-level", ["perception:=", LaunchConfiguration("log_level")]],
        output="screen",
        emulate_tty=True,
    )
    return [*bring_up(node), node]


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
    """Where YAML sees a number in a name, such as a class called 0, launch would fail without a sentence."""
    return {str(name): named_by_texts(value) if isinstance(value, dict) else value for name, value in values.items()}


def remapping(text: str) -> tuple[str, str]:
    source, _, target = text.partition(":=")
    if not (source and target):
        raise RuntimeError(f"remappings has {text!r}; write each as from:=to, separated by spaces")
    return source, target


def bring_up(node: LifecycleNode) -> list:
    """What configures and activates a node, and ends the launch with a sentence where that fails."""

    def change(transition: int) -> EmitEvent:
        return EmitEvent(event=ChangeState(lifecycle_node_matcher=matches_action(node), transition_id=transition))

    # launch_ros fails when it is asked to change a state while a Ctrl-C ends the launch, so ask only before that and
    # only once the node is there.

    async def configure(context: LaunchContext) -> None:
        ros = get_ros_node(context)
        service, events = f"{node.node_name}/change_state", f"{node.node_name}/transition_event"
        while not context.is_shutdown:
            if service in dict(ros.get_service_names_and_types()) and ros.count_publishers(events):
                change(Transition.TRANSITION_CONFIGURE).execute(context)
                return
            await asyncio.sleep(0.05)

    def start_configuring(_event: object, context: LaunchContext) -> None:
        context.add_completion_future(context.asyncio_loop.create_task(configure(context)))

    def activate(context: LaunchContext) -> list:
        return [] if context.is_shutdown else [change(Transition.TRANSITION_ACTIVATE)]

    def fail(context: LaunchContext, sentence: str) -> None:
        if not context.is_shutdown:
            raise RuntimeError(sentence)  # how a launch file ends a launch with a non-zero status

    def failure(sentence: str) -> OpaqueFunction:
        return OpaqueFunction(function=fail, args=[f"{sentence}; its last message above says why"])

    def on_transition(start: str | None, goal: str, action: Action, *more: Action, once: bool) -> OnStateTransition:
        return OnStateTransition(
            target_lifecycle_node=node,
            start_state=start,
            goal_state=goal,
            entities=[action, *more],
            handle_once=once,
        )

    configured = on_transition("configuring", "inactive", OpaqueFunction(function=activate), once=True)
    not_configured = on_transition(
        "configuring", "unconfigured", failure("the perception node could not be configured"), once=False
    )
    not_activated = on_transition(
        "activating", "inactive", failure("the perception node could not be activated"), once=False
    )
    # From then on the life cycle is the operator's: a transition that fails by hand does not end the launch.
    activated = on_transition(
        None, "active", UnregisterEventHandler(not_configured), UnregisterEventHandler(not_activated), once=True
    )
    handlers = [
        OnProcessStart(target_action=node, on_start=start_configuring),
        configured,
        not_configured,
        not_activated,
        activated,
        OnProcessExit(target_action=node, on_exit=[failure("the perception node ended")]),
    ]
    return [RegisterEventHandler(handler) for handler in handlers]
