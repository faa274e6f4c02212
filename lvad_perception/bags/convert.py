"""Conversion of splits of data sets, and of videos, to bags, in bounded memory."""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
from tqdm import tqdm

from lvad_perception.bags.annotation import read_truth
from lvad_perception.bags.error_log import ErrorLog, report_to_stderr
from lvad_perception.bags.writer import BagWriter, Storage, create_bag
from lvad_perception.datasets.layout import open_split, vocabulary_name
from lvad_perception.errors import BagError, ConfigError, ImageError
from lvad_perception.media.images import decode_image
from lvad_perception.messages import (
    Message,
    image_to_message,
    label_info_to_message,
    make_header,
    mask_to_message,
    rosbags_types,
    truth_to_message,
)
from lvad_perception.topics import ATTRIBUTES, LABEL_INFO, NAME, TASK_TOPICS, TRUTH
from lvad_perception.types import UInt8
from lvad_perception.vocabulary import TASKS, VOCABULARIES, Vocabulary

DEFAULT_START_NS: Final = 1_500_000_000_000_000_000
"""Stamp of the first image, 2017-07-14 02:40 UTC; fixed, so that the same input gives the same bag."""
DEFAULT_RATE_HZ: Final = 10.0
JPEG_QUALITY: Final = 95

_FORMATS: Final = {b"\xff\xd8\xff": "jpeg", b"\x89PNG\r\n\x1a\n": "png"}
_NAMESPACE: Final = re.compile(r"(/[A-Za-z_][A-Za-z0-9_]*)+")
_LONGEST_VIDEO_NS: Final = 30 * 24 * 3600 * 1_000_000_000
_LAST_STAMP_NS: Final = (2**31 - 1) * 1_000_000_000


@dataclass(frozen=True, slots=True)
class ConversionSummary:
    """Counts of a conversion.

    Attributes:
        images: images in the bag.
        truth: task -> number of images annotated for it.
        problems: images or annotations that were left out; each was reported.
        duration_s: from the first stamp to the last.
    """

    images: int
    truth: dict[str, int]
    problems: int
    duration_s: float


def from_dataset(
    root: Path,
    split: str,
    output: Path,
    *,
    storage: Storage = "mcap",
    overwrite: bool = False,
    camera: str = "/camera",
    frame_id: str = "camera",
    rate_hz: float = DEFAULT_RATE_HZ,
    start_stamp_ns: int = DEFAULT_START_NS,
    limit: int | None = None,
    cache_dir: Path | None = None,
    report: Callable[[str], None] = report_to_stderr,
    progress: bool = False,
) -> ConversionSummary:
    """Convert a split of BDD100K or nuImages to a bag of one camera; topics as in ``lvad_perception.topics``.

    JPEG and PNG files are copied byte for byte as CompressedImage, other formats are converted to PNG. Boxes are in
    source pixels; crowds have a second hypothesis ``messages.CROWD``. An image without annotation for a task has no
    message of that task; annotated-and-empty is an empty array. The image's name, and its attributes (weather, scene
    and time of day; nuImages: camera and location) if the data set has any, are written with the image's stamp. The
    images of all cameras of nuImages are on the one camera of the bag.

    Stamps advance by 1 / ``rate_hz``, since the data sets' own time stamps belong to different videos.

    Args:
        root: folder of the data set, of a layout that ``datasets.layout`` recognizes.
        split: name of the split, such as "val".
        output: bag folder to create.
        storage: storage plugin.
        overwrite: replace an older bag.
        camera: namespace of the topics.
        frame_id: of every header.
        rate_hz: images per second.
        start_stamp_ns: stamp of the first image.
        limit: convert only the first images by name; None for all.
        cache_dir: folder of parsed labels; the user's cache folder when None.
        report: called with one line for each image or annotation that is left out.
        progress: show a progress bar on standard error.

    Raises:
        DatasetError: no such folder or split.
        LabelError: a label file cannot be read at all.
        BagError: no image can be read, or the bag cannot be written.
        ConfigError: an impossible rate, stamp, limit or camera name.
    """
    if not rate_hz > 0 or (limit is not None and limit < 1):
        raise ConfigError(f"rate {rate_hz} Hz and limit {limit} must be positive; leave them out for the defaults")
    root = Path(root)
    dataset = vocabulary_name(root)
    data = open_split(root, split, cache_dir=cache_dir)
    count = len(data) if limit is None else min(limit, len(data))
    if not 0 <= start_stamp_ns <= _LAST_STAMP_NS - int(count / rate_hz * 1e9):
        raise ConfigError(f"start stamp {start_stamp_ns} ns leaves ROS's time range; give nanoseconds since 1970")
    errors = ErrorLog(report)
    images = 0
    truth = dict.fromkeys(TASKS, 0)
    origin = {"lvad_source": dataset, "lvad_split": split}
    with create_bag(output, storage=storage, overwrite=overwrite, custom_data=origin) as bag:
        camera_writer = _CameraWriter(bag, camera, frame_id, VOCABULARIES[dataset])
        for index in tqdm(range(count), desc="convert", unit="image", disable=None if progress else True):
            path = data.image_path(index)
            try:
                encoded, image_format, size_hw = _encoded_image(path)
            except ImageError as err:
                errors.add(str(path.parent), path.name, err)
                continue
            camera_writer.start(start_stamp_ns + round(images * 1e9 / rate_hz))
            camera_writer.name(data.name_of(index))
            camera_writer.attributes(data.attributes(index))
            camera_writer.compressed(encoded, image_format)
            annotation = read_truth(data, index, size_hw, errors)
            parts = {
                "detection": annotation.boxes,
                "semantic": annotation.semantic,
                "drivable": annotation.drivable,
            }
            for task, part in parts.items():
                if part is not None:
                    camera_writer.truth(task, part)
                    truth[task] += 1
            images += 1
        if images == 0:
            raise BagError(f"no image of {root} split {split} can be read; copy the images again")
    return ConversionSummary(images, truth, errors.total, max(0, images - 1) / rate_hz)


