"""Parses the tables of a version into flat arrays, with annotation in drawing order."""

from array import array
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from lvad_perception.datasets.cache import Arrays, FileStat, Meta
from lvad_perception.datasets.nuimages.categories import class_id
from lvad_perception.datasets.nuimages.records import (
    CalibratedSensor,
    Category,
    Log,
    ObjectAnn,
    Sample,
    SampleData,
    Sensor,
    SurfaceAnn,
    Table,
)
from lvad_perception.errors import LabelError
from lvad_perception.media.images import is_image_name
from lvad_perception.vocabulary import UNLABELED

ANNOTATION_ARRAYS: Final = ("start", "label", "token", "offset", "length")
FRAME_ARRAYS: Final = ("names", "files", "size_hw", "camera", "location")

_EXAMPLES: Final = 5
_LONGEST_PATH: Final = 1024
_UNKNOWN: Final = ""


@dataclass(slots=True)
class TableProblems:
    """Faults of the tables that reading tolerates, for ``data check``.

    Attributes:
        dangling: foreign key, as "object_ann.category_token" -> (number of rows whose key matches no row, tokens of the
            first of them).
        unknown_categories: category -> number of annotations.
        duplicates: names of images that several key frames refer to; the first key frame is used.
        degenerate_boxes: (number of objects whose box has no area, tokens of the first of them).
        maskless: objects without a mask; they are skipped, since nothing of them is visible.
    """

    dangling: dict[str, tuple[int, list[str]]] = field(default_factory=dict)
    unknown_categories: dict[str, int] = field(default_factory=dict)
    duplicates: list[str] = field(default_factory=list)
    degenerate_boxes: tuple[int, list[str]] = (0, [])
    maskless: int = 0

    def add_dangling(self, key: str, token: str) -> None:
        """Record a row whose foreign key matches no row of the other table."""
        self.dangling[key] = _counted(self.dangling.get(key, (0, [])), token)

    def add_degenerate(self, token: str) -> None:
        """Record an object whose box has no area."""
        self.degenerate_boxes = _counted(self.degenerate_boxes, token)


def read_version(folder: Path, files: list[FileStat]) -> tuple[Arrays, Meta]:
    """Read the tables of a version.

    Args:
        folder: ``v1.0-train`` or another version.
        files: path, size and modification time of its tables.

    Returns:
        The arrays of ``table.VersionTable`` by name, and its metadata.

    Raises:
        LabelError: a table is missing or is not of the schema.
    """
    problems = TableProblems()
    frames = _Frames(folder, problems)
    order = np.argsort(frames.name_array(), kind="stable")
    row_of = np.empty(len(order), np.int64)
    row_of[order] = np.arange(len(order))
    categories = {row.token: row.name for row in Table(folder, "category", Category)}
    arrays = frames.arrays(order)
    for name, kind in (("object_ann", ObjectAnn), ("surface_ann", SurfaceAnn)):
        rows = _read_annotations(Table(folder, name, kind), frames.index_of, categories, problems)
        frame = row_of[np.array(rows.frame, np.int64)]
        # The devkit's drawing order: surfaces in the order of their table, objects by token.
        drawing = np.lexsort((rows.token_array(), frame)) if rows.with_boxes else np.argsort(frame, kind="stable")
        arrays |= {f"{name}.{key}": values for key, values in rows.arrays(drawing).items()}
        arrays[f"{name}.start"] = np.searchsorted(frame[drawing], np.arange(len(order) + 1)).astype(np.int64)
    meta = {
        "files": files,
        "cameras": frames.cameras,
        "locations": frames.locations,
        "problems": asdict(problems),
    }
    return arrays, meta


