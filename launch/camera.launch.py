"""Start the perception node for one camera, configure and activate it.

    ros2 launch lvad_perception camera.launch.py model:=model.onnx image:=/camera/image_raw

The node's parameters have their defaults in the node alone: an argument that is not given is not passed on.
"""

import asyncio
from pathlib import Path

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

# launch argument -> node parameter, description
PARAMETERS = {
    "model": ("model", "Model file, .onnx. Needed unless params_file names it."),
    "image": ("image_topic", "Topic of the camera's images; one that ends in /compressed is taken as CompressedImage."),
    "camera": ("camera", "Name of the camera, the prefix of the output topics: <camera>/detections and so on."),
}
ARGUMENTS = [
    *(
        DeclareLaunchArgument(name, default_value="", description=f"{text} Empty: as in params_file or the node's own.")
        for name, (_, text) in PARAMETERS.items()
    ),
    DeclareLaunchArgument(
        "params_file",
        default_value="",
        description="YAML file with the node's parameters; the arguments above win over it.",
    ),
    DeclareLaunchArgument("namespace", default_value="", description="Namespace of the node and its relative topics."),
    DeclareLaunchArgument(
        "log_level",
        default_value="info",
        choices=["debug", "info", "warn", "error", "fatal"],
        description="Least severity that the node logs.",
    ),
]


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription([*ARGUMENTS, OpaqueFunction(function=start_node)])


def start_node(context: LaunchContext) -> list:
    given = {argument: LaunchConfiguration(argument).perform(context) for argument in (*PARAMETERS, "params_file")}
    if given["params_file"] and not Path(given["params_file"]).is_file():
        raise RuntimeError(f"params_file {given['params_file']} does not exist; give the path of a YAML file")
    parameters: list = [given["params_file"]] if given["params_file"] else []
    for argument, (name, _) in PARAMETERS.items():
        if given[argument]:  # typed, or launch would make a number of a camera called 2
            parameters.append({name: ParameterValue(given[argument], value_type=str)})
    node = LifecycleNode(
        package="lvad_perception",
        executable="perception",
        name="perception",
        namespace=LaunchConfiguration("namespace"),
        parameters=parameters,
        ros_arguments=["--log-level", ["perception:=", LaunchConfiguration("log_level")]],
        output="screen",
        emulate_tty=True,
    )

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
    return [*(RegisterEventHandler(handler) for handler in handlers), node]
