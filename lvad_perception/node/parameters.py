"""The node's parameters: one table that states each once, and the checked values that the node works with.

The table feeds ROS (descriptors, so that ``ros2 param describe`` explains each), the checks and the documentation;
launch files repeat none of it. Nothing here needs ROS but ``declare_parameters``.
"""

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

from lvad_perception.errors import ConfigError

if TYPE_CHECKING:
    from rclpy.node import Node

Value = str | int | float


@dataclass(frozen=True, slots=True)
class Parameter:
    """One row of the table.

    Attributes:
        name: name in ROS.
        default: value when nothing is given; its type is the parameter's type.
        description: one sentence for people, shown by ``ros2 param describe``.
        bounds: least and greatest value, both allowed, or None for text.
        choices: every allowed text, or empty when any text will do.
    """

    name: str
    default: Value
    description: str
    bounds: tuple[float, float] | None = None
    choices: tuple[str, ...] = ()


TABLE: Final = (
    Parameter(
        "model",
        "",
        "Model file (.onnx written by lvad-train export); a leading ~ is the home folder.",
    ),
    Parameter(
        "camera",
        "camera",
        "Name of the camera, the first part of its output topics: front gives front/detections and so on.",
    ),
    Parameter(
        "image_topic",
        "camera/image_raw",
        "Topic of the camera's images, sensor_msgs/Image or sensor_msgs/CompressedImage.",
    ),
    Parameter(
        "transport",
        "auto",
        "Message type of image_topic: raw, compressed (as in image_transport, /compressed is appended where missing), "
        "or auto: compressed if the topic ends in /compressed, else raw.",
        choices=("auto", "raw", "compressed"),
    ),
    Parameter(
        "reliability",
        "best_effort",
        "Reliability asked of the camera: best_effort receives from every publisher and never waits for lost packets; "
        "reliable has lost packets sent again and receives from reliable publishers only.",
        choices=("best_effort", "reliable"),
    ),
    Parameter(
        "score_threshold",
        -1.0,
        "Boxes with a lower confidence are not published; a negative value means the threshold in the model file.",
        bounds=(-1.0, 1.0),
    ),
    Parameter(
        "threads",
        0,
        "CPU threads that the model may use; 0 lets the runtime choose, which is one per core.",
        bounds=(0, 256),
    ),
    Parameter(
        "max_rate_hz",
        0.0,
        "Process at most so many frames a second, always the newest; 0 means as many as the machine can.",
        bounds=(0.0, 1000.0),
    ),
)
"""Every parameter of the perception node. All of them take effect at the next ``configure``."""

_ROWS: Final = {row.name: row for row in TABLE}
_TOPIC: Final = re.compile(r"(~/|/)?[A-Za-z_][A-Za-z0-9_]*(/[A-Za-z_][A-Za-z0-9_]*)*")
# What rclpy declares for itself.
_FOREIGN: Final = re.compile(r"use_sim_time|start_type_description_service|qos_overrides\..*")


@dataclass(frozen=True, slots=True)
class CameraParameters:
    """What the node must know of one camera.

    Attributes:
        name: prefix of the camera's output topics.
        topic: topic that is subscribed to, with ``/compressed`` where that is the transport.
        compressed: the topic carries CompressedImage, not Image.
        reliable: ask for reliable delivery, not best effort.
        min_interval_s: least time between two processed frames in seconds; 0 for no limit.
    """

    name: str
    topic: str
    compressed: bool
    reliable: bool
    min_interval_s: float


@dataclass(frozen=True, slots=True)
class NodeParameters:
    """The table's values, checked and in the units that the code uses.

    Attributes:
        model: path of the model file.
        score_threshold: in [0, 1], or None for the model file's own.
        threads: CPU threads of the engine, or None for the runtime's choice.
        cameras: one entry a camera.
    """

    model: Path
    score_threshold: float | None
    threads: int | None
    cameras: tuple[CameraParameters, ...]

    @classmethod
    def from_values(cls, values: Mapping[str, object]) -> "NodeParameters":
        """Check the values of all rows of the table.

        Args:
            values: parameter name -> value; a missing name has its default.

        Raises:
            ConfigError: an unknown name, a value of the wrong type, out of range or not among the choices, no model.
        """
        for name in values:
            if name not in _ROWS:
                raise ConfigError(unknown_parameter(name))
        full: dict[str, object] = {row.name: values.get(row.name, row.default) for row in TABLE}
        for name, value in full.items():
            check_value(name, value)
        if not full["model"]:
            raise ConfigError("parameter model is empty; set it to the .onnx file that lvad-train export wrote")
        threshold, rate = float(str(full["score_threshold"])), float(str(full["max_rate_hz"]))
        topic, compressed = _resolve_transport(str(full["image_topic"]), str(full["transport"]))
        camera = CameraParameters(
            name=str(full["camera"]),
            topic=topic,
            compressed=compressed,
            reliable=full["reliability"] == "reliable",
            min_interval_s=1.0 / rate if rate > 0 else 0.0,
        )
        return cls(
            model=Path(str(full["model"])).expanduser(),
            score_threshold=None if threshold < 0 else threshold,
            threads=int(str(full["threads"])) or None,
            cameras=(camera,),
        )


