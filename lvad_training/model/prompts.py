"""Prompts: text embeddings of the class names of all tasks, from learned contexts or hand-made templates.

Learned prompts put M context vectors of the task before each class name (CoOp, Zhou et al., IJCV 2022; task-specific
in LV-Adapter); gradients flow through the frozen text encoder into them. Hand-made prompts put the name into one
template (engineering), or into many whose normalised embeddings are averaged (ensembling; Radford et al., ICML 2021).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from lvad_perception.errors import ConfigError
from lvad_training.model.text_encoders import TextEncoder, TextEncoderMetadata

PHRASES = {
    "semantic": {"background": "background that is neither road nor traffic"},
    "drivable": {
        "direct": "directly drivable road",
        "alternative": "drivable road beside my lane",
        "background": "background that is not drivable",
    },
}
"""Task -> class -> its words in a prompt, if the vocabulary's name alone would be ambiguous."""

ENGINEERING = "a photo of a {}."
"""CLIP's own template, also CoOp's hand-made baseline."""

ENSEMBLE = (
    "a photo of a {}.",
    "a photo of the {}.",
    "a blurry photo of a {}.",
    "a dark photo of a {}.",
    "a bright photo of a {}.",
    "a close-up photo of a {}.",
    "a photo of a small {}.",
    "a photo of a large {}.",
    "a photo of a {} in the distance.",
    "a photo of a {} on the street.",
    "a photo of a {} on the highway.",
    "a photo of a {} in the city.",
    "a photo of a {} at night.",
    "a photo of a {} in the rain.",
    "a photo of a {} in the snow.",
    "a photo of a {} in the fog.",
    "a driving scene with a {}.",
    "a dashcam image of a {}.",
    "a {} seen from a car.",
    "there is a {} in the scene.",
)
"""Templates for driving images: weather, time of day, place, size and distance, as in BDD100K's attributes."""


class Prompts(nn.Module):
    """Text embeddings of the classes of all tasks.

    The encoder is not registered as a submodule: its parameters are in neither ``state_dict()`` nor ``parameters()``,
    but it moves to other devices with this module. The buffer ``embeddings``, float32 [T, D], holds the result of the
    last ``fold``; evaluation and hand-made prompts use it and need no encoder.

    Args:
        classes: task -> its class names, in the order of the vocabulary.
        mode: "learned", "engineering" or "ensembling".
        context: M, learned vectors per task.
        metadata: of the encoder, for the shapes.
        encoder: None outside training.

    Attributes:
        slices: task -> its rows of the embeddings.
    """

    embeddings: Tensor

    def __init__(
        self,
        *,
        classes: Mapping[str, Sequence[str]],
        mode: str,
        context: int,
        metadata: TextEncoderMetadata,
        encoder: TextEncoder | None = None,
    ) -> None:
        super().__init__()
        self.mode = mode
        self.texts = {task: [phrase(task, name) for name in names] for task, names in classes.items()}
        self.slices: dict[str, slice] = {}
        total = 0
        for task, texts in self.texts.items():
            self.slices[task] = slice(total, total + len(texts))
            total += len(texts)
        learned = {task: nn.Parameter(torch.randn(context, metadata.token_width) * 0.02) for task in classes}
        self.contexts = nn.ParameterDict(learned if mode == "learned" else {})
        self.register_buffer("embeddings", torch.zeros(total, metadata.width))
        self._encoder = (encoder,)  # in a tuple, so that nn.Module does not register it
        self._hand_made: Tensor | None = None
        if encoder is not None:
            self.fold()
            self.register_load_state_dict_post_hook(_fold_loaded)  # type: ignore[no-untyped-call]

    @property
    def encoder(self) -> TextEncoder | None:
        """The frozen text encoder, or None outside training."""
        return self._encoder[0]

    def forward(self) -> Tensor:
        """Embeddings of all tasks' classes, task by task: float32 [T, D], rows of norm one.

        Learned prompts are encoded anew in training mode; otherwise this is the result of the last ``fold``.

        Raises:
            ConfigError: training mode with learned prompts and no encoder.
        """
        if self.training and self.contexts:
            return self._encode()
        return self.embeddings

    @torch.no_grad()
    def fold(self) -> None:
        """Encode the current prompts into ``embeddings``; call it before the weights are saved or evaluated.

        Raises:
            ConfigError: there is no encoder.
        """
        self.embeddings.copy_(self._encode())

    def _encode(self) -> Tensor:
        encoder = self.encoder
        if encoder is None:
            raise ConfigError(
                "the prompts are learned through a text encoder and this model was built without one; "
                "build it with the encoder to train, or switch it to evaluation"
            )
        if self.contexts:
            rows = [
                encoder.encode(self.contexts[task], [f"{text}." for text in texts])
                for task, texts in self.texts.items()
            ]
            return functional.normalize(torch.cat(rows), dim=1)
        if self._hand_made is None:
            self._hand_made = self._mean_of_templates(encoder)  # cached: hundreds of texts that never change
        return self._hand_made

    def _mean_of_templates(self, encoder: TextEncoder) -> Tensor:
        texts = [text for texts in self.texts.values() for text in texts]
        templates = [ENGINEERING] if self.mode == "engineering" else ENSEMBLE
        per_template = [encoder.encode(None, [template.format(text) for text in texts]) for template in templates]
        mean = torch.stack([functional.normalize(rows, dim=1) for rows in per_template]).mean(0)
        return functional.normalize(mean, dim=1)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        if self.encoder is not None:
            self.encoder._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call]


def _fold_loaded(prompts: Prompts, _keys: Any) -> None:
    """After loading weights, encode this recipe's prompts: the weights may be from a recipe with other templates."""
    prompts.fold()


def phrase(task: str, name: str) -> str:
    """The words of a class in a prompt."""
    return PHRASES.get(task, {}).get(name, name.replace("_", " "))
