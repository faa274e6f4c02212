"""A split as torch data sets: augmented samples for training, letterboxed images for evaluation."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from lvad_perception.datasets.split import Split
from lvad_perception.media.images import read_image
from lvad_perception.preprocess import letterbox_image
from lvad_perception.types import Size, Truth, UInt8
from lvad_training.data.annotation import Annotation, Frames
from lvad_training.data.sampling import Key
from lvad_training.samples import EvaluationSample, Sample, Targets

Transform = Callable[[UInt8, Truth, np.random.Generator], tuple[Tensor, Targets]]
"""(uint8 RGB [H, W, 3], truth in source pixels, random generator) -> (uint8 [3, h, w], targets in network pixels)."""


class TrainingSet(Dataset[Sample]):
    """Training samples of a split, addressed by epoch, index and task.

    A sample's augmentation depends on seed, epoch and frame alone, so the number of workers, a resume, the order of
    reading and the task do not change it.

    Args:
        annotation: images and their annotation.
        transform: makes network input and targets of them.
        indices: frames of the split to use, in this order; all if None.
        seed: of the augmentation, >= 0.
    """

    def __init__(
        self,
        annotation: Annotation,
        transform: Transform,
        indices: Sequence[int] | Frames | None = None,
        *,
        seed: int = 0,
    ) -> None:
        self.annotation = annotation
        self.transform = transform
        self.indices = _chosen(annotation.split, indices)
        self.seed = seed

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, key: Key) -> Sample:
        """Read and transform one frame.

        Args:
            key: epoch >= 0, index, and the only task to make targets for, or None for all.

        Raises:
            ImageError: its image cannot be read.
            LabelError: its mask cannot be read, has another size than the image or unknown ids.
        """
        epoch, index, task = key
        frame = int(self.indices[index])
        split = self.annotation.split
        image = read_image(split.image_path(frame))
        truth = self.annotation.truth(frame, (image.shape[0], image.shape[1]), task)
        rng = np.random.default_rng([self.seed, epoch, frame])
        pixels, targets = self.transform(image, truth, rng)
        return Sample(split.name_of(frame), pixels, targets)


class EvaluationSet(Dataset[EvaluationSample]):
    """Letterboxed images of a split; ``truth`` gives their annotation in source pixels.

    Args:
        split: images and their annotation.
        network_hw: (height, width) of the network input.
        indices: frames of the split to use, in this order; all if None.
    """

    def __init__(self, split: Split, network_hw: Size, indices: Sequence[int] | Frames | None = None) -> None:
        self.split = split
        self.network_hw = network_hw
        self.indices = _chosen(split, indices)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> EvaluationSample:
        """Read and letterbox one frame's image. Raises ImageError if it cannot be read."""
        frame = int(self.indices[index])
        image, letterbox = letterbox_image(read_image(self.split.image_path(frame)), self.network_hw)
        pixels = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))  # (3, h, w)
        return EvaluationSample(self.split.name_of(frame), pixels, letterbox)

    def truth(self, index: int, source_hw: Size) -> Truth:
        """Annotation of the sample at ``index``, whose image has size ``source_hw``. Raises LabelError."""
        return self.split.truth(int(self.indices[index]), source_hw)


def _chosen(split: Split, indices: Sequence[int] | Frames | None) -> Frames:
    """int64 [N]; an array, which is smaller to pickle than a list. Raises IndexError for an index outside the split."""
    if indices is None:
        return np.arange(len(split), dtype=np.int64)
    chosen = np.asarray(indices, dtype=np.int64).reshape(-1)
    if len(chosen) and not (chosen.min() >= 0 and chosen.max() < len(split)):
        raise IndexError(f"indices of split '{split.name}' must lie in 0 to {len(split) - 1}")
    return chosen
