"""HTML report of a replayed bag, and of the training run of its model."""

import json
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from lvad_perception import __version__
from lvad_perception.bags.cameras import Camera, find_cameras
from lvad_perception.bags.error_log import report_to_stderr
from lvad_perception.bags.evaluate import pair_bag, unpaired_is_bag_error
from lvad_perception.bags.frames import decode_message
from lvad_perception.bags.pairing import frame_key
from lvad_perception.bags.reader import BagReader, open_bag
from lvad_perception.errors import BagError, ImageError, MessageError
from lvad_perception.messages import (
    Message,
    detections_from_message,
    mask_from_message,
    stamp_ns,
    truth_boxes_from_message,
)
from lvad_perception.metrics import FrameMetadata, Metrics
from lvad_perception.report import Run, write_report
from lvad_perception.report.evaluation import Evaluation, KeptFrame, frames_to_keep, keep_frame
from lvad_perception.report.folder import read_run
from lvad_perception.topics import ATTRIBUTES, NAME, Side, side_of
from lvad_perception.types import Predictions, Size, Truth, UInt8

_Parts = dict[tuple[str, bool], Message]


@dataclass(slots=True)
class _Frame:
    """An image to show, with its messages so far: (task, is truth) -> message."""

    name: str
    image: UInt8 | None = None
    parts: _Parts = field(default_factory=dict)


def report_bag(
    bag: Path,
    output: Path,
    *,
    training: Path | None = None,
    examples: int = 8,
    score_threshold: float = 0.3,
    commands: tuple[str, ...] = (),
    report: Callable[[str], None] = report_to_stderr,
    progress: bool = False,
) -> Metrics:
    """Write a report of a bag with predictions and annotation.

    Args:
        bag: the output of ``replay``, or a recording of the node with annotation.
        output: HTML file to write.
        training: folder of the training run to show beside the bag; None for none.
        examples: number of worst images to show, besides a few spread evenly over the bag.
        score_threshold: boxes below it are neither drawn nor in the confusions; all count in the metrics.
        commands: command lines to show as the origin of the results.
        report: called with one line for each message that is left out.
        progress: show a progress bar on standard error.

    Raises:
        BagError: as of ``evaluate_bag``, or the bag has no images.
        DatasetError: ``training`` is not the folder of a training run.
    """
    trained = None if training is None else read_run(training, "Checkpoint on the data set, in torch")
    evaluation = examine_bag(bag, worst=examples, score_threshold=score_threshold, report=report, progress=progress)
    runs = [Run(f"Replayed bag {bag.name}", evaluation=evaluation)]
    steps = 0
    if trained is not None:
        runs.append(replace(trained, metadata={"folder": training}))
        steps = int(trained.losses["total"][-1][0]) if trained.losses.get("total") else 0
    write_report(
        output,
        title="LV-Adapter perception",
        summary=f"{f'{steps:,} training steps, ' if steps else ''}evaluated on the predictions in {bag.name}.",
        runs=runs,
        metadata={
            "lvad_perception": __version__,
            "Python": platform.python_version(),
            "numpy": np.__version__,
            "machine": f"{platform.machine()}, {platform.system()}",
            "boxes drawn from a score of": score_threshold,
        },
        commands=commands,
        frames=examples,
        score_threshold=score_threshold,
    )
    return evaluation.findings.metrics


def examine_bag(
    bag: Path,
    *,
    worst: int,
    score_threshold: float,
    report: Callable[[str], None] = report_to_stderr,
    progress: bool = False,
) -> Evaluation:
    """The evaluation that a report shows of a bag; arguments and exceptions as of ``report_bag``.

    Names and attributes of images come from the bag's messages with the same stamp, where there are any.
    """
    bag = Path(bag)
    with open_bag(bag) as reader, unpaired_is_bag_error(bag):
        stamps: dict[str, int] = {}
        pairing = pair_bag(reader, report=report, progress=progress, stamps=stamps)
        cameras = find_cameras(reader.connections, source=str(reader.path))
        metadata = _metadata(reader, cameras, stamps)
        objects = pairing.vocabularies["detection"].names
        findings = pairing.findings(metadata, score_threshold=score_threshold)
        names = frames_to_keep(findings, worst)
        shown = {key: _Frame(frame.name) for key, frame in metadata.items() if frame.name in names}
        for camera in cameras:
            _fill(reader, camera, shown)
    frames = {frame.name: kept for frame in shown.values() if (kept := _kept(frame, objects)) is not None}
    return Evaluation(findings, tuple(frames[name] for name in names if name in frames), {"data": bag.name})


