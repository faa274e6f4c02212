"""ROS messages <-> the package's types: pure functions that work with ROS's own classes and with rosbags'.

Nothing here needs ROS. On a vehicle the builders are handed ``ros_types()``, on a laptop ``rosbags_types()``; both are
a ``MessageTypes``. Readers look only at fields, so they take the messages of either.

Boxes travel as centre and size in float64, from which the float32 corners come back to within 1e-9 px.
"""

import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from lvad_perception.errors import MessageError, MissingDependencyError, VocabularyMismatchError, one_line
from lvad_perception.manifest import Manifest
from lvad_perception.media.image_header import MOST_PIXELS
from lvad_perception.media.images import decode_image
from lvad_perception.media.pixels import demosaic, is_mosaic, to_mask, to_rgb
from lvad_perception.topics import VIDEO_REMEDY
from lvad_perception.types import Detections, Float32, Int32, TruthBoxes, UInt8
from lvad_perception.vocabulary import DETECTION, Vocabulary, difference

if TYPE_CHECKING:
    from rosbags.typesys.store import Typestore

Message = Any
"""A message of either family: ROS's own classes or rosbags'."""

CROWD: Final = "crowd"
"""``class_id`` of the second hypothesis of a truth box that is a crowd or of an ignored category; the first is its
class. Older bags say it in ``Detection2D.id``, vision_msgs' field for tracks."""

_VIDEO_FORMATS: Final = frozenset({"h264", "avc", "h265", "hevc", "av1", "vp8", "vp9", "mpeg4"})

# vision_msgs 4.x, which rosbags' stores do not carry: name -> fields in order.
_VISION_MSGS: Final = {
    "Point2D": "float64 x\nfloat64 y",
    "Pose2D": "vision_msgs/Point2D position\nfloat64 theta",
    "BoundingBox2D": "vision_msgs/Pose2D center\nfloat64 size_x\nfloat64 size_y",
    "ObjectHypothesis": "string class_id\nfloat64 score",
    "ObjectHypothesisWithPose": "vision_msgs/ObjectHypothesis hypothesis\ngeometry_msgs/PoseWithCovariance pose",
    "Detection2D": (
        "std_msgs/Header header\nvision_msgs/ObjectHypothesisWithPose[] results\nvision_msgs/BoundingBox2D bbox\n"
        "string id"
    ),
    "Detection2DArray": "std_msgs/Header header\nvision_msgs/Detection2D[] detections",
    "VisionClass": "uint16 class_id\nstring class_name",
    "LabelInfo": "std_msgs/Header header\nvision_msgs/VisionClass[] class_map\nfloat32 threshold",
    "VisionInfo": "std_msgs/Header header\nstring method\nstring database_location\nint32 database_version",
}


@dataclass(frozen=True, slots=True)
class MessageTypes:
    """The message classes of one family, and how it wants the bytes of a ``uint8[]`` field.

    Attributes:
        pack: contiguous uint8 array -> what the family's ``data`` fields take without a look at each element.
        no_pose: an all-zero ``PoseWithCovariance``, shared by all hypotheses.
    """

    Time: Any
    Header: Any
    Image: Any
    CompressedImage: Any
    String: Any
    Point2D: Any
    Pose2D: Any
    BoundingBox2D: Any
    ObjectHypothesis: Any
    ObjectHypothesisWithPose: Any
    Detection2D: Any
    Detection2DArray: Any
    VisionClass: Any
    LabelInfo: Any
    VisionInfo: Any
    no_pose: Message
    pack: Callable[[UInt8], Any]


@cache
def ros_types() -> MessageTypes:
    """ROS's own classes. Raises ImportError where no ROS 2 environment is sourced."""
    from builtin_interfaces.msg import Time
    from geometry_msgs.msg import PoseWithCovariance
    from sensor_msgs.msg import CompressedImage, Image
    from std_msgs.msg import Header, String
    from vision_msgs import msg as vision

    return MessageTypes(
        Time=Time,
        Header=Header,
        Image=Image,
        CompressedImage=CompressedImage,
        String=String,
        no_pose=PoseWithCovariance(),
        pack=_pack_array,
        **{name: getattr(vision, name) for name in _VISION_MSGS},
    )


