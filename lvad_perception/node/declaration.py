"""The parameter table in ROS: declared with descriptors, checked before a change, applied after it."""

import re
from collections.abc import Callable, Sequence
from typing import Final, cast

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, SetParametersResult
from rclpy.node import Node
from rclpy.parameter import Parameter as RosParameter

from lvad_perception.errors import ConfigError
from lvad_perception.node.parameters import NodeParameters
from lvad_perception.node.table import (
    CLASS_PREFIX,
    DEFAULT_CAMERAS,
    Change,
    Parameter,
    check_cameras,
    check_value,
    class_parameter,
    class_row,
    expand_table,
    unknown_classes,
    unknown_parameter,
)

# What the Updater of the diagnostics declares, and rclpy for itself.
_OF_UPDATER: Final = "diagnostic_updater."
_FOREIGN: Final = re.compile(r"use_sim_time|start_type_description_service|qos_overrides\..*")


class DeclaredParameters:
    """The table as parameters of a node that was created with ``automatically_declare_parameters_from_overrides`` and
    ``allow_undeclared_parameters``.

    Names that the node was given and that nobody knows are warned of, and setting such a name later is refused: ROS
    alone drops them silently, so that a misspelt name in a YAML file is never noticed.

    Which classes of objects have a threshold is known when the model file is read. Until then any class may be given
    one; from ``declare_classes`` to ``forget_classes`` the parameters are those of the model's classes.

    A change is checked as a whole before any of it takes effect. While the node is configured the values must also fit
    each other, and parameters that are fixed until the next configure are refused: what ``ros2 param get`` shows is
    what the node works with.

    Args:
        node: the node.
        is_configured: whether the node works with the values.
        apply: called with the new values after a change while it does.

    Raises:
        ConfigError: a given value has the wrong type or is not allowed.
    """

    def __init__(
        self, node: Node, *, is_configured: Callable[[], bool], apply: Callable[[NodeParameters], None]
    ) -> None:
        self._node = node
        self._is_configured = is_configured
        self._apply = apply
        given = {
            name: parameter.value
            for name, parameter in cast("dict[str, RosParameter]", node.get_parameters_by_prefix("")).items()
        }
        cameras = check_cameras(given.get("cameras", DEFAULT_CAMERAS))
        self._cameras = cameras
        self._rows = expand_table(cameras)
        self._class_names: Sequence[str] | None = None
        self._declare(given)
        if hasattr(node, "add_pre_set_parameters_callback"):
            node.add_pre_set_parameters_callback(self._take_whole_numbers)
        node.add_on_set_parameters_callback(self._check)
        # ROS 2 Humble asks before a change only, so there it takes effect with the check.
        self._told_afterwards = hasattr(node, "add_post_set_parameters_callback")
        if self._told_afterwards:
            node.add_post_set_parameters_callback(self._take_effect)

    def values(self) -> dict[str, object]:
        """Every parameter's value now."""
        return {name: self._node.get_parameter(name).value for name in (*self._rows, *self._class_parameters())}

    def declare_classes(self, class_names: Sequence[str]) -> None:
        """Give each class of objects its threshold, the value that it was given or the default.

        Thresholds of other classes are warned of. They keep their values, for a model that has the classes.

        Args:
            class_names: the model's, in whatever spelling; none for a model that detects no objects.
        """
        given = {name: self._node.get_parameter(name).value for name in self._class_parameters()}
        for name in dict.fromkeys(map(class_parameter, class_names)):
            row = class_row(name)
            assert row is not None
            if name in given:
                self._node.undeclare_parameter(name)  # it may have been set without a descriptor
            self._declare_one(row, given.pop(name, row.default))
        if given:
            self._node.get_logger().warning(unknown_classes(list(given), class_names))
        self._class_names = tuple(class_names)

    def forget_classes(self) -> None:
        """Keep the thresholds of classes that were given a value, for the next model."""
        self._class_names = None
        for name in self._class_parameters():
            if float(str(self._node.get_parameter(name).value)) < 0:
                self._node.undeclare_parameter(name)

    def _class_parameters(self) -> list[str]:
        """Names of the declared thresholds of classes, the model's or not."""
        return [f"{CLASS_PREFIX}.{name}" for name in self._node.get_parameters_by_prefix(CLASS_PREFIX)]

    def _declare(self, given: dict[str, object]) -> None:
        for name, given_value in given.items():
            row = self._row(name)
            if row is not None:
                check_value(row, given_value)
                self._node.undeclare_parameter(name)  # declared again below, with its descriptor
            elif name.startswith(_OF_UPDATER):
                self._node.undeclare_parameter(name)  # the Updater declares it
            elif not _FOREIGN.fullmatch(name):
                self._node.get_logger().warning(unknown_parameter(name, self._cameras))
        for name in (*self._rows, *(name for name in given if class_row(name) is not None)):
            row = self._row(name)
            assert row is not None
            self._declare_one(row, given.get(name, row.default))

    def _declare_one(self, row: Parameter, value: object) -> None:
        if isinstance(row.default, float):
            value = float(str(value))  # ROS would refuse the 1 of a YAML file where it wants 1.0
        elif isinstance(value, tuple):
            value = list(value)
        self._node.declare_parameter(row.name, value, _descriptor(row), ignore_override=True)

    def _row(self, name: str) -> Parameter | None:
        return self._rows.get(name) or class_row(name)

    def _take_whole_numbers(self, changes: list[RosParameter]) -> list[RosParameter]:
        """``ros2 param set … 1`` for 1.0, which ROS would refuse as a value of another type."""
        return [
            RosParameter(change.name, value=float(change.value))
            if change.type_ == RosParameter.Type.INTEGER and isinstance(self._default(change.name), float)
            else change
            for change in changes
        ]

    def _default(self, name: str) -> object:
        row = self._row(name)
        return None if row is None else row.default

    def _check(self, changes: list[RosParameter]) -> SetParametersResult:
        try:
            values = self.values()
            for change in changes:
                row = self._row(change.name)
                if row is None:
                    self._refuse_unknown(change.name)
                    continue
                check_value(row, change.value)
                self._refuse_unknown_class(change, values)
                if row.change is not Change.ANY_TIME and self._is_configured() and change.value != values[row.name]:
                    raise ConfigError(f"parameter {row.name} {row.change.value}; deactivate it and clean it up first")
                values[row.name] = change.value
            if self._is_configured():
                parameters = NodeParameters.from_values(values)
                if not self._told_afterwards:
                    self._apply(parameters)
        except ConfigError as err:
            return SetParametersResult(successful=False, reason=str(err))
        return SetParametersResult(successful=True)

    def _refuse_unknown(self, name: str) -> None:
        """What others declare passes here too, and names that were warned of when the node was given them."""
        known = self._node.has_parameter(name) or name.startswith(_OF_UPDATER) or _FOREIGN.fullmatch(name)
        if not known:
            raise ConfigError(unknown_parameter(name, self._cameras))

    def _refuse_unknown_class(self, change: RosParameter, values: dict[str, object]) -> None:
        """Unless it is what it is already, as in a file that is loaded again."""
        if self._class_names is None or class_row(change.name) is None or change.value == values.get(change.name):
            return
        if change.name not in map(class_parameter, self._class_names):
            raise ConfigError(unknown_classes([change.name], self._class_names))

    def _take_effect(self, changes: list[RosParameter]) -> None:
        if self._is_configured() and any(self._row(change.name) is not None for change in changes):
            self._apply(NodeParameters.from_values(self.values()))


def _descriptor(row: Parameter) -> ParameterDescriptor:
    """What ``ros2 param describe`` shows of a parameter."""
    descriptor = ParameterDescriptor(description=row.description, read_only=row.change is Change.START)
    choices = f"one of {', '.join(row.choices)}; " if row.choices else ""
    descriptor.additional_constraints = f"{choices}{row.change.value}"
    if row.bounds and isinstance(row.default, float):
        low, high = row.bounds
        descriptor.floating_point_range = [FloatingPointRange(from_value=low, to_value=high, step=0.0)]
    elif row.bounds:
        low, high = map(int, row.bounds)
        descriptor.integer_range = [IntegerRange(from_value=low, to_value=high, step=1)]
    return descriptor
