"""Training augmentation: random scale, crop, flip and colour of an image and its truth.

The geometry is drawn first: a window of the source image, the size it is resized to, the padding around it and
mirroring. Image, masks and boxes then go through the same steps, which keeps them aligned; padding and mirroring are
torchvision's v2 functionals on tv_tensors. The window is cut before resizing and colour is changed after it, to process
few pixels. Without augmentation the image equals ``preprocess.letterbox_image``.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F

from lvad_perception.errors import ConfigError
from lvad_perception.preprocess import PAD_VALUE, fit_letterbox, resize_image
from lvad_perception.types import Bool, Size, Truth, TruthBoxes, UInt8
from lvad_perception.vocabulary import UNLABELED
from lvad_training.samples import Targets

MIN_VISIBLE = 0.25
"""A box with less than this share of its area inside the crop is no target, as too little of the object is visible."""

MIN_SIDE_PX = 2.0
"""A box with a shorter side than this, in network pixels, is no target, as features do not resolve it."""

_LUMA = np.array([0.299, 0.587, 0.114])
_HUE_RADIANS_PER_STRENGTH = 0.25


@dataclass(frozen=True, slots=True)
class _Placement:
    """A window of the source image, and its place in the network input: size ``resized_hw`` at (top, left)."""

    row: int
    column: int
    window_hw: Size
    resized_hw: Size
    top: int
    left: int
    mirrored: bool


class TrainingTransform:
    """Turns source images and truths into network-sized images and targets.

    Crowd boxes are not targets but ignored regions. Boxes of which the crop leaves less than ``MIN_VISIBLE`` or
    ``MIN_SIDE_PX`` are dropped: the detector treats what is visible of them as background, the masks keep it.

    Args:
        network_hw: (height, width) of the network input.
        flip: probability of mirroring; no class of the project distinguishes left from right.
        scale: smallest and largest factor on the letterbox scale, drawn log-uniformly.
        crop: place window and padding at random; False centres both.
        color: strength of brightness, contrast and saturation changes (each factor in 1 - color .. 1 + color) and of
            a hue rotation by up to 0.25 rad times it; 0 keeps colours.

    Raises:
        ConfigError: a value is outside its range.
    """

    def __init__(
        self,
        *,
        network_hw: Size,
        flip: float = 0.5,
        scale: tuple[float, float] = (0.5, 2.0),
        crop: bool = True,
        color: float = 0.4,
    ) -> None:
        if min(network_hw) < 1:
            raise ConfigError(f"network size {network_hw} has an empty side; give (height, width) of at least 1")
        if not 0 <= flip <= 1:
            raise ConfigError(f"flip is {flip}; give a probability from 0 to 1")
        if not 0 < scale[0] <= scale[1]:
            raise ConfigError(f"scale is {tuple(scale)}; give (smallest, largest) with 0 < smallest <= largest")
        if not 0 <= color < 1:
            raise ConfigError(f"color is {color}; give a strength from 0 to below 1")
        self.network_hw = (int(network_hw[0]), int(network_hw[1]))
        self.flip = flip
        self.scale = (float(scale[0]), float(scale[1]))
        self.crop = crop
        self.color = color

    @classmethod
    def without_augmentation(cls, network_hw: Size) -> "TrainingTransform":
        """Letterbox only: the image equals ``preprocess.letterbox_image``, and nothing is random."""
        return cls(network_hw=network_hw, flip=0.0, scale=(1.0, 1.0), crop=False, color=0.0)

    def __call__(self, image: UInt8, truth: Truth, rng: np.random.Generator) -> tuple[Tensor, Targets]:
        """Transform one image.

        Args:
            image: uint8 [H, W, 3], RGB, of size ``truth.size_hw``.
            truth: annotation in source pixels.
            rng: the only source of randomness; the same state gives the same result.

        Returns:
            uint8 [3, h, w] of network size, and targets in network pixels; a task that is None in the truth is None.
        """
        placement = self._draw_placement((image.shape[0], image.shape[1]), rng)
        pixels = resize_image(_cut(image, placement), placement.resized_hw)
        if self.color > 0:
            pixels = _change_color(pixels, _draw_color_matrix(pixels, self.color, rng))
        finish = self._padder(placement)

        tensor = finish(tv_tensors.Image(torch.from_numpy(pixels).permute(2, 0, 1)), PAD_VALUE)  # (3, h, w)
        return tensor, self._targets(truth, placement, finish)

    def targets(self, truth: Truth) -> Targets:
        """Targets without augmentation, for the network's outputs on a letterboxed image.

        Args:
            truth: annotation in source pixels.
        """
        plain = self.without_augmentation(self.network_hw)
        placement = plain._draw_placement(truth.size_hw, np.random.default_rng(0))
        return self._targets(truth, placement, plain._padder(placement))

    def _targets(self, truth: Truth, placement: _Placement, finish: Callable[[Any, int], Tensor]) -> Targets:
        semantic, drivable = (
            None if mask is None else finish(_resized_mask(_cut(mask, placement), placement.resized_hw), UNLABELED)
            for mask in (truth.semantic, truth.drivable)
        )
        boxes_xyxy = labels = ignored_xyxy = ignored_labels = None
        if truth.boxes is not None:
            limit = torch.tensor(self.network_hw[::-1] * 2)
            windowed, labels = _boxes_in_window(truth.boxes, ~truth.boxes.crowd, truth.size_hw, placement)
            boxes_xyxy = finish(windowed, 0).clamp(min=0).minimum(limit)  # rounding may leave the image by 1e-5 px
            if truth.boxes.crowd.any():
                windowed, ignored_labels = _boxes_in_window(truth.boxes, truth.boxes.crowd, truth.size_hw, placement)
                ignored_xyxy = finish(windowed, 0).clamp(min=0).minimum(limit)
        return Targets(boxes_xyxy, labels, semantic, drivable, ignored_xyxy, ignored_labels)

    def _draw_placement(self, source_hw: Size, rng: np.random.Generator) -> _Placement:
        """Draw window, size, padding and mirroring; the window consists of whole source pixels, to be a view."""
        box = fit_letterbox(source_hw, self.network_hw)
        factor = 1.0
        if self.scale != (1.0, 1.0):
            factor = float(np.exp(rng.uniform(*np.log(self.scale))))
        starts, windows, sizes, pads = [], [], [], []
        for source, letterboxed, network in zip(source_hw, box.resized_hw, self.network_hw, strict=True):
            uncropped = max(1, round(letterboxed * factor))  # side of the resized image before cropping
            visible = min(uncropped, network)
            window = min(source, max(1, round(source * visible / uncropped)))
            chance = rng.uniform(size=2) if self.crop else (0.5, 0.5)
            starts.append(int(chance[0] * (source - window + 1)) if self.crop else (source - window) // 2)
            pads.append(int(chance[1] * (network - visible + 1)) if self.crop else (network - visible) // 2)
            windows.append(window)
            sizes.append(visible)
        mirrored = self.flip > 0 and bool(rng.uniform() < self.flip)
        return _Placement(
            starts[0], starts[1], (windows[0], windows[1]), (sizes[0], sizes[1]), pads[0], pads[1], mirrored
        )

    def _padder(self, placement: _Placement) -> Callable[[Any, int], Tensor]:
        """The last step of image, masks and boxes: padding to network size, then mirroring."""
        height, width = placement.resized_hw
        right, bottom = self.network_hw[1] - placement.left - width, self.network_hw[0] - placement.top - height

        def finish(tensor: Any, fill: int) -> Tensor:
            if placement.top or placement.left or right or bottom:
                tensor = F.pad(tensor, [placement.left, placement.top, right, bottom], fill=fill)
            if placement.mirrored:
                tensor = F.horizontal_flip(tensor)
            return torch.Tensor.as_subclass(tensor, torch.Tensor).contiguous()

        return finish


def _cut(pixels: UInt8, placement: _Placement) -> UInt8:
    height, width = placement.window_hw
    return pixels[placement.row : placement.row + height, placement.column : placement.column + width]


def _resized_mask(mask: UInt8, size_hw: Size) -> tv_tensors.Mask:
    """Resize a mask by the nearest pixel centre; torchvision's resize takes the floor of the coordinate instead."""
    if mask.shape != size_hw:
        mask = np.asarray(cv2.resize(mask, (size_hw[1], size_hw[0]), interpolation=cv2.INTER_NEAREST_EXACT), np.uint8)
    return tv_tensors.Mask(torch.from_numpy(np.array(mask)))


