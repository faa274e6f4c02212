"""Names and message types of a camera's topics, in bags and on the vehicle.

All topics of a camera are in one namespace::

    /camera/image_raw[/compressed]                      the source images
    /camera/camera_info                                 sensor_msgs/CameraInfo that fits the results
    /camera/name                                        std_msgs/String, name of the image in its data set
    /camera/attributes                                  std_msgs/String, JSON: its weather, scene and timeofday
    /camera/detections                                  vision_msgs/Detection2DArray
    /camera/segmentation, /camera/drivable_area         mono8 masks
    /camera/detections/label_info, ...                  vision_msgs/LabelInfo, latched, of detections and both masks
    /camera/detections/vision_info                      vision_msgs/VisionInfo, latched
    /camera/segmentation/confidence                     mono8, 255 = certain
    /camera/overlay, /camera/overlay/compressed         the results drawn on the image
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
"""Type of a message that holds a packet of a video instead of an image -> image_transport's name of its decoder."""
VIDEO_REMEDY: Final = "decode the video to images, as 'ros2 run image_transport republish' does, and take their topic"

TASK_TOPICS: Final = {"detection": "detections", "semantic": "segmentation", "drivable": "drivable_area"}
"""Task -> name of its topic under the camera's namespace, and under ``<camera>/truth``."""
CONFIDENCE: Final = "segmentation/confidence"
OVERLAY: Final = "overlay"
OVERLAY_JPEG: Final = f"{OVERLAY}/compressed"
CAMERA_INFO_TOPIC: Final = "camera_info"
NAME: Final = "name"
ATTRIBUTES: Final = "attributes"
TRUTH: Final = "truth"
LABEL_INFO: Final = "label_info"
VISION_INFO: Final = "vision_info"

_RESULTS: Final = (
    *(f"/{topic}" for topic in TASK_TOPICS.values()),
    *(f"/{topic}/{LABEL_INFO}" for topic in TASK_TOPICS.values()),
    f"/{CONFIDENCE}",
    f"/{OVERLAY}",
    f"/{OVERLAY_JPEG}",
)
_LISTED_TOPICS: Final = 12


@dataclass(frozen=True, slots=True)
class Side:
    """A topic of an evaluation: one task's predictions or annotation, or their classes.

    Attributes:
        topic: its name.
        camera: namespace of its camera.
        task: key of ``TASK_TOPICS``.
        truth: True for annotation, False for predictions.
        label_info: True for the list of classes, False for detections or a mask.
    """

    topic: str
    camera: str
    task: str
    truth: bool
    label_info: bool


def side_of(topic: str, msgtype: str) -> Side | None:
    """Classify a topic; None where it plays no part in an evaluation."""
    for task, name in TASK_TOPICS.items():
        for suffix, label_info in ((f"/{name}", False), (f"/{name}/{LABEL_INFO}", True)):
            expected = LABELS if label_info else DETECTIONS if task == "detection" else IMAGE
            if topic.endswith(suffix) and message_type(msgtype) == expected:
                parent = topic.removesuffix(suffix)
                camera = parent.removesuffix(f"/{TRUTH}")
                return Side(topic, camera, task, camera != parent, label_info)
    return None


def is_result(topic: str) -> bool:
    """Whether a topic holds the perception's results, not annotation."""
    return topic.endswith(_RESULTS) and not is_truth(topic)


def is_truth(topic: str) -> bool:
    """Whether a topic is annotation."""
    return f"/{TRUTH}/" in topic


def message_type(name: str) -> str:
    """The full name of a message type: bags of 2019 have "std_msgs/String" for "std_msgs/msg/String"."""
    return name.replace("/", "/msg/") if name.count("/") == 1 else name


def listing(topics: Any) -> str:
    """Topic names for an error message, at most the first dozen."""
    names = sorted(set(topics))
    more = f" and {len(names) - _LISTED_TOPICS} more" if len(names) > _LISTED_TOPICS else ""
    return (", ".join(names[:_LISTED_TOPICS]) or "none") + more
