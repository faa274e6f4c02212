"""Letterbox for one camera size, and its inverse, as layers inside the model file."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from lvad_perception.postprocess import network_pixels
from lvad_perception.preprocess import PAD_VALUE, fit_letterbox
from lvad_perception.types import Size


class CameraFrame(nn.Module):
    """``lvad_perception.preprocess`` and ``postprocess`` for one camera size, as a layer.

    Uses only operators that all runtimes compute alike: average pooling or small matrix products for OpenCV's area
    averaging, gathers with constant indices for nearest-neighbour interpolation.

    Args:
        camera_hw: size of the camera's images.
        network_hw: size of the network's input.
    """

    rows: Tensor
    columns: Tensor

    def __init__(self, camera_hw: Size, network_hw: Size) -> None:
        super().__init__()
        self.box = fit_letterbox(camera_hw, network_hw)
        rows, columns = network_pixels(self.box)
        self.register_buffer("rows", torch.from_numpy(rows), persistent=False)
        self.register_buffer("columns", torch.from_numpy(columns), persistent=False)
        shares_by_axis = [area_shares(*sides) for sides in zip(camera_hw, self.box.resized_hw, strict=True)]
        for name, shares in zip(("row_shares", "column_shares"), shares_by_axis, strict=True):
            self.register_buffer(name, shares, persistent=False)

    def letterbox(self, images: Tensor) -> Tensor:
        """Letterbox images as ``preprocess.letterbox_image`` does.

        Args:
            images: float32 [B, 3, H, W] of camera size, integers in [0, 255].

        Returns:
            float32 [B, 3, h, w] of network size, integers that differ from the host's by at most 1.
        """
        height, width = self.box.network_hw
        rows, columns = self.box.resized_hw
        below, right = height - rows - self.box.top, width - columns - self.box.left
        if self.box.resized_hw != self.box.source_hw:
            images = (self._resize(images) + 0.5).floor()  # rounded, since the network was trained on 8-bit images
        return functional.pad(images, (self.box.left, right, self.box.top, below), value=float(PAD_VALUE))

    def boxes_to_camera(self, boxes_xyxy: Tensor) -> Tensor:
        """Boxes [B, K, 4] from network to camera pixels, clipped, as ``postprocess.boxes_to_source`` does."""
        height, width = self.box.source_hw
        scale_y, scale_x = height / self.box.resized_hw[0], width / self.box.resized_hw[1]
        x = ((boxes_xyxy[..., 0::2] - self.box.left) * scale_x).clamp(0, width)  # (B, K, 2)
        y = ((boxes_xyxy[..., 1::2] - self.box.top) * scale_y).clamp(0, height)
        return torch.stack([x, y], dim=-1).flatten(2)

    def mask_to_camera(self, mask: Tensor) -> Tensor:
        """Maps [B, h, w] from network to camera size [B, H, W], as ``postprocess.mask_to_source`` does."""
        return mask.index_select(2, self.columns).index_select(1, self.rows)

    def _resize(self, images: Tensor) -> Tensor:
        """Resize to the letterbox's inner size; area averaging when shrinking, bilinear when enlarging."""
        (height, width), (rows, columns) = self.box.source_hw, self.box.resized_hw
        if rows >= height:
            return functional.interpolate(images, size=(rows, columns), mode="bilinear", align_corners=False)
        if height % rows == 0 and width % columns == 0:
            return functional.avg_pool2d(images, (height // rows, width // columns))
        across, down = self.get_buffer("column_shares"), self.get_buffer("row_shares")
        batch, channels = images.shape[:2]
        images = images.reshape(batch, channels, height, -1, across.shape[1]) @ across.T
        images = images.reshape(batch, channels, -1, down.shape[1], columns)
        return torch.reshape(down @ images, (batch, channels, rows, columns))


def area_shares(source: int, resized: int) -> Tensor:
    """Weights of source pixels in each result pixel of area averaging from ``source`` to ``resized`` pixels.

    The pattern repeats after ``source / gcd`` pixels: float32 [resized / gcd, source / gcd], every row sums to 1.
    """
    repeats = math.gcd(source, resized)
    source, resized = source // repeats, resized // repeats
    # In common units source pixel i covers [i * resized, (i + 1) * resized),
    # and result pixel j covers [j * source, (j + 1) * source).
    pixel = torch.arange(source)[None] * resized
    result = torch.arange(resized)[:, None] * source
    overlap = torch.minimum(pixel + resized, result + source) - torch.maximum(pixel, result)
    return overlap.clamp(min=0).float() / source
