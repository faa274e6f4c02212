"""Metrics of predictions, for training and the vehicle: COCO AP of boxes, IoU of masks.

``Evaluator`` takes one image at a time and keeps only boxes and confusion matrices; ``Metrics`` is its result.
Every rate is in percent. The definitions are those of pycocotools and of the BDD100K toolkit; see the modules
``detection`` and ``segmentation``.
"""

from lvad_perception.metrics.detection import DetectionMetrics, DetectionScores
from lvad_perception.metrics.evaluator import Evaluator, Metrics
from lvad_perception.metrics.findings import (
    Findings,
    FrameFindings,
    FrameMetadata,
    SliceScores,
    worst_first,
)
from lvad_perception.metrics.segmentation import (
    DrivableMetrics,
    SegmentationMetrics,
    SegmentationScores,
    constant_baseline,
)

__all__ = [
    "DetectionMetrics",
    "DetectionScores",
    "DrivableMetrics",
    "Evaluator",
    "Findings",
    "FrameFindings",
    "FrameMetadata",
    "Metrics",
    "SegmentationMetrics",
    "SegmentationScores",
    "SliceScores",
    "constant_baseline",
    "worst_first",
]
