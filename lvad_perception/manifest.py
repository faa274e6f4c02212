"""What a model file says of itself: the JSON text under ``MANIFEST_KEY`` in the ONNX metadata."""

import json
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Final

from lvad_perception import vocabulary
from lvad_perception.errors import ModelFileError, VocabularyMismatchError
from lvad_perception.types import Size

MANIFEST_KEY: Final = "lvad_manifest"
MANIFEST_VERSIONS: Final = (1, 2)
"""That this package reads. Version 2 has ``camera_hw``; files without it are written as 1, which old packages read."""
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

    def to_json(self) -> str:
        """The manifest as JSON text; ``from_json`` reads it back."""
        facts = {"manifest_version": 2, **asdict(self)}
        if self.camera_hw is None:
            del facts["camera_hw"]
            facts["manifest_version"] = 1
        return json.dumps(facts, sort_keys=True)

    @classmethod
    def from_json(cls, text: str, *, source: str) -> "Manifest":
        """Read a manifest and check it against this package's vocabulary.

        Args:
            text: JSON as written by ``to_json``.
            source: where the text came from, for messages.

        Raises:
            ModelFileError: not JSON, a key is missing, a value is out of range, or written by a newer package.
            VocabularyMismatchError: the model was trained on other classes.
        """
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
        except (ValueError, TypeError, KeyError, AttributeError) as err:
            raise ModelFileError(
                f"{source}: its manifest cannot be read ({err}); export the model again with lvad-train export"
            ) from err
        if version not in MANIFEST_VERSIONS:
            raise ModelFileError(
                f"{source}: manifest version {version} is not {' or '.join(map(str, MANIFEST_VERSIONS))}; "
                f"install the lvad_perception that wrote it ({manifest.created_by}) or export the model again"
            )
        manifest._check(source)
        return manifest

    def _check(self, source: str) -> None:
        sizes = (*self.network_hw, *self.input_hw, self.batch_size, self.max_detections)
        if min(sizes) < 1 or not 0 <= self.score_threshold <= 1:
            raise ModelFileError(f"{source}: its manifest has impossible sizes; export the model again")
        if not self.classes:
            raise ModelFileError(f"{source}: its manifest names no task; export the model again")
        for task, names in self.classes.items():
            expected = vocabulary.TASKS.get(task)
            if expected is None or names != expected.names:
                found = ", ".join(names)
                wanted = ", ".join(expected.names if expected else vocabulary.TASKS)
                raise VocabularyMismatchError(
                    f"{source}: its {task} classes are [{found}] but this package "
                    f"{'has' if expected else 'only knows'} [{wanted}]; "
                    "export the model with this version of the package"
                )


def _size(sides: Any) -> Size:
    height, width = sides
    return int(height), int(width)
