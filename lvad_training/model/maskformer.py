"""MaskFormer's mask-classification head (Cheng et al., NeurIPS 2021), written from the paper.

Learned queries attend to one pyramid level and to each other; each yields a class and an embedding, whose dot product
with the per-pixel mask features is a mask. The pixel decoder is the shared pyramid and one convolution.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lvad_training.model.attention import Attention, FeedForward, Mlp, sine_positions
from lvad_training.samples import MaskOutputs


class DecoderLayer(nn.Module):
    """Post-norm transformer layer: self-attention, cross-attention, feed-forward; queries and keys have positions."""

    def __init__(self, width: int, heads: int, feedforward: int, dropout: float) -> None:
        super().__init__()
        self.self_attention = Attention(width, heads)
        self.cross_attention = Attention(width, heads)
        self.feedforward = FeedForward(width, feedforward, dropout)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.dropout = nn.Dropout(dropout)

    def forward(self, queries: Tensor, query_positions: Tensor, memory: Tensor, memory_positions: Tensor) -> Tensor:
        """Queries [B, Q, C], memory [B, N, C] -> [B, Q, C]."""
        positioned = queries + query_positions
        queries = self.norms[0](queries + self.dropout(self.self_attention(positioned, positioned, queries)))
        attended = self.cross_attention(queries + query_positions, memory + memory_positions, memory)
        queries = self.norms[1](queries + self.dropout(attended))
        updated: Tensor = self.norms[2](queries + self.dropout(self.feedforward(queries)))
        return updated


class MaskFormerHead(nn.Module):
    """Pyramid -> class logits and masks per decoder layer.

    Args:
        classes: number of classes, without "no object".
        in_width: channels of the pyramid.
        memory_level: index of the pyramid level that the queries attend to.
        queries: number of queries.
        layers: number of decoder layers.
        width: channels of the decoder.
        heads: attention heads.
        feedforward: hidden width of the feed-forward blocks.
        dropout: probability, in the decoder.
        mask_width: channels of mask features and mask embeddings.
        mask_kernel: kernel size of the convolution from the finest level to the mask features.
        pixel_loss: whether to return auxiliary per-pixel class logits in training.
    """

    def __init__(
        self,
        *,
        classes: int,
        in_width: int,
        memory_level: int,
        queries: int,
        layers: int,
        width: int,
        heads: int,
        feedforward: int,
        dropout: float,
        mask_width: int,
        mask_kernel: int,
        pixel_loss: bool,
    ) -> None:
        super().__init__()
        self.memory_level = memory_level
        self.project = nn.Linear(in_width, width)
        self.query_positions = nn.Parameter(torch.randn(queries, width))
        self.query_content = nn.Parameter(torch.randn(queries, width) * 0.02)
        self.layers = nn.ModuleList(DecoderLayer(width, heads, feedforward, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.classify = nn.Linear(width, classes + 1)
        self.embed = Mlp(width, mask_width)
        self.mask_features = nn.Conv2d(in_width, mask_width, mask_kernel, padding=mask_kernel // 2)
        self.pixels = nn.Conv2d(mask_width, classes, 1) if pixel_loss else None

    def forward(self, pyramid: Sequence[Tensor]) -> tuple[MaskOutputs, Tensor | None]:
        """Pyramid levels [B, C, H / s, W / s], finest first -> masks at the finest level, and pixel logits or None."""
        level = pyramid[self.memory_level]
        batch, _, height, width = level.shape
        memory = self.project(level.flatten(2).transpose(1, 2))  # (B, N, C)
        memory_positions = sine_positions(height, width, memory.shape[2], device=memory.device)
        query_positions = self.query_positions.expand(batch, -1, -1)
        queries = self.query_content.expand(batch, -1, -1)
        per_layer = []
        for layer in self.layers:
            queries = layer(queries, query_positions, memory, memory_positions)
            per_layer.append(self.norm(queries))
        features = self.mask_features(pyramid[0])  # (B, M, h, w)
        if not self.training:
            per_layer = per_layer[-1:]  # the earlier layers are only supervised
        decoded = torch.stack(per_layer)  # (L, B, Q, C)
        embeddings = self.embed(decoded)  # (L, B, Q, M)
        masks = embeddings @ features.flatten(2)  # (L, B, Q, h * w)
        outputs = MaskOutputs(self.classify(decoded), masks.unflatten(3, (features.shape[2], features.shape[3])))
        return outputs, self.pixels(features) if self.pixels is not None and self.training else None
