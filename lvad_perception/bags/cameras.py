"""Cameras of a bag: which image topics they are, and the topics of their results and annotation."""

from collections import Counter, defaultdict
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Final

from lvad_perception.bags.error_log import ErrorLog
from lvad_perception.errors import BagError
from lvad_perception.topics import (
    COMPRESSED_IMAGE,
    IMAGE,
    TASK_TOPICS,
    TRUTH,
    VIDEO_PACKETS,
    VIDEO_REMEDY,
    is_result,
    is_truth,
    listing,
    message_type,
)

_COMPRESSED: Final = "/compressed"
_DEPTH: Final = "/compressedDepth"
_VIDEO_SUFFIXES: Final = tuple(f"/{name}" for name in VIDEO_PACKETS.values())


@dataclass(frozen=True, slots=True)
class Camera:
    """One camera of a bag.

    Attributes:
        topic: topic of its images.
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


def find_cameras(connections: Collection[Any], *, source: str, topics: Collection[str] = ()) -> list[Camera]:
    """The cameras of a bag.

    Args:
        connections: the bag's connections.
        source: the bag, for messages.
        topics: image topics to use. When empty, all but masks, overlays and depth images; of a camera's raw and
            compressed topics the one with more messages, raw on a tie.

    Raises:
        BagError: the bag has no image topic, or one of ``topics`` is not an image topic of the bag.
    """
    images = {
        connection.topic: connection
        for connection in connections
        if message_type(connection.msgtype) in (IMAGE, COMPRESSED_IMAGE)
    }
    counts = Counter(
        connection.topic
        for connection in connections
        if message_type(connection.msgtype) in (IMAGE, COMPRESSED_IMAGE) and connection.msgcount
    )
    for topic in topics:
        if topic not in images:
            if topic in (video.topic for video in _videos(connections)):
                raise BagError(f"the messages of {topic} in {source} are packets of a video, no images; {VIDEO_REMEDY}")
            present = listing(images) if images else f"none, only {listing(each.topic for each in connections)}"
            raise BagError(f"{source} has no image topic {topic}; its image topics are {present}")
    if topics:
        chosen = [images[topic] for topic in dict.fromkeys(topics)]
    else:
        chosen = _one_per_camera(images)
    if not chosen:
        videos = _videos(connections)
        if videos:
            raise BagError(
                f"{source} has no camera images, only packets of a video on {listing(each.topic for each in videos)}; "
                f"{VIDEO_REMEDY}"
            )
        raise BagError(
            f"{source} has no camera images; its topics are {listing(connection.topic for connection in connections)}: "
            "record sensor_msgs/Image or CompressedImage, or name a topic with --topic"
        )
    for connection in chosen:
        if counts[connection.topic] > 1:
            raise BagError(
                f"{source} has images of both types, raw and compressed, on {connection.topic}; "
                "record them on topics of their own"
            )
        same = [other.topic for other in chosen if _base(other.topic) == _base(connection.topic)]
        if len(same) > 1:
            raise BagError(f"{source}: {' and '.join(same)} are images of the same camera; name one of them")
    parents = [_base(connection.topic).rpartition("/")[0] for connection in chosen]
    return [
        Camera(
            topic=connection.topic,
            # Cameras that share a namespace would write to the same topics, so each image topic is a namespace there.
            namespace=parent if parents.count(parent) == 1 else _base(connection.topic),
            compressed=message_type(connection.msgtype) == COMPRESSED_IMAGE,
            connection=connection,
        )
        for connection, parent in zip(chosen, parents, strict=True)
    ]


def report_video_packets(connections: Collection[Any], cameras: Collection[Camera], errors: ErrorLog) -> None:
    """Report topics of video packets, which cannot be read, unless the camera has images too."""
    with_images = {_base(camera.topic) for camera in cameras}
    for connection in _videos(connections):
        if _base(connection.topic) not in with_images:
            errors.add(
                connection.topic,
                f"all {connection.msgcount} messages",
                f"they are packets of a video, no images, and are left out; {VIDEO_REMEDY}",
                count=connection.msgcount,
            )


def _videos(connections: Collection[Any]) -> list[Any]:
    return [each for each in connections if message_type(each.msgtype) in VIDEO_PACKETS and each.msgcount]


def _base(topic: str) -> str:
    for suffix in (_COMPRESSED, *_VIDEO_SUFFIXES):
        topic = topic.removesuffix(suffix)
    return topic


def _one_per_camera(images: dict[str, Any]) -> list[Any]:
    candidates: dict[str, list[Any]] = defaultdict(list)
    for topic, connection in sorted(images.items()):
        if not (is_result(topic) or is_truth(topic) or topic.endswith(_DEPTH)) and connection.msgcount:
            candidates[_base(topic)].append(connection)
    return [max(group, key=lambda connection: connection.msgcount) for group in candidates.values()]
