"""``Evaluator`` collects predictions and truth image by image and computes ``Metrics``."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from lvad_perception.errors import ConfigError, DatasetError
from lvad_perception.metrics.confusion import confuse_boxes, f1
from lvad_perception.metrics.detection import BoxStore, DetectionMetrics, DetectionScores
from lvad_perception.metrics.findings import (
    SCORE_THRESHOLD,
    Findings,
    FrameFindings,
    FrameMetadata,
    SliceScores,
    groups,
)
from lvad_perception.metrics.segmentation import (
    Confusion,
    DrivableMetrics,
    SegmentationMetrics,
    SegmentationScores,
    confuse,
    drivable_metrics,
    score,
    segmentation_metrics,
)
from lvad_perception.metrics.table import metrics_table
from lvad_perception.types import Predictions, Size, Truth
from lvad_perception.vocabulary import TASKS, Vocabulary


@dataclass(frozen=True, slots=True)
class Metrics:
    """Results of an evaluation; None for a task without an image that has both a prediction and a truth."""

    detection: DetectionMetrics | None
    semantic: SegmentationMetrics | None
    drivable: DrivableMetrics | None

    def to_dict(self) -> dict[str, Any]:
        """Nested dict of numbers, None and names, ready for JSON; inverse of ``from_dict``."""
        return asdict(self)

    @classmethod
    def from_dict(cls, metadata: dict[str, Any]) -> "Metrics":
        """Inverse of ``to_dict``. Raises DatasetError for any other dict."""
        try:
            return cls(
                detection=_detection_from(metadata["detection"]),
                semantic=_semantic_from(metadata["semantic"]),
                drivable=_drivable_from(metadata["drivable"]),
            )
        except (KeyError, TypeError, AttributeError) as err:
            raise DatasetError(
                f"these are not metrics of this version of the package ({type(err).__name__}: {err}); "
                "run the evaluation again"
            ) from err

    def to_text(self) -> str:
        """Aligned tables: per task the headline numbers, then one line per class that occurs in the truth."""
        return metrics_table(self.detection, self.semantic, self.drivable)


@dataclass(slots=True)
class _Frame:
    """Data of one frame, for ``findings``.

    Attributes:
        boxes: index of its boxes in the store; None without boxes.
        masks: task -> its sparse confusion matrix: indices into the flat matrix, and counts.
    """

    boxes: int | None = None
    masks: dict[str, tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]] = field(default_factory=dict)


class Evaluator:
    """Collects predictions and truth; memory grows with the number of boxes, not of pixels.

    The order of images matters only for boxes of equal scores, as in pycocotools.
    """

    def __init__(
        self, tasks: Iterable[str] = tuple(TASKS), *, vocabularies: Mapping[str, Vocabulary] | None = None
    ) -> None:
        """Evaluate some tasks.

        Args:
            tasks: names of ``vocabulary.TASKS``.
            vocabularies: task -> the classes of predictions and truth; BDD100K's by default.

        Raises:
            ConfigError: there is no such task.
        """
        self._tasks = tuple(tasks)
        unknown = [task for task in self._tasks if task not in TASKS]
        if unknown or not self._tasks:
            raise ConfigError(f"cannot evaluate {unknown or 'no task at all'}; choose from {', '.join(TASKS)}")
        self._vocabularies = {**TASKS, **(vocabularies or {})}
        self._boxes = BoxStore(self._vocabularies["detection"].names)
        self._confusions: dict[str, Confusion] = {}
        self._images: dict[str, int] = {}
        self._frames: dict[str, _Frame] = {}
        for task in ("semantic", "drivable"):
            classes = len(self._vocabularies[task].names)
            self._confusions[task] = np.zeros((classes, classes + 1), np.int64)
            self._images[task] = 0

    def add(self, predictions: Predictions, truth: Truth, *, frame: str | None = None) -> None:
        """Add one image. A task that the predictions or the truth lack is skipped for this image.

        Args:
            predictions: of the model.
            truth: the annotation.
            frame: key under which ``findings`` reports the image; its tasks may be added one at a time. None adds it
                to the totals only.

        Raises:
            DatasetError: prediction and truth differ in size.
            VocabularyMismatchError: a box label is not one of the classes.
            EngineError: a detection is not finite.
            MissingDependencyError: boxes are evaluated and faster-coco-eval is not installed.
        """
        if predictions.size_hw != truth.size_hw:
            raise _size_error("prediction", predictions.size_hw, truth.size_hw)
        pairs = {"semantic": (predictions.semantic, truth.semantic), "drivable": (predictions.drivable, truth.drivable)}
        masks: dict[str, Confusion] = {}
        for task, (prediction, mask) in pairs.items():
            if task in self._tasks and prediction is not None and mask is not None:
                if prediction.shape != mask.shape:
                    raise _size_error(f"{task} prediction", prediction.shape, mask.shape)
                masks[task] = confuse(mask, prediction, len(self._vocabularies[task].names))
        if "detection" in self._tasks and predictions.detections is not None and truth.boxes is not None:
            self._boxes.add(predictions.detections, truth.boxes)
            if frame is not None:
                self._frames.setdefault(frame, _Frame()).boxes = len(self._boxes.truths) - 1
        for task, confusion in masks.items():  # last, so that a refused image changes nothing
            self._confusions[task] += confusion
            self._images[task] += 1
            if frame is not None:
                cells = np.flatnonzero(confusion)
                self._frames.setdefault(frame, _Frame()).masks[task] = cells, confusion.ravel()[cells]

    def merge(self, other: "Evaluator") -> None:
        """Add the images of another evaluator, such as that of another process."""
        for key, frame in other._frames.items():
            index = None if frame.boxes is None else frame.boxes + len(self._boxes.truths)
            self._frames[key] = _Frame(index, dict(frame.masks))
        self._boxes.detections.extend(other._boxes.detections)
        self._boxes.truths.extend(other._boxes.truths)
        for task in self._confusions:
            self._confusions[task] = self._confusions[task] + other._confusions[task]
            self._images[task] += other._images[task]

    def compute(self) -> Metrics:
        """Metrics of all images added so far; more may be added afterwards.

        Raises:
            DatasetError: no image had both a prediction and a truth for any task.
        """
        return self._metrics(self._boxes.compute() if self._boxes.truths else None)

    def findings(
        self, frames: Mapping[str, FrameMetadata] | None = None, *, score_threshold: float = SCORE_THRESHOLD
    ) -> Findings:
        """Metrics of all images, and the errors of each image that was added with a key.

        Args:
            frames: key -> metadata of the frame; its key is its name by default.
            score_threshold: minimum score of the boxes in the confusion matrix and in the frames' errors.

        Raises:
            DatasetError: as ``compute``.
        """
        boxes, precision = self._boxes.compute_with_curves() if self._boxes.truths else (None, {})
        metrics = self._metrics(boxes)
        known = {key: (frames or {}).get(key, FrameMetadata(key)) for key in self._frames}
        confusions = {task: self._confusions[task] for task, count in self._images.items() if count}
        classes, classes_of = len(self._boxes.names), {task: v.names for task, v in self._vocabularies.items()}
        if boxes is not None:
            confusions["detection"] = np.zeros((classes + 1, classes + 1), np.int64)
        frame_findings = []
        for key, metadata in known.items():
            frame, errors = self._frames[key], {}
            if frame.boxes is not None:
                counts = confuse_boxes(
                    self._boxes.detections[frame.boxes],
                    self._boxes.truths[frame.boxes],
                    score_threshold,
                    classes=classes,
                )
                confusions["detection"] += counts
                errors["detection"] = 100.0 - f1(counts)
            for task in frame.masks:
                mean_iou = score(self._summed(task, [key]), self._vocabularies[task].names).mean_iou
                if mean_iou is not None:
                    errors[task] = 100.0 - mean_iou
            frame_findings.append(
                FrameFindings(metadata.name, dict(metadata.attributes), dict(metadata.losses), errors)
            )
        slices = {
            attribute: {value: self._slice(keys) for value, keys in values.items()}
            for attribute, values in groups(known).items()
        }
        return Findings(metrics, classes_of, precision, confusions, score_threshold, slices, tuple(frame_findings))

    def _summed(self, task: str, keys: Sequence[str]) -> Confusion:
        """Confusion matrix of a mask task, summed over some frames."""
        total = np.zeros_like(self._confusions[task])
        for key in keys:
            if task in self._frames[key].masks:
                cells, counts = self._frames[key].masks[task]
                total.ravel()[cells] += counts
        return total

    def _slice(self, keys: Sequence[str]) -> SliceScores:
        boxes = [index for key in keys if (index := self._frames[key].boxes) is not None]
        ap, ap50 = self._boxes.compute_part(boxes) if boxes else (None, None)
        semantic, drivable = (
            score(self._summed(task, keys), self._vocabularies[task].names).mean_iou
            for task in ("semantic", "drivable")
        )
        return SliceScores(len(keys), ap, ap50, semantic, drivable)

    def _metrics(self, boxes: DetectionMetrics | None) -> Metrics:
        if not self._boxes.truths and not any(self._images.values()):
            raise DatasetError(
                f"nothing to evaluate: no image has both a prediction and a truth for {', '.join(self._tasks)}; "
                "choose a split with labels for a task that the model has"
            )
        semantic, drivable = self._confusions["semantic"], self._confusions["drivable"]
        return Metrics(
            detection=boxes,
            semantic=segmentation_metrics(semantic, self._images["semantic"], self._vocabularies["semantic"])
            if self._images["semantic"]
            else None,
            drivable=drivable_metrics(drivable, self._images["drivable"]) if self._images["drivable"] else None,
        )


def _size_error(what: str, predicted: Size | tuple[int, ...], truth: Size | tuple[int, ...]) -> DatasetError:
    return DatasetError(
        f"the {what} is {'x'.join(map(str, predicted[::-1]))} pixels (width x height) but its truth is "
        f"{'x'.join(map(str, truth[::-1]))}; predict at the size of the labelled image"
    )


def _detection_from(metadata: dict[str, Any] | None) -> DetectionMetrics | None:
    if metadata is None:
        return None
    per_class = {name: DetectionScores(**scores) for name, scores in metadata["per_class"].items()}
    return DetectionMetrics(metadata["images"], DetectionScores(**metadata["scores"]), per_class)


def _semantic_from(metadata: dict[str, Any] | None) -> SegmentationMetrics | None:
    if metadata is None:
        return None
    return SegmentationMetrics(
        metadata["images"], SegmentationScores(**metadata["scores"]), dict(metadata["truth_share"])
    )


def _drivable_from(metadata: dict[str, Any] | None) -> DrivableMetrics | None:
    if metadata is None:
        return None
    official, three_class = SegmentationScores(**metadata["official"]), SegmentationScores(**metadata["three_class"])
    return DrivableMetrics(metadata["images"], official, three_class, dict(metadata["truth_share"]))
