"""The weighted sum of the tasks' losses.

L = a_det L_det + a_sem L_sem + a_driv L_driv (LV-Adapter, section 3).
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from lvad_training.losses.detection import DetectionCriterion
from lvad_training.losses.points import PointCriterion
from lvad_training.losses.segmentation import MaskCriterion, PixelCriterion
from lvad_training.samples import Batch, Outputs, PixelOutputs


class MultiTaskCriterion(nn.Module):
    """Outputs and batch -> named loss terms, already weighted; their sum is the loss.

    A task's terms are over the images that are annotated for it, and absent when none is. In training mode, processes
    that train together divide by the objects of all their images, and all have to call the criterion; in evaluation
    mode there is no communication.

    Args:
        detection: criterion of the detection head; None for a network without that head.
        semantic: of the semantic head, likewise.
        drivable: of the drivable head, likewise.
        weights: task name -> alpha.
        score_maps: task name -> criterion of its score map as an auxiliary classifier of pixels.
        temperature: DenseCLIP's tau, by which the cosines of a score map are divided to become logits.
    """

    def __init__(
        self,
        *,
        detection: DetectionCriterion | PointCriterion | None,
        semantic: MaskCriterion | PixelCriterion | None,
        drivable: MaskCriterion | PixelCriterion | None,
        weights: dict[str, float],
        score_maps: Mapping[str, PixelCriterion] | None = None,
        temperature: float = 0.07,
    ) -> None:
        super().__init__()
        self.detection = detection
        self.semantic = semantic
        self.drivable = drivable
        self.weights = weights
        self.score_maps = nn.ModuleDict(score_maps or {})
        self.temperature = temperature

    def forward(self, outputs: Outputs, batch: Batch) -> dict[str, Tensor]:
        """Loss terms of one batch; empty when no image is annotated."""
        size_hw = (batch.images.shape[2], batch.images.shape[3])
        parts: dict[str, dict[str, Tensor]] = {}
        with torch.autocast(batch.images.device.type, enabled=False):
            if self.detection is not None and outputs.detection is not None:
                parts["detection"] = self.detection(outputs.detection, batch.targets, size_hw)
            if self.semantic is not None and outputs.semantic is not None:
                maps = [target.semantic for target in batch.targets]
                parts["semantic"] = self.semantic(outputs.semantic, outputs.semantic_pixels, maps)
            if self.drivable is not None and outputs.drivable is not None:
                maps = [target.drivable for target in batch.targets]
                parts["drivable"] = self.drivable(outputs.drivable, outputs.drivable_pixels, maps)
            for task, criterion in self.score_maps.items():
                if task in outputs.score_maps:
                    maps = [getattr(target, task) for target in batch.targets]
                    logits = outputs.score_maps[task].float() / self.temperature
                    parts[task] |= criterion(PixelOutputs(logits, 1), None, maps)
        return {name: self.weights[task] * value for task, terms in parts.items() for name, value in terms.items()}
