"""Random views of frames, by lightly's transforms; they depend only on seed, epoch and frame."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from lightly.transforms.byol_transform import BYOLTransform, BYOLView1Transform, BYOLView2Transform
from lightly.transforms.densecl_transform import DenseCLTransform
from lightly.transforms.moco_transform import MoCoV2Transform
from lightly.transforms.multi_view_transform import MultiViewTransform
from lightly.transforms.simclr_transform import SimCLRTransform
from lightly.transforms.swav_transform import SwaVTransform
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from lvad_perception.media.images import read_image
from lvad_training.data.sampling import Key
from lvad_training.pretrain.frames import Frame
from lvad_training.pretrain.recipe import Method, ViewsConfig

Transform = Callable[[Image.Image], list[Tensor]]
"""An image -> its views, float32 [3, h, w] each, normalised with ImageNet's mean and deviation."""


@dataclass(frozen=True, slots=True, eq=False)
class Views:
    """The views of one step.

    Attributes:
        names: B frame names.
        images: float32 [B, 3, h, w] per view, normalised; the first two are the large ones.
    """

    names: list[str]
    images: list[Tensor]

    def to(self, device: torch.device) -> "Views":
        """The same on another device."""
        return Views(self.names, [view.to(device, non_blocking=True) for view in self.images])


def make_transform(method: Method, config: ViewsConfig) -> Transform:
    """The method's transform with the recipe's settings."""
    shared: dict[str, Any] = {
        "cj_strength": config.color,
        "random_gray_scale": config.gray,
        "hf_prob": config.flip,
        **({} if config.blur is None else {"gaussian_blur": config.blur}),
    }
    if method == "swav":
        least_large = 0.14 if config.min_scale is None else config.min_scale
        return _of_images(
            SwaVTransform(
                crop_sizes=(config.size_px, config.small_px),
                crop_counts=(2, config.small_count),
                crop_min_scales=(least_large, 0.05),
                **shared,
            )
        )
    shared["input_size"] = config.size_px
    if config.min_scale is not None:
        shared["min_scale"] = config.min_scale
    if method == "byol":
        return _of_images(BYOLTransform(BYOLView1Transform(**shared), BYOLView2Transform(**shared)))
    kind = {"simclr": SimCLRTransform, "moco_v2": MoCoV2Transform, "densecl": DenseCLTransform}[method]
    return _of_images(kind(**shared))


def _of_images(transform: MultiViewTransform) -> Transform:
    return cast(Transform, transform)  # lightly's type also covers tensors as input


class ViewSet(Dataset[tuple[str, list[Tensor]]]):
    """Views of frames, drawn anew in every epoch.

    Names and paths are stored as arrays, since each of the loader's processes gets a copy.

    Args:
        frames: all frames.
        transform: makes the views; draws from torch's and numpy's global generators.
        seed: determines the views, with epoch and index.
    """

    def __init__(self, frames: Sequence[Frame], transform: Transform, *, seed: int) -> None:
        self._names = np.array([os.fsencode(frame.name) for frame in frames], np.bytes_)
        self._paths = np.array([os.fsencode(frame.path) for frame in frames], np.bytes_)
        self.transform = transform
        self.seed = seed

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, key: Key) -> tuple[str, list[Tensor]]:
        epoch, index, _ = key
        image = Image.fromarray(read_image(Path(os.fsdecode(self._paths[index]))))
        words = np.random.SeedSequence([self.seed, epoch, index]).generate_state(2)
        before = np.random.get_state()  # noqa: NPY002  # lightly draws from the global generator
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(words[0]))
            np.random.seed(int(words[1]))  # noqa: NPY002
            try:
                return os.fsdecode(self._names[index]), list(self.transform(image))
            finally:
                np.random.set_state(before)  # noqa: NPY002


def collate_views(samples: list[tuple[str, list[Tensor]]]) -> Views:
    """Stack each view of the samples."""
    names, views = zip(*samples, strict=True)
    return Views(list(names), [torch.stack(each) for each in zip(*views, strict=True)])
