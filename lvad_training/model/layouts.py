"""Layouts of published backbone files: how to recognise each project's tensor names, and how to translate them.

They follow the code with which each project saves or loads its files; ``docs/backbones.md`` lists the files.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from lvad_training.checkpoints import FORMAT
from lvad_training.model.backbone import IMAGENET, Normalisation

CLIP: Normalisation = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
NONE: Normalisation = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
HALF: Normalisation = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))

COUNTER = "num_batches_tracked"  # of BatchNorm; older and converted files lack it, and no network here needs it

NESTED = (
    "state_dict",  # MoCo, OpenSelfSup, mmselfsup, Lightning, DetCo, DenseCL, simclr-converter
    "model_state_dict",
    "model",  # timm's training script, BYOL-PyTorch
    "classy_state_dict",  # VISSL: this, "base_model", "model" and "trunk", nested
    "base_model",
    "trunk",
    "resnet",  # SimCLRv2-Pytorch, beside "head"
    "online_backbone",  # the file that BYOL-PyTorch publishes
    "online_network_state_dict",  # PyTorch-BYOL
    "teacher",  # DINO, beside "student" with the same names; DINO's own evaluation uses the teacher's
    "student",
)
DEEPEST = 6
OTHER_MARKERS = ("_conv_stem.weight", "conv1.weight", "layer1.0.", "stem.conv1.")


@dataclass(frozen=True, slots=True)
class Layout:
    """Tensor names in one project's files.

    Attributes:
        name: of the project or method, for messages.
        marker: beginning of a tensor name that is in every such file, and in no file of a layout later in ``LAYOUTS``.
        prefix: of the backbone's tensors; all others are left out.
        rename: name after the prefix -> torchvision's or timm's, or None if they are equal.
        normalisation: of the images that the weights expect.
    """

    name: str
    marker: str
    prefix: str = ""
    rename: Callable[[str], str] | None = None
    normalisation: Normalisation = IMAGENET


@dataclass(frozen=True, slots=True, eq=False)
class Recognised:
    """The backbone's tensors of a file under torchvision's (CLIP: timm's) names, and the names of all other tensors."""

    layout: str
    tensors: dict[str, Tensor]
    outside: tuple[str, ...]
    normalisation: Normalisation


def _from_clip(name: str) -> str:
    """CLIP's ``ModifiedResNet`` -> timm's ``resnet50_clip`` (timm.models.byobnet)."""
    name = re.sub(r"^conv(\d)\.", r"stem.conv\1.conv.", name)
    name = re.sub(r"^bn(\d)\.", r"stem.conv\1.bn.", name)
    name = re.sub(r"^layer(\d)", lambda match: f"stages.{int(match[1]) - 1}", name)
    name = name.replace(".downsample.0.", ".shortcut.conv.conv.").replace(".downsample.1.", ".shortcut.conv.bn.")
    for number, kernel in ((1, "1x1"), (2, "kxk"), (3, "1x1")):
        name = re.sub(rf"(\d\.\d+)\.conv{number}\.", rf"\1.conv{number}_{kernel}.conv.", name)
        name = re.sub(rf"(\d\.\d+)\.bn{number}\.", rf"\1.conv{number}_{kernel}.bn.", name)
    return name


def _from_children(name: str) -> str:
    """``nn.Sequential(*resnet.children())``: 0 and 1 are the stem, 4 to 7 the stages -> torchvision."""
    child, dot, rest = name.partition(".")
    names = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}
    return names.get(child, child) + dot + rest


def _from_simclr_v2(name: str) -> str:
    """SimCLRv2-Pytorch's ``net`` without selective kernels -> torchvision."""
    name = re.sub(r"^net\.0\.0\.", "conv1.", name)
    name = re.sub(r"^net\.0\.1\.0\.", "bn1.", name)
    name = re.sub(r"^net\.(\d)\.blocks\.", r"layer\1.", name)
    name = name.replace(".projection.shortcut.", ".downsample.0.").replace(".projection.bn.0.", ".downsample.1.")
    for number in (1, 2, 3):
        name = name.replace(f".net.{2 * number - 2}.", f".conv{number}.")
        name = name.replace(f".net.{2 * number - 1}.0.", f".bn{number}.")
    return name


