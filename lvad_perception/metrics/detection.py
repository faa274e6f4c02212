"""COCO average precision of boxes, computed by faster-coco-eval class by class.

The definitions of pycocotools, which the BDD100K toolkit uses too:

* AP is the mean over the IoU thresholds 0.50, 0.55 ... 0.95 of the area under the 101-point interpolated
  precision-recall curve; AP50 and AP75 use one threshold. "All classes" is the mean over the classes that have truth.
* The 100 best scores of each image *and class* count. Equal scores keep the order in which images were added.
* A crowd box (``TruthBoxes.crowd``) is neither a miss nor, for detections inside it, a false positive.
* Small, medium, large: box area up to 32^2, 96^2, and more source pixels.
* Width is x2 - x1. The toolkit's ``box2d`` names the last pixel *inside* the box, so its ``x2`` is one less than ours;
  with that conversion the numbers are equal.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from lvad_perception.errors import EngineError, MissingDependencyError, VocabularyMismatchError
from lvad_perception.types import Bool, Detections, Float32, Int32, TruthBoxes
from lvad_perception.vocabulary import DETECTION

MAX_DETECTIONS: Final = 100
"""Detections per image and class that count."""

_IOU_50, _IOU_75 = 0, 5  # rows of the ten IoU thresholds
_ALL, _SMALL, _MEDIUM, _LARGE = range(4)  # area ranges as faster-coco-eval orders them


@dataclass(frozen=True, slots=True)
class DetectionScores:
    """COCO scores in percent; None without truth boxes to define the number.

    Attributes:
        ap: mean over IoU 0.50:0.95.
        ap50: at IoU 0.50.
        ap75: at IoU 0.75.
        ap_small: of boxes with an area up to 32^2 pixels.
        ap_medium: of boxes with an area from 32^2 to 96^2 pixels.
        ap_large: of boxes with an area above 96^2 pixels.
        ar100: recall with at most 100 detections per image and class, mean over IoU 0.50:0.95.
        truth: number of truth boxes, without crowds.
    """

    ap: float | None
    ap50: float | None
    ap75: float | None
    ap_small: float | None
    ap_medium: float | None
    ap_large: float | None
    ar100: float | None
    truth: int


@dataclass(frozen=True, slots=True)
class DetectionMetrics:
    """Detection of traffic objects.

    Attributes:
        images: images with detections and a truth; either may be empty.
        scores: over all classes.
        per_class: class name -> its scores.
    """

    images: int
    scores: DetectionScores
    per_class: dict[str, DetectionScores]


@dataclass(slots=True)
class BoxStore:
    """The boxes of all images so far, as a few small arrays for each image.

    Attributes:
        names: the classes, in id order.
    """

    names: tuple[str, ...] = DETECTION.names
    detections: list[Detections] = field(default_factory=list)
    truths: list[TruthBoxes] = field(default_factory=list)

    def add(self, detections: Detections, truth: TruthBoxes) -> None:
        """Add the boxes of one image.

        Raises:
            MissingDependencyError: faster-coco-eval is not installed; raised on the first image.
            VocabularyMismatchError: a label is not one of the classes.
            EngineError: a score or box is not finite.
        """
        if not self.truths:
            _faster_coco_eval()
        for labels, owner in ((detections.labels, "detection"), (truth.labels, "truth")):
            if len(labels) and not 0 <= labels.min() <= labels.max() < len(self.names):
                raise VocabularyMismatchError(
                    f"a {owner} has label {labels[(labels < 0) | (labels >= len(self.names))][0]} but there are "
                    f"{len(self.names)} classes; convert labels to {', '.join(self.names)}"
                )
        if not (np.isfinite(detections.scores).all() and np.isfinite(detections.boxes_xyxy).all()):
            raise EngineError("a detection has a score or box that is not a finite number; check the model's weights")
        # Copies, since an engine may reuse its output buffers. COCO ignores the boxes beyond the best ones of a class.
        keep = _best_per_class(detections)
        self.detections.append(
            Detections(
                detections.boxes_xyxy[keep].copy(), detections.scores[keep].copy(), detections.labels[keep].copy()
            )
        )
        self.truths.append(TruthBoxes(truth.boxes_xyxy.copy(), truth.labels.copy(), truth.crowd.copy()))

    def compute(self) -> DetectionMetrics:
        """COCO scores of all images added."""
        return self.compute_with_curves()[0]

    def compute_with_curves(self) -> tuple[DetectionMetrics, dict[str, npt.NDArray[np.float64]]]:
        """The scores, and the precision-recall curve behind the AP50 of each class with truth.

        Returns:
            COCO scores of all images added; class name -> float64 [101], precision in percent at recall 0 to 100 %.
        """
        detections, truth = _flatten(self.detections, self.truths)
        curves = [_class_curves(class_id, detections, truth) for class_id in range(len(self.names))]
        precision = np.stack([curve.precision for curve in curves])  # (C, T, R, A)
        recall = np.stack([curve.recall for curve in curves])  # (C, T)
        counts = [curve.truth for curve in curves]
        per_class = {
            name: _scores(precision[i : i + 1], recall[i : i + 1], counts[i]) for i, name in enumerate(self.names)
        }
        curves_50 = {name: 100.0 * precision[i, _IOU_50, :, _ALL] for i, name in enumerate(self.names) if counts[i]}
        return DetectionMetrics(len(self.truths), _scores(precision, recall, sum(counts)), per_class), curves_50

    def compute_part(self, images: Sequence[int]) -> tuple[float | None, float | None]:
        """AP and AP50 over all classes for the images of some indices; cheaper than ``compute``."""
        detections, truth = _flatten([self.detections[i] for i in images], [self.truths[i] for i in images])
        curves = [_class_curves(class_id, detections, truth, all_areas=False) for class_id in range(len(self.names))]
        precision = np.stack([curve.precision for curve in curves])  # (C, T, R, 1)
        return _mean(precision), _mean(precision[:, _IOU_50])


@dataclass(frozen=True, slots=True)
class _Boxes:
    """Boxes of all images, concatenated; ``extra`` holds the scores of detections or the crowd flags of truth."""

    image: npt.NDArray[np.int64]
    boxes_xyxy: Float32
    labels: Int32
    extra: Float32 | Bool


@dataclass(frozen=True, slots=True)
class _Curves:
    """Precision [T, R, A] and recall [T] (all areas) of a class, -1 where undefined, and its number of truth boxes."""

    precision: npt.NDArray[np.float64]
    recall: npt.NDArray[np.float64]
    truth: int


def _faster_coco_eval() -> ModuleType:
    try:
        import faster_coco_eval
    except ImportError as err:
        raise MissingDependencyError(
            f"detection metrics need faster-coco-eval ({err}); install it with pip install 'lvad_perception[eval]'"
        ) from err
    module: ModuleType = faster_coco_eval
    return module


def _best_per_class(detections: Detections) -> npt.NDArray[np.int64]:
    """Ascending indices of the boxes that COCO evaluates: the ``MAX_DETECTIONS`` best of each class."""
    if len(detections) <= MAX_DETECTIONS:
        return np.arange(len(detections))
    best = np.argsort(-detections.scores, kind="stable")
    kept = [best[detections.labels[best] == label][:MAX_DETECTIONS] for label in np.unique(detections.labels)]
    return np.sort(np.concatenate(kept))


def _flatten(detections: Sequence[Detections], truths: Sequence[TruthBoxes]) -> tuple[_Boxes, _Boxes]:
    image = np.arange(1, len(truths) + 1)
    predicted = _Boxes(
        np.repeat(image, [len(item) for item in detections]),
        np.concatenate([item.boxes_xyxy for item in detections]).astype(np.float32),
        np.concatenate([item.labels for item in detections]).astype(np.int32),
        np.concatenate([item.scores for item in detections]).astype(np.float32),
    )
    truth = _Boxes(
        np.repeat(image, [len(item) for item in truths]),
        np.concatenate([item.boxes_xyxy for item in truths]).astype(np.float32),
        np.concatenate([item.labels for item in truths]).astype(np.int32),
        np.concatenate([item.crowd for item in truths]).astype(np.bool_),
    )
    return predicted, truth


def _annotations(boxes: _Boxes, class_id: int, *, key: str) -> list[dict[str, Any]]:
    """COCO annotations of one class; ids start at 1, since 0 means "unmatched" to some evaluators."""
    chosen = np.flatnonzero(boxes.labels == class_id)
    corners = boxes.boxes_xyxy[chosen].astype(np.float64)
    xywh = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)
    area = xywh[:, 2] * xywh[:, 3]
    columns = (boxes.image[chosen].tolist(), xywh.tolist(), area.tolist(), boxes.extra[chosen].tolist())
    return [
        {"id": i, "image_id": image, "category_id": 1, "bbox": bbox, "area": size, "iscrowd": 0, key: flag}
        for i, (image, bbox, size, flag) in enumerate(zip(*columns, strict=True), start=1)
    ]


def _class_curves(class_id: int, detections: _Boxes, truth: _Boxes, *, all_areas: bool = True) -> _Curves:
    """Evaluate one class. Classes do not interact, and one at a time keeps faster-coco-eval's objects few.

    Without ``all_areas``, small, medium and large boxes are not evaluated separately (A = 1).
    """
    coco = _faster_coco_eval()
    truths = _annotations(truth, class_id, key="iscrowd")
    predictions = _annotations(detections, class_id, key="score")
    for annotation in truths:
        annotation["iscrowd"] = int(annotation["iscrowd"])
    count = sum(1 for annotation in truths if not annotation["iscrowd"])
    if count == 0:
        return _Curves(np.full((10, 101, 4 if all_areas else 1), -1.0), np.full(10, -1.0), 0)
    images = sorted({annotation["image_id"] for annotation in truths + predictions})
    base = {"images": [{"id": image} for image in images], "categories": [{"id": 1, "name": "object"}]}
    evaluation = coco.COCOeval_faster(
        coco.COCO({**base, "annotations": truths}), coco.COCO({**base, "annotations": predictions}), iouType="bbox"
    )
    evaluation.params.maxDets = [MAX_DETECTIONS]
    if not all_areas:
        evaluation.params.areaRng, evaluation.params.areaRngLbl = evaluation.params.areaRng[:1], ["all"]
    evaluation.evaluate()
    evaluation.accumulate()
    precision = np.asarray(evaluation.eval["precision"], np.float64)  # (T, R, 1, A, 1)
    recall = np.asarray(evaluation.eval["recall"], np.float64)  # (T, 1, A, 1)
    return _Curves(precision[:, :, 0, :, 0], recall[:, 0, _ALL, 0], count)


def _scores(precision: npt.NDArray[np.float64], recall: npt.NDArray[np.float64], truth: int) -> DetectionScores:
    """Scores of precision [C, T, R, A] and recall [C, T], where -1 means that no truth box defines the entry."""
    return DetectionScores(
        _mean(precision[..., _ALL]),
        _mean(precision[:, _IOU_50, :, _ALL]),
        _mean(precision[:, _IOU_75, :, _ALL]),
        _mean(precision[..., _SMALL]),
        _mean(precision[..., _MEDIUM]),
        _mean(precision[..., _LARGE]),
        _mean(recall),
        truth,
    )


def _mean(values: npt.NDArray[np.float64]) -> float | None:
    defined = values[values > -1]
    return float(100.0 * defined.mean()) if defined.size else None
