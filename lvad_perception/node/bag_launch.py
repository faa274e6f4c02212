"""Launch actions that play a bag into the perception node, for evaluate.launch.py and replay.launch.py."""
# mypy: disable-error-code="import-not-found, import-untyped, attr-defined, misc"

from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from launch.actions import ExecuteProcess, IncludeLaunchDescription, OpaqueCoroutine, RegisterEventHandler
from launch.event_handlers import OnProcessExit, OnShutdown
from launch.events.process import ProcessExited
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch_ros.ros_adapters import get_ros_node

from launch import Action, Event, EventHandler, LaunchContext
from lvad_perception.bags.playing import Playback


class NodeListens(Event):
    """The perception node has subscribed to every camera of the bag."""

    name = "the perception node listens to the cameras"


class PlayedBag:
    """A bag's player and the perception node, configured for the bag's cameras.

    Args:
        playback: the bag.
        given: arguments of the launch file; see ``Playback.camera_arguments``, and "rate" of the player.
        camera_launch: path of camera.launch.py.

    Attributes:
        qos: file with the QoS of the played topics and the results; deleted when the launch ends.
        player: the player, which starts paused.

    Raises:
        ConfigError: the argument "parameters" is not a YAML mapping.
    """

    def __init__(self, playback: Playback, given: Mapping[str, str], *, camera_launch: Path) -> None:
        self._playback = playback
        self._perception = IncludeLaunchDescription(
            PythonLaunchDescriptionSource(str(camera_launch)),
            launch_arguments=playback.camera_arguments(given).items(),
        )
        self._folder = TemporaryDirectory()
        self.qos = Path(self._folder.name, "qos.yaml")
        playback.write_qos(self.qos)
        self.player = ExecuteProcess(
            cmd=playback.play_command(self.qos, rate=given["rate"]), name="player", output="screen"
        )

    def actions(self, *with_player: Action, on_played: Callable[[LaunchContext], None] | None = None) -> list[Action]:
        """The actions of the launch: the node starts at once, the player when the node listens to the cameras.

        Args:
            with_player: processes that start just before the player.
            on_played: called when the player has played the bag to its end; a player that fails ends the launch.
        """

        def played(event: ProcessExited, context: LaunchContext) -> None:
            if context.is_shutdown:
                return
            if event.returncode:
                raise RuntimeError("the bag could not be played; the player's last message above says why")
            if on_played is not None:
                on_played(context)

        async def announce(context: LaunchContext) -> None:
            if await self._playback.node_listens(get_ros_node(context), ended=lambda: context.is_shutdown):
                await context.emit_event(NodeListens())

        def listens(event: Any) -> bool:
            return isinstance(event, NodeListens)

        return [
            RegisterEventHandler(EventHandler(matcher=listens, entities=[*with_player, self.player])),
            RegisterEventHandler(OnProcessExit(target_action=self.player, on_exit=played)),
            RegisterEventHandler(OnShutdown(on_shutdown=lambda *_: self._folder.cleanup())),
            self._perception,
            OpaqueCoroutine(coroutine=announce),
        ]
