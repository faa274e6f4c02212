"""One ROS parameter: its name, default, range and meaning, the check of a value and its conversion for the code.

Only ``Parameter.descriptor`` needs ROS.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import TYPE_CHECKING, Any, Final

from lvad_perception.errors import ConfigError

if TYPE_CHECKING:
    from rcl_interfaces.msg import ParameterDescriptor

Value = str | int | float | bool | tuple[str, ...]
_TOPIC: Final = re.compile(r"(~/|/)?[A-Za-z_][A-Za-z0-9_]*(/[A-Za-z_][A-Za-z0-9_]*)*")
_KINDS: Final[dict[type, tuple[str, Callable[[object], bool]]]] = {
    bool: ("true or false", lambda value: isinstance(value, bool)),
    str: ("a text", lambda value: isinstance(value, str)),
    int: ("a whole number", lambda value: isinstance(value, int) and not isinstance(value, bool)),
    float: ("a number", lambda value: isinstance(value, int | float) and not isinstance(value, bool)),
    tuple: (
        "a list of texts",
        lambda value: isinstance(value, list | tuple) and all(isinstance(item, str) for item in value),
    ),
}
"""Type of a default -> its name in error messages, and whether a value has it."""


class Change(Enum):
    """When a parameter can be changed; the value is the sentence that ``ros2 param describe`` shows."""

    ANY_TIME = "can be changed at any time and takes effect at once"
    UNCONFIGURED = "can be changed only while the node is unconfigured"
    START = "is fixed when the node starts"


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter in ROS.

    A name with ``<camera>`` or ``<class>`` is a template: one parameter per camera, or per class of objects in the
    model file. ``<camera>`` is replaced in the default too.

    Attributes:
        name: name in ROS.
        default: value where none is given; its type is the parameter's type.
        description: one or two sentences for ``ros2 param describe`` and the documentation.
        bounds: least and greatest value, both allowed; None where the parameter is not a number.
        choices: the allowed texts; empty for any text.
        is_topic: the text must be a ROS name, or empty where that is the default.
        change: when it can be changed.
        convert: from the value in ROS to the value in the code.
    """

    name: str
    default: Value
    description: str
    bounds: tuple[float, float] | None = None
    choices: tuple[str, ...] = ()
    is_topic: bool = False
    change: Change = Change.UNCONFIGURED
    convert: Callable[[Any], Any] = lambda value: value

    def check(self, value: object) -> None:
        """Raise ConfigError, one sentence with the allowed values, unless the value is allowed."""
        kind, is_kind = _KINDS[type(self.default)]
        if not is_kind(value):
            raise ConfigError(f"parameter {self.name} is {value!r}; set it to {kind}")
        if isinstance(value, str):
            if self.choices and value not in self.choices:
                raise ConfigError(f"parameter {self.name} is {value!r}; set it to one of {', '.join(self.choices)}")
            if self.is_topic and value != self.default and not _TOPIC.fullmatch(value):
                raise ConfigError(
                    f"parameter {self.name} is {value!r}, which is no ROS name; use one like front/image_raw"
                )
        elif self.bounds and isinstance(value, int | float):
            low, high = self.bounds
            if not low <= value <= high:  # also refuses NaN
                raise ConfigError(f"parameter {self.name} is {value}; set it to a value from {low:g} to {high:g}")

    def read(self, value: Any) -> Any:
        """Check a value and convert it. Raises ConfigError."""
        self.check(value)
        of_type: Callable[[Any], Any] = type(self.default)
        return self.convert(of_type(value))  # YAML has 1 for 1.0, and a list for a tuple

    def descriptor(self) -> "ParameterDescriptor":
        """The descriptor in ROS, which ``ros2 param describe`` shows."""
        from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor

        descriptor = ParameterDescriptor(description=self.description, read_only=self.change is Change.START)
        choices = f"one of {', '.join(self.choices)}; " if self.choices else ""
        descriptor.additional_constraints = f"{choices}{self.change.value}"
        if self.bounds and isinstance(self.default, float):
            low, high = self.bounds
            descriptor.floating_point_range = [FloatingPointRange(from_value=low, to_value=high, step=0.0)]
        elif self.bounds:
            low, high = map(int, self.bounds)
            descriptor.integer_range = [IntegerRange(from_value=low, to_value=high, step=1)]
        return descriptor

    def of_camera(self, camera: str) -> "Parameter":
        """This parameter with ``<camera>`` filled in."""
        default = self.default.replace("<camera>", camera) if isinstance(self.default, str) else self.default
        return replace(self, name=self.name.replace("<camera>", camera), default=default)


def parameter_field(name: str, default: Value, description: str, **more: Any) -> Any:
    """A dataclass field that is a ROS parameter; ``more`` are attributes of ``Parameter``."""
    return field(metadata={"parameter": Parameter(name, default, description, **more)})
