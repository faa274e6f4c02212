"""What a model file says of itself: the JSON text under ``MANIFEST_KEY`` in the ONNX metadata."""

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
"""That this package reads. Version 2 has ``camera_hw``; files without it are written as 1, which old packages read."""
_MOST_TEXT: Final = 1 << 20
INPUT_NAME: Final = "images"
OUTPUT_NAMES: Final = {
    "detection": ("boxes", "scores", "labels"),
    "semantic": ("semantic", "semantic_confidence"),
    "drivable": ("drivable",),
}


@dataclass(frozen=True, slots=True)
class Manifest:
    """Everything that the vehicle must know of a model beside its graph.

    Attributes:
        network_hw: (height, width) of the network's own input in pixels.
        batch_size: static N of the graph's input ``images`` uint8 [N, H, W, 3].
        max_detections: K, boxes per image.
        classes: task name ("detection", "semantic", "drivable") -> class names in id order; an absent task is absent.
            Detection and semantic classes are what the model was trained on; drivable ids have a meaning of their own,
            so their classes are always BDD100K's.
        score_threshold: boxes below this confidence are not published unless asked for, in [0, 1].
        preset: name of the architecture, for people.
        weights_sha256: hash of the trained weights that were exported.
        created_by: package name and version that wrote the file.
        training: free-form facts about the training (steps, data, metrics), for people.
        camera_hw: (height, width) of the only images that the graph takes: it letterboxes them itself and answers in
            their pixels. None for a graph that takes letterboxed images and answers in network pixels.
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

    def require(self, wanted: Mapping[str, Vocabulary], *, by: str) -> None:
        """Make sure that the model has a user's own classes, in their order.

        Args:
            wanted: the user's, by task; tasks that either lacks are passed over.
            by: who asks, for the message: "an evaluation on …".

        Raises:
            VocabularyMismatchError: classes differ; the message says which.
        """
        for task, names in self.classes.items():
            if task in wanted and (differs := difference(names, wanted[task].names)):
                raise VocabularyMismatchError(
                    f"{by} takes models of the {task} classes {', '.join(wanted[task].names)}, and this one {differs}; "
                    "take a model that was trained on them"
                )

    def to_json(self) -> str:
        """The manifest as JSON text; ``from_json`` reads it back."""
        facts = {"manifest_version": 2, **asdict(self)}
        if self.camera_hw is None:
            del facts["camera_hw"]
            facts["manifest_version"] = 1
        return json.dumps(facts, sort_keys=True)

    @classmethod
    def from_json(cls, text: str, *, source: str) -> "Manifest":
        """Read a manifest and check it against what this package knows.

        Args:
            text: JSON as written by ``to_json``.
            source: where the text came from, for messages.

        Raises:
            ModelFileError: not JSON, a key is missing, a value is out of range, or written by a newer package.
            VocabularyMismatchError: the model has a task that this package does not know, or other drivable classes.
        """
        if len(text) > _MOST_TEXT:
            raise ModelFileError(
                f"{source}: its manifest has {len(text) / 1e6:.0f} million characters, of which a model needs some "
                "thousand; export the model again"
            )
        try:
            facts = json.loads(text)
            version = facts.pop("manifest_version")
            known = {item.name for item in fields(cls)}
            facts = {key: value for key, value in facts.items() if key in known}
            facts["network_hw"] = _size(facts["network_hw"])
            if facts.get("camera_hw") is not None:
                facts["camera_hw"] = _size(facts["camera_hw"])
            facts["classes"] = {str(task): tuple(names) for task, names in facts["classes"].items()}
            manifest = cls(**facts)
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
        """Raise TypeError where a value is of another type than it is declared as."""
        texts = (
            self.preset,
            self.weights_sha256,
            self.created_by,
            *(name for of in self.classes.values() for name in of),
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
        most = self.batch_size * max(math.prod(self.network_hw), math.prod(self.input_hw), self.max_detections)
        if min(sizes) < 1 or most > MOST_PIXELS or not 0 <= self.score_threshold <= 1:
            raise ModelFileError(f"{source}: its manifest has impossible sizes; export the model again")
        if not self.classes:
            raise ModelFileError(f"{source}: its manifest names no task; export the model again")
        for task, names in self.classes.items():
            found = ", ".join(names)
            if task not in TASKS:
                raise VocabularyMismatchError(
                    f"{source}: its {task} classes are [{found}] but this package only knows [{', '.join(TASKS)}]; "
                    "export the model with this version of the package"
                )
            if task == "drivable" and names != TASKS[task].names:
                raise VocabularyMismatchError(
                    f"{source}: its drivable classes are [{found}] but this package has "
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
