"""The values of the node's parameters, checked alone and together, in the units that the code uses.

Nothing here needs ROS.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lvad_perception.errors import ConfigError
from lvad_perception.node.table import (
    DEFAULT_CAMERAS,
    check_cameras,
    check_value,
    class_parameter,
    class_row,
    expand_table,
    unknown_parameter,
)


@dataclass(frozen=True, slots=True)
class CameraParameters:
    """What the node must know of one camera.

    Attributes:
        name: prefix of the camera's output topics.
        topic: topic that is subscribed to, with ``/compressed`` where that is the transport.
        compressed: the topic carries CompressedImage, not Image.
        reliable: ask for reliable delivery, not best effort.
        min_interval_s: least time between two processed frames in seconds; 0 for no limit.
        camera_info_topic: topic of the camera's CameraInfo, or empty.
        most_pixels: images that say they have more are not decoded.
    """

    name: str
    topic: str
    compressed: bool
    reliable: bool
    min_interval_s: float
    camera_info_topic: str
    most_pixels: int


@dataclass(frozen=True, slots=True)
class NodeParameters:
    """The table's values, checked and in the units that the code uses.

    Attributes:
        model: path of the model file.
        cameras: one entry a camera, at least one.
        score_threshold: in [0, 1], or None for the model file's own.
        class_thresholds: parameter of a class of objects -> threshold in [0, 1], for the classes that have their own.
        network_size: results are published at the size of the model's input, not of the source image.
        overlay_alpha: weight of the overlay's colours, in [0, 1].
        jpeg_quality: 1 to 100.
        threads: CPU threads of the engine, or None for the runtime's choice.
        runtime: of the engine, or None for the one that gives the same numbers everywhere.
        precision: of the engine, or None for that of the model file.
        lossless: process every frame instead of the newest only.
    """

    model: Path
    cameras: tuple[CameraParameters, ...]
    score_threshold: float | None
    class_thresholds: Mapping[str, float]
    network_size: bool
    overlay_alpha: float
    jpeg_quality: int
    threads: int | None
    runtime: str | None
    precision: str | None
    lossless: bool

    @classmethod
    def from_values(cls, values: Mapping[str, object]) -> "NodeParameters":
        """Check all values, alone and together.

        Args:
            values: parameter name -> value; a missing name has its default. Classes of objects may be any: which there
                are is known when the model file is read.

        Raises:
            ConfigError: an unknown name, a value of the wrong type, out of range or not among the choices, no model,
                values that contradict each other.
        """
        names = check_cameras(values.get("cameras", DEFAULT_CAMERAS))
        rows = expand_table(names)
        classes = {name: row for name in values if (row := class_row(name)) is not None}
        rows |= classes
        for name in values:
            if name not in rows:
                raise ConfigError(unknown_parameter(name, names))
        full = {name: values.get(name, row.default) for name, row in rows.items()}
        for name, value in full.items():
            check_value(rows[name], value)
        if not full["model"]:
            raise ConfigError("parameter model is empty; set it to the .onnx file that lvad-train export wrote")
        lossless = full["lossless"] is True
        thresholds = {name: float(str(full[name])) for name in classes}
        return cls(
            model=Path(str(full["model"])).expanduser(),
            cameras=tuple(_camera(name, full, lossless=lossless) for name in names),
            score_threshold=_unless_negative(full["score_threshold"]),
            class_thresholds={name: value for name, value in thresholds.items() if value >= 0},
            network_size=full["output_size"] == "network",
            overlay_alpha=float(str(full["overlay_alpha"])),
            jpeg_quality=int(str(full["jpeg_quality"])),
            threads=int(str(full["threads"])) or None,
            # Lossless is for evaluation, whose numbers must not depend on which runtime was faster at the time.
            runtime=None if lossless and full["runtime"] == "auto" else str(full["runtime"]),
            precision=None if full["precision"] == "file" else str(full["precision"]),
            lossless=lossless,
        )

    def thresholds_of(self, class_names: Sequence[str]) -> dict[int, float]:
        """Class id -> threshold in [0, 1] of a model's classes of objects that have their own.

        Args:
            class_names: in id order, none for a model that detects no objects. Names that differ only in space and
                ``_`` share a parameter.
        """
        given = ((index, self.class_thresholds.get(class_parameter(name))) for index, name in enumerate(class_names))
        return {index: threshold for index, threshold in given if threshold is not None}


def _camera(name: str, full: Mapping[str, object], *, lossless: bool) -> CameraParameters:
    """One camera's part of the values, which are complete and checked alone."""
    topic, compressed = _resolve_transport(str(full[f"{name}.image_topic"]), str(full[f"{name}.transport"]))
    rate = float(str(full[f"{name}.max_rate_hz"]))
    if lossless and rate > 0:
        raise ConfigError(
            f"parameter {name}.max_rate_hz is {rate:g} and lossless is true, which leaves no frame out; "
            "set one of them back"
        )
    return CameraParameters(
        name=name,
        topic=topic,
        compressed=compressed,
        reliable=lossless or full[f"{name}.reliability"] == "reliable",
        min_interval_s=1.0 / rate if rate > 0 else 0.0,
        camera_info_topic=str(full[f"{name}.camera_info_topic"]),
        most_pixels=round(1e6 * float(str(full[f"{name}.max_megapixels"]))),
    )


def _unless_negative(value: object) -> float | None:
    number = float(str(value))
    return None if number < 0 else number


def _resolve_transport(topic: str, transport: str) -> tuple[str, bool]:
    """Topic to subscribe to and whether it is compressed."""
    ends_compressed = topic.endswith("/compressed")
    compressed = transport == "compressed" or (transport == "auto" and ends_compressed)
    return (f"{topic}/compressed" if compressed and not ends_compressed else topic), compressed
