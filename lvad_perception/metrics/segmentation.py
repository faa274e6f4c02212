"""IoU and pixel accuracy of label maps from one confusion matrix per task.

The definitions of the BDD100K toolkit:

* Pixels whose truth is ``UNLABELED`` are ignored.
* A labelled pixel with no predicted class (255) is a miss of its true class and no false positive.
* The IoU of a class is taken over all images together: intersection pixels over union pixels.
* The mean runs over the classes that occur in the truth. A class that occurs in predictions only is not in the mean,
  but lowers it: its pixels are misses of their true classes.
* Drivable area, "official": pixels whose truth is background are ignored too and the mean runs over direct and
  alternative, so that predicting the whole sky as drivable costs nothing. The 3-class numbers treat background as any
  other class; they are the ones that matter to a planner.
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
        pixel_accuracy: share of the labelled pixels whose class is right.
        iou: class name -> IoU; None for a class that does not occur in the truth.
        constant_mean_iou: the best ``mean_iou`` of a constant prediction on the same truth.
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
        official: over direct and alternative; pixels whose truth is background are ignored (BDD100K toolkit).
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
        truth: uint8 [H, W]; values >= ``classes`` (such as ``UNLABELED``) are ignored.
        prediction: uint8 [H, W]; values >= ``classes`` count as "no class".
        classes: C.
    """
    # Count all 256 x 256 pairs of values first and fold them afterwards, which needs no masks over pixels.
    pairs = (truth.astype(np.uint16) << 8) | prediction
    joint = np.bincount(pairs.ravel(), minlength=1 << 16).reshape(256, 256)[:classes]
    folded = [joint[:, :classes], joint[:, classes:].sum(1, keepdims=True)]
    return np.asarray(np.concatenate(folded, axis=1), np.int64)


def score(confusion: Confusion, names: tuple[str, ...]) -> SegmentationScores:
    """Scores of a confusion matrix [R, C + 1] over its R true classes; R < C when some of the truth is ignored."""
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
    """The best mean IoU in percent of a constant prediction; NaN without labelled pixels.

    Predicting class c everywhere gives c the IoU (pixels of c) / (all pixels) and every other class 0, so the most
    frequent class is the best choice. Only the truth counts of the confusion matrix [R, C + 1] matter.
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
    # Background is the last class: without the last row, its truth pixels are ignored.
    official = score(confusion[:DRIVABLE_BACKGROUND], DRIVABLE.names[:DRIVABLE_BACKGROUND])
    three_class = score(confusion, DRIVABLE.names)
    return DrivableMetrics(images, official, three_class, _truth_share(confusion, DRIVABLE.names))
