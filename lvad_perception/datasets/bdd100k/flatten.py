"""Parses a label source into the flat arrays that ``index.LabelTable`` stores."""

from array import array
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lvad_perception.datasets.bdd100k.categories import detection_class, is_drivable, is_known, normalise
from lvad_perception.datasets.bdd100k.labels import FrameBytes, frames_of
from lvad_perception.datasets.formats import OtherFormatError


@dataclass(slots=True)
class LabelProblems:
    """Faults of a source that reading tolerates, for ``data check``.

    Attributes:
        unknown_categories: category -> number of labels skipped; categories of other tasks are not counted.
        shapeless: traffic objects without rectangle, polygon and run lengths; skipped.
        degenerate_boxes: (frame, number of boxes without area); the boxes are skipped.
        duplicates: frames that the source lists more than once; the first entry is used, and of a folder's files the
            one that is named after its frame.
        other_formats: file -> its format, "COCO's format"; skipped.
    """

    unknown_categories: dict[str, int] = field(default_factory=dict)
    shapeless: int = 0
    degenerate_boxes: list[tuple[str, int]] = field(default_factory=list)
    duplicates: list[str] = field(default_factory=list)
    other_formats: dict[str, str] = field(default_factory=dict)


def read_source(source: Path, files: list[tuple[str, int, int]]) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
    """Read every frame of a source into flat arrays, frames sorted by name.

    Values are appended to typed buffers, so that memory holds the Python objects of one frame at a time.

    Args:
        source: a label file, or a folder of per-frame files.
        files: (path, size, modification time) of each file of the source.

    Returns:
        The arrays of ``index.LabelTable`` by name, and its metadata.

    Raises:
        LabelError: the source cannot be read as labels.
    """
    names: dict[str, None] = {}
    box_count, boxes, labels, crowd = array("q"), array("f"), array("B"), array("B")
    attribute, timestamp, shapes = array("i"), array("q"), array("B")
    file, offset, length = array("i"), array("q"), array("q")
    file_ids = {Path(path): index for index, (path, _, _) in enumerate(files)}
    attribute_ids: dict[tuple[tuple[str, str], ...], int] = {}
    problems = LabelProblems()
    has_drivable = False
    own_files = {path.stem for path in file_ids} if source.is_dir() else set()
    for entry in _frames_of(list(file_ids), problems.other_formats):
        frame = entry.frame
        name = frame.stem
        is_copy = name in own_files and entry.file.stem != name  # "a (1).json" beside "a.json"
        if name in names or is_copy:
            problems.duplicates.append(name)
            continue
        names[name] = None
        before, empty, shaped = len(labels), 0, False
        for label in frame.all_labels:
            category = normalise(label.category)
            has_shape = label.has_shape
            shaped |= has_shape
            known = detection_class(category)
            if known is None:
                if is_drivable(category):
                    has_drivable |= has_shape
                elif not is_known(category):
                    word = label.category or "(none)"
                    problems.unknown_categories[word] = problems.unknown_categories.get(word, 0) + 1
                continue
            box = label.box2d
            if box is None:
                problems.shapeless += not has_shape
                continue
            x2, y2 = box.x2 + 1, box.y2 + 1
            if not (x2 > box.x1 and y2 > box.y1):
                empty += 1
                continue
            boxes.extend((box.x1, box.y1, x2, y2))
            labels.append(known[0])
            crowd.append(known[1] or label.is_crowd)
        if empty:
            problems.degenerate_boxes.append((name, empty))
        box_count.append(len(labels) - before)
        key = tuple(frame.attribute_texts().items())
        attribute.append(attribute_ids.setdefault(key, len(attribute_ids)))
        stamp = frame.timestamp_ms
        timestamp.append(-1 if stamp is None else stamp)
        shapes.append(shaped)
        file.append(file_ids[entry.file])
        offset.append(entry.offset)
        length.append(entry.length)

    name_array = np.array([name.encode(errors="replace") for name in names], np.bytes_)
    order = np.argsort(name_array, kind="stable")
    counts = np.frombuffer(box_count, np.int64) if len(box_count) else np.zeros(0, np.int64)
    starts = np.concatenate([[0], np.cumsum(counts)])[:-1]
    sorted_counts = counts[order]
    box_start = np.concatenate([[0], np.cumsum(sorted_counts)]).astype(np.int64)
    # A box's index before sorting is its frame's old start plus its position within the frame.
    within = np.arange(box_start[-1]) - np.repeat(box_start[:-1], sorted_counts)
    box_order = np.repeat(starts[order], sorted_counts) + within
    arrays: dict[str, npt.NDArray[Any]] = {
        "names": name_array[order],
        "box_start": box_start,
        "boxes": np.array(boxes, np.float32).reshape(-1, 4)[box_order],
        "labels": np.array(labels, np.uint8)[box_order],
        "crowd": np.array(crowd, np.bool_)[box_order],
        "attribute": np.array(attribute, np.int32)[order],
        "timestamp": np.array(timestamp, np.int64)[order],
        "file": np.array(file, np.int32)[order],
        "offset": np.array(offset, np.int64)[order],
        "length": np.array(length, np.int64)[order],
        "shapes": np.array(shapes, np.bool_)[order],
    }
    meta = {
        "source": str(source),
        "files": files,
        "attributes": [dict(key) for key in attribute_ids],
        "has_drivable": has_drivable,
        "problems": asdict(problems),
    }
    return arrays, meta


def _frames_of(files: list[Path], other_formats: dict[str, str]) -> Iterator[FrameBytes]:
    """The frames of files; files of another format are skipped and recorded in ``other_formats``."""
    for file in files:
        try:
            yield from frames_of(file)
        except OtherFormatError as err:
            other_formats[str(file)] = err.format_name
