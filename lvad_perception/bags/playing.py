"""A bag that is to be played into the node: its cameras as the node's parameters, and how it must be played.

The launch files ask here, so that nobody has to repeat on the command line what the bag says. ``ros2 launch`` may run
in another Python than the node, one without rosbags: what is needed is in the bag's metadata.
"""

import asyncio
import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from lvad_perception.bags.cameras import Camera, find_cameras
from lvad_perception.bags.paths import check_path
from lvad_perception.errors import BagError, ConfigError
from lvad_perception.files import write_whole
from lvad_perception.topics import LABEL_INFO, TASK_TOPICS, is_result, listing, side_of

_LOOK_EVERY_S: Final = 0.05

# Nothing is lost between player and subscribers, however slow they are.
_LOSSLESS_QOS: Final = "history: keep_all, reliability: reliable, durability: volatile"


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic of a bag, with the names that rosbags' connections have."""

    topic: str
    msgtype: str
    msgcount: int


@dataclass(frozen=True, slots=True)
class Playback:
    """What the player and the node must know of a bag.

    Attributes:
        bag: the bag.
        namespace: of the node, so that its topics are the bag's; "/" for none.
        cameras: name of a camera -> it.
        topics: what is played: the cameras' images and all else but earlier results.
        annotation: of these, annotation of the cameras.
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
        """The topics that the node will publish the cameras' results under, those of each task and its classes."""
        tasks = [camera.result(task) for camera in self.cameras.values() for task in TASK_TOPICS]
        return tuple(name for topic in tasks for name in (topic, f"{topic}/{LABEL_INFO}"))

    def node_parameters(self) -> dict[str, Any]:
        """Parameters with which the node processes each image of the bag and publishes what ``replay`` writes."""
        parameters: dict[str, Any] = {"cameras": list(self.cameras), "lossless": True, "score_threshold": 0.0}
        for name, camera in self.cameras.items():
            parameters[f"{name}.image_topic"] = camera.topic
            parameters[f"{name}.transport"] = "compressed" if camera.compressed else "raw"
        return parameters

    def camera_arguments(self, given: Mapping[str, str]) -> dict[str, str]:
        """The arguments of camera.launch.py with which the node is brought up for the bag.

        Args:
            given: arguments of the launch file that plays it. Of these "model", "params_file" and "log_level" are
                handed on; "parameters" is a YAML mapping, or empty, that wins over ``node_parameters``.

        Raises:
            ConfigError: "parameters" is not a YAML mapping.
        """
        import yaml

        further = given["parameters"]
        try:
            added = yaml.safe_load(further) or {}
        except yaml.YAMLError:
            added = None
        if not isinstance(added, dict):
            raise ConfigError(f"parameters is {further!r}; write it as YAML, like '{{threads: 2}}'")
        parameters = yaml.safe_dump(self.node_parameters() | added, default_flow_style=True, width=float("inf"))
        handed_on = {name: given[name] for name in ("model", "params_file", "log_level")}
        return {**handed_on, "namespace": self.namespace, "parameters": parameters}

    async def node_listens(self, graph: Any, *, ended: Callable[[], bool]) -> bool:
        """Wait until the node has subscribed to every camera's images, as it does once it is active.

        Args:
            graph: any ``rclpy`` node; is asked who subscribes.
            ended: whether to give up.

        Returns:
            False when ``ended`` came first.
        """

        def listens(topic: str) -> bool:
            found = graph.get_subscriptions_info_by_topic(topic)
            return any((end.node_name, end.node_namespace) == ("perception", self.namespace) for end in found)

        while not ended():
            if all(listens(topic) for topic in self.images):
                return True
            await asyncio.sleep(_LOOK_EVERY_S)
        return False

    def write_qos(self, path: Path) -> None:
        """Write a file for ``--qos-profile-overrides-path`` of the player and the recorder."""
        topics = [topic for topic in (*self.topics, *self.results) if not topic.endswith(f"/{LABEL_INFO}")]
        write_whole(path, "".join(f"{topic}: {{{_LOSSLESS_QOS}}}\n" for topic in topics))

    def play_command(self, qos: Path, *, rate: str) -> list[str]:
        """A player that starts paused, so that nothing is sent before everybody is connected, and loses nothing.

        Args:
            qos: what ``write_qos`` wrote.
            rate: speed, "1.0" for that of the recording.
        """
        command = ["ros2", "bag", "play", str(self.bag), "--start-paused", "--disable-keyboard-controls"]
        command += ["--rate", rate, "--wait-for-all-acked", "0", "--qos-profile-overrides-path", str(qos)]
        return [*command, "--topics", *self.topics]

    def record_command(self, qos: Path, output: Path) -> list[str]:
        """A recorder of what is played and of the results, until SIGINT."""
        regex = "|".join(re.escape(topic) for topic in (*self.topics, *self.results))
        command = ["ros2", "bag", "record", "--output", str(output), "--qos-profile-overrides-path", str(qos)]
        return [*command, "--regex", f"^({regex})$"]


def plan_playback(bag: Path, *, topics: Collection[str] = (), annotated: bool = False) -> Playback:
    """Look into a bag that is to be played.

    Args:
        bag: bag folder.
        topics: image topics; all cameras when empty.
        annotated: the bag must have annotation.

    Raises:
        BagError: the bag is unreadable, has no usable image, or no annotation where that is asked for, or its topics
            cannot be those of one node.
    """
    bag = Path(bag)
    present = read_topics(bag)
    found = find_cameras(present, source=str(bag), topics=topics)
    parents = {camera.namespace.rpartition("/")[0] for camera in found}
    if any(not camera.namespace for camera in found) or len(parents) > 1:
        raise BagError(
            f"the images of {bag}, {listing(camera.topic for camera in found)}, are not <camera>/image_raw of "
            "cameras in one namespace; name those of one namespace with topics, or use: ros2 bag play --remap"
        )
    for camera in found:
        if camera.compressed and not camera.topic.endswith("/compressed"):
            raise BagError(
                f"the images of {bag} on {camera.topic} are compressed, but the topic does not end in /compressed; "
                "play it by hand with: ros2 bag play --remap"
            )
    namespaces = {camera.namespace for camera in found}
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
        cameras={camera.namespace.rpartition("/")[2]: camera for camera in found},
        topics=tuple(sorted({camera.topic for camera in found} | annotation | others)),
        annotation=tuple(sorted(annotation)),
    )


def read_topics(bag: Path) -> list[Topic]:
    """The topics of a bag folder by its ``metadata.yaml``, those without messages left out. Raises BagError."""
    import yaml

    check_path(bag)
    if not bag.is_dir():
        raise BagError(f"{bag} is a single file; name a bag folder, which 'ros2 bag reindex' makes of it")
    try:
        facts = yaml.safe_load((bag / "metadata.yaml").read_text(encoding="utf-8"))
        entries = facts["rosbag2_bagfile_information"]["topics_with_message_count"]
        found = [
            Topic(entry["topic_metadata"]["name"], entry["topic_metadata"]["type"], int(entry["message_count"]))
            for entry in entries
        ]
    except (OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError, ValueError) as err:
        raise BagError(f"{bag / 'metadata.yaml'} is damaged; make it anew with: ros2 bag reindex {bag}") from err
    counts: Counter[tuple[str, str]] = Counter()
    for entry in found:  # several channels may be of one topic
        counts[entry.topic, entry.msgtype] += entry.msgcount
    return [Topic(topic, msgtype, count) for (topic, msgtype), count in counts.items() if count]
