"""A recorded bag -> Perceiver -> a bag with predictions, as the node would have published them. Streams."""

import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final

from tqdm import tqdm

from lvad_perception.bags.cameras import Camera, find_cameras, tell_of_videos
from lvad_perception.bags.paths import check_output
from lvad_perception.bags.problems import Problems, message_text, report_to_stderr
from lvad_perception.bags.storage import BagReader, BagWriter, Storage, create_bag, open_bag
from lvad_perception.errors import BagError, ImageError, MessageError
from lvad_perception.media.images import jpeg_damage
from lvad_perception.messages import (
    Message,
    detections_to_message,
    image_from_compressed,
    image_from_message,
    label_info_to_message,
    mask_to_message,
    rosbags_types,
    stamp_ns,
)
from lvad_perception.perceiver import Perceiver
from lvad_perception.topics import (
    ATTRIBUTES,
    CAMERA_INFO,
    CONFIDENCE,
    LABEL_INFO,
    NAME,
    TRUTH,
    VIDEO_REMEDY,
    message_type,
)
from lvad_perception.types import Predictions, UInt8
from lvad_perception.vocabulary import Vocabulary

LONGEST_SHOWN_NS: Final = 1_000_000_000
"""So long a frame of the overlay video stays at most: a pause of the recording, or between two, is cut to it."""
_UNKNOWN_STEP_NS: Final = 100_000_000


