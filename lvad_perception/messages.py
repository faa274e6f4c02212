"""Conversion between ROS messages and the package's types, for ROS's own message classes and for rosbags'.

Nothing here needs ROS. Builders take a ``MessageTypes``: ``ros_types()`` on a vehicle, ``rosbags_types()`` on a laptop.
Readers access fields only, so they accept the messages of either family.

Boxes are sent as centre and size in float64, from which the float32 corners are recovered to within 1e-9 px.
"""

import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Final

import numpy as np

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
class. Older bags have it in ``Detection2D.id``, vision_msgs' field for tracks."""

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
    """The message classes of one family, ROS's or rosbags'.

    Attributes:
        pack: converts a contiguous uint8 array to the type that the family's ``data`` fields store without checking
            each element.
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
    """Stamp of a header in nanoseconds."""
    return int(header.stamp.sec) * 1_000_000_000 + int(header.stamp.nanosec)


def make_header(stamp: int, frame_id: str, *, types: MessageTypes) -> Message:
    """Make a ``std_msgs/Header``; ``stamp`` is in nanoseconds."""
    return types.Header(stamp=types.Time(sec=stamp // 1_000_000_000, nanosec=stamp % 1_000_000_000), frame_id=frame_id)


def image_from_message(msg: Message, *, most_pixels: int = MOST_PIXELS) -> UInt8:
    """Pixels of a ``sensor_msgs/Image``.

    Args:
        msg: the message.
        most_pixels: images with more pixels are refused.

    Returns:
        uint8 [H, W, 3], RGB. It may share the message's memory: do not write to it.

    Raises:
        MessageError: the encoding is not a colour or grey one, or size, step and data are inconsistent.
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
    """Pixels of a ``sensor_msgs/CompressedImage``, uint8 [H, W, 3], RGB.

    The decoder is chosen by the bytes (JPEG, PNG, ...), not by ``format``, which may be "jpeg" or image_transport's
    "rgb8; jpeg compressed bgr8". Only Bayer images need ``format``: image_transport compresses them without
    demosaicing, so their bytes look like a grey image's.

    Args:
        msg: the message.
        most_pixels: an image with more pixels by its header is not decoded.

    Raises:
        ImageError: the bytes are empty, truncated or not an image, or the image has too many pixels.
        MessageError: it is a depth image or a packet of a video.
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


def is_video(format_field: str, start: bytes) -> bool:
    """Whether a compressed image is a packet of a video, by its ``format`` field or its first four bytes."""
    words = format_field.lower().replace(".", "").replace(";", " ").replace(",", " ").split()
    return not _VIDEO_FORMATS.isdisjoint(words) or start == b"\0\0\0\1" or start[:3] == b"\0\0\1"


def mask_from_message(msg: Message) -> UInt8:
    """Class ids of a mono8 ``sensor_msgs/Image``: uint8 [H, W], a view of the message. Raises MessageError."""
    return to_mask(_bytes(msg.data), encoding=msg.encoding, height=msg.height, width=msg.width, step=msg.step)


def image_to_message(image: UInt8, header: Message, *, encoding: str = "rgb8", types: MessageTypes) -> Message:
    """Make a ``sensor_msgs/Image``.

    Args:
        image: uint8 [H, W, 3], channels in the order of ``encoding``.
        header: used unchanged.
        encoding: rgb8 or bgr8.
        types: the header's family of message classes.
    """
    return _image_message(image, header, encoding, types)


def jpeg_to_message(jpeg: UInt8, header: Message, *, types: MessageTypes) -> Message:
    """Make a ``sensor_msgs/CompressedImage`` of JPEG bytes, uint8 [N], with image_transport's format for rgb8."""
    msg = types.CompressedImage(header=header, format="rgb8; jpeg compressed bgr8", data=[])
    msg.data = types.pack(np.ascontiguousarray(jpeg).ravel())
    return msg


def mask_to_message(mask: UInt8, header: Message, *, types: MessageTypes) -> Message:
    """Make a mono8 ``sensor_msgs/Image`` of class ids or a confidence map, uint8 [H, W], without row padding."""
    return _image_message(mask, header, "mono8", types)


def detections_to_message(
    detections: Detections, header: Message, *, names: Sequence[str] = DETECTION.names, types: MessageTypes
) -> Message:
    """Make a ``vision_msgs/Detection2DArray``; see ``DetectionMessages``, which is faster for many messages."""
    return DetectionMessages(names, types).build(detections, header)


def truth_to_message(
    boxes: TruthBoxes, header: Message, *, names: Sequence[str] = DETECTION.names, types: MessageTypes
) -> Message:
    """Annotated boxes as ``vision_msgs/Detection2DArray``: score 1, a second hypothesis ``CROWD`` for crowds.

    ``names`` are the detection classes of the data set.
    """
    certain = Detections(boxes.boxes_xyxy, np.ones(len(boxes), np.float32), boxes.labels)
    msg = detections_to_message(certain, header, names=names, types=types)
    for detection, crowd in zip(msg.detections, boxes.crowd.tolist(), strict=True):
        if crowd:
            hypothesis = types.ObjectHypothesis(class_id=CROWD, score=1.0)
            detection.results.append(types.ObjectHypothesisWithPose(hypothesis=hypothesis, pose=types.no_pose))
    return msg


