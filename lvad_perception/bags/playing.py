"""Playing a bag into the node under ROS: parameters of the node, commands of player and recorder.

The launch files use it, so that users need not repeat the bag's topics. ``ros2 launch`` may run in a Python without
rosbags, so this reads only the bag's metadata.yaml.
"""

import asyncio
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from lvad_perception.bags.cameras import Camera, find_cameras
from lvad_perception.bags.metadata import read_topics
from lvad_perception.bags.paths import check_path
from lvad_perception.errors import BagError, ConfigError
from lvad_perception.files import write_whole
from lvad_perception.topics import LABEL_INFO, TASK_TOPICS, is_result, listing, side_of

_POLL_INTERVAL_S: Final = 0.05

# For player and recorder, so that slow subscribers lose nothing.
_LOSSLESS_QOS: Final = "history: keep_all, reliability: reliable, durability: volatile"


@dataclass(frozen=True, slots=True)
class Playback:
    """Arguments of the player, the recorder and the node for a bag.

    Attributes:
        bag: the bag.
        namespace: of the node, so that its topics are the bag's; "/" for none.
        cameras: name of a camera -> the camera.
        topics: topics to play: the cameras' images and their other topics except earlier results.
        annotation: those of ``topics`` that are annotation.
    """

    bag: Path
    namespace: str
    cameras: dict[str, Camera]
    topics: tuple[str, ...]
    annotation: tuple[str, ...]

    @property
    def images(self) -> dict[str, int]:
        """Image topic -> number of images."""
        return {camera.topic: int(camera.connection.msgcount) for camera in self.cameras.values()}

    @property
    def results(self) -> tuple[str, ...]:
        """Topics on which the node will publish the cameras' results and their classes."""
        topics = [camera.result(task) for camera in self.cameras.values() for task in TASK_TOPICS]
        return tuple(name for topic in topics for name in (topic, f"{topic}/{LABEL_INFO}"))

    def node_parameters(self) -> dict[str, Any]:
        """Node parameters for processing every image of the bag, with the same results as ``replay``."""
        parameters: dict[str, Any] = {"cameras": list(self.cameras), "lossless": True, "score_threshold": 0.0}
        for name, camera in self.cameras.items():
            parameters[f"{name}.image_topic"] = camera.topic
            parameters[f"{name}.transport"] = "compressed" if camera.compressed else "raw"
        return parameters

    def camera_arguments(self, given: Mapping[str, str]) -> dict[str, str]:
        """Arguments of camera.launch.py that start the node for the bag.

        Args:
            given: arguments of the launch file that plays the bag. "model", "params_file" and "log_level" are passed
                on; "parameters", a YAML mapping or empty, overrides ``node_parameters``.

        Raises:
            ConfigError: "parameters" is not a YAML mapping.
        """
        import yaml

        text = given["parameters"]
        try:
            overrides = yaml.safe_load(text) or {}
        except yaml.YAMLError:
            overrides = None
        if not isinstance(overrides, dict):
            raise ConfigError(f"parameters is {text!r}; write it as YAML, like '{{threads: 2}}'")
        parameters = yaml.safe_dump(self.node_parameters() | overrides, default_flow_style=True, width=float("inf"))
        passed_on = {name: given[name] for name in ("model", "params_file", "log_level")}
        return {**passed_on, "namespace": self.namespace, "parameters": parameters}

    async def node_listens(self, graph: Any, *, ended: Callable[[], bool]) -> bool:
        """Wait until the node has subscribed to every camera's images, which it does when it becomes active.

        Args:
            graph: any ``rclpy`` node, to query the ROS graph.
            ended: returns whether to stop waiting.

        Returns:
            False when ``ended`` came first.
        """

        def listens(topic: str) -> bool:
            ends = graph.get_subscriptions_info_by_topic(topic)
            return any((end.node_name, end.node_namespace) == ("perception", self.namespace) for end in ends)

        while not ended():
            if all(listens(topic) for topic in self.images):
                return True
            await asyncio.sleep(_POLL_INTERVAL_S)
        return False

    def write_qos(self, path: Path) -> None:
        """Write a file for ``--qos-profile-overrides-path`` of the player and the recorder."""
        topics = [topic for topic in (*self.topics, *self.results) if not topic.endswith(f"/{LABEL_INFO}")]
        write_whole(path, "".join(f"{topic}: {{{_LOSSLESS_QOS}}}\n" for topic in topics))

    def play_command(self, qos: Path, *, rate: str) -> list[str]:
        """Command of a player that loses nothing, paused at first so that all subscribers can connect.

        Args:
            qos: file of ``write_qos``.
            rate: factor of the recording's speed.
        """
        command = ["ros2", "bag", "play", str(self.bag), "--start-paused", "--disable-keyboard-controls"]
        command += ["--rate", rate, "--wait-for-all-acked", "0", "--qos-profile-overrides-path", str(qos)]
        return [*command, "--topics", *self.topics]

    def record_command(self, qos: Path, output: Path) -> list[str]:
        """Command of a recorder of the played topics and the results; SIGINT ends it."""
        regex = "|".join(re.escape(topic) for topic in (*self.topics, *self.results))
        command = ["ros2", "bag", "record", "--output", str(output), "--qos-profile-overrides-path", str(qos)]
        return [*command, "--regex", f"^({regex})$"]


def plan_playback(bag: Path, *, topics: Collection[str] = (), annotated: bool = False) -> Playback:
    """Plan the playback of a bag by its metadata.yaml.

    Args:
        bag: bag folder.
        topics: image topics; all cameras when empty.
        annotated: the bag must have annotation.

    Raises:
        BagError: the bag is unreadable, has no usable image, lacks the required annotation, or has topics that one
            node cannot have.
    """
    bag = Path(bag)
    check_path(bag)
    if not bag.is_dir():
        raise BagError(f"{bag} is a single file; name a bag folder, which 'ros2 bag reindex' makes of it")
    present = read_topics(bag)
    cameras = find_cameras(present, source=str(bag), topics=topics)
    parents = {camera.namespace.rpartition("/")[0] for camera in cameras}
    if any(not camera.namespace for camera in cameras) or len(parents) > 1:
        raise BagError(
            f"the images of {bag}, {listing(camera.topic for camera in cameras)}, are not <camera>/image_raw of "
            "cameras in one namespace; name those of one namespace with topics, or use: ros2 bag play --remap"
        )
    for camera in cameras:
        if camera.compressed and not camera.topic.endswith("/compressed"):
            raise BagError(
                f"the images of {bag} on {camera.topic} are compressed, but the topic does not end in /compressed; "
                "play it by hand with: ros2 bag play --remap"
            )
    namespaces = {camera.namespace for camera in cameras}
    sides = [side_of(topic.topic, topic.msgtype) for topic in present]
    annotation = {side.topic for side in sides if side is not None and side.truth and side.camera in namespaces}
    if annotated and not annotation:
        raise BagError(
            f"{bag} has no annotation, only {listing(topic.topic for topic in present)}; "
            "make an annotated bag with: lvad-perception bag from-dataset"
        )
    others = {
        topic.topic for topic in present if topic.topic.rpartition("/")[0] in namespaces and not is_result(topic.topic)
    }
    return Playback(
        bag=bag,
        namespace=parents.pop() or "/",
        cameras={camera.namespace.rpartition("/")[2]: camera for camera in cameras},
        topics=tuple(sorted({camera.topic for camera in cameras} | annotation | others)),
        annotation=tuple(sorted(annotation)),
    )