@dataclass(frozen=True, slots=True)
class ReplaySummary:
    """What a replay did.

    Attributes:
        cameras: image topic -> images that were processed.
        skipped: image topic -> images that were left out or could not be read; each was told.
        detections: boxes written, all images together.
        seconds: wall clock.
        engine_ms: mean engine time of an image in milliseconds.
    """

    cameras: dict[str, int]
    skipped: dict[str, int]
    detections: int
    seconds: float
    engine_ms: float

    @property
    def images(self) -> int:
        """Images that were processed, all cameras together."""
        return sum(self.cameras.values())


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One image of a bag.

    Attributes:
        camera: where it comes from.
        header: its message's header.
        stamp_ns: the bag's time stamp of the message.
        image: uint8 [H, W, 3], RGB; not to be written to.
    """

    camera: Camera
    header: Message
    stamp_ns: int
    image: UInt8


def replay(
    bag: Path,
    perceiver: Perceiver,
    output: Path,
    *,
    topics: Collection[str] = (),
    storage: Storage = "mcap",
    overwrite: bool = False,
    images: bool = True,
    confidence: bool = False,
    overlay_video: Path | None = None,
    overlay_threshold: float | None = None,
    report: Callable[[str], None] = report_to_stderr,
    progress: bool = False,
) -> ReplaySummary:
    """Run the perception on every image of a bag.

    The output bag holds, under each camera's namespace (see ``lvad_perception.topics``), detections, masks and their
    classes, with header and bag time stamp of the source image, and byte for byte the camera's images, annotation,
    names, attributes and CameraInfo. An image that cannot be decoded, or that the bag promises and does not hold, is
    told, counted and left out.

    Args:
        bag: bag folder, or a .mcap or .db3 file.
        perceiver: for evaluation with a score threshold of 0.
        output: bag folder to create.
        topics: image topics; all cameras when empty.
        storage: storage plugin of the output.
        overwrite: replace an older output.
        images: copy the source images.
        confidence: also write the semantic confidence.
        overlay_video: file for a video of the first camera with the predictions drawn in, each frame at the time of its
            stamp; None for none.
        overlay_threshold: least score of boxes in the video; None is the manifest's.
        report: is handed one line for each image that is left out.
        progress: show a bar on standard error.

    Raises:
        BagError: the bag is unreadable or has no usable image, or the output cannot be written.
        EngineError: the engine failed.
    """
    bag, output = Path(bag), Path(output)
    check_output(output, overwrite=overwrite)
    if output.exists() and bag.resolve() in (output.resolve(), *output.resolve().iterdir()):
        raise BagError(f"{output} is the bag to be replayed; choose another name for the output")
    began = time.monotonic()
    problems = Problems(report)
    with open_bag(bag) as reader:
        cameras = find_cameras(reader.connections, source=str(bag), topics=topics)
        if not topics:
            tell_of_videos(reader.connections, cameras, problems)
        metadata = {
            **reader.custom_data,
            "lvad_weights_sha256": perceiver.manifest.weights_sha256,
            "lvad_score_threshold": str(perceiver.score_threshold),
        }
        with create_bag(output, storage=storage, overwrite=overwrite, custom_data=metadata) as writer:
            results = _ResultWriter(writer, perceiver.manifest.vocabularies, confidence=confidence)
            frames = _frames(reader, cameras, writer, problems, images=images, progress=progress)
            seen = _perceive(frames, perceiver, results)
            if overlay_video is None:
                for _ in seen:
                    pass
            else:
                threshold = perceiver.manifest.score_threshold if overlay_threshold is None else overlay_threshold
                _film(seen, overlay_video, cameras[0], threshold, perceiver.manifest.vocabularies)
            if not results.images:
                count = sum(problems.of(camera.topic) for camera in cameras)
                raise BagError(
                    f"none of the {count} images in {bag} can be decoded; "
                    + (
                        VIDEO_REMEDY
                        if VIDEO_REMEDY in problems.last
                        else "record rgb8, bgr8 or mono8 images or whole JPEGs"
                    )
                )
    processed = sum(results.images.values())
    return ReplaySummary(
        cameras={camera.topic: results.images[camera.topic] for camera in cameras},
        skipped={camera.topic: problems.of(camera.topic) for camera in cameras},
        detections=results.detections,
        seconds=time.monotonic() - began,
        engine_ms=results.engine_ns / processed / 1e6,
    )


def decode_frame(reader: BagReader, camera: Camera, bag_stamp_ns: int, raw: bytes) -> Frame:
    """An image message as a frame. Raises BagError, MessageError or ImageError when it is malformed."""
    msg = reader.deserialize(raw, camera.connection)
    return Frame(camera, msg.header, bag_stamp_ns, decode_message(msg, compressed=camera.compressed))


def decode_message(msg: Message, *, compressed: bool) -> UInt8:
    """Pixels of an image message, uint8 [H, W, 3], RGB, of whole images only.

    Raises:
        MessageError: as ``image_from_message`` and ``image_from_compressed``.
        ImageError: as ``image_from_compressed``, and a JPEG that is damaged inside.
    """
    if not compressed:
        return image_from_message(msg)
    image = image_from_compressed(msg)
    damage = jpeg_damage(bytes(msg.data))
    if damage is not None:
        raise ImageError(f"compressed image ({msg.format or 'no format given'}) is damaged: {damage}; record it again")
    return image


def _frames(
    reader: BagReader, cameras: list[Camera], copy: BagWriter, problems: Problems, *, images: bool, progress: bool
) -> Iterator[Frame]:
    """The decodable images of a bag in the order of time; what belongs to the cameras is copied on the way."""
    by_connection = {camera.connection.id: camera for camera in cameras}
    others = [connection for connection in reader.connections if _is_copied(connection, cameras)]
    indices: Counter[str] = Counter()
    total = sum(camera.connection.msgcount for camera in cameras)
    with tqdm(total=total, desc="replay", unit="image", disable=None if progress else True) as bar:
        wanted = [*(camera.connection for camera in cameras), *others]
        for connection, bag_stamp_ns, raw in reader.messages(wanted, problems=problems):
            camera = by_connection.get(connection.id)
            if camera is None:
                copy.copy(connection, bag_stamp_ns, raw)
                continue
            bar.update()
            index = indices[camera.topic]
            indices[camera.topic] += 1
            if images:
                copy.copy(connection, bag_stamp_ns, raw)
            try:
                frame = decode_frame(reader, camera, bag_stamp_ns, raw)
            except (BagError, MessageError, ImageError) as err:
                problems.add(camera.topic, message_text(index, bag_stamp_ns), err)
                continue
            yield frame


def _perceive(
    frames: Iterator[Frame], perceiver: Perceiver, results: "_ResultWriter"
) -> Iterator[tuple[Frame, Predictions]]:
    """Run the engine on as many frames at a time as it takes, and write what it says."""
    while batch := list(islice(frames, perceiver.manifest.batch_size)):
        pending = perceiver.submit([frame.image for frame in batch])
        predictions = pending.result()
        results.engine_ns += pending.timings.engine_ns
        for frame, prediction in zip(batch, predictions, strict=True):
            results.write(frame, prediction)
            yield frame, prediction


class _ResultWriter:
    """Writes predictions under the camera's namespace; counts what it wrote."""

    def __init__(self, bag: BagWriter, vocabularies: Mapping[str, Vocabulary], *, confidence: bool) -> None:
        self.images: Counter[str] = Counter()
        self.detections = 0
        self.engine_ns = 0
        self._bag = bag
        self._vocabularies = vocabularies
        self._confidence = confidence
        self._types = rosbags_types()
        self._described: set[str] = set()

    def write(self, frame: Frame, predictions: Predictions) -> None:
        camera = frame.camera
        self.images[camera.topic] += 1
        if predictions.detections is not None:
            self.detections += len(predictions.detections)
            names = self._vocabularies["detection"].names
            msg = detections_to_message(predictions.detections, frame.header, names=names, types=self._types)
            self._write("detection", msg, frame)
        for task, mask in (("semantic", predictions.semantic), ("drivable", predictions.drivable)):
            if mask is not None:
                self._write(task, mask_to_message(mask, frame.header, types=self._types), frame)
        if self._confidence and predictions.semantic_confidence is not None:
            msg = mask_to_message(predictions.semantic_confidence, frame.header, types=self._types)
            self._bag.write(f"{camera.namespace}/{CONFIDENCE}", msg, frame.stamp_ns)

    def _write(self, task: str, msg: Message, frame: Frame) -> None:
        topic = frame.camera.result(task)
        if topic not in self._described:
            self._described.add(topic)
            info = label_info_to_message(self._vocabularies[task], frame.header, types=self._types)
            self._bag.write(f"{topic}/{LABEL_INFO}", info, frame.stamp_ns, latched=True)
        self._bag.write(topic, msg, frame.stamp_ns)