class _Frames:
    """The key frames of cameras: annotated images, in the order of ``sample_data``."""

    def __init__(self, folder: Path, problems: TableProblems) -> None:
        sensors = {row.token: row for row in Table(folder, "sensor", Sensor)}
        calibrated = {row.token: row.sensor_token for row in Table(folder, "calibrated_sensor", CalibratedSensor)}
        locations = {row.token: row.location for row in Table(folder, "log", Log)}
        logs = {row.token: row.log_token for row in Table(folder, "sample", Sample)}
        self.index_of: dict[str, int] = {}
        self.names: dict[str, int] = {}
        self.cameras: list[str] = []
        self.locations: list[str] = []
        self._files: list[bytes] = []
        self._sizes, self._camera, self._location = array("i"), array("i"), array("i")
        for row in Table(folder, "sample_data", SampleData):
            file_name = row.filename.rpartition("/")[2]
            if not row.is_key_frame or not is_image_name(file_name):
                continue
            if (fault := _file_name_fault(row.filename)) is not None:
                raise LabelError(
                    f"{folder / 'sample_data.json'}: the file name {row.filename[:80]!r} of {row.token[:40]} {fault}; "
                    "unpack nuImages' own metadata"
                )
            sensor = sensors.get(calibrated.get(row.calibrated_sensor_token, _UNKNOWN))
            if sensor is None:
                problems.add_dangling("sample_data.calibrated_sensor_token", row.token)
            elif sensor.modality != "camera":
                continue
            log = logs.get(row.sample_token)
            if log is None:
                problems.add_dangling("sample_data.sample_token", row.token)
            elif log not in locations:
                problems.add_dangling("sample.log_token", row.sample_token)
            stem = file_name.rpartition(".")[0]
            if stem in self.names:
                problems.duplicates.append(stem)
                self.index_of[row.token] = self.names[stem]
                continue
            self.index_of[row.token] = self.names[stem] = len(self.names)
            self._files.append(row.filename.encode(errors="replace"))
            self._sizes.extend((row.height or 0, row.width or 0))
            self._camera.append(_index_in(self.cameras, sensor.channel if sensor is not None else _UNKNOWN))
            self._location.append(_index_in(self.locations, locations.get(log or _UNKNOWN, _UNKNOWN)))

    def name_array(self) -> npt.NDArray[np.bytes_]:
        """Names of the images, without folder and suffix, UTF-8."""
        return np.array([name.encode(errors="replace") for name in self.names], np.bytes_)

    def arrays(self, order: npt.NDArray[np.int64]) -> Arrays:
        """``FRAME_ARRAYS``, reordered."""
        return {
            "names": self.name_array()[order],
            "files": np.array(self._files, np.bytes_)[order],
            "size_hw": np.array(self._sizes, np.int32).reshape(-1, 2)[order],
            "camera": np.array(self._camera, np.int16)[order],
            "location": np.array(self._location, np.int16)[order],
        }


@dataclass(slots=True)
class _Annotations:
    """Rows of ``object_ann`` (with boxes) or ``surface_ann`` (without) that belong to a frame, in typed buffers."""

    with_boxes: bool
    frame: "array[int]" = field(default_factory=lambda: array("q"))
    label: "array[int]" = field(default_factory=lambda: array("B"))
    offset: "array[int]" = field(default_factory=lambda: array("q"))
    length: "array[int]" = field(default_factory=lambda: array("i"))
    boxes: "array[float]" = field(default_factory=lambda: array("f"))
    tokens: list[bytes] = field(default_factory=list)

    def token_array(self) -> npt.NDArray[np.bytes_]:
        return np.array(self.tokens, np.bytes_)

    def arrays(self, order: npt.NDArray[np.int64]) -> Arrays:
        arrays: Arrays = {
            "label": np.array(self.label, np.uint8)[order],
            "token": self.token_array()[order],
            "offset": np.array(self.offset, np.int64)[order],
            "length": np.array(self.length, np.int32)[order],
        }
        if self.with_boxes:
            arrays["boxes"] = np.array(self.boxes, np.float32).reshape(-1, 4)[order]
        return arrays


def _read_annotations(
    table: Table[Any], index_of: dict[str, int], categories: dict[str, str], problems: TableProblems
) -> _Annotations:
    name = table.file.stem
    rows = _Annotations(with_boxes=name == "object_ann")
    for row in table:
        frame = index_of.get(row.sample_data_token)
        if frame is None:
            problems.add_dangling(f"{name}.sample_data_token", row.token)
            continue
        category = categories.get(row.category_token)
        label = class_id(category) if category is not None else None
        if category is None:
            problems.add_dangling(f"{name}.category_token", row.token)
        elif label is None:
            problems.unknown_categories[category] = problems.unknown_categories.get(category, 0) + 1
        mask = table.locate(row.mask)
        rows.frame.append(frame)
        rows.label.append(UNLABELED if label is None else label)
        rows.tokens.append(row.token.encode(errors="replace"))
        rows.offset.append(mask.offset)
        rows.length.append(mask.length)
        if rows.with_boxes:
            problems.maskless += not mask.length
            x1, y1, x2, y2 = row.bbox
            rows.boxes.extend((x1, y1, x2, y2))
            if not (x2 > x1 and y2 > y1):
                problems.add_degenerate(row.token)
    return rows


def _file_name_fault(filename: str) -> str | None:
    """Why an image's file name is not a path below the data set's folder; None where it is."""
    if PurePosixPath(filename).is_absolute() or PureWindowsPath(filename).anchor:
        return "is absolute"
    if ".." in PurePosixPath(filename.replace("\\", "/")).parts:
        return "leaves the data set's folder"
    if "\0" in filename or len(filename.encode(errors="replace")) > _LONGEST_PATH:
        return "holds a NUL" if "\0" in filename else f"is longer than {_LONGEST_PATH} bytes"
    return None


def _counted(counted: tuple[int, list[str]], token: str) -> tuple[int, list[str]]:
    count, examples = counted
    return count + 1, [*examples, token][:_EXAMPLES]


def _index_in(known: list[str], name: str) -> int:
    if name not in known:
        known.append(name)
    return known.index(name)