def _metadata(reader: BagReader, cameras: Sequence[Camera], stamps: Mapping[str, int]) -> dict[str, FrameMetadata]:
    """Metadata of each annotated image by its ``frame_key``; ``stamps`` holds the bag time stamps."""
    names = {camera.namespace: _texts(reader, camera, NAME) for camera in cameras}
    attributes = {camera.namespace: _texts(reader, camera, ATTRIBUTES) for camera in cameras}
    metadata = {}
    for key, bag_stamp_ns in stamps.items():
        camera, _, stamp = key.rpartition(" ")
        name = names.get(camera, {}).get(bag_stamp_ns) or f"{int(stamp) / 1e9:.3f} s"
        if len(cameras) > 1:
            name = f"{camera} {name}"
        metadata[key] = FrameMetadata(name, _attributes(attributes.get(camera, {}).get(bag_stamp_ns)))
    return metadata


def _attributes(text: str | None) -> dict[str, str]:
    try:
        loaded: Any = json.loads(text or "{}")
    except (ValueError, RecursionError):
        return {}
    return {str(key): str(value) for key, value in loaded.items()} if isinstance(loaded, dict) else {}


def _texts(reader: BagReader, camera: Camera, topic: str) -> dict[int, str]:
    """Bag time stamp -> text of a std_msgs/String topic of a camera, such as the image's name in its data set."""
    topic = f"{camera.namespace}/{topic}"
    connections = [connection for connection in reader.connections if connection.topic == topic]
    texts = {}
    for connection, stamp, raw in reader.messages(connections):
        try:
            texts[stamp] = str(reader.deserialize(raw, connection).data)
        except (BagError, AttributeError):
            continue
    return texts


def _fill(reader: BagReader, camera: Camera, frames: Mapping[str, _Frame]) -> None:
    """Add the camera's images, predictions and annotation to the frames."""
    sides: dict[str, Side] = {}
    for connection in reader.connections:
        side = side_of(connection.topic, connection.msgtype)
        if side is not None and side.camera == camera.namespace and not side.label_info:
            sides[connection.topic] = side
    others = [connection for connection in reader.connections if connection.topic in sides]
    for connection, _, raw in reader.messages([camera.connection, *others]):
        try:
            msg = reader.deserialize(raw, connection)
            frame = frames.get(frame_key(camera.namespace, stamp_ns(msg.header)))
            if frame is None:
                continue
            if connection.topic in sides:
                side = sides[connection.topic]
                frame.parts[side.task, side.truth] = msg
            else:
                frame.image = decode_message(msg, compressed=camera.compressed)
        except (BagError, ImageError, MessageError):
            continue  # replay and evaluation have reported it


def _kept(frame: _Frame, objects: Sequence[str]) -> KeptFrame | None:
    """The frame at the report's size; None when its image is not in the bag. ``objects`` are the detection classes."""
    if frame.image is None:
        return None
    size_hw: Size = (frame.image.shape[0], frame.image.shape[1])

    def mask(task: str, is_truth: bool) -> UInt8 | None:
        msg = frame.parts.get((task, is_truth))
        return None if msg is None else mask_from_message(msg)

    predicted, truth = frame.parts.get(("detection", False)), frame.parts.get(("detection", True))
    return keep_frame(
        frame.name,
        frame.image,
        Truth(
            size_hw,
            None if truth is None else truth_boxes_from_message(truth, names=objects),
            mask("semantic", True),
            mask("drivable", True),
        ),
        Predictions(
            size_hw,
            None if predicted is None else detections_from_message(predicted, names=objects),
            mask("semantic", False),
            mask("drivable", False),
        ),
    )
