"""A replayed bag, and the training run behind its model, as one HTML report."""

import json
import platform
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from lvad_perception import __version__
from lvad_perception.bags.cameras import Camera, find_cameras
from lvad_perception.bags.evaluate import evaluate_bag
from lvad_perception.bags.storage import BagReader, open_bag
from lvad_perception.errors import BagError, DatasetError, ImageError, MessageError
from lvad_perception.messages import (
    Message,
    detections_from_message,
    image_from_compressed,
    image_from_message,
    mask_from_message,
    stamp_ns,
    truth_boxes_from_message,
)
from lvad_perception.metrics import Metrics
from lvad_perception.overlay import draw_predictions, draw_truth
from lvad_perception.problems import tell_stderr
from lvad_perception.report import Overlay, write_report
from lvad_perception.topics import NAME, Side, side_of
from lvad_perception.types import Predictions, Truth, UInt8

CURVE, METRICS = "losses.jsonl", "metrics.json"
MAX_POINTS: Final = 2000


@dataclass(slots=True)
class _Example:
    """An image of the bag and what is known of it so far; (task, is truth) -> message."""

    image: UInt8
    caption: str
    parts: dict[tuple[str, bool], Message] = field(default_factory=dict)

    def overlay(self, score_threshold: float) -> Overlay:
        """The image beside its annotation and predictions."""
        size_hw = (self.image.shape[0], self.image.shape[1])

        def mask(task: str, is_truth: bool) -> UInt8 | None:
            msg = self.parts.get((task, is_truth))
            return None if msg is None else mask_from_message(msg)

        found = self.parts.get(("detection", False))
        known = self.parts.get(("detection", True))
        predictions = Predictions(
            size_hw,
            None if found is None else detections_from_message(found),
            mask("semantic", False),
            mask("drivable", False),
        )
        truth = Truth(
            size_hw,
            None if known is None else truth_boxes_from_message(known),
            mask("semantic", True),
            mask("drivable", True),
        )
        has_truth = any(is_truth for _, is_truth in self.parts)
        return Overlay(
            self.caption,
            self.image,
            draw_truth(self.image, truth) if has_truth else None,
            draw_predictions(self.image, predictions, score_threshold=score_threshold),
        )


def report_bag(
    bag: Path,
    output: Path,
    *,
    training: Path | None = None,
    examples: int = 8,
    score_threshold: float = 0.3,
    commands: tuple[str, ...] = (),
    tell: Callable[[str], None] = tell_stderr,
    progress: bool = False,
) -> Metrics:
    """Write a report of a bag with predictions and annotation.

    Args:
        bag: what ``replay`` wrote, or a recording of the node with annotation.
        output: HTML file to write.
        training: folder of the training run, whose losses and metrics are shown too; None shows none.
        examples: so many images, evenly spread over the bag, are shown with annotation and predictions.
        score_threshold: boxes below it are not drawn; all of them count in the metrics.
        commands: command lines to show as those that made the results.
        tell: is handed one line for each message that is left out.
        progress: show a bar on standard error.

    Raises:
        BagError: as ``evaluate_bag`` says, or the bag holds no images.
        DatasetError: ``training`` is not the folder of a training run.
    """
    curves, trained = _training(training)
    metrics = evaluate_bag(bag, tell=tell, progress=progress)
    with open_bag(bag) as reader:
        shown = _examples(reader, examples)
    overlays = [example.overlay(score_threshold) for example in shown]
    evaluations = {f"Replayed bag {bag.name}": metrics}
    if trained is not None:
        evaluations["Checkpoint on the data set, in torch"] = trained
    total = curves.get("total", [])
    summary = f"{len(total)} training steps, " if total else ""
    write_report(
        output,
        title="LV-Adapter perception",
        summary=f"{summary}evaluated on the predictions in {bag.name}.",
        facts={
            "lvad_perception": __version__,
            "Python": platform.python_version(),
            "numpy": np.__version__,
            "machine": f"{platform.machine()}, {platform.system()}",
            "boxes drawn from a score of": score_threshold,
        },
        commands=commands,
        curves=curves,
        metrics=evaluations,
        overlays=overlays,
    )
    return metrics


def _training(folder: Path | None) -> tuple[dict[str, list[tuple[float, float]]], Metrics | None]:
    """Loss curves, the total first, and the metrics of a training run."""
    if folder is None:
        return {}, None
    curves: dict[str, list[tuple[float, float]]] = {"total": []}
    try:
        lines = (folder / CURVE).read_text(encoding="utf-8").splitlines()
        for line in lines[:: max(1, len(lines) // MAX_POINTS)]:
            step = json.loads(line)
            for name, value in step["terms"].items():
                curves.setdefault(name, []).append((float(step["step"]), float(value)))
        plain: dict[str, Any] | None = json.loads((folder / METRICS).read_text(encoding="utf-8"))
    except (OSError, ValueError, KeyError, TypeError) as err:
        raise DatasetError(
            f"{folder} is not the folder of a finished training run ({CURVE} and {METRICS}: {err}); "
            "give the output folder of lvad-train run, or leave --training out"
        ) from err
    return curves, None if plain is None else Metrics.from_dict(plain)


def _examples(reader: BagReader, count: int) -> list[_Example]:
    """Images of the first camera, evenly spread, with their messages of the same stamp."""
    camera = find_cameras(reader.connections, source=str(reader.path))[0]
    found = _images(reader, camera, count)
    sides: dict[str, Side] = {}
    for connection in reader.connections:
        side = side_of(connection.topic, connection.msgtype)
        if side is not None and side.camera == camera.namespace and not side.label_info:
            sides[connection.topic] = side
    wanted = [connection for connection in reader.connections if connection.topic in sides]
    for connection, _, raw in reader.messages(wanted):
        try:
            msg = reader.deserialize(raw, connection)
        except BagError:
            continue  # the evaluation has told of it
        example = found.get(stamp_ns(msg.header))
        if example is not None:
            side = sides[connection.topic]
            example.parts[side.task, side.truth] = msg
    return [found[stamp] for stamp in sorted(found) if found[stamp].parts]


def _images(reader: BagReader, camera: Camera, count: int) -> dict[int, _Example]:
    """Header stamp -> decoded image, of ``count`` readable images."""
    names = dict(_names(reader, camera))
    picks = set(np.linspace(0, camera.connection.msgcount - 1, max(1, count)).round().astype(int).tolist())
    found: dict[int, _Example] = {}
    for index, (connection, bag_stamp_ns, raw) in enumerate(reader.messages([camera.connection])):
        if index not in picks:
            continue
        try:
            msg = reader.deserialize(raw, connection)
            image = image_from_compressed(msg) if camera.compressed else image_from_message(msg)
        except (BagError, ImageError, MessageError):
            continue  # the replay has told of it
        found[stamp_ns(msg.header)] = _Example(image, names.get(bag_stamp_ns, f"{camera.topic} {index}"))
    return found


def _names(reader: BagReader, camera: Camera) -> list[tuple[int, str]]:
    """Bag time stamp -> name of the image in its data set, where the bag has names."""
    topic = f"{camera.namespace}/{NAME}"
    connections = [connection for connection in reader.connections if connection.topic == topic]
    named = []
    for connection, stamp, raw in reader.messages(connections):
        try:
            named.append((stamp, str(reader.deserialize(raw, connection).data)))
        except (BagError, AttributeError):
            continue
    return named
