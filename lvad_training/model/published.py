"""Pretrained backbones: reads published weights of any known layout into a backbone and reports what was matched."""

import argparse
import pickle
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor

from lvad_perception.errors import CheckpointError, ConfigError
from lvad_training.checkpoints import resolve_start
from lvad_training.model.backbone import IMAGENET, Backbone, Normalisation
from lvad_training.model.layouts import COUNTER, Recognised, architecture_name, published_names, recognise
from lvad_training.model.torchscript import is_torchscript, read_torchscript
from lvad_training.recipe.schema import BackboneConfig

MIN_MATCHED = 0.9  # share of the backbone's tensors that a file must contain
FIRST_LAYERS = (
    ("conv1.weight", "bn1.running_mean"),  # torchvision, timm's ResNets
    ("stem.conv1.conv.weight", "stem.conv1.bn.running_mean"),  # timm's CLIP ResNets
    ("conv_stem.weight", "bn1.running_mean"),  # timm's EfficientNets and MobileNets
)
WHY_LEFT_OUT = {
    "fc": "classifier or projection head",
    "classifier": "classifier",
    "head": "head",
    "neck": "projection head or feature pyramid",
    "decode_head": "segmentation head",
    "projection_head": "projection head",
    "prediction_head": "prediction head",
    "predictor": "prediction head",
    "prototypes": "cluster centres",
    "queue": "negatives",
    "queue2": "negatives",
    "encoder_k": "momentum encoder",
    "momentum_encoder": "momentum encoder",
    "encoder_q": "projection head",
    "target_net": "momentum encoder",
    "target_network": "momentum encoder",
    "teacher_backbone": "momentum encoder",
    "teacher_projection_head": "momentum encoder",
    "_fc": "classifier",
    "_conv_head": "head",
    "_bn1": "head",
    "attnpool": "CLIP's attention pool",
    "transformer": "text tower",
    "token_embedding": "text tower",
    "positional_embedding": "text tower",
    "ln_final": "text tower",
    "text_projection": "text tower",
}


@dataclass(frozen=True, slots=True)
class MatchReport:
    """Which tensors of a file were loaded. BatchNorm's counters of batches are ignored.

    Attributes:
        source: the file, or timm's name of the weights.
        layout: name of the project whose tensor names the file uses.
        matched: number of the backbone's tensors that were loaded.
        missing: the backbone's tensors that the file does not have; they keep their values.
        left_out: first part of the names of unused tensors -> their number.
        normalisation: of the images that the weights were trained on.
        folded: whether a normalisation other than ImageNet's was folded into the first layer, see ``load_published``.
    """

    source: str
    layout: str
    matched: int
    missing: tuple[str, ...]
    left_out: dict[str, int]
    normalisation: Normalisation = IMAGENET
    folded: bool = False

    def to_text(self) -> str:
        """One to three lines for the log."""
        total = self.matched + len(self.missing)
        text = f"{self.source}: {self.layout}, {self.matched} of the backbone's {total} tensors loaded"
        if self.missing:
            text += f" (not in the file: {', '.join(self.missing[:3])}{', …' if len(self.missing) > 3 else ''})"
        if self.left_out:
            parts = [
                f"{name} ({WHY_LEFT_OUT[name]}, {count})" if name in WHY_LEFT_OUT else f"{name} ({count})"
                for name, count in self.left_out.items()
            ]
            text += f"\n  left out: {', '.join(parts)}"
        if self.normalisation != IMAGENET:
            mean, std = self.normalisation
            done = "folded into the first convolution" if self.folded else "not folded, as the first layer is unknown"
            text += f"\n  made for images normalised with mean {mean} and deviation {std}: {done}"
        return text


def load_backbone(backbone: Backbone, config: BackboneConfig) -> MatchReport:
    """Load the weights of a recipe's section: "timm", "timm:TAG", "shipped/NAME" or a file in any known layout.

    Raises:
        CheckpointError: the weights cannot be read or downloaded, or do not fit the backbone.
        ConfigError: timm has no such weights.
    """
    weights = str(config.weights)
    if is_timm(weights):
        return load_timm(backbone, config.name, weights.partition(":")[2] or None)
    return load_published(backbone, resolve_start(weights))


def is_timm(weights: str) -> bool:
    """Whether a recipe's ``model.backbone.weights`` names weights that timm downloads."""
    return weights == "timm" or weights.startswith("timm:")