def from_video(
    path: Path,
    output: Path,
    *,
    storage: Storage = "mcap",
    overwrite: bool = False,
    camera: str = "/camera",
    frame_id: str = "camera",
    start_stamp_ns: int = DEFAULT_START_NS,
    raw: bool = False,
    every: int = 1,
    progress: bool = False,
) -> ConversionSummary:
    """Convert a video file to a bag of one camera, with the time stamps of the video.

    Args:
        path: any video that FFmpeg decodes.
        output: bag folder to create.
        storage: storage plugin.
        overwrite: replace an older bag.
        camera: namespace of the topics.
        frame_id: of every header.
        start_stamp_ns: stamp of the video's time 0.
        raw: write lossless rgb8 Image messages instead of JPEG (quality 95) CompressedImage.
        every: N, to keep one of N frames, the first included.
        progress: show a counter on standard error.

    Raises:
        ImageError: the file is missing or no video.
        BagError: the bag cannot be written, or the video has no frame.
        ConfigError: an impossible ``every``, stamp or camera name.
    """
    from lvad_perception.media.video import read_video

    if every < 1:
        raise ConfigError(f"every {every}th frame is none; give 1 for all frames, 2 for every other")
    if not 0 <= start_stamp_ns <= _LAST_STAMP_NS - _LONGEST_VIDEO_NS:
        raise ConfigError(f"start stamp {start_stamp_ns} ns leaves ROS's time range; give nanoseconds since 1970")
    images = first_ns = last_ns = 0
    with create_bag(output, storage=storage, overwrite=overwrite, custom_data={"lvad_source": "video"}) as bag:
        camera_writer = _CameraWriter(bag, camera, frame_id)
        frames = tqdm(read_video(Path(path)), desc="convert", unit="frame", disable=None if progress else True)
        for stamp_ns, image in islice(frames, 0, None, every):
            camera_writer.start(start_stamp_ns + stamp_ns)
            if raw:
                camera_writer.raw(image)
            else:
                camera_writer.compressed(_jpeg(image), "jpeg")
            first_ns = stamp_ns if images == 0 else first_ns
            last_ns = stamp_ns
            images += 1
        if images == 0:
            raise BagError(f"{path} has no video frame; give another video")
    return ConversionSummary(images, dict.fromkeys(TASKS, 0), 0, (last_ns - first_ns) / 1e9)


class _CameraWriter:
    """Writes the topics of one camera; all messages of a frame share its header."""

    def __init__(
        self, bag: BagWriter, camera: str, frame_id: str, vocabularies: Mapping[str, Vocabulary] = TASKS
    ) -> None:
        self._bag = bag
        self._vocabularies = vocabularies
        self._camera = "/" + camera.strip("/")
        if not _NAMESPACE.fullmatch(self._camera):
            raise ConfigError(
                f"camera namespace {camera!r} is no ROS name; use letters, digits, _ and /, such as /camera"
            )
        self._frame_id = frame_id
        self._types = rosbags_types()
        self._described: set[str] = set()
        self._stamp_ns = 0
        self._header: Message = None

    def start(self, stamp_ns: int) -> None:
        self._stamp_ns = stamp_ns
        self._header = make_header(stamp_ns, self._frame_id, types=self._types)

    def name(self, name: str) -> None:
        self._write(NAME, self._types.String(data=name))

    def attributes(self, attributes: dict[str, str]) -> None:
        if attributes:
            self._write(ATTRIBUTES, self._types.String(data=json.dumps(attributes, sort_keys=True)))

    def compressed(self, encoded: bytes, image_format: str) -> None:
        data = np.frombuffer(encoded, np.uint8)
        msg = self._types.CompressedImage(header=self._header, format=image_format, data=data)
        self._write("image_raw/compressed", msg)

    def raw(self, image: UInt8) -> None:
        self._write("image_raw", image_to_message(image, self._header, types=self._types))

    def truth(self, task: str, annotation: Any) -> None:
        topic = f"{TRUTH}/{TASK_TOPICS[task]}"
        if task not in self._described:
            self._described.add(task)
            info = label_info_to_message(self._vocabularies[task], self._header, types=self._types)
            self._write(f"{topic}/{LABEL_INFO}", info, latched=True)
        if task == "detection":
            names = self._vocabularies[task].names
            msg = truth_to_message(annotation, self._header, names=names, types=self._types)
        else:
            msg = mask_to_message(annotation, self._header, types=self._types)
        self._write(topic, msg)

    def _write(self, topic: str, msg: Message, *, latched: bool = False) -> None:
        self._bag.write(f"{self._camera}/{topic}", msg, self._stamp_ns, latched=latched)


def _encoded_image(path: Path) -> tuple[bytes, str, tuple[int, int]]:
    """An image file's bytes, format and size; raises ImageError if it cannot be decoded."""
    try:
        encoded = path.read_bytes()
    except OSError as err:
        raise ImageError(f"it cannot be read ({err.strerror}); check the path and its permissions") from err
    image = decode_image(encoded, source="it")
    size_hw = (image.shape[0], image.shape[1])
    for start, image_format in _FORMATS.items():
        if encoded.startswith(start):
            return encoded, image_format, size_hw
    return cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1].tobytes(), "png", size_hw


def _jpeg(image: UInt8) -> bytes:
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    return cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].tobytes()