@cache
def rosbags_types() -> MessageTypes:
    """rosbags' classes, for ``rosbags_typestore().serialize_cdr``. Raises MissingDependencyError."""
    types = rosbags_typestore().types
    pose = types["geometry_msgs/msg/Pose"](
        position=types["geometry_msgs/msg/Point"](x=0.0, y=0.0, z=0.0),
        orientation=types["geometry_msgs/msg/Quaternion"](x=0.0, y=0.0, z=0.0, w=1.0),
    )
    return MessageTypes(
        Time=types["builtin_interfaces/msg/Time"],
        Header=types["std_msgs/msg/Header"],
        Image=types["sensor_msgs/msg/Image"],
        CompressedImage=types["sensor_msgs/msg/CompressedImage"],
        String=types["std_msgs/msg/String"],
        no_pose=types["geometry_msgs/msg/PoseWithCovariance"](pose=pose, covariance=np.zeros(36)),
        pack=np.ravel,
        **{name: types[f"vision_msgs/msg/{name}"] for name in _VISION_MSGS},
    )


@cache
def rosbags_typestore() -> "Typestore":
    """rosbags' type store of the common ROS 2 messages and ``vision_msgs``. Raises MissingDependencyError."""
    try:
        from rosbags.typesys import Stores, get_types_from_msg, get_typestore
    except ImportError as err:
        raise MissingDependencyError(
            "the rosbags package is not installed; install it with: pip install 'lvad_perception[bags]'"
        ) from err
    store = get_typestore(Stores.ROS2_JAZZY)
    for name, definition in _VISION_MSGS.items():
        store.register(get_types_from_msg(definition, f"vision_msgs/msg/{name}"))
    return store


def stamp_ns(header: Message) -> int:
    """The header's stamp in nanoseconds."""
    return int(header.stamp.sec) * 1_000_000_000 + int(header.stamp.nanosec)


