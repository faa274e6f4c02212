"""The node's parameters: each stated once, with name, default, range, meaning and conversion to the code's units.

A field of ``NodeParameters`` or ``CameraParameters`` is one parameter. ``TABLE`` lists them all; the declaration in ROS
(``declaration.py``), the checks, the example file and the documentation use it. Launch files repeat no default. Nothing
here needs ROS.
"""

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Final

from lvad_perception.engines import PRECISIONS, RUNTIMES
from lvad_perception.errors import ConfigError
from lvad_perception.media.image_header import MOST_PIXELS
from lvad_perception.node.ros_parameter import Change, Parameter, parameter_field

CLASS_PREFIX: Final = "class_score_threshold"
"""First part of the names of the thresholds of single classes."""


def _unless_negative(value: float) -> float | None:
    return None if value < 0 else value


@dataclass(frozen=True, slots=True, kw_only=True)
class CameraParameters:
    """The parameters of one camera, in the units of the code.

    Attributes:
        name: first part of the names of its parameters and output topics.
        reliable: ask for reliable delivery instead of best effort; with ``lossless`` always.
        min_interval_s: least time between two processed frames in seconds, 0 for no limit.
        most_pixels: images with more pixels are refused.
    """

    name: str
    image_topic: str = parameter_field(
        "<camera>.image_topic",
        "<camera>/image_raw",
        "Topic of the camera's images, sensor_msgs/Image or sensor_msgs/CompressedImage.",
        is_topic=True,
    )
    transport: str = parameter_field(
        "<camera>.transport",
        "auto",
        "Message type of the images: raw, compressed (as in image_transport, /compressed is appended to the topic "
        "where missing), or auto: compressed if the topic ends in /compressed, else raw.",
        choices=("auto", "raw", "compressed"),
    )
    reliable: bool = parameter_field(
        "<camera>.reliability",
        "best_effort",
        "Reliability of the subscription: best_effort receives from every publisher and never waits for lost packets; "
        "reliable has lost packets sent again and receives from reliable publishers only.",
        choices=("best_effort", "reliable"),
        convert=lambda text: text == "reliable",
    )
    min_interval_s: float = parameter_field(
        "<camera>.max_rate_hz",
        0.0,
        "Maximum number of frames processed per second, always the newest; 0 for no limit.",
        bounds=(0.0, 1000.0),
        change=Change.ANY_TIME,
        convert=lambda rate_hz: 1.0 / rate_hz if rate_hz > 0 else 0.0,
    )
    camera_info_topic: str = parameter_field(
        "<camera>.camera_info_topic",
        "",
        "Topic of the camera's sensor_msgs/CameraInfo, republished beside the results; empty for none.",
        is_topic=True,
    )
    most_pixels: int = parameter_field(
        "<camera>.max_megapixels",
        MOST_PIXELS / 1e6,
        "Maximum size of an image in megapixels; a larger one is refused by its header, before it is decoded.",
        bounds=(0.0001, MOST_PIXELS / 1e6),
        convert=lambda megapixels: round(1e6 * megapixels),
    )

    @property
    def compressed(self) -> bool:
        """Whether the topic carries CompressedImage, not Image."""
        return self.transport == "compressed" or (self.transport == "auto" and self._ends_compressed)

    @property
    def topic(self) -> str:
        """The topic to subscribe to, with ``/compressed`` appended where the transport needs it."""
        return f"{self.image_topic}/compressed" if self.compressed and not self._ends_compressed else self.image_topic

    @property
    def _ends_compressed(self) -> bool:
        return self.image_topic.endswith("/compressed")


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeParameters:
    """All parameters, checked, in the units of the code.

    Attributes:
        score_threshold: in [0, 1], or None for the model file's own.
        class_thresholds: name of the parameter -> threshold in [0, 1], for the classes that have one of their own.
        network_size: results have the size of the model's input, not of the source image.
        threads: CPU threads of the engine, or None for the runtime's choice.
        runtime: name of the runtime, "auto", or None for the one whose numbers are the same on every machine.
        precision: of the engine, or None for that of the model file.
    """

    model: Path = parameter_field(  # noqa: RUF009 a field of the dataclass, not a default
        "model",
        "",
        "Model file: .onnx from lvad-train export, or the TensorRT engine that lvad-perception optimize made of it; a "
        "leading ~ is the home folder.",
        convert=lambda text: Path(text).expanduser(),
    )
    cameras: tuple[CameraParameters, ...] = parameter_field(
        "cameras",
        ("camera",),
        "Names of the cameras. Each is the first part of its camera's parameters and output topics: front has "
        "front.image_topic, front/detections and so on.",
        change=Change.START,
    )
    score_threshold: float | None = parameter_field(
        "score_threshold",
        -1.0,
        "Boxes with a lower confidence are not published; a negative value means the threshold in the model file.",
        bounds=(-1.0, 1.0),
        change=Change.ANY_TIME,
        convert=_unless_negative,
    )
    class_thresholds: Mapping[str, float] = parameter_field(
        f"{CLASS_PREFIX}.<class>",
        -1.0,
        "Score threshold of one of the model's classes of objects; a negative value means score_threshold.",
        bounds=(-1.0, 1.0),
        change=Change.ANY_TIME,
        convert=_unless_negative,
    )
    network_size: bool = parameter_field(
        "output_size",
        "source",
        "Size of masks, overlays and boxes: source for the size of the camera's image, network for that of the model's "
        "input.",
        choices=("source", "network"),
        convert=lambda text: text == "network",
    )
    overlay_alpha: float = parameter_field(
        "overlay_alpha",
        0.5,
        "Weight of the colours in the overlay, from 0 (only the image) to 1 (only the colours).",
        bounds=(0.0, 1.0),
        change=Change.ANY_TIME,
    )
    jpeg_quality: int = parameter_field(
        "jpeg_quality",
        90,
        "JPEG quality of the compressed overlay, from 1 (smallest) to 100 (best).",
        bounds=(1, 100),
        change=Change.ANY_TIME,
    )
    threads: int | None = parameter_field(
        "threads",
        0,
        "CPU threads of the model; 0 lets the runtime choose, which is one per core.",
        bounds=(0, 256),
        convert=lambda count: count or None,
    )
    runtime: str | None = parameter_field(
        "runtime",
        "auto",
        "Runtime of an .onnx model: auto for the fastest on this machine of the installed CPU runtimes that agree with "
        "ONNX Runtime (with lossless always onnxruntime), or the name of one.",
        choices=RUNTIMES,
    )
    precision: str | None = parameter_field(
        "precision",
        "file",
        "Precision of the computation: file for the one that the model file was written or built in, or one that the "
        "runtime and the machine support.",
        choices=("file", *PRECISIONS),
        convert=lambda text: None if text == "file" else text,
    )
    lossless: bool = parameter_field(
        "lossless",
        False,
        "For evaluation: process every frame in order and receive no faster than the model works, instead of only the "
        "newest frame. Needs cameras that publish reliably.",
    )

    @classmethod
    def from_values(cls, values: Mapping[str, object]) -> "NodeParameters":
        """Check and convert the values of all parameters, each alone and all together.

        Args:
            values: parameter name -> value; a missing parameter has its default. Thresholds of any class are accepted,
                as the classes are known only when the model file is read.

        Raises:
            ConfigError: a name is unknown, a value has the wrong type, is out of range or not among the choices, there
                is no model, or values contradict each other.
        """
        names = camera_names(values)
        classes = {name: row for name in values if (row := class_row(name)) is not None}
        rows = expand_table(names) | classes
        for name in values:
            if name not in rows:
                raise ConfigError(unknown_parameter(name, names))
        read = {name: row.read(values.get(name, row.default)) for name, row in rows.items()}
        if not values.get("model"):
            raise ConfigError("parameter model is empty; set it to the .onnx file that lvad-train export wrote")
        own = _fields_of(cls, read)
        if own["lossless"] and own["runtime"] == "auto":
            # An evaluation's numbers must not depend on which runtime was faster at the time.
            own["runtime"] = None
        thresholds = {name: read[name] for name in classes if read[name] is not None}
        cameras = tuple(_camera(name, values, read) for name in names)
        return cls(**own | {"cameras": cameras, "class_thresholds": thresholds})

    def thresholds_of(self, class_names: Sequence[str]) -> dict[int, float]:
        """Class id -> threshold in [0, 1], for the classes of a model that have one of their own.

        Args:
            class_names: in id order; empty for a model that detects no objects. Names that differ only in space and
                ``_`` share a parameter.
        """
        given = ((index, self.class_thresholds.get(class_parameter(name))) for index, name in enumerate(class_names))
        return {index: threshold for index, threshold in given if threshold is not None}