def load_published(backbone: Backbone, path: Path) -> MatchReport:
    """Load a published file of any layout in ``layouts.py`` into a backbone.

    ``.safetensors`` contains numbers only and ``torch.load`` runs with ``weights_only``, so no code of these files is
    run. OpenAI's CLIP archives (TorchScript) are read by ``torch.jit.load``, of which only the state dict is used;
    PyTorch does not guarantee that this is safe for manipulated archives.

    This package normalises images with ImageNet's mean and deviation. For weights that expect others (CLIP; SimCLR's
    conversions, for pixels of 0 to 1), the difference is folded into the first convolution's kernel and its BatchNorm's
    mean. Features then equal the published network's everywhere but at the image's border, where padding is ImageNet's
    mean colour instead of the other's.

    Args:
        backbone: changed in place; unchanged if this raises.
        path: the file.

    Raises:
        CheckpointError: missing, unreadable, of another architecture, or with under 90 % of the backbone's tensors.
    """
    recognised = recognise(read_weights(path), expected=list(backbone.features.state_dict()))
    return _load(backbone, recognised, source=str(path))


def load_timm(backbone: Backbone, name: str, tag: str | None = None) -> MatchReport:
    """Load the weights that timm publishes under ``model.backbone.name``; see ``timm_weights``."""
    tensors, normalisation = timm_weights(name, tag)
    recognised = Recognised("timm", tensors, outside=(), normalisation=normalisation)
    return _load(backbone, recognised, source=f"{name}.{tag}" if tag else name)


def timm_weights(name: str, tag: str | None = None) -> tuple[dict[str, Tensor], Normalisation]:
    """The weights that timm publishes for a model, downloaded or cached, and the normalisation that they expect.

    Args:
        name: a timm model name, such as "resnet50".
        tag: of the weights, such as "a1_in1k"; None for timm's default.

    Raises:
        ConfigError: timm has no such weights.
        CheckpointError: they cannot be downloaded.
    """
    tags = [full.partition(".")[2] for full in timm.list_pretrained(f"{name}.*")]
    if not tags or (tag is not None and tag not in tags):
        names = ", ".join(f"timm:{each}" for each in tags) or "none"
        raise ConfigError(
            f"model.backbone.weights: timm publishes no weights {tag or 'at all'} for {name}; it has {names}"
        )
    try:
        model = timm.create_model(f"{name}.{tag}" if tag else name, pretrained=True)
    except Exception as err:  # of huggingface_hub, httpx, urllib or the disk
        raise CheckpointError(
            f"model.backbone.weights: timm cannot download the weights of {name} ({type(err).__name__}); connect to "
            "the internet once, or give a local file"
        ) from err
    config: dict[str, Any] = model.pretrained_cfg  # type: ignore[assignment]
    return dict(model.state_dict()), (tuple(config["mean"]), tuple(config["std"]))


def read_weights(path: Path) -> Mapping[str, Any]:
    """The content of a weights file, on the CPU. Raises CheckpointError."""
    if ".ckpt-" in path.name or path.suffix in {".index", ".meta", ".h5", ".npz", ".npy"}:
        raise CheckpointError(
            f"{path}: TensorFlow and numpy checkpoints are not read; convert SimCLR's with "
            "github.com/tonylins/simclr-converter (v1) or github.com/Separius/SimCLRv2-Pytorch (v2) and give the .pth"
        )
    if not path.is_file():
        raise CheckpointError(f"{path}: no such backbone file; correct model.backbone.weights")
    _refuse_pages(path)
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(str(path))
        if is_torchscript(path):
            return read_torchscript(path)
        with _arguments_allowed():
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as err:  # torch raises many kinds here: RuntimeError, EOFError, SafetensorError, ...
        raise CheckpointError(f"{path}: {_why_unreadable(path, err)}") from err
    if not isinstance(content, Mapping):
        raise CheckpointError(
            f"{path}: it holds a {type(content).__name__}, not a state dict; save one with torch.save"
        )
    return content


def _arguments_allowed() -> AbstractContextManager[None]:
    """Context in which ``torch.load`` accepts ``argparse.Namespace``, a container that runs no code.

    Checkpoints of DINO, timm and MAE contain their command line's arguments; torch before 2.5 refuses them.
    """
    allow: Any = getattr(torch.serialization, "safe_globals", None)
    return nullcontext() if allow is None else allow([argparse.Namespace])


