"""Names of the topics in this package's bags, and which image topics of any bag are cameras.

Everything of a camera lives under one namespace, the same names that the node publishes under::

    /camera/image_raw[/compressed]                      the source images
    /camera/name                                        std_msgs/String, name of the image in its data set
    /camera/detections                                  vision_msgs/Detection2DArray
    /camera/segmentation, /camera/drivable_area         mono8 masks, each with a latched .../label_info
    /camera/segmentation/confidence                     mono8, 255 = certain
    /camera/truth/detections, /camera/truth/segmentation, /camera/truth/drivable_area    annotation, same types
"""

from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Final

from lvad_perception.errors import BagError

IMAGE: Final = "sensor_msgs/msg/Image"
DETECTIONS: Final = "vision_msgs/msg/Detection2DArray"
LABELS: Final = "vision_msgs/msg/LabelInfo"
CAMERA_INFO: Final = "sensor_msgs/msg/CameraInfo"
COMPRESSED_IMAGE: Final = "sensor_msgs/msg/CompressedImage"

TASK_TOPICS: Final = {"detection": "detections", "semantic": "segmentation", "drivable": "drivable_area"}
"""Task -> name of its topic under the camera's namespace, and under ``<camera>/truth``."""
CONFIDENCE: Final = "segmentation/confidence"
OVERLAY: Final = "overlay"
NAME: Final = "name"
TRUTH: Final = "truth"
LABEL_INFO: Final = "label_info"

_RESULTS: Final = (
    *(f"/{topic}" for topic in TASK_TOPICS.values()),
    *(f"/{topic}/{LABEL_INFO}" for topic in TASK_TOPICS.values()),
    f"/{CONFIDENCE}",
    f"/{OVERLAY}",
)
_COMPRESSED: Final = "/compressed"
_DEPTH: Final = "/compressedDepth"
_LISTED_TOPICS: Final = 12


@dataclass(frozen=True, slots=True)
class Camera:
    """One camera of a bag.

    Attributes:
        topic: the topic that its images are read from.
        namespace: prefix of its other topics, "/camera" for "/camera/image_raw/compressed"; may be empty.
        compressed: the images are CompressedImage, not Image.
        connection: the bag's connection of ``topic``.
    """

    topic: str
    namespace: str
    compressed: bool
    connection: Any

    def result(self, task: str) -> str:
        """Topic of a task's predictions."""
        return f"{self.namespace}/{TASK_TOPICS[task]}"

    def truth(self, task: str) -> str:
        """Topic of a task's annotation."""
        return f"{self.namespace}/{TRUTH}/{TASK_TOPICS[task]}"


@dataclass(frozen=True, slots=True)
class Side:
    """What a topic holds of an evaluation.

    Attributes:
        topic: its name.
        camera: namespace of its camera.
        task: the task that it is about.
        truth: annotation, not predictions.
        label_info: the mask's classes, not the mask.
    """

    topic: str
    camera: str
    task: str
    truth: bool
    label_info: bool


def side_of(topic: str, msgtype: str) -> Side | None:
    """What a topic holds of an evaluation, None for any other topic."""
    for task, name in TASK_TOPICS.items():
        for suffix, label_info in ((f"/{name}", False), (f"/{name}/{LABEL_INFO}", True)):
            wanted = LABELS if label_info else DETECTIONS if task == "detection" else IMAGE
            if topic.endswith(suffix) and message_type(msgtype) == wanted:
                parent = topic.removesuffix(suffix)
                camera = parent.removesuffix(f"/{TRUTH}")
                return Side(topic, camera, task, camera != parent, label_info)
    return None


def is_result(topic: str) -> bool:
    """Whether a topic is one that the perception publishes (and not annotation)."""
    return topic.endswith(_RESULTS) and not is_truth(topic)


def is_truth(topic: str) -> bool:
    """Whether a topic is annotation."""
    return f"/{TRUTH}/" in topic


def message_type(name: str) -> str:
    """A message type in today's spelling; bags of 2019 say "std_msgs/String" for "std_msgs/msg/String"."""
    return name.replace("/", "/msg/") if name.count("/") == 1 else name


def find_cameras(connections: Collection[Any], *, source: str, topics: Collection[str] = ()) -> list[Camera]:
    """The cameras of a bag.

    Args:
        connections: the bag's connections.
        source: the bag, for messages.
        topics: image topics to use; when empty all of them but masks, overlays and depth images, and where a camera
            has raw and compressed images the one with more messages, raw if they are as many.

    Raises:
        BagError: the bag has no image topic, or one of ``topics`` is not an image topic of the bag.
    """
    images = {
        connection.topic: connection
        for connection in connections
        if message_type(connection.msgtype) in (IMAGE, COMPRESSED_IMAGE)
    }
    for topic in topics:
        if topic not in images:
            have = (
                listing(images) if images else f"none, only {listing(connection.topic for connection in connections)}"
            )
            raise BagError(f"{source} has no image topic {topic}; its image topics are {have}")
    if topics:
        chosen = [images[topic] for topic in dict.fromkeys(topics)]
    else:
        chosen = _one_per_camera(images)
    if not chosen:
        raise BagError(
            f"{source} has no camera images; its topics are {listing(connection.topic for connection in connections)}: "
            "record sensor_msgs/Image or CompressedImage, or name a topic with --topic"
        )
    for connection in chosen:
        same = [other.topic for other in chosen if _base(other.topic) == _base(connection.topic)]
        if len(same) > 1:
            raise BagError(f"{source}: {' and '.join(same)} are images of the same camera; name one of them")
    parents = [_base(connection.topic).rpartition("/")[0] for connection in chosen]
    return [
        Camera(
            topic=connection.topic,
            # Two cameras in one namespace would write to the same topics: there each image topic is a namespace.
            namespace=parent if parents.count(parent) == 1 else _base(connection.topic),
            compressed=message_type(connection.msgtype) == COMPRESSED_IMAGE,
            connection=connection,
        )
        for connection, parent in zip(chosen, parents, strict=True)
    ]


def listing(topics: Any) -> str:
    """Topic names for a message, the first dozen."""
    names = sorted(set(topics))
    more = f" and {len(names) - _LISTED_TOPICS} more" if len(names) > _LISTED_TOPICS else ""
    return (", ".join(names[:_LISTED_TOPICS]) or "none") + more


def _base(topic: str) -> str:
    return topic.removesuffix(_COMPRESSED)


def _one_per_camera(images: dict[str, Any]) -> list[Any]:
    candidates: dict[str, list[Any]] = defaultdict(list)
    for topic, connection in sorted(images.items()):
        if not (is_result(topic) or is_truth(topic) or topic.endswith(_DEPTH)) and connection.msgcount:
            candidates[_base(topic)].append(connection)
    return [max(group, key=lambda connection: connection.msgcount) for group in candidates.values()]