def _rows_of(cls: type[Any]) -> tuple[Parameter, ...]:
    return tuple(each.metadata["parameter"] for each in fields(cls) if each.metadata)


TABLE: Final = tuple(
    row
    for own in _rows_of(NodeParameters)
    for row in ((own, *_rows_of(CameraParameters)) if own.name == "cameras" else (own,))
)
"""Every parameter of the perception node; templates are not filled in."""
_ROWS: Final = {row.name: row for row in TABLE}
_CLASS_ROW: Final = _ROWS[f"{CLASS_PREFIX}.<class>"]
_CAMERA: Final = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
# The parameters of a camera of such a name would clash with others.
_RESERVED: Final = {row.name.partition(".")[0] for row in TABLE} | {"diagnostic_updater", "qos_overrides"}


def expand_table(cameras: Sequence[str]) -> dict[str, Parameter]:
    """Parameter name -> parameter for these cameras, in the table's order.

    The thresholds of classes are not included, as the model file decides on the classes: see ``class_row``.
    """
    rows = [row for row in TABLE if row is not _CLASS_ROW]
    filled = [each for row in rows for each in (map(row.of_camera, cameras) if "<camera>" in row.name else (row,))]
    return {row.name: row for row in filled}


def class_parameter(class_name: str) -> str:
    """Name of the threshold of a class: the model file's name of the class, with ``_`` for the space."""
    return f"{CLASS_PREFIX}.{class_name.replace(' ', '_')}"