def _refuse_pages(path: Path) -> None:
    """Raise CheckpointError for what failed downloads leave; torch would only call it unreadable."""
    with path.open("rb") as file:
        start = file.read(64).lstrip().lower()
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        raise CheckpointError(f"{path}: it is a web page, not weights; the download went wrong, fetch the file itself")
    if start.startswith(b"version https://git-lfs"):
        raise CheckpointError(f"{path}: it is Git LFS's pointer to the weights; fetch them with git lfs pull")


def _why_unreadable(path: Path, err: Exception) -> str:
    if path.suffix == ".pkl":
        return (
            "a pickle, which is not loaded because that can run any code; convert BYOL's of JAX with "
            "github.com/chigur/byol-convert, and instead of detectron2's give the file that it was made from"
        )
    if isinstance(err, pickle.UnpicklingError):
        return (
            "no PyTorch file, or one with Python objects besides tensors, which are not loaded because that can run "
            "any code; if you trust it, save its state dict alone with torch.save"
        )
    return f"not a readable weights file ({type(err).__name__}); it is truncated or of another kind, copy it again"


def _load(backbone: Backbone, file: Recognised, source: str) -> MatchReport:
    state = backbone.features.state_dict()
    name_of = published_names(state)
    expected = [name for name in state if not name.endswith(COUNTER)]
    loaded = {name_of[name]: value for name, value in file.tensors.items() if name in name_of}
    unused = [name for name in file.tensors if name not in name_of and not name.endswith(COUNTER)]
    missing = [name for name in expected if name not in loaded]
    modules = {name.partition(".")[0] for name in name_of}

    matched = len(expected) - len(missing)
    enough = matched >= MIN_MATCHED * len(expected)
    mismatches = [
        f"{name} is {tuple(loaded[name].shape)} and not {tuple(state[name].shape)}"
        for name in loaded
        if loaded[name].shape != state[name].shape
    ]
    if enough:
        mismatches += [f"{name} has no place" for name in unused if "." in name and name.partition(".")[0] in modules]
    else:
        mismatches += [f"{name} is not in the file" for name in missing]
    if mismatches:
        fitting = architecture_name(file.tensors)
        remedy = f"set model.backbone.name to {fitting}" if fitting else "give weights of the configured backbone"
        if not fitting and not enough:
            names = [*file.tensors, *file.outside]
            first = f"its names begin with {', '.join(names[:3])}" if names else "it has no tensors with names"
            remedy = f"{first}, and {expected[0]} was expected; rename them, or give weights of the configured backbone"
        raise CheckpointError(
            f"{source}: {file.layout}, {matched} of the backbone's {len(expected)} tensors are in it "
            f"({'; '.join(mismatches[:3])}); {remedy}"
        )
    tensors, folded = fold_normalisation(file.tensors, file.normalisation)
    loaded = {name_of[name]: value for name, value in tensors.items() if name in name_of}
    backbone.features.load_state_dict(loaded, strict=False)
    return MatchReport(
        source=source,
        layout=file.layout,
        matched=matched,
        missing=tuple(missing),
        left_out=_groups([*unused, *(name for name in file.outside if not name.endswith(COUNTER))]),
        normalisation=file.normalisation,
        folded=folded,
    )


def _groups(names: Iterable[str]) -> dict[str, int]:
    """First part of the names -> number of names."""
    return dict(Counter(name.partition(".")[0] for name in names))


def fold_normalisation(tensors: Mapping[str, Tensor], normalisation: Normalisation) -> tuple[dict[str, Tensor], bool]:
    """Change a first layer that expects another normalisation so that it works with ImageNet's.

    With x the image as this package normalises it and y as the weights expect it, y = a x + b for each colour; a scales
    the kernel, and b adds a constant to the output, which is subtracted from BatchNorm's mean.

    Returns:
        The tensors, and whether they were changed; False also if the first layer is unknown.
    """
    first = next((names for names in FIRST_LAYERS if all(name in tensors for name in names)), None)
    if normalisation == IMAGENET or first is None:
        return dict(tensors), False
    kernel, mean = (tensors[name].float() for name in first)
    (our_mean, our_std), (their_mean, their_std) = (
        [torch.tensor(values).view(1, 3, 1, 1) for values in each] for each in (IMAGENET, normalisation)
    )
    scale, offset = our_std / their_std, (our_mean - their_mean) / their_std
    added = (kernel * offset).sum(dim=(1, 2, 3))
    return {**tensors, first[0]: kernel * scale, first[1]: mean - added}, True