def _from_detectron2(name: str) -> str:
    """detectron2's ``ResNet``, whose norms belong to their convolutions -> torchvision.

    Its images are taken for torchvision's. Those of MSRA's ResNet are BGR, but detectron2 publishes these as .pkl only.
    """
    name = re.sub(r"^stem\.conv1\.norm\.", "bn1.", name).removeprefix("stem.")
    name = re.sub(r"^res(\d)\.", lambda match: f"layer{int(match[1]) - 1}.", name)
    name = name.replace(".shortcut.norm.", ".downsample.1.").replace(".shortcut.", ".downsample.0.")
    return re.sub(r"\.conv(\d)\.norm\.", r".bn\1.", name)


def _from_v1c(name: str) -> str:
    """mmsegmentation's ``ResNetV1c`` -> timm's ``resnet50c``."""
    return re.sub(r"^stem\.(\d)\.", lambda match: "bn1." if match[1] == "7" else f"conv1.{match[1]}.", name)


LAYOUTS = (
    Layout("a checkpoint of this package", "backbone.features.", "backbone.features."),
    Layout("CLIP", "visual.layer1.0.conv1.weight", "visual.", _from_clip, CLIP),
    Layout("MoCo or DenseCL of OpenSelfSup and mmselfsup", "encoder_q.0.conv1.weight", "encoder_q.0."),
    Layout("MoCo", "encoder_q.conv1.weight", "encoder_q."),
    Layout("MoCo v3", "base_encoder.conv1.weight", "base_encoder."),
    Layout("BYOL of OpenSelfSup", "online_net.0.conv1.weight", "online_net.0."),
    Layout("BYOL-PyTorch", "online_network.encoder.0.weight", "online_network.encoder.", _from_children),
    Layout("PyTorch-BYOL", "encoder.0.weight", "encoder.", _from_children),
    Layout("OpenSelfSup, mmselfsup or lightly", "backbone.conv1.weight", "backbone."),
    Layout("lightly with numbered children", "backbone.0.weight", "backbone.", _from_children),
    Layout("VISSL", "_feature_blocks.conv1.weight", "_feature_blocks."),
    Layout("SimCLRv2-Pytorch", "net.0.0.weight", "", _from_simclr_v2, NONE),
    Layout("SwAV", "prototypes"),
    Layout("detectron2", "backbone.bottom_up.stem.conv1.norm.weight", "backbone.bottom_up.", _from_detectron2),
    Layout("detectron2", "backbone.stem.conv1.norm.weight", "backbone.", _from_detectron2),
    Layout("detectron2", "stem.conv1.norm.weight", "", _from_detectron2),
    Layout("ResNetV1c of mmsegmentation", "backbone.stem.6.weight", "backbone.", _from_v1c),
    Layout("ResNetV1c of mmsegmentation", "stem.6.weight", "", _from_v1c),
)
DINO = Layout("DINO", "backbone.conv1.weight", "backbone.")
PLAIN = Layout("torchvision's or timm's names", "")
SIMCLR_V1 = Layout("simclr-converter", "", normalisation=NONE)
BYOL_ORDERED = Layout("BYOL-PyTorch, by order", "")
EFFICIENTNET = Layout("EfficientNet-PyTorch, by order", "")
EFFICIENTNET_LITE = Layout("EfficientNet-PyTorch, by order", "", normalisation=HALF)


