"""Names of the topics that results and annotation are under, in bags and on the vehicle.

Everything of a camera lives under one namespace::

    /camera/image_raw[/compressed]                      the source images
    /camera/name                                        std_msgs/String, name of the image in its data set
    /camera/attributes                                  std_msgs/String, JSON: its weather, scene and timeofday
    /camera/detections                                  vision_msgs/Detection2DArray
    /camera/segmentation, /camera/drivable_area         mono8 masks
    /camera/detections/label_info, ...                  vision_msgs/LabelInfo, latched, of detections and both masks
    /camera/segmentation/confidence                     mono8, 255 = certain
    /camera/truth/detections, /camera/truth/segmentation, /camera/truth/drivable_area    annotation, same types
"""

from dataclasses import dataclass
from typing import Any, Final

IMAGE: Final = "sensor_msgs/msg/Image"
DETECTIONS: Final = "vision_msgs/msg/Detection2DArray"
LABELS: Final = "vision_msgs/msg/LabelInfo"
CAMERA_INFO: Final = "sensor_msgs/msg/CameraInfo"
COMPRESSED_IMAGE: Final = "sensor_msgs/msg/CompressedImage"

VIDEO_PACKETS: Final = {
    "foxglove_msgs/msg/CompressedVideo": "foxglove",
    "ffmpeg_image_transport_msgs/msg/FFMPEGPacket": "ffmpeg",
    "theora_image_transport/msg/Packet": "theora",
}
"""Types of messages that hold a piece of a video instead of an image -> image_transport's name of what decodes them."""
VIDEO_REMEDY: Final = "decode the video to images, as 'ros2 run image_transport republish' does, and take their topic"

TASK_TOPICS: Final = {"detection": "detections", "semantic": "segmentation", "drivable": "drivable_area"}
"""Task -> name of its topic under the camera's namespace, and under ``<camera>/truth``."""
CONFIDENCE: Final = "segmentation/confidence"
OVERLAY: Final = "overlay"
OVERLAY_JPEG: Final = f"{OVERLAY}/compressed"
NAME: Final = "name"
ATTRIBUTES: Final = "attributes"
TRUTH: Final = "truth"
LABEL_INFO: Final = "label_info"

_RESULTS: Final = (
    *(f"/{topic}" for topic in TASK_TOPICS.values()),
    *(f"/{topic}/{LABEL_INFO}" for topic in TASK_TOPICS.values()),
    f"/{CONFIDENCE}",
    f"/{OVERLAY}",
    f"/{OVERLAY}/compressed",
)
_LISTED_TOPICS: Final = 12


@dataclass(frozen=True, slots=True)
class Side:
    """What a topic holds of an evaluation.

    Attributes:
        topic: its name.
        camera: namespace of its camera.
        task: the task that it is about.
        truth: annotation, not predictions.
        label_info: the classes, not detections or a mask.
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


def listing(topics: Any) -> str:
    """Topic names for a message, the first dozen."""
    names = sorted(set(topics))
    more = f" and {len(names) - _LISTED_TOPICS} more" if len(names) > _LISTED_TOPICS else ""
    return (", ".join(names[:_LISTED_TOPICS]) or "none") + more