def _is_copied(connection: Any, cameras: list[Camera]) -> bool:
    """Whether a topic is annotation, image names and attributes or calibration of one of the cameras."""
    parent, _, name = connection.topic.rpartition("/")
    if message_type(connection.msgtype) == CAMERA_INFO or name in (NAME, ATTRIBUTES):
        return any(parent == camera.namespace for camera in cameras)
    return any(connection.topic.startswith(f"{camera.namespace}/{TRUTH}/") for camera in cameras)


def _film(
    seen: Iterator[tuple[Frame, Predictions]],
    path: Path,
    camera: Camera,
    threshold: float,
    vocabularies: Mapping[str, Vocabulary],
) -> None:
    from lvad_perception.media.overlay import draw_predictions
    from lvad_perception.media.video import write_video

    times: deque[int] = deque()

    def drawn() -> Iterator[UInt8]:
        clock = video_clock()
        for frame, predictions in seen:
            if frame.camera is camera:
                times.append(clock(stamp_ns(frame.header) or frame.stamp_ns))
                yield draw_predictions(frame.image, predictions, score_threshold=threshold, vocabularies=vocabularies)

    write_video(path, drawn(), 1e9 / _UNKNOWN_STEP_NS, times_ns=iter(times.popleft, None))
    for _ in seen:  # a video writer may stop early
        pass


def video_clock() -> Callable[[int], int]:
    """A function from the stamps of a video's frames, one after the other, to the times at which they are shown.

    Times are nanoseconds from 0 on. They run as the stamps do, but for pauses, which are cut to ``LONGEST_SHOWN_NS``,
    and stamps that stand still or jump back: such a frame is shown one step after the one before it.
    """
    last_ns = time_ns = 0
    step_ns = _UNKNOWN_STEP_NS
    first = True

    def shown_at(stamp: int) -> int:
        nonlocal last_ns, time_ns, step_ns, first
        if not first:
            if stamp > last_ns:
                step_ns = min(stamp - last_ns, LONGEST_SHOWN_NS)
            time_ns += step_ns
        first, last_ns = False, stamp
        return time_ns

    return shown_at