def recognise(content: Mapping[str, Any], expected: list[str]) -> Recognised:
    """Find the backbone in the content of a file.

    Any common prefix of all names is removed (``module.``, ``_orig_mod.``, ``model.net.``), and so is a prefix of the
    backbone's names alone, if the names after it are known.

    Args:
        content: a state dict, or nested dicts with one.
        expected: the backbone's names in its order, for the layouts that are matched by order.
    """
    if content.get("format") == FORMAT:
        content = content["weights"]
    content, path = find_state_dict(content)
    all_tensors = tensors_in(content)
    wrapper = _wrapper_prefix(all_tensors, set(published_names(expected)), path)
    tensors = {name.removeprefix(wrapper): value for name, value in all_tensors.items() if name.startswith(wrapper)}

    layout, by_order = _layout(tensors, path)
    if by_order is not None:
        names = [name for name in expected if not name.endswith(COUNTER)]
        if len(by_order) == len(names):
            others = {name: value for name, value in tensors.items() if name not in by_order}
            tensors = {**dict(zip(names, by_order.values(), strict=True)), **others}
    inside = [name for name in tensors if name.startswith(layout.prefix)]
    renamed = {name: name.removeprefix(layout.prefix) for name in inside}
    if layout.rename is not None:
        renamed = {name: layout.rename(value) for name, value in renamed.items()}
    return Recognised(
        layout=layout.name,
        tensors={renamed[name]: tensors[name] for name in inside},
        outside=(
            *(name for name in tensors if name not in renamed),
            *(name for name in all_tensors if not name.startswith(wrapper)),
        ),
        normalisation=layout.normalisation,
    )


def published_names(names: Iterable[str]) -> dict[str, str]:
    """Published name -> the backbone's name; timm's ``features_only`` flattens ``stem.conv1`` to ``stem_conv1``."""
    own = {}
    for name in names:
        module, _, rest = name.partition(".")
        own[f"{module.replace('_', '.', 1)}.{rest}"] = name
        own[name] = name
    return own


def find_state_dict(content: Mapping[str, Any]) -> tuple[Mapping[str, Any], list[str]]:
    """The innermost state dict and the keys that lead to it; among unknown keys, the one with the most tensors."""
    path: list[str] = []
    while len(path) < DEEPEST:
        inner = {key: value for key, value in content.items() if isinstance(key, str) and isinstance(value, Mapping)}
        nested = next((key for key in NESTED if key in inner), None)
        if nested is None and not tensors_in(content):
            nested = max(inner, key=lambda key: _count_tensors(inner[key]), default=None)
        if nested is None:
            break
        content = content[nested]
        path.append(nested)
    return content, path


def tensors_in(content: Mapping[Any, Any]) -> dict[str, Tensor]:
    """The tensors of a dict that have a name."""
    return {name: value for name, value in content.items() if isinstance(name, str) and isinstance(value, Tensor)}


def _count_tensors(content: Mapping[Any, Any], depth: int = 0) -> int:
    """Largest number of tensors with names of layers in one dict, nested ones included; an optimiser's have numbers."""
    inner = [value for value in content.values() if isinstance(value, Mapping)] if depth < DEEPEST else []
    count = sum("." in name for name in tensors_in(content))
    return max([count, *(_count_tensors(value, depth + 1) for value in inner)])


def _wrapper_prefix(tensors: Mapping[str, Tensor], published: set[str], path: list[str]) -> str:
    """The prefix that a wrapper has added to the names, or ""."""
    if path[-1:] == ["online_backbone"]:  # matched by order
        return ""
    prefix, names = "", list(tensors)
    while names and not _is_known(names, published):
        first, dot, _ = names[0].partition(".")
        if not dot or not all(name.startswith(first + dot) for name in names):
            # Not all names share a prefix: the file has a loss or a queue beside the network.
            known = _prefix_of_known(names, published)
            return prefix + known if known else ""
        prefix += first + dot
        names = [name.removeprefix(first + dot) for name in names]
    return prefix if names else ""


def _is_known(names: list[str], published: set[str]) -> bool:
    """Whether one of the names begins as in a known layout."""
    markers = (*(layout.marker for layout in LAYOUTS), *OTHER_MARKERS)
    return any(name in published or name.startswith(markers) for name in names)


