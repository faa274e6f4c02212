"""The table of the node's parameters, which states each once, and the checks of single values.

It feeds ROS (``declaration.py``), the checks, the example file and the documentation; launch files repeat none of it.
Nothing here needs ROS.
"""

import difflib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final

from lvad_perception.engines import PRECISIONS, RUNTIMES
from lvad_perception.errors import ConfigError
from lvad_perception.media.image_header import MOST_PIXELS

CLASS_PREFIX: Final = "class_score_threshold"
"""First part of the parameters of classes of objects."""
Value = str | int | float | bool | tuple[str, ...]
DEFAULT_CAMERAS: Final = ("camera",)


class Change(Enum):
    """When a parameter can be changed; the value is the sentence that ``ros2 param describe`` shows."""

    ANY_TIME = "can be changed at any time and takes effect at once"
    UNCONFIGURED = "can be changed only while the node is unconfigured"
    START = "is fixed when the node starts"


@dataclass(frozen=True, slots=True)
class Parameter:
    """One row of the table.

    ``<camera>`` and ``<class>`` in the name make it a template for one parameter a camera, and one a class of objects
    of the model file; ``<camera>`` is replaced in the default too.

    Attributes:
        name: name in ROS.
        default: value when nothing is given; its type is the parameter's type.
        description: one or two sentences for people, shown by ``ros2 param describe``.
        bounds: least and greatest value, both allowed, or None for what is no number.
        choices: every allowed text, or empty when any text will do.
        is_topic: the text is a topic, or empty where that is the default.
        change: when it can be changed.
    """

    name: str
    default: Value
    description: str
    bounds: tuple[float, float] | None = None
    choices: tuple[str, ...] = ()
    is_topic: bool = False
    change: Change = Change.UNCONFIGURED


TABLE: Final = (
    Parameter(
        "model",
        "",
        "Model file: .onnx written by lvad-train export, or what lvad-perception optimize made of it for TensorRT; a "
        "leading ~ is the home folder.",
    ),
    Parameter(
        "cameras",
        DEFAULT_CAMERAS,
        "Names of the cameras. Each is the first part of its camera's parameters and output topics: front has "
        "front.image_topic, front/detections and so on.",
        change=Change.START,
    ),
    Parameter(
        "<camera>.image_topic",
        "<camera>/image_raw",
        "Topic of the camera's images, sensor_msgs/Image or sensor_msgs/CompressedImage.",
        is_topic=True,
    ),
    Parameter(
        "<camera>.transport",
        "auto",
        "Message type of the images: raw, compressed (as in image_transport, /compressed is appended to the topic "
        "where missing), or auto: compressed if the topic ends in /compressed, else raw.",
        choices=("auto", "raw", "compressed"),
    ),
    Parameter(
        "<camera>.reliability",
        "best_effort",
        "Reliability asked of the camera: best_effort receives from every publisher and never waits for lost packets; "
        "reliable has lost packets sent again and receives from reliable publishers only.",
        choices=("best_effort", "reliable"),
    ),
    Parameter(
        "<camera>.max_rate_hz",
        0.0,
        "Process at most so many frames a second, always the newest; 0 means as many as the machine can.",
        bounds=(0.0, 1000.0),
        change=Change.ANY_TIME,
    ),
    Parameter(
        "<camera>.camera_info_topic",
        "",
        "Topic of the camera's sensor_msgs/CameraInfo, published again beside the results; empty for none.",
        is_topic=True,
    ),
    Parameter(
        "<camera>.max_megapixels",
        MOST_PIXELS / 1e6,
        "Images of more million pixels are refused by what they say of their size, before they are decoded.",
        bounds=(0.0001, MOST_PIXELS / 1e6),
    ),
    Parameter(
        "score_threshold",
        -1.0,
        "Boxes with a lower confidence are not published; a negative value means the threshold in the model file.",
        bounds=(-1.0, 1.0),
        change=Change.ANY_TIME,
    ),
    Parameter(
        f"{CLASS_PREFIX}.<class>",
        -1.0,
        "The score_threshold of one of the model's classes of objects; a negative value means the same as for the "
        "others.",
        bounds=(-1.0, 1.0),
        change=Change.ANY_TIME,
    ),
    Parameter(
        "output_size",
        "source",
        "Size of masks, overlays and boxes: source, that of the camera's image, or network, that of the model's input.",
        choices=("source", "network"),
    ),
    Parameter(
        "overlay_alpha",
        0.5,
        "Weight of the colours in the overlay, from 0 (only the image) to 1 (only the colours).",
        bounds=(0.0, 1.0),
        change=Change.ANY_TIME,
    ),
    Parameter(
        "jpeg_quality",
        90,
        "JPEG quality of the compressed overlay, from 1 (smallest) to 100 (best).",
        bounds=(1, 100),
        change=Change.ANY_TIME,
    ),
    Parameter(
        "threads",
        0,
        "CPU threads that the model may use; 0 lets the runtime choose, which is one per core.",
        bounds=(0, 256),
    ),
    Parameter(
        "runtime",
        "auto",
        "What runs an .onnx model: auto, the fastest on this machine of the installed CPU runtimes that agree with "
        "ONNX Runtime, which is onnxruntime where lossless; or the one that is named.",
        choices=RUNTIMES,
    ),
    Parameter(
        "precision",
        "file",
        "What the model is computed in: file, what its file was written or built in; or a precision that the runtime "
        "and the machine must have.",
        choices=("file", *PRECISIONS),
    ),
    Parameter(
        "lossless",
        False,
        "For evaluation: process every frame in order and receive no faster than the model works, instead of the "
        "newest frame only. Needs cameras that publish reliably.",
    ),
)
"""Every parameter of the perception node."""