def class_row(name: str) -> Parameter | None:
    """The parameter of that name if it is the threshold of a class, whichever class; None for other names."""
    prefix, _, class_name = name.partition(".")
    return replace(_CLASS_ROW, name=name) if prefix == CLASS_PREFIX and class_name else None


def camera_names(values: Mapping[str, object]) -> tuple[str, ...]:
    """The checked value of ``cameras`` or its default. Raises ConfigError, one sentence with what is allowed."""
    names: tuple[str, ...] = _ROWS["cameras"].read(values.get("cameras", _ROWS["cameras"].default))
    if not names:
        raise ConfigError("parameter cameras is empty; name at least one camera, like [front]")
    for name in names:
        if not _CAMERA.fullmatch(name):
            raise ConfigError(f"parameter cameras has {name!r}; use letters, digits and _ only, like front_left")
        if name in _RESERVED:
            raise ConfigError(f"camera name {name!r} clashes with the parameter {name}; use another name")
        if names.count(name) > 1:
            raise ConfigError(f"parameter cameras has {name!r} twice; give each camera a name of its own")
    return names


def unknown_parameter(name: str, cameras: Sequence[str]) -> str:
    """The error message for a name that is not in the table."""
    close = difflib.get_close_matches(name, [*expand_table(cameras), _CLASS_ROW.name], n=1)
    camera, _, rest = name.partition(".")
    if f"<camera>.{rest}" in _ROWS and not difflib.get_close_matches(camera, cameras, n=1):
        remedy = f"add {camera} to cameras, which has {', '.join(cameras)}"
    else:
        remedy = f"did you mean {close[0]}?" if close else f"known are {', '.join(_ROWS)}"
    return f"parameter {name} is unknown; {remedy}"


def unknown_classes(names: Sequence[str], class_names: Sequence[str]) -> str:
    """The message for thresholds, by parameter name, of classes that are not among the model's ``class_names``."""
    known = ", ".join(class_parameter(class_name).removeprefix(f"{CLASS_PREFIX}.") for class_name in class_names)
    return f"the model has no class of objects for {', '.join(names)}; " + (
        f"it has {known}" if known else "it has none"
    )


def _fields_of(cls: type[Any], read: Mapping[str, Any], camera: str = "") -> dict[str, Any]:
    """Field -> value of a dataclass's parameters, from the converted values by parameter name."""
    names = {each.name: each.metadata["parameter"].of_camera(camera).name for each in fields(cls) if each.metadata}
    return {own: read[name] for own, name in names.items() if name in read}


def _camera(name: str, values: Mapping[str, object], read: Mapping[str, Any]) -> CameraParameters:
    camera = CameraParameters(name=name, **_fields_of(CameraParameters, read, name))
    if not read["lossless"]:
        return camera
    if camera.min_interval_s > 0:
        raise ConfigError(
            f"parameter {name}.max_rate_hz is {values[f'{name}.max_rate_hz']:g} and lossless is true, which leaves no "
            "frame out; set one of them back"
        )
    return replace(camera, reliable=True)
