"""Declaration of the parameter table in ROS: descriptors, the check before a change, its application afterwards."""

import re
from collections.abc import Callable, Sequence
from typing import Final, cast

from rcl_interfaces.msg import SetParametersResult
from rclpy.node import Node
from rclpy.parameter import Parameter as RosParameter

from lvad_perception.errors import ConfigError
from lvad_perception.node.parameters import (
    CLASS_PREFIX,
    NodeParameters,
    camera_names,
    class_parameter,
    class_row,
    expand_table,
    unknown_classes,
    unknown_parameter,
)
from lvad_perception.node.ros_parameter import Change, Parameter

# Parameters that the Updater of the diagnostics declares, and those that rclpy declares.
_OF_UPDATER: Final = "diagnostic_updater."
_OF_RCLPY: Final = re.compile(r"use_sim_time|start_type_description_service|qos_overrides\..*")


class DeclaredParameters:
    """The table, declared as parameters of a node. All calls are made in the executor's thread.

    Unknown names among the given parameters are logged as warnings, and setting an unknown name later is refused: ROS
    alone drops them silently, so that a misspelt name in a YAML file goes unnoticed.

    The model file decides which classes have a threshold. Before it is read, any class may be given one; from
    ``declare_classes`` to ``forget_classes`` only the model's classes have parameters.

    Changes that are set together are checked as a whole before any of them takes effect. While the node is configured
    the values must also be consistent, and parameters that are fixed until the next configure are refused. So
    ``ros2 param get`` always shows the values in use.

    Args:
        node: a node created with ``automatically_declare_parameters_from_overrides`` and
            ``allow_undeclared_parameters``.
        is_configured: whether the values are in use.
        apply: called with the new values after a change while they are in use.

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
        self._cameras = camera_names(given)
        self._rows = expand_table(self._cameras)
        self._class_names: Sequence[str] | None = None
        self._declare(given)
        if hasattr(node, "add_pre_set_parameters_callback"):
            node.add_pre_set_parameters_callback(self._accept_whole_numbers)
        node.add_on_set_parameters_callback(self._check)
        # ROS 2 Humble has only the callback before a change, so there the check also applies it.
        self._has_post_callback = hasattr(node, "add_post_set_parameters_callback")
        if self._has_post_callback:
            node.add_post_set_parameters_callback(self._apply_changes)

    def values(self) -> dict[str, object]:
        """The current values of all parameters."""
        return {name: self._node.get_parameter(name).value for name in (*self._rows, *self._class_parameters())}

    def declare_classes(self, class_names: Sequence[str]) -> None:
        """Declare the threshold of each class of objects, with the given value or the default.

        Thresholds of other classes are logged as a warning and keep their values, for a model that has the classes.

        Args:
            class_names: the model's, as its file spells them; empty for a model that detects no objects.
        """
        given = {name: self._node.get_parameter(name).value for name in self._class_parameters()}
        for name in dict.fromkeys(map(class_parameter, class_names)):
            row = class_row(name)
            assert row is not None
            if name in given:
                self._node.undeclare_parameter(name)  # declared without a descriptor when it was set early
            self._declare_one(row, given.pop(name, row.default))
        if given:
            self._node.get_logger().warning(unknown_classes(list(given), class_names))
        self._class_names = tuple(class_names)

    def forget_classes(self) -> None:
        """Undeclare the thresholds of classes that have no value of their own; the others wait for the next model."""
        self._class_names = None
        for name in self._class_parameters():
            if float(str(self._node.get_parameter(name).value)) < 0:
                self._node.undeclare_parameter(name)

    def _class_parameters(self) -> list[str]:
        """Names of all declared thresholds of classes, whether the model has the class or not."""
        return [f"{CLASS_PREFIX}.{name}" for name in self._node.get_parameters_by_prefix(CLASS_PREFIX)]

    def _declare(self, given: dict[str, object]) -> None:
        for name, given_value in given.items():
            row = self._row(name)
            if row is not None:
                row.check(given_value)
                self._node.undeclare_parameter(name)  # declared again below, with its descriptor
            elif name.startswith(_OF_UPDATER):
                self._node.undeclare_parameter(name)  # the Updater declares it
            elif not _OF_RCLPY.fullmatch(name):
                self._node.get_logger().warning(unknown_parameter(name, self._cameras))
        for name in (*self._rows, *(name for name in given if class_row(name) is not None)):
            row = self._row(name)
            assert row is not None
            self._declare_one(row, given.get(name, row.default))

    def _declare_one(self, row: Parameter, value: object) -> None:
        if isinstance(row.default, float):
            value = float(str(value))  # ROS refuses 1 in a YAML file for the type of 1.0
        elif isinstance(value, tuple):
            value = list(value)
        self._node.declare_parameter(row.name, value, row.descriptor(), ignore_override=True)

    def _row(self, name: str) -> Parameter | None:
        return self._rows.get(name) or class_row(name)

    def _accept_whole_numbers(self, changes: list[RosParameter]) -> list[RosParameter]:
        """Convert ``ros2 param set … 1`` to 1.0 for float parameters; ROS would refuse the type."""
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
                row.check(change.value)
                self._refuse_unknown_class(change, values)
                if row.change is not Change.ANY_TIME and self._is_configured() and change.value != values[row.name]:
                    raise ConfigError(f"parameter {row.name} {row.change.value}; deactivate it and clean it up first")
                values[row.name] = change.value
            if self._is_configured():
                parameters = NodeParameters.from_values(values)
                if not self._has_post_callback:
                    self._apply(parameters)
        except ConfigError as err:
            return SetParametersResult(successful=False, reason=str(err))
        return SetParametersResult(successful=True)

    def _refuse_unknown(self, name: str) -> None:
        """Unless rclpy or the Updater declares it, or it was given at the start and warned of then."""
        known = self._node.has_parameter(name) or name.startswith(_OF_UPDATER) or _OF_RCLPY.fullmatch(name)
        if not known:
            raise ConfigError(unknown_parameter(name, self._cameras))

    def _refuse_unknown_class(self, change: RosParameter, values: dict[str, object]) -> None:
        """Unless the value stays the same, as when a file is loaded again."""
        if self._class_names is None or class_row(change.name) is None or change.value == values.get(change.name):
            return
        if change.name not in map(class_parameter, self._class_names):
            raise ConfigError(unknown_classes([change.name], self._class_names))

    def _apply_changes(self, changes: list[RosParameter]) -> None:
        if self._is_configured() and any(self._row(change.name) is not None for change in changes):
            self._apply(NodeParameters.from_values(self.values()))