class DetectionMessages:
    """Builds ``vision_msgs/Detection2DArray`` messages from parts that it reuses. Not thread-safe.

    Each box has one hypothesis, whose ``class_id`` is the class name. The constructor of a ROS message makes a default
    for every field, recursively: for 100 boxes, each with a covariance of 36 numbers, that takes longer than publishing
    them. Setting the fields of existing parts is an order of magnitude faster.

    Args:
        names: the model's classes of objects, in id order.
        types: the family of message classes.
    """

    def __init__(self, names: Sequence[str], types: MessageTypes) -> None:
        self._names = names
        self._types = types
        self._parts: list[tuple[Message, Message, Message, Message]] = []  # detection, its box, centre and hypothesis

    def build(self, detections: Detections, header: Message) -> Message:
        """Build one message.

        Args:
            detections: boxes in the pixels of the message, source or network.
            header: the source image's; used unchanged in the array and in each detection.

        Returns:
            A message that is valid until the next call: publish or serialise it before.
        """
        while len(self._parts) < len(detections):
            self._parts.append(self._make_part(header))
        parts = self._parts[: len(detections)]
        corners = detections.boxes_xyxy.astype(np.float64).reshape(-1, 4)
        rows = np.concatenate([(corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]], axis=1).tolist()
        for (detection, box, center, hypothesis), row, label, score in zip(
            parts, rows, detections.labels.tolist(), detections.scores.tolist(), strict=True
        ):
            detection.header = header
            center.x, center.y, box.size_x, box.size_y = row
            hypothesis.class_id = self._names[label]
            hypothesis.score = score
        return self._types.Detection2DArray(header=header, detections=[part[0] for part in parts])

    def _make_part(self, header: Message) -> tuple[Message, Message, Message, Message]:
        """A detection with its box, centre and hypothesis; rosbags' constructors require every field."""
        types = self._types
        hypothesis = types.ObjectHypothesis(class_id="", score=0.0)
        center = types.Point2D(x=0.0, y=0.0)
        box = types.BoundingBox2D(center=types.Pose2D(position=center, theta=0.0), size_x=0.0, size_y=0.0)
        results = [types.ObjectHypothesisWithPose(hypothesis=hypothesis, pose=types.no_pose)]
        return types.Detection2D(header=header, results=results, bbox=box, id=""), box, center, hypothesis


def detections_from_message(msg: Message, *, names: Sequence[str] = DETECTION.names) -> Detections:
    """Detections of a ``vision_msgs/Detection2DArray``, best score first.

    Of several hypotheses the one with the best score is used; detections without a hypothesis are left out. Labels are
    indices into ``names``.

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
    """Annotated boxes of a ``vision_msgs/Detection2DArray`` in message order; reads older bags too.

    Raises:
        VocabularyMismatchError: a class name is not one of ``names``, into which labels are indices.
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
    """The classes of a task as ``vision_msgs/LabelInfo``; the pixel values of a mask are these ``class_id``.

    Args:
        vocabulary: the task's classes.
        header: used unchanged.
        threshold: least confidence of a class; 0 because each pixel of a mask has its most probable class.
        types: the header's family of message classes.
    """
    return types.LabelInfo(
        header=header,
        class_map=[types.VisionClass(class_id=index, class_name=name) for index, name in enumerate(vocabulary.names)],
        threshold=float(threshold),
    )


def vision_info_to_message(
    manifest: Manifest, header: Message, *, database_location: str, database_version: int, types: MessageTypes
) -> Message:
    """The detecting model as ``vision_msgs/VisionInfo``; ``method`` is its preset and the start of its weights' hash.

    Args:
        manifest: the model's.
        header: used unchanged.
        database_location: topic of the ``LabelInfo`` that lists the class names.
        database_version: number of different class lists that this topic has had.
        types: the header's family of message classes.
    """
    return types.VisionInfo(
        header=header,
        method=f"{manifest.preset} {manifest.weights_sha256[:12]}".strip(),
        database_location=database_location,
        database_version=database_version,
    )


def check_label_info(msg: Message, vocabulary: Vocabulary, *, source: str) -> None:
    """Raise VocabularyMismatchError unless a ``vision_msgs/LabelInfo`` lists exactly the vocabulary's classes."""
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
    # rclpy's constructor makes one more copy of the data than its setter.
    msg.data = types.pack(np.ascontiguousarray(pixels))
    return msg


def _pack_array(pixels: UInt8) -> "array.array[int]":
    """An ``array.array``, the only type whose elements rclpy's setters do not check one by one."""
    packed = array.array("B")
    packed.frombytes(pixels.data)
    return packed


def _is_crowd(detection: Message) -> bool:
    """Whether a truth box is marked as a crowd, also as older bags mark it."""
    return detection.id == CROWD or any(result.hypothesis.class_id == CROWD for result in detection.results[1:])


def _corners(detections: list[Message]) -> Float32:
    """Boxes of ``Detection2D`` messages, float32 [N, 4] xyxy."""
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
