"""The manifest of a model file: JSON text under ``MANIFEST_KEY`` in the ONNX metadata."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Final

from lvad_perception.errors import ModelFileError, VocabularyMismatchError, one_line
from lvad_perception.media.image_header import MOST_PIXELS
from lvad_perception.types import Size
from lvad_perception.vocabulary import TASKS, UNLABELED, Vocabulary, difference, vocabularies_of

MANIFEST_KEY: Final = "lvad_manifest"
MANIFEST_VERSIONS: Final = (1, 2)
"""Versions that this package reads. 2 adds ``camera_hw``; files without it are written as 1, for old packages."""
_MOST_TEXT: Final = 1 << 20
INPUT_NAME: Final = "images"
OUTPUT_NAMES: Final = {
    "detection": ("boxes", "scores", "labels"),
    "semantic": ("semantic", "semantic_confidence"),
    "drivable": ("drivable",),
}


@dataclass(frozen=True, slots=True)
class Manifest:
    """Everything about a model that the vehicle needs, except for its graph.

    Attributes:
        network_hw: (height, width) of the network's own input in pixels.
        batch_size: static N of the graph's input ``images`` uint8 [N, H, W, 3].
        max_detections: K, boxes per image.
        classes: task name ("detection", "semantic", "drivable") -> class names in id order, for the tasks that the
            model has. Detection and semantic classes are those of its training; drivable classes are always BDD100K's.
        score_threshold: default threshold of the boxes' confidence, in [0, 1].
        preset: name of the architecture, for information.
        weights_sha256: hash of the trained weights.
        created_by: package name and version that wrote the file.
        training: free-form information about the training (steps, data, metrics).
        camera_hw: (height, width) of the camera's images for a graph that letterboxes them itself and returns outputs
            in their pixels. None for a graph whose input is letterboxed and whose outputs are in network pixels.
    """

    network_hw: Size
    batch_size: int
    max_detections: int
    classes: dict[str, tuple[str, ...]]
    score_threshold: float
    preset: str
    weights_sha256: str
    created_by: str
    training: dict[str, Any] = field(default_factory=dict)
    camera_hw: Size | None = None

    @property
    def input_hw(self) -> Size:
        """(height, width) of the graph's input ``images``."""
        return self.camera_hw or self.network_hw

    @property
    def output_hw(self) -> Size:
        """(height, width) of the graph's masks; its boxes are in pixels of such an image."""
        return self.camera_hw or self.network_hw

    @property
    def output_names(self) -> tuple[str, ...]:
        """Names of the graph's outputs, in the order of ``OUTPUT_NAMES``."""
        return tuple(name for task, names in OUTPUT_NAMES.items() if task in self.classes for name in names)

    @property
    def vocabularies(self) -> dict[str, Vocabulary]:
        """The classes of each task with their colours."""
        return vocabularies_of(self.classes)

    def require(self, vocabularies: Mapping[str, Vocabulary], *, by: str) -> None:
        """Check that the model has the required classes, in their order.

        Args:
            vocabularies: the required classes by task; tasks that are missing here or in the model are ignored.
            by: what requires them, for the message, such as "an evaluation on …".

        Raises:
            VocabularyMismatchError: classes differ; the message names them.
        """
        for task, names in self.classes.items():
            if task in vocabularies and (differs := difference(names, vocabularies[task].names)):
                required = ", ".join(vocabularies[task].names)
                raise VocabularyMismatchError(
                    f"{by} takes models of the {task} classes {required}, and this one {differs}; "
                    "take a model that was trained on them"
                )

    def to_json(self) -> str:
        """The manifest as JSON text; ``from_json`` reads it back."""
        values = {"manifest_version": 2, **asdict(self)}
        if self.camera_hw is None:
            del values["camera_hw"]
            values["manifest_version"] = 1
        return json.dumps(values, sort_keys=True)

    @classmethod
    def from_json(cls, text: str, *, source: str) -> "Manifest":
        """Read and check a manifest.

        Args:
            text: JSON as written by ``to_json``.
            source: the file, for messages.

        Raises:
            ModelFileError: not JSON, a key is missing, a value is out of range, or written by a newer package.
            VocabularyMismatchError: the model has an unknown task or other drivable classes.
        """
        if len(text) > _MOST_TEXT:
            raise ModelFileError(
                f"{source}: its manifest has {len(text) / 1e6:.0f} million characters, of which a model needs some "
                "thousand; export the model again"
            )
        try:
            values = json.loads(text)
            version = values.pop("manifest_version")
            known = {item.name for item in fields(cls)}
            values = {key: value for key, value in values.items() if key in known}
            values["network_hw"] = _size(values["network_hw"])
            if values.get("camera_hw") is not None:
                values["camera_hw"] = _size(values["camera_hw"])
            values["classes"] = {str(task): tuple(names) for task, names in values["classes"].items()}
            manifest = cls(**values)
            manifest._check_types()
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as err:
            raise ModelFileError(
                f"{source}: its manifest cannot be read ({one_line(str(err))}); export the model again with "
                "lvad-train export"
            ) from err
        if version not in MANIFEST_VERSIONS:
            raise ModelFileError(
                f"{source}: manifest version {version} is not {' or '.join(map(str, MANIFEST_VERSIONS))}; "
                f"install the lvad_perception that wrote it ({manifest.created_by}) or export the model again"
            )
        manifest._check(source)
        return manifest

    def _check_types(self) -> None:
        """Raise TypeError if a value does not have its declared type."""
        texts = (
            self.preset,
            self.weights_sha256,
            self.created_by,
            *(name for names in self.classes.values() for name in names),
        )
        for kind, values in (
            (str, texts),
            (int, (self.batch_size, self.max_detections)),
            (float | int, (self.score_threshold,)),
            (dict, (self.training,)),
        ):
            for value in values:
                if not isinstance(value, kind) or isinstance(value, bool):
                    raise TypeError(f"{str(value)[:20]!r} is of another type")

    def _check(self, source: str) -> None:
        sizes = (*self.network_hw, *self.input_hw, self.batch_size, self.max_detections)
        elements = self.batch_size * max(math.prod(self.network_hw), math.prod(self.input_hw), self.max_detections)
        if min(sizes) < 1 or elements > MOST_PIXELS or not 0 <= self.score_threshold <= 1:
            raise ModelFileError(f"{source}: its manifest has impossible sizes; export the model again")
        if not self.classes:
            raise ModelFileError(f"{source}: its manifest names no task; export the model again")
        for task, names in self.classes.items():
            listed = ", ".join(names)
            if task not in TASKS:
                raise VocabularyMismatchError(
                    f"{source}: its {task} classes are [{listed}] but this package only knows [{', '.join(TASKS)}]; "
                    "export the model with this version of the package"
                )
            if task == "drivable" and names != TASKS[task].names:
                raise VocabularyMismatchError(
                    f"{source}: its drivable classes are [{listed}] but this package has "
                    f"[{', '.join(TASKS[task].names)}]; export the model with this version of the package"
                )
            if not names or not all(names) or len(set(names)) < len(names) or len(names) > UNLABELED:
                raise ModelFileError(
                    f"{source}: its manifest lists no, nameless, repeated or more than {UNLABELED} {task} classes; "
                    "export the model again"
                )


def _size(sides: Any) -> Size:
    height, width = sides
    return int(height), int(width)