_TOPIC: Final = re.compile(r"(~/|/)?[A-Za-z_][A-Za-z0-9_]*(/[A-Za-z_][A-Za-z0-9_]*)*")
_CAMERA: Final = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
# A camera of these names would share the names of other parameters.
_RESERVED: Final = {row.name.partition(".")[0] for row in TABLE} | {"diagnostic_updater", "qos_overrides"}


def expand_table(cameras: Sequence[str]) -> dict[str, Parameter]:
    """Parameter name -> row for these cameras; the order is the table's.

    The thresholds of classes are not among them, as the model file decides which there are: see ``class_row``.
    """
    rows: dict[str, Parameter] = {}
    for row in TABLE:
        if row is _CLASS_ROW:
            continue
        filled = [_fill(row, camera) for camera in cameras] if "<camera>" in row.name else [row]
        rows.update((row.name, row) for row in filled)
    return rows


def class_parameter(class_name: str) -> str:
    """Name of the parameter of a class of objects: as the model file has it, with ``_`` for the space."""
    return f"{CLASS_PREFIX}.{class_name.replace(' ', '_')}"


def class_row(name: str) -> Parameter | None:
    """The row of a parameter that is called as one of a class of objects, whichever; None for other parameters."""
    prefix, _, class_name = name.partition(".")
    return replace(_CLASS_ROW, name=name) if prefix == CLASS_PREFIX and class_name else None


def unknown_classes(names: Sequence[str], class_names: Sequence[str]) -> str:
    """The sentence for parameters of classes of objects that are not among the model's, ``class_names``."""
    known = ", ".join(class_parameter(class_name).removeprefix(f"{CLASS_PREFIX}.") for class_name in class_names)
    return f"the model has no class of objects for {', '.join(names)}; " + (
        f"it has {known}" if known else "it has none"
    )


def check_cameras(value: object) -> tuple[str, ...]:
    """Check the value of ``cameras``. Raises ConfigError, one sentence that says what is allowed."""
    check_value(_ROWS["cameras"], value)
    names = tuple(value) if isinstance(value, list | tuple) else ()
    if not names:
        raise ConfigError("parameter cameras is empty; name at least one camera, like [front]")
    for name in names:
        if not _CAMERA.fullmatch(name):
            raise ConfigError(f"parameter cameras has {name!r}; use letters, digits and _ only, like front_left")
        if name in _RESERVED:
            raise ConfigError(f"parameter cameras has {name!r}, which other parameters are called; use another name")
        if names.count(name) > 1:
            raise ConfigError(f"parameter cameras has {name!r} twice; give each camera a name of its own")
    return names


def check_value(row: Parameter, value: object) -> None:
    """Check one value against its row of the table. Raises ConfigError, one sentence that says what is allowed."""
    kind, is_right = _KINDS[type(row.default)]
    if not is_right(value):
        raise ConfigError(f"parameter {row.name} is {value!r}; set it to {kind}")
    if isinstance(value, str):
        if row.choices and value not in row.choices:
            raise ConfigError(f"parameter {row.name} is {value!r}; set it to one of {', '.join(row.choices)}")
        if row.is_topic and value != row.default and not _TOPIC.fullmatch(value):
            raise ConfigError(f"parameter {row.name} is {value!r}, which is no ROS name; use one like front/image_raw")
    elif row.bounds and isinstance(value, int | float):
        low, high = row.bounds
        if not low <= value <= high:  # also refuses NaN
            raise ConfigError(f"parameter {row.name} is {value}; set it to a value from {low:g} to {high:g}")


def unknown_parameter(name: str, cameras: Sequence[str]) -> str:
    """The sentence for a name that is not in the table."""
    close = difflib.get_close_matches(name, [*expand_table(cameras), _CLASS_ROW.name], n=1)
    camera, _, rest = name.partition(".")
    if f"<camera>.{rest}" in _ROWS and not difflib.get_close_matches(camera, cameras, n=1):
        remedy = f"add {camera} to cameras, which has {', '.join(cameras)}"
    else:
        remedy = f"did you mean {close[0]}?" if close else f"known are {', '.join(_ROWS)}"
    return f"parameter {name} is unknown; {remedy}"


_ROWS: Final = {row.name: row for row in TABLE}
_CLASS_ROW: Final = _ROWS[f"{CLASS_PREFIX}.<class>"]
_KINDS: Final[dict[type, tuple[str, Callable[[object], bool]]]] = {
    bool: ("true or false", lambda value: isinstance(value, bool)),
    str: ("a text", lambda value: isinstance(value, str)),
    int: ("a whole number", lambda value: isinstance(value, int) and not isinstance(value, bool)),
    float: ("a number", lambda value: isinstance(value, int | float) and not isinstance(value, bool)),
    tuple: (
        "a list of texts",
        lambda value: isinstance(value, list | tuple) and all(isinstance(item, str) for item in value),
    ),
}
"""Type of a default -> how a sentence calls it, and whether a value is of it."""


def _fill(row: Parameter, camera: str) -> Parameter:
    default = row.default.replace("<camera>", camera) if isinstance(row.default, str) else row.default
    return replace(row, name=row.name.replace("<camera>", camera), default=default)
