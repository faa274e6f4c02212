"""Where the time of a frame goes: decode, preprocess, engine, postprocess, messages; median and 99th percentile."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from lvad_perception.errors import BagError, ConfigError, DatasetError, ImageError, MessageError
from lvad_perception.images import decode_image
from lvad_perception.messages import (
    Message,
    detections_to_message,
    make_header,
    mask_to_message,
    rosbags_types,
    rosbags_typestore,
)
from lvad_perception.perceiver import Perceiver
from lvad_perception.types import Predictions, Size, UInt8

STAGES: Final = ("decode", "preprocess", "engine", "postprocess", "messages")
IMAGE_SUFFIXES: Final = (".jpg", ".jpeg", ".png")

Decode = Callable[[], UInt8]
"""One frame, still encoded; calling it gives uint8 [H, W, 3] RGB."""


@dataclass(frozen=True, slots=True)
class BenchmarkResult:
    """Times per frame, in milliseconds.

    Attributes:
        source: what the frames are.
        engine: the engine's description.
        network_hw: size of the network input.
        batch_size: images in one run of the engine; its stages' times are shared out among them.
        size_hw: size of the first frame.
        samples_ms: stage -> float64 [frames].
    """

    source: str
    engine: str
    network_hw: Size
    batch_size: int
    size_hw: Size
    samples_ms: dict[str, npt.NDArray[np.float64]]

    @property
    def total_ms(self) -> npt.NDArray[np.float64]:
        """All stages of each frame, float64 [frames]."""
        return np.asarray(np.sum([self.samples_ms[stage] for stage in STAGES], axis=0))

    @property
    def overhead_ms(self) -> npt.NDArray[np.float64]:
        """All stages but the engine, float64 [frames]."""
        return np.asarray(self.total_ms - self.samples_ms["engine"])

    def to_dict(self) -> dict[str, Any]:
        """Everything that the table shows, ready for JSON."""
        rows = {**self.samples_ms, "total": self.total_ms, "overhead": self.overhead_ms}
        return {
            "source": self.source,
            "engine": self.engine,
            "network_hw": list(self.network_hw),
            "batch_size": self.batch_size,
            "size_hw": list(self.size_hw),
            "frames": len(self.total_ms),
            "frames_per_second": 1e3 / float(self.total_ms.mean()),
            "stages_ms": {name: {"median": _median(row), "p99": _p99(row)} for name, row in rows.items()},
        }

    def to_text(self) -> str:
        """A table for people."""
        total = self.total_ms
        lines = [
            f"{len(total)} frames of {self.source}, {self.size_hw[1]}x{self.size_hw[0]} pixels",
            f"{self.engine}; input {self.network_hw[1]}x{self.network_hw[0]}, batch {self.batch_size}",
            "",
            f"{'ms per frame':<14}{'median':>9}{'p99':>9}{'share':>8}",
        ]
        for stage in STAGES:
            row = self.samples_ms[stage]
            share = 100 * float(row.sum() / total.sum())
            lines.append(f"{stage:<14}{_median(row):>9.2f}{_p99(row):>9.2f}{share:>7.1f}%")
        lines.append(
            f"{'total':<14}{_median(total):>9.2f}{_p99(total):>9.2f}{1e3 / float(total.mean()):>7.1f} frames/s"
        )
        overhead, share = self.overhead_ms, 100 * float(self.overhead_ms.sum() / total.sum())
        lines.append(f"{'beside engine':<14}{_median(overhead):>9.2f}{_p99(overhead):>9.2f}{share:>7.1f}%")
        return "\n".join(lines)


def run_benchmark(
    perceiver: Perceiver,
    frames: Iterator[Decode],
    *,
    source: str,
    count: int = 200,
    warm_up: int = 5,
    progress: bool = False,
) -> BenchmarkResult:
    """Time ``count`` frames.

    Args:
        perceiver: what is timed.
        frames: encoded frames, endless or at least ``warm_up + count``; a shorter iterator gives fewer samples.
        source: what the frames are, for the table.
        count: frames to time.
        warm_up: frames to run before.
        progress: show a bar on standard error.

    Raises:
        ConfigError: ``count`` is below 1, or there was no frame after the warm-up.
        EngineError: the engine failed.
    """
    if count < 1 or warm_up < 0:
        raise ConfigError(f"{count} frames after {warm_up} cannot be timed; give --frames 1 or more")
    batch_size = perceiver.manifest.batch_size
    for decode in islice(frames, warm_up):
        for prediction in perceiver([decode()]):
            _publish(prediction, 0)
    samples: dict[str, list[float]] = {stage: [] for stage in STAGES}
    size_hw = (0, 0)
    with tqdm(total=count, desc="bench", unit="frame", disable=None if progress else True) as bar:
        while len(samples["engine"]) < count and (batch := list(islice(frames, batch_size))):
            began = time.perf_counter_ns()
            images = [decode() for decode in batch]
            decoded = time.perf_counter_ns()
            predictions = perceiver(images)
            timings = perceiver.last_timings
            assert timings is not None
            perceived = time.perf_counter_ns()
            for index, prediction in enumerate(predictions):
                _publish(prediction, index)
            published = time.perf_counter_ns()
            spans_ns = {
                "decode": decoded - began,
                "preprocess": timings.preprocess_ns,
                "engine": timings.engine_ns,
                "postprocess": timings.postprocess_ns,
                "messages": published - perceived,
            }
            for stage, span_ns in spans_ns.items():
                samples[stage] += [span_ns / len(batch) / 1e6] * len(batch)
            size_hw = size_hw if size_hw != (0, 0) else predictions[0].size_hw
            bar.update(len(batch))
    if not samples["engine"]:
        raise ConfigError(f"{source} has no frame left after {warm_up} of warm-up; give more frames")
    arrays = {stage: np.array(values[:count]) for stage, values in samples.items()}
    return BenchmarkResult(source, perceiver.description, perceiver.manifest.network_hw, batch_size, size_hw, arrays)


def synthetic_frames(size_hw: Size = (720, 1280)) -> Iterator[Decode]:
    """Endless JPEGs of rendered shapes, as smooth and as detailed as a road scene."""
    random = np.random.default_rng(0)
    encoded = []
    for _ in range(8):
        coarse = random.integers(0, 256, (size_hw[0] // 40 + 1, size_hw[1] // 40 + 1, 3), np.uint8)
        image = cv2.resize(coarse, (size_hw[1], size_hw[0]), interpolation=cv2.INTER_CUBIC)
        image = cv2.add(image, random.integers(0, 12, image.shape, np.uint8))
        encoded.append(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes())
    return cycle([_decoder(data, "synthetic frame") for data in encoded])


def folder_frames(folder: Path) -> Iterator[Decode]:
    """The JPEG and PNG files of a folder, again and again. Raises DatasetError when there is none."""
    paths = (
        sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES) if folder.is_dir() else []
    )
    if not paths:
        raise DatasetError(f"{folder} has no .jpg or .png file; name a folder of images or a bag")

    def frames() -> Iterator[Decode]:
        for path in cycle(paths):
            try:
                yield _decoder(path.read_bytes(), str(path))
            except OSError as err:
                raise ImageError(f"{path} cannot be read ({err.strerror}); check its permissions") from err

    return frames()


def bag_frames(bag: Path) -> Iterator[Decode]:
    """The images of a bag's cameras, again and again; malformed ones are left out. Raises BagError."""
    from lvad_perception.bags.cameras import find_cameras
    from lvad_perception.bags.replay import decode_frame
    from lvad_perception.bags.storage import open_bag

    while True:
        usable = 0
        with open_bag(bag) as reader:
            cameras = {camera.topic: camera for camera in find_cameras(reader.connections, source=str(bag))}
            for connection, stamp_ns, raw in reader.messages([camera.connection for camera in cameras.values()]):
                camera = cameras[connection.topic]
                try:
                    decode_frame(reader, camera, stamp_ns, raw)
                except (BagError, MessageError, ImageError):
                    continue
                usable += 1
                yield partial(_image_of, decode_frame, reader, camera, stamp_ns, raw)
        if not usable:
            raise BagError(f"{bag} has no image that can be decoded; name another bag")


def _decoder(data: bytes, source: str) -> Decode:
    return partial(decode_image, data, source=source)


def _image_of(decode: Callable[..., Any], *message: Any) -> UInt8:
    image: UInt8 = decode(*message).image
    return image


def _publish(predictions: Predictions, index: int) -> None:
    """Build and serialise the messages of one frame, as publishing does."""
    types, store = rosbags_types(), rosbags_typestore()
    header = make_header(index, "camera", types=types)
    messages: list[Message] = []
    if predictions.detections is not None:
        messages.append(detections_to_message(predictions.detections, header, types=types))
    for mask in (predictions.semantic, predictions.drivable):
        if mask is not None:
            messages.append(mask_to_message(mask, header, types=types))
    for msg in messages:
        store.serialize_cdr(msg, msg.__msgtype__)


def _median(values: npt.NDArray[np.float64]) -> float:
    return float(np.median(values))


def _p99(values: npt.NDArray[np.float64]) -> float:
    return float(np.percentile(values, 99))
