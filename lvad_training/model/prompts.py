"""Prompts: the class names of every task, as the text encoder understands them.

Learned prompts put M context vectors of the task before each class name (CoOp, Zhou et al., IJCV 2022; task-specific
in LV-Adapter); gradients flow through the frozen text tower into them. Hand-made prompts put the name into one
template (engineering), or into many, whose normalised embeddings are averaged (ensembling; Radford et al., ICML 2021).
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
"""Task -> class -> words for it, where the vocabulary's name would not say what is meant; others stand as they are."""

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
"""What a camera in a car sees: weather, time of day, place, size and distance as BDD100K names and varies them."""


class Prompts(nn.Module):
    """The text of all tasks as embeddings.

    The encoder is no submodule: its parameters are neither in ``state_dict()`` nor in ``parameters()``, but it goes
    along to other devices. The buffer ``embeddings`` float32 [T, D] is the text as it was last folded; evaluation and
    hand-made prompts use it and need no encoder.

    Args:
        classes: task -> its class names, in the order of the vocabulary.
        mode: "learned", "engineering" or "ensembling".
        context: M, learned vectors per task.
        metadata: of the encoder: the shapes.
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
        self._encoder = (encoder,)  # in a tuple, where nn.Module does not register it
        self._hand_made: Tensor | None = None
        if encoder is not None:
            self.fold()
            self.register_load_state_dict_post_hook(_fold_loaded)  # type: ignore[no-untyped-call]

    @property
    def encoder(self) -> TextEncoder | None:
        """The frozen text tower, or None outside training."""
        return self._encoder[0]

    def forward(self) -> Tensor:
        """Embeddings of all tasks' classes, tasks one after the other: float32 [T, D], rows of length one.

        In training mode learned prompts are encoded anew; everything else reads what was folded last.

        Raises:
            ConfigError: learned prompts are to be trained without an encoder.
        """
        if self.training and self.contexts:
            return self._encode()
        return self.embeddings

    @torch.no_grad()
    def fold(self) -> None:
        """Encode the text as it is now into ``embeddings``: before the weights are saved or evaluated.

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
                encoder.encode(self.contexts[task], [f"{text}." for text in own]) for task, own in self.texts.items()
            ]
            return functional.normalize(torch.cat(rows), dim=1)
        if self._hand_made is None:
            self._hand_made = self._mean_of_templates(encoder)  # hundreds of texts that never change
        return self._hand_made

    def _mean_of_templates(self, encoder: TextEncoder) -> Tensor:
        texts = [text for own in self.texts.values() for text in own]
        templates = [ENGINEERING] if self.mode == "engineering" else ENSEMBLE
        each = [encoder.encode(None, [template.format(text) for text in texts]) for template in templates]
        mean = torch.stack([functional.normalize(rows, dim=1) for rows in each]).mean(0)
        return functional.normalize(mean, dim=1)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        if self.encoder is not None:
            self.encoder._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call]


def _fold_loaded(prompts: Prompts, _keys: Any) -> None:
    """After loading: the text is what this recipe's prompts say, though the weights may have had other templates."""
    prompts.fold()


def phrase(task: str, name: str) -> str:
    """The words for a class in a prompt."""
    return PHRASES.get(task, {}).get(name, name.replace("_", " "))