def _prefix_of_known(names: list[str], published: set[str]) -> str:
    """The prefix before names of a known layout, the most frequent one if there are several; "" if there is none."""
    for layout in LAYOUTS:
        for name in names:
            before, marker, _ = name.partition("." + layout.marker)
            if marker and layout.prefix:
                return before + "."
    counts: Counter[str] = Counter()
    for name in names:
        parts = name.split(".")
        for cut in range(1, len(parts)):
            if ".".join(parts[cut:]) in published:
                counts[".".join(parts[:cut]) + "."] += 1
    return max(counts, key=lambda prefix: counts[prefix], default="")


def _layout(tensors: Mapping[str, Tensor], path: list[str]) -> tuple[Layout, dict[str, Tensor] | None]:
    """The layout and, if the backbone's tensors have to be matched by order, those tensors."""
    counted = {name: value for name, value in tensors.items() if not name.endswith(COUNTER)}
    if path[-1:] == ["online_backbone"]:
        # Its names differ from torchvision's without documentation; the project's own loader matches by order too.
        return BYOL_ORDERED, counted
    if path[-1:] in (["teacher"], ["student"]) and DINO.marker in tensors:
        return DINO, None
    if "_conv_stem.weight" in tensors:
        # Its blocks are numbered consecutively, timm's per stage; both create the same layers in the same order.
        body = {k: v for k, v in counted.items() if not k.startswith(("_conv_head.", "_bn1.", "_fc."))}
        lite = not any("._se_reduce." in name for name in body)
        return (EFFICIENTNET_LITE if lite else EFFICIENTNET), body
    for layout in LAYOUTS:
        if any(name.startswith(layout.marker) for name in tensors):
            return layout, None
    return (SIMCLR_V1 if _is_simclr_v1(list(tensors), path) else PLAIN), None


def _is_simclr_v1(names: list[str], path: list[str]) -> bool:
    """Whether simclr-converter wrote the file: torchvision's names, but the shortcut is before the block's conv1."""
    first, shortcut = "layer1.0.conv1.weight", "layer1.0.downsample.0.weight"
    if path != ["state_dict"] or first not in names or shortcut not in names:
        return False
    return names.index(shortcut) < names.index(first) and f"layer1.0.bn1.{COUNTER}" in names


def architecture_name(tensors: Mapping[str, Tensor]) -> str | None:
    """The timm ResNet with tensors of these names and shapes, or None if it is none of the usual ones."""
    stages = [
        len({match[1] for name in tensors if (match := re.match(rf"(?:layer{i + 1}|stages\.{i})\.(\d+)\.", name))})
        for i in range(4)
    ]
    clip = {
        (3, 4, 6, 3): "resnet50_clip",
        (3, 4, 23, 3): "resnet101_clip",
        (4, 6, 10, 6): "resnet50x4_clip",
        (6, 8, 18, 8): "resnet50x16_clip",
        (3, 15, 36, 10): "resnet50x64_clip",
    }
    basic = {(2, 2, 2, 2): "resnet18", (3, 4, 6, 3): "resnet34"}
    bottleneck = {(3, 4, 6, 3): "resnet50", (3, 4, 23, 3): "resnet101", (3, 8, 36, 3): "resnet152"}
    deep = {depths: f"{name}c" for depths, name in bottleneck.items()}
    depths = (stages[0], stages[1], stages[2], stages[3])
    if "stem.conv3.conv.weight" in tensors:
        return clip.get(depths)
    shapes = {name: tuple(value.shape) for name, value in tensors.items()}
    if shapes.get("conv1.0.weight") == (32, 3, 3, 3) and shapes.get("layer1.0.downsample.0.weight") == (256, 64, 1, 1):
        return deep.get(depths)
    if shapes.get("conv1.weight") != (64, 3, 7, 7) or shapes.get("layer1.0.conv1.weight", (0,))[0] != 64:
        return None  # another width or stem
    if "layer1.0.conv3.weight" in tensors:
        return bottleneck.get(depths)
    return basic.get(depths)
