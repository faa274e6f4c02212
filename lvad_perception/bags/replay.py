"""Replay of a bag: runs a model on its images and writes a bag with the predictions."""

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from tqdm import tqdm

from lvad_perception.bags.cameras import Camera, find_cameras, report_video_packets
from lvad_perception.bags.error_log import ErrorLog, message_text, report_to_stderr
from lvad_perception.bags.frames import Frame, decode_frame
from lvad_perception.bags.overlay_video import write_overlay_video
from lvad_perception.bags.paths import check_output
from lvad_perception.bags.reader import BagReader, open_bag
from lvad_perception.bags.writer import BagWriter, Storage, create_bag
from lvad_perception.errors import BagError, ImageError, MessageError
from lvad_perception.messages import (
    Message,
    detections_to_message,
    label_info_to_message,
    mask_to_message,
    rosbags_types,
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
from lvad_perception.types import Predictions
from lvad_perception.vocabulary import Vocabulary


@dataclass(frozen=True, slots=True)
class ReplaySummary:
    """Counts and times of a replay.

    Attributes:
        cameras: image topic -> number of processed images.
        skipped: image topic -> number of images that could not be used; each was reported.
        detections: boxes written, all images together.
        seconds: wall-clock time.
        engine_ms: mean engine time of an image in milliseconds.
    """

    cameras: dict[str, int]
    skipped: dict[str, int]
    detections: int
    seconds: float
    engine_ms: float

    @property
    def images(self) -> int:
        """Number of processed images of all cameras."""
        return sum(self.cameras.values())


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
    """Run a model on every image of a bag and write a bag with its predictions.

    The output bag holds, under each camera's namespace (see ``lvad_perception.topics``), detections, masks and their
    classes, with header and bag time stamp of the source image, and byte for byte the camera's images, annotation,
    names, attributes and CameraInfo. Images that cannot be decoded, or that the bag counts but does not hold, are
    reported, counted and left out.

    Args:
        bag: bag folder, or a .mcap or .db3 file.
        perceiver: the model; an evaluation of the output needs a score threshold of 0.
        output: bag folder to create.
        topics: image topics; all cameras when empty.
        storage: storage plugin of the output.
        overwrite: replace an older output.
        images: copy the source images.
        confidence: also write the semantic confidence.
        overlay_video: video file of the first camera with the predictions drawn in, each frame at the time of its
            stamp; None for none.
        overlay_threshold: minimum score of the boxes in the video; the manifest's by default.
        report: called with one line for each image that is left out.
        progress: show a progress bar on standard error.

    Raises:
        BagError: the bag is unreadable or has no usable image, or the output cannot be written.
        EngineError: the engine failed.
    """
    bag, output = Path(bag), Path(output)
    check_output(output, overwrite=overwrite)
    if output.exists() and bag.resolve() in (output.resolve(), *output.resolve().iterdir()):
        raise BagError(f"{output} is the bag to be replayed; choose another name for the output")
    began = time.monotonic()
    errors = ErrorLog(report)
    with open_bag(bag) as reader:
        cameras = find_cameras(reader.connections, source=str(bag), topics=topics)
        if not topics:
            report_video_packets(reader.connections, cameras, errors)
        metadata = {
            **reader.custom_data,
            "lvad_weights_sha256": perceiver.manifest.weights_sha256,
            "lvad_score_threshold": str(perceiver.score_threshold),
        }
        with create_bag(output, storage=storage, overwrite=overwrite, custom_data=metadata) as writer:
            results = _ResultWriter(writer, perceiver.manifest.vocabularies, confidence=confidence)
            frames = _frames(reader, cameras, writer, errors, images=images, progress=progress)
            perceived = _perceive(frames, perceiver, results)
            if overlay_video is None:
                for _ in perceived:
                    pass
            else:
                threshold = perceiver.manifest.score_threshold if overlay_threshold is None else overlay_threshold
                write_overlay_video(
                    overlay_video,
                    perceived,
                    cameras[0],
                    score_threshold=threshold,
                    vocabularies=perceiver.manifest.vocabularies,
                )
            if not results.images:
                count = sum(errors.of(camera.topic) for camera in cameras)
                formats = "record rgb8, bgr8 or mono8 images or whole JPEGs"
                remedy = VIDEO_REMEDY if VIDEO_REMEDY in errors.last else formats
                raise BagError(f"none of the {count} images in {bag} can be decoded; {remedy}")
    processed = sum(results.images.values())
    return ReplaySummary(
        cameras={camera.topic: results.images[camera.topic] for camera in cameras},
        skipped={camera.topic: errors.of(camera.topic) for camera in cameras},
        detections=results.detections,
        seconds=time.monotonic() - began,
        engine_ms=results.engine_ns / processed / 1e6,
    )


def _frames(
    reader: BagReader, cameras: list[Camera], output: BagWriter, errors: ErrorLog, *, images: bool, progress: bool
) -> Iterator[Frame]:
    """The decodable images of a bag in the order of time; copies the cameras' topics to ``output`` on the way."""
    by_connection = {camera.connection.id: camera for camera in cameras}
    others = [connection for connection in reader.connections if _is_copied(connection, cameras)]
    indices: Counter[str] = Counter()
    total = sum(camera.connection.msgcount for camera in cameras)
    with tqdm(total=total, desc="replay", unit="image", disable=None if progress else True) as bar:
        connections = [*(camera.connection for camera in cameras), *others]
        for connection, bag_stamp_ns, raw in reader.messages(connections, errors=errors):
            camera = by_connection.get(connection.id)
            if camera is None:
                output.copy(connection, bag_stamp_ns, raw)
                continue
            bar.update()
            index = indices[camera.topic]
            indices[camera.topic] += 1
            if images:
                output.copy(connection, bag_stamp_ns, raw)
            try:
                frame = decode_frame(reader, camera, bag_stamp_ns, raw)
            except (BagError, MessageError, ImageError) as err:
                errors.add(camera.topic, message_text(index, bag_stamp_ns), err)
                continue
            yield frame


def _perceive(
    frames: Iterator[Frame], perceiver: Perceiver, results: "_ResultWriter"
) -> Iterator[tuple[Frame, Predictions]]:
    """Run the model batch by batch, and write and yield its predictions."""
    while batch := list(islice(frames, perceiver.manifest.batch_size)):
        pending = perceiver.submit([frame.image for frame in batch])
        predictions = pending.result()
        results.engine_ns += pending.timings.engine_ns
        for frame, prediction in zip(batch, predictions, strict=True):
            results.write(frame, prediction)
            yield frame, prediction


class _ResultWriter:
    """Writes predictions under the camera's namespace, and counts them."""

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
    """Whether to copy a topic: annotation, image names, attributes and calibration of the chosen cameras."""
    parent, _, name = connection.topic.rpartition("/")
    if message_type(connection.msgtype) == CAMERA_INFO or name in (NAME, ATTRIBUTES):
        return any(parent == camera.namespace for camera in cameras)
    return any(connection.topic.startswith(f"{camera.namespace}/{TRUTH}/") for camera in cameras)