def make_header(stamp: int, frame_id: str, *, types: MessageTypes) -> Message:
    """A header with a stamp in nanoseconds."""
    return types.Header(stamp=types.Time(sec=stamp // 1_000_000_000, nanosec=stamp % 1_000_000_000), frame_id=frame_id)


def image_from_message(msg: Message, *, most_pixels: int = MOST_PIXELS) -> UInt8:
    """Pixels of a ``sensor_msgs/Image``.

    Args:
        msg: it.
        most_pixels: a larger image is refused.

    Returns:
        uint8 [H, W, 3], RGB. It may share the message's memory: do not write to it.

    Raises:
        MessageError: the encoding is not a colour or grey one, or size, step and data do not fit together.
    """
    return to_rgb(
        _bytes(msg.data),
        encoding=msg.encoding,
        height=msg.height,
        width=msg.width,
        step=msg.step,
        big_endian=bool(msg.is_bigendian),
        most_pixels=most_pixels,
    )


def image_from_compressed(msg: Message, *, most_pixels: int = MOST_PIXELS) -> UInt8:
    """Pixels of a ``sensor_msgs/CompressedImage`` (JPEG, PNG or whatever else the bytes say), uint8 [H, W, 3], RGB.

    ``format`` may be "jpeg" or image_transport's "rgb8; jpeg compressed bgr8"; what counts are the bytes, but for Bayer
    images that image_transport compressed as they were, which only ``format`` tells from grey ones.

    Args:
        msg: it.
        most_pixels: an image that says it has more is not decoded.

    Raises:
        ImageError: the bytes are empty, truncated, not an image, or one of too many pixels.
        MessageError: it is a depth image, or a piece of a video.
    """
    source = f"compressed image ({one_line(msg.format) or 'no format given'})"
    original, _, rest = (part.strip() for part in msg.format.partition(";"))
    compression, _, target = (part.strip() for part in rest.partition(" compressed"))
    if "compressedDepth" in (original, compression.split(" ")[0]):
        raise MessageError(f"{source} is a depth image; subscribe to a colour or grey camera")
    if is_video(msg.format, _bytes(msg.data)[:4].tobytes()):
        raise MessageError(
            f"{source} is a packet of a video, an image only together with those before it; {VIDEO_REMEDY}"
        )
    image = decode_image(_bytes(msg.data).tobytes(), source=source, most_pixels=most_pixels)
    if compression and is_mosaic(original) and target in ("", original):
        return demosaic(image[:, :, 0], original)
    return image


def is_video(stated: str, start: bytes) -> bool:
    """Whether a compressed image is a packet of a video, by its format or by its first four bytes."""
    words = stated.lower().replace(".", "").replace(";", " ").replace(",", " ").split()
    return not _VIDEO_FORMATS.isdisjoint(words) or start == b"\0\0\0\1" or start[:3] == b"\0\0\1"


def mask_from_message(msg: Message) -> UInt8:
    """Class ids of a mono8 ``sensor_msgs/Image``, uint8 [H, W], a view of the message. Raises MessageError."""
    return to_mask(_bytes(msg.data), encoding=msg.encoding, height=msg.height, width=msg.width, step=msg.step)


def image_to_message(image: UInt8, header: Message, *, encoding: str = "rgb8", types: MessageTypes) -> Message:
    """An image as ``sensor_msgs/Image``.

    Args:
        image: uint8 [H, W, 3], channels in the order that ``encoding`` says.
        header: taken over as it is.
        encoding: rgb8 or bgr8.
        types: the family of message classes, the header's own.
    """
    return _image_message(image, header, encoding, types)


def jpeg_to_message(jpeg: UInt8, header: Message, *, types: MessageTypes) -> Message:
    """A JPEG, uint8 [N], as ``sensor_msgs/CompressedImage`` with the format that image_transport writes for rgb8."""
    msg = types.CompressedImage(header=header, format="rgb8; jpeg compressed bgr8", data=[])
    msg.data = types.pack(np.ascontiguousarray(jpeg).ravel())
    return msg


def mask_to_message(mask: UInt8, header: Message, *, types: MessageTypes) -> Message:
    """Class ids (or a confidence map), uint8 [H, W], as mono8 ``sensor_msgs/Image`` without row padding."""
    return _image_message(mask, header, "mono8", types)


def detections_to_message(
    detections: Detections, header: Message, *, names: Sequence[str] = DETECTION.names, types: MessageTypes
) -> Message:
    """Detections as ``vision_msgs/Detection2DArray``: one hypothesis a box, its ``class_id`` the class name.

    Boxes stay in source pixels; every ``Detection2D`` carries the source header too. ``names`` are the classes of the
    model that detected.
    """
    return _boxes_to_message(detections.boxes_xyxy, detections.labels, detections.scores, None, header, names, types)


def truth_to_message(
    boxes: TruthBoxes, header: Message, *, names: Sequence[str] = DETECTION.names, types: MessageTypes
) -> Message:
    """Annotated boxes as ``vision_msgs/Detection2DArray``: score 1, a second hypothesis ``CROWD`` for crowds.

    ``names`` are the detection classes of the data set.
    """
    ones = np.ones(len(boxes), np.float32)
    return _boxes_to_message(boxes.boxes_xyxy, boxes.labels, ones, boxes.crowd.tolist(), header, names, types)


def boxes_to_centers(boxes_xyxy: Float32) -> npt.NDArray[np.float64]:
    """Corners, float32 [N, 4] xyxy, as ``BoundingBox2D`` has them: float64 [N, 4], centre x, y and size x, y."""
    corners = boxes_xyxy.astype(np.float64).reshape(-1, 4)
    return np.concatenate([(corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]], axis=1)


def detections_from_message(msg: Message, *, names: Sequence[str] = DETECTION.names) -> Detections:
    """Detections of a ``vision_msgs/Detection2DArray``, best score first.

    Of several hypotheses the best one counts; detections without a hypothesis are left out. Labels are places in
    ``names``.

    Raises:
        VocabularyMismatchError: a class name is not one of ``names``.
    """
    detections = [detection for detection in msg.detections if detection.results]
    best = [max(detection.results, key=lambda result: result.hypothesis.score) for detection in detections]
    scores = np.array([result.hypothesis.score for result in best], np.float32)
    labels = _labels([result.hypothesis.class_id for result in best], names)
    order = np.argsort(-scores, kind="stable")
    return Detections(_corners(detections)[order], scores[order], labels[order])


def truth_boxes_from_message(msg: Message, *, names: Sequence[str] = DETECTION.names) -> TruthBoxes:
    """Annotated boxes of a ``vision_msgs/Detection2DArray`` in message order, of older bags too.

    Raises:
        VocabularyMismatchError: a class name is not one of ``names``, of which labels are places.
    """
    detections = [detection for detection in msg.detections if detection.results]
    return TruthBoxes(
        _corners(detections),
        _labels([detection.results[0].hypothesis.class_id for detection in detections], names),
        np.array([_is_crowd(detection) for detection in detections], np.bool_),
    )


def label_info_to_message(
    vocabulary: Vocabulary, header: Message, *, threshold: float = 0.0, types: MessageTypes
) -> Message:
    """The classes of a task as ``vision_msgs/LabelInfo``; in a mask, pixel value = ``class_id``.

    Args:
        vocabulary: the task's.
        header: taken over as it is.
        threshold: least confidence of a class; 0 because a mask has the most probable class in every pixel.
        types: the family of message classes, the header's own.
    """
    return types.LabelInfo(
        header=header,
        class_map=[types.VisionClass(class_id=index, class_name=name) for index, name in enumerate(vocabulary.names)],
        threshold=float(threshold),
    )


def vision_info_to_message(
    manifest: Manifest, header: Message, *, database_location: str, database_version: int, types: MessageTypes
) -> Message:
    """Which model detects, as ``vision_msgs/VisionInfo``.

    Args:
        manifest: the model's; ``method`` is its preset and the first digits of its weights' hash.
        header: taken over as it is.
        database_location: topic of the ``LabelInfo`` that lists the class names.
        database_version: counts the lists that there have been under this topic.
        types: the family of message classes, the header's own.
    """
    return types.VisionInfo(
        header=header,
        method=f"{manifest.preset} {manifest.weights_sha256[:12]}".strip(),
        database_location=database_location,
        database_version=database_version,
    )


def check_label_info(msg: Message, vocabulary: Vocabulary, *, source: str) -> None:
    """Raise VocabularyMismatchError unless a ``vision_msgs/LabelInfo`` lists the vocabulary's classes."""
    found = {int(entry.class_id): one_line(entry.class_name) for entry in msg.class_map}
    if found != dict(enumerate(vocabulary.names)):
        differs = difference([found[index] for index in sorted(found)], vocabulary.names) or "numbers them differently"
        raise VocabularyMismatchError(
            f"{source}: its {vocabulary.task} classes are not {', '.join(vocabulary.names)}: it {differs}; "
            "bags are measured by these classes, so take a model and annotation of them"
        )


def _bytes(data: Any) -> UInt8:
    """A ``uint8[]`` field of either family (numpy array, array.array or bytes) as uint8 [N], without a copy."""
    return data if isinstance(data, np.ndarray) else np.frombuffer(data, np.uint8)


def _image_message(pixels: UInt8, header: Message, encoding: str, types: MessageTypes) -> Message:
    """Pixels, uint8 [H, W] or [H, W, C], without row padding."""
    height, width = pixels.shape[:2]
    msg = types.Image(
        header=header,
        height=height,
        width=width,
        encoding=encoding,
        is_bigendian=0,
        step=pixels.size // height,
        data=[],
    )
    # Not in the constructor: rclpy's copies its data once more than the setter does.
    msg.data = types.pack(np.ascontiguousarray(pixels))
    return msg


def _pack_array(pixels: UInt8) -> "array.array[int]":
    """What rclpy's setters take unseen: they look at every element of anything but an ``array.array``."""
    packed = array.array("B")
    packed.frombytes(pixels.data)
    return packed


def _boxes_to_message(
    boxes_xyxy: Float32,
    labels: Int32,
    scores: Float32,
    crowd: list[bool] | None,
    header: Message,
    names: Sequence[str],
    types: MessageTypes,
) -> Message:
    centers_and_sizes = boxes_to_centers(boxes_xyxy).tolist()
    detections = []
    for index, (label, score) in enumerate(zip(labels.tolist(), scores.tolist(), strict=True)):
        x, y, size_x, size_y = centers_and_sizes[index]
        class_ids = [names[label], CROWD] if crowd is not None and crowd[index] else [names[label]]
        hypotheses = [types.ObjectHypothesis(class_id=class_id, score=score) for class_id in class_ids]
        center = types.Pose2D(position=types.Point2D(x=x, y=y), theta=0.0)
        box = types.BoundingBox2D(center=center, size_x=size_x, size_y=size_y)
        results = [types.ObjectHypothesisWithPose(hypothesis=each, pose=types.no_pose) for each in hypotheses]
        detections.append(types.Detection2D(header=header, results=results, bbox=box, id=""))
    return types.Detection2DArray(header=header, detections=detections)


def _is_crowd(detection: Message) -> bool:
    """Whether a truth box is marked as a crowd, in today's way or in that of older bags."""
    return detection.id == CROWD or any(result.hypothesis.class_id == CROWD for result in detection.results[1:])


def _corners(detections: list[Message]) -> Float32:
    """Corners of ``Detection2D`` boxes, float32 [N, 4] xyxy."""
    rows = []
    for detection in detections:
        center, size_x, size_y = detection.bbox.center.position, detection.bbox.size_x, detection.bbox.size_y
        rows.append((center.x - size_x / 2, center.y - size_y / 2, center.x + size_x / 2, center.y + size_y / 2))
    return np.array(rows, np.float64).reshape(-1, 4).astype(np.float32)


def _labels(found: list[str], names: Sequence[str]) -> Int32:
    ids = {name: index for index, name in enumerate(names)}
    unknown = sorted({name for name in found if name not in ids})
    if unknown:
        raise VocabularyMismatchError(
            f"object class '{one_line(unknown[0])}' is not one of {', '.join(names)}; "
            "bags are measured by these classes, so take a model and annotation of them, with the names as class_id"
        )
    return np.array([ids[name] for name in found], np.int32)
