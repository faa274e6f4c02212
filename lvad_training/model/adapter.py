"""LV-Adapter's language-vision adapter: cross-attention between the top pyramid level z5 and the class names' text.

L2V: z5 <- z5 + gamma * TransDecoder(queries = z5, keys and values = text). V2L, before it: text <- text + gamma *
TransDecoder(queries = text, keys and values = z5). The decoder is DenseCLIP's ContextDecoder (Rao et al., CVPR 2022)
and the score map is DenseCLIP's too: the cosine of every position with every class. Both are written from the paper.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from lvad_training.model.attention import Attention


class PreNormLayer(nn.Module):
    """Pre-norm transformer layer: self-attention, cross-attention and a GELU MLP of four times the width, residual."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.self_attention = Attention(width, heads)
        self.cross_attention = Attention(width, heads)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Dropout(dropout), nn.Linear(4 * width, width)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.dropout = nn.Dropout(dropout)

    def forward(self, queries: Tensor, memory: Tensor) -> Tensor:
        """Queries [B, Q, C] and memory [B, N, C] -> [B, Q, C]."""
        normed = self.norms[0](queries)
        queries = queries + self.dropout(self.self_attention(normed, normed, normed))
        queries = queries + self.dropout(self.cross_attention(self.norms[1](queries), memory, memory))
        updated: Tensor = queries + self.dropout(self.mlp(self.norms[2](queries)))
        return updated


class TransDecoder(nn.Module):
    """Queries attend to a memory; queries and memory are projected to the decoder's width, the result back.

    Args:
        query_width: channels of the queries and of the result.
        memory_width: channels of the memory.
        width: channels of the layers.
        heads: attention heads.
        layers: number of layers.
        dropout: probability, in the layers.
    """

    def __init__(
        self, *, query_width: int, memory_width: int, width: int, heads: int, layers: int, dropout: float
    ) -> None:
        super().__init__()
        self.query_in = nn.Sequential(nn.LayerNorm(query_width), nn.Linear(query_width, width))
        self.memory_in = nn.Sequential(nn.LayerNorm(memory_width), nn.Linear(memory_width, width), nn.LayerNorm(width))
        self.layers = nn.ModuleList(PreNormLayer(width, heads, dropout) for _ in range(layers))
        self.out = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, query_width))

    def forward(self, queries: Tensor, memory: Tensor) -> Tensor:
        """Queries [B, Q, query_width] and memory [1 or B, N, memory_width] -> [B, Q, query_width]."""
        hidden = self.query_in(queries)
        projected = self.memory_in(memory).expand(len(queries), -1, -1)
        for layer in self.layers:
            hidden = layer(hidden, projected)
        update: Tensor = self.out(hidden)
        return update


class _GatedDecoders(nn.Module):
    """Base of both directions: a decoder for each part of the text, and gamma, the weight of the update.

    Args:
        decoders: part of the text -> its decoder.
        rows: part of the text -> its rows; consecutive.
        width: channels of the updated tensor: C of z5 for L2V, D of the text for V2L.
        gamma: initial value, the same for every channel.
    """

    def __init__(
        self, *, decoders: Mapping[str, TransDecoder], rows: Mapping[str, slice], width: int, gamma: float
    ) -> None:
        super().__init__()
        self.decoders = nn.ModuleDict(decoders)
        self.rows = dict(rows)
        self.gamma = nn.Parameter(torch.full((width,), gamma))


class LanguageToVision(_GatedDecoders):
    """L2V: every position of z5 attends to the text; the updates of all decoders are summed."""

    def forward(self, tokens: Tensor, text: Tensor) -> Tensor:
        """Tokens of z5 [B, N, C] and text [1 or B, T, D] -> updated tokens [B, N, C]."""
        updates = [decoder(tokens, text[:, self.rows[part]]) for part, decoder in self.decoders.items()]
        return tokens + self.gamma * torch.stack(updates).sum(0)


class VisionToLanguage(_GatedDecoders):
    """V2L: every class attends to z5 through the decoder of its part, which makes the text specific to the image."""

    def forward(self, text: Tensor, tokens: Tensor) -> Tensor:
        """Text [1, T, D] and tokens of z5 [B, N, C] -> updated text [B, T, D]."""
        text = text.expand(len(tokens), -1, -1)
        updates = [decoder(text[:, self.rows[part]], tokens) for part, decoder in self.decoders.items()]
        return text + self.gamma * torch.cat(updates, dim=1)


class ScoreMap(nn.Module):
    """Cosine similarity of every position with every class, through a convolution that is zero-initialised.

    Args:
        width: channels C of z5.
        text_width: channels D of the text.
        classes: rows T of the text.
    """

    def __init__(self, *, width: int, text_width: int, classes: int) -> None:
        super().__init__()
        self.align = nn.Linear(width, text_width)
        self.out = nn.Linear(classes, width)  # a 1x1 convolution, on tokens
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, tokens: Tensor, text: Tensor) -> Tensor:
        """Tokens of z5 [B, N, C] and text [1 or B, T, D] -> update of the tokens [B, N, C]."""
        update: Tensor = self.out(self.scores(tokens, text))
        return update

    def scores(self, tokens: Tensor, text: Tensor) -> Tensor:
        """Tokens of z5 [B, N, C] and text [1 or B, T, D] -> cosines, float32 [B, N, T]."""
        aligned = functional.normalize(self.align(tokens).float(), dim=2)  # (B, N, D)
        return aligned @ functional.normalize(text.float(), dim=2).transpose(1, 2)


class LanguageVisionAdapter(nn.Module):
    """Updates z5 by the text. With gammas of zero and an untrained score map, it is the identity.

    Args:
        v2l: (text, tokens) -> text, applied first, or None.
        l2v: (tokens, text) -> tokens, or None.
        score_map: (tokens, text) -> update of the tokens, or None.
    """

    def __init__(self, *, v2l: nn.Module | None, l2v: nn.Module | None, score_map: nn.Module | None) -> None:
        super().__init__()
        self.v2l = v2l
        self.l2v = l2v
        self.score_map = score_map

    def forward(self, z5: Tensor, text: Tensor) -> Tensor:
        """Update the top level.

        Args:
            z5: [B, C, h, w].
            text: [T, D], rows of norm one.

        Returns:
            [B, C, h, w].
        """
        return self.update(z5, text)[0]

    def update(self, z5: Tensor, text: Tensor) -> tuple[Tensor, Tensor | None]:
        """As ``forward``; also the score map, cosines [B, T, h, w], None without ``score_map``."""
        tokens = z5.flatten(2).transpose(1, 2)  # (B, h * w, C)
        text = text[None]  # (1, T, D)
        if self.v2l is not None:
            text = self.v2l(text, tokens)  # (B, T, D)
        updated = tokens if self.l2v is None else self.l2v(tokens, text)
        scores: Tensor | None = None
        if self.score_map is not None:
            cosines: Tensor = self.score_map.scores(tokens, text)  # type: ignore[operator]
            updated = updated + self.score_map.out(cosines)  # type: ignore[operator]
            scores = cosines.transpose(1, 2).reshape(*cosines.shape[::2], *z5.shape[2:])  # (B, T, h, w)
        return torch.reshape(updated.transpose(1, 2), z5.shape), scores