def check_value(name: str, value: object) -> None:
    """Check one value against its row of the table. Raises ConfigError, one sentence that says what is allowed."""
    row = _ROWS[name]
    wanted: type | tuple[type, ...] = (int, float) if isinstance(row.default, float) else type(row.default)
    if not isinstance(value, wanted) or isinstance(value, bool):
        kind = {str: "a text", int: "a whole number", float: "a number"}[type(row.default)]
        raise ConfigError(f"parameter {name} is {value!r}; set it to {kind}")
    if isinstance(value, str):
        if row.choices and value not in row.choices:
            raise ConfigError(f"parameter {name} is {value!r}; set it to one of {', '.join(row.choices)}")
        if name in ("camera", "image_topic") and not _TOPIC.fullmatch(value):
            raise ConfigError(f"parameter {name} is {value!r}, which is no ROS name; use one like front/image_raw")
    elif row.bounds and isinstance(value, int | float):
        low, high = row.bounds
        if not low <= value <= high:  # also refuses NaN
            raise ConfigError(f"parameter {name} is {value}; set it to a value from {low:g} to {high:g}")


def unknown_parameter(name: str) -> str:
    """The sentence for a name that is not in the table."""
    close = difflib.get_close_matches(name, _ROWS, n=1)
    remedy = f"did you mean {close[0]}?" if close else f"known are {', '.join(_ROWS)}"
    return f"parameter {name} is unknown; {remedy}"


def declare_parameters(node: "Node") -> Callable[[], dict[str, object]]:
    """Declare the table on a node that was created with ``automatically_declare_parameters_from_overrides``.

    Names that the node was given and that nobody knows are warned of: ROS alone drops them silently, so that a misspelt
    name in a YAML file is never noticed.

    Returns:
        A function that reads the current values.

    Raises:
        ConfigError: a given value has the wrong type or is not allowed.
    """
    from rcl_interfaces.msg import (
        FloatingPointRange,
        IntegerRange,
        ParameterDescriptor,
        SetParametersResult,
    )
    from rclpy.parameter import Parameter as RosParameter

    values: dict[str, Value] = {row.name: row.default for row in TABLE}
    for name, given in cast("dict[str, RosParameter]", node.get_parameters_by_prefix("")).items():
        if name in _ROWS:
            check_value(name, given.value)
            values[name] = given.value
            node.undeclare_parameter(name)  # declared again below, with its descriptor
        elif name.startswith("diagnostic_updater."):
            node.undeclare_parameter(name)  # the Updater declares it
        elif not _FOREIGN.fullmatch(name):
            node.get_logger().warning(unknown_parameter(name))
    for row in TABLE:
        descriptor = ParameterDescriptor(description=row.description)
        value = values[row.name]
        if row.choices:
            descriptor.additional_constraints = f"one of {', '.join(row.choices)}"
        if isinstance(row.default, float):
            value = float(value)  # ROS would refuse the 1 of a YAML file where it wants 1.0
        if row.bounds and isinstance(row.default, float):
            low, high = row.bounds
            descriptor.floating_point_range = [FloatingPointRange(from_value=low, to_value=high, step=0.0)]
        elif row.bounds:
            low, high = map(int, row.bounds)
            descriptor.integer_range = [IntegerRange(from_value=low, to_value=high, step=1)]
        node.declare_parameter(row.name, value, descriptor, ignore_override=True)

    def refuse_impossible(changes: list[RosParameter]) -> SetParametersResult:
        try:
            for change in changes:
                if change.name in _ROWS:
                    check_value(change.name, change.value)
        except ConfigError as err:
            return SetParametersResult(successful=False, reason=str(err))
        return SetParametersResult(successful=True)

    node.add_on_set_parameters_callback(refuse_impossible)
    return lambda: {row.name: node.get_parameter(row.name).value for row in TABLE}


def _resolve_transport(topic: str, transport: str) -> tuple[str, bool]:
    """Topic to subscribe to and whether it is compressed."""
    ends_compressed = topic.endswith("/compressed")
    compressed = transport == "compressed" or (transport == "auto" and ends_compressed)
    return (f"{topic}/compressed" if compressed and not ends_compressed else topic), compressed
