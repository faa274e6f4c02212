"""Transformer blocks that the heads share: multi-head attention, feed-forward, MLP, sine positions."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional


class Attention(nn.Module):
    """Multi-head scaled dot-product attention with separate query, key and value inputs.

    Weights start as those of ``torch.nn.MultiheadAttention``, which draws the three input projections as one matrix.

    Args:
        width: channels of inputs and output.
        heads: number of heads; must divide width.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)
        for layer in (self.query, self.key, self.value, self.out):
            # Rows of one matrix of 3 * width outputs have the bound sqrt(6 / (4 * width)).
            nn.init.xavier_uniform_(layer.weight, gain=1.0 if layer is self.out else math.sqrt(0.5))
            nn.init.zeros_(layer.bias)

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """[B, Q, C] attends to [B, K, C] -> [B, Q, C]."""
        q, k, v = (self._split(layer(x)) for layer, x in ((self.query, query), (self.key, key), (self.value, value)))
        attended = functional.scaled_dot_product_attention(q, k, v)  # (B, heads, Q, C / heads)
        merged: Tensor = self.out(attended.transpose(1, 2).flatten(2))  # (B, Q, C)
        return merged

    def _split(self, x: Tensor) -> Tensor:
        batch, count, width = x.shape
        return x.reshape(batch, count, self.heads, width // self.heads).transpose(1, 2)  # (B, heads, N, C / heads)


class FeedForward(nn.Sequential):
    """Two linear layers around a ReLU: [..., C] -> [..., C]. Weights start as DETR's, biases as torch's."""

    def __init__(self, width: int, hidden: int, dropout: float = 0.0) -> None:
        grow, shrink = nn.Linear(width, hidden), nn.Linear(hidden, width)
        for layer in (grow, shrink):
            nn.init.xavier_uniform_(layer.weight)
        super().__init__(grow, nn.ReLU(inplace=True), nn.Dropout(dropout), shrink)


class Mlp(nn.Sequential):
    """``layers`` linear layers with ReLU between: [..., C] -> [..., out]."""

    def __init__(self, width: int, out: int, layers: int = 3) -> None:
        modules: list[nn.Module] = []
        for _ in range(layers - 1):
            modules += [nn.Linear(width, width), nn.ReLU(inplace=True)]
        super().__init__(*modules, nn.Linear(width, out))


def sine_positions(height: int, width: int, channels: int, *, device: torch.device) -> Tensor:
    """Normalised sine-cosine position encoding of DETR: float32 [1, height * width, channels].

    ``channels`` must be divisible by 4; the first half encodes the row, the second the column.
    """
    frequencies = 10000 ** (torch.arange(channels // 4, device=device, dtype=torch.float32) / (channels // 4))

    def encode(count: int) -> Tensor:
        positions = (torch.arange(count, device=device, dtype=torch.float32) + 0.5) / count * 2 * math.pi
        angles = positions[:, None] / frequencies  # (count, channels / 4)
        return torch.cat([angles.sin(), angles.cos()], dim=1)  # (count, channels / 2)

    rows = encode(height)[:, None].expand(height, width, -1)
    columns = encode(width)[None].expand(height, width, -1)
    return torch.cat([rows, columns], dim=2).reshape(1, height * width, channels)