def _boxes_in_window(
    truth: TruthBoxes, chosen: Bool, source_hw: Size, placement: _Placement
) -> tuple[tv_tensors.BoundingBoxes, torch.Tensor]:
    """The chosen boxes that stay visible, in pixels of the resized window, and their labels, int64 [N]."""
    boxes = tv_tensors.BoundingBoxes(
        torch.from_numpy(truth.boxes_xyxy[chosen]).reshape(-1, 4), format="XYXY", canvas_size=source_hw
    )
    labels = torch.from_numpy(truth.labels[chosen].astype(np.int64))
    cropped = F.crop(boxes, placement.row, placement.column, *placement.window_hw)  # clipped to the window
    resized = F.resize(cropped, list(placement.resized_hw))
    sides = (resized[:, 2:] - resized[:, :2]).as_subclass(torch.Tensor)
    visible = _areas(cropped) / _areas(boxes).clamp(min=1e-6)
    keep = (sides.amin(1) >= MIN_SIDE_PX) & (visible >= MIN_VISIBLE)
    return tv_tensors.wrap(resized[keep], like=resized), labels[keep]


def _areas(boxes: Tensor) -> Tensor:
    plain = boxes.as_subclass(torch.Tensor)
    return (plain[:, 2] - plain[:, 0]).clamp(min=0) * (plain[:, 3] - plain[:, 1]).clamp(min=0)


def _draw_color_matrix(pixels: UInt8, strength: float, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Brightness, contrast, saturation and hue as one affine map of RGB, float64 [3, 4].

    All four are affine in RGB, so one matrix replaces four passes over the image and rounds once.
    """
    brightness, contrast, saturation = rng.uniform(1 - strength, 1 + strength, size=3)
    angle = rng.uniform(-1, 1) * strength * _HUE_RADIANS_PER_STRENGTH
    grey = np.tile(_LUMA, (3, 1))
    matrix = _hue_rotation(angle) @ (saturation * np.eye(3) + (1 - saturation) * grey)
    mean = float(_LUMA @ np.array(cv2.mean(pixels)[:3]))  # contrast turns about the image's mean grey
    return np.asarray(brightness * np.hstack([contrast * matrix, np.full((3, 1), (1 - contrast) * mean)]))


def _hue_rotation(angle: float) -> npt.NDArray[np.float64]:
    """Rotation of RGB about the grey axis by ``angle`` radians, float64 [3, 3] (Rodrigues' formula)."""
    axis: Sequence[float] = [1 / np.sqrt(3)] * 3
    cross = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
    return np.asarray(np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * (cross @ cross))


def _change_color(pixels: UInt8, matrix: npt.NDArray[np.float64]) -> UInt8:
    return np.asarray(cv2.transform(pixels, matrix), np.uint8)  # saturates at 0 and 255
