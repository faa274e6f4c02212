"""IoU and pixel accuracy of label maps from one confusion matrix per task.

Definitions, those of the BDD100K toolkit:

* A pixel whose truth is ``UNLABELED`` counts for nothing, whatever was predicted there.
* A labelled pixel that is predicted as no class at all (255) is a miss of its true class and no false positive.
* The IoU of a class is taken over all images together: intersection pixels over union pixels.
* The mean runs over the classes that occur in the truth. A class that occurs in predictions only is left out of the
  mean (it still costs IoU: its pixels are missed by their true classes), as is a class that occurs in neither.
* Drivable area, "official": pixels whose truth is background are dropped too and the mean runs over direct and
  alternative, so painting the whole sky drivable costs nothing. The 3-class numbers next to it treat background as any
  class; they are what a planner would notice.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lvad_perception.types import UInt8
from lvad_perception.vocabulary import DRIVABLE, DRIVABLE_BACKGROUND, Vocabulary

Confusion = npt.NDArray[np.int64]
"""int64 [C, C + 1]: pixels by true class (row) and predicted class (column); the last column is "no class"."""


@dataclass(frozen=True, slots=True)
class SegmentationScores:
    """Scores of one label map task in percent. None where no labelled pixel defines the number.

    Attributes:
        mean_iou: mean of ``iou`` over the classes that occur in the truth.
        pixel_accuracy: share of the labelled pixels that are right.
        iou: class name -> IoU; None for a class that does not occur in the truth.
        constant_mean_iou: the best ``mean_iou`` that predicting one class everywhere reaches on the same truth.
    """

    mean_iou: float | None
    pixel_accuracy: float | None
    iou: dict[str, float | None]
    constant_mean_iou: float | None


@dataclass(frozen=True, slots=True)
class SegmentationMetrics:
    """Semantic segmentation.

    Attributes:
        images: images with both a prediction and a truth.
        scores: over the nineteen classes.
        truth_share: class name -> share of the labelled truth pixels in percent.
    """

    images: int
    scores: SegmentationScores
    truth_share: dict[str, float]


@dataclass(frozen=True, slots=True)
class DrivableMetrics:
    """Drivable area, both ways.

    Attributes:
        images: images with both a prediction and a truth.
        official: over direct and alternative; pixels whose truth is background are dropped (BDD100K toolkit).
        three_class: over direct, alternative and background.
        truth_share: class name -> share of the labelled truth pixels in percent.
    """

    images: int
    official: SegmentationScores
    three_class: SegmentationScores
    truth_share: dict[str, float]


def confuse(truth: UInt8, prediction: UInt8, classes: int) -> Confusion:
    """Confusion matrix of one image.

    Args:
        truth: uint8 [H, W]; values >= ``classes`` (such as ``UNLABELED``) are left out.
        prediction: uint8 [H, W]; values >= ``classes`` count as "no class".
        classes: C.
    """
    # All 256 x 256 value pairs are counted and folded afterwards: no masks over pixels are needed.
    pairs = (truth.astype(np.uint16) << 8) | prediction
    joint = np.bincount(pairs.ravel(), minlength=1 << 16).reshape(256, 256)[:classes]
    folded = [joint[:, :classes], joint[:, classes:].sum(1, keepdims=True)]
    return np.asarray(np.concatenate(folded, axis=1), np.int64)


def score(confusion: Confusion, names: tuple[str, ...]) -> SegmentationScores:
    """Scores of a confusion matrix [R, C + 1] over its R true classes; R < C when some truth was dropped."""
    truth = confusion.sum(1)
    hits = np.diagonal(confusion)
    union = truth + confusion.sum(0)[: len(truth)] - hits
    present = truth > 0
    if not present.any():
        return SegmentationScores(None, None, dict.fromkeys(names), None)
    ious = 100.0 * hits[present] / union[present]
    by_class = dict(zip(np.flatnonzero(present).tolist(), ious.tolist(), strict=True))
    return SegmentationScores(
        float(ious.mean()),
        float(100.0 * hits.sum() / truth.sum()),
        {name: by_class.get(index) for index, name in enumerate(names)},
        constant_baseline(confusion),
    )


def constant_baseline(confusion: Confusion) -> float:
    """The best mean IoU in percent that predicting one class everywhere reaches; NaN without labelled pixels.

    Predicting class c everywhere gives c the IoU (pixels of c) / (all pixels) and every other class 0, so the
    commonest class is the best choice. Only the truth side of the confusion matrix [R, C + 1] matters.
    """
    truth = confusion.sum(1)
    if truth.sum() == 0:
        return float("nan")
    return float(100.0 * truth.max() / truth.sum() / np.count_nonzero(truth))


def _truth_share(confusion: Confusion, names: tuple[str, ...]) -> dict[str, float]:
    truth = confusion.sum(1)
    share = 100.0 * truth / max(1, int(truth.sum()))
    return dict(zip(names, share.tolist(), strict=True))


def segmentation_metrics(confusion: Confusion, images: int, vocabulary: Vocabulary) -> SegmentationMetrics:
    """Metrics of a label map task from its summed confusion matrix."""
    return SegmentationMetrics(images, score(confusion, vocabulary.names), _truth_share(confusion, vocabulary.names))


def drivable_metrics(confusion: Confusion, images: int) -> DrivableMetrics:
    """Metrics of drivable area from its summed confusion matrix [3, 4]."""
    # Background is the last class, so dropping its truth pixels is dropping the last row.
    official = score(confusion[:DRIVABLE_BACKGROUND], DRIVABLE.names[:DRIVABLE_BACKGROUND])
    three_class = score(confusion, DRIVABLE.names)
    return DrivableMetrics(images, official, three_class, _truth_share(confusion, DRIVABLE.names))
