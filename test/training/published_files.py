"""Small random backbones in the tensor names and nestings of published files."""

import argparse

import open_clip.modified_resnet
import torch
from timm.models.byobnet import ByoBlockCfg

from lvad_training.model.backbone import timm_backbone

NARROW = {"channels": [4, 4, 8, 8], "stem_width": 8}
DEPTHS = (3, 4, 6, 3)
CLIP_WIDTH = 8


def resnet(name="resnet50", options=NARROW):
    """A backbone of random numbers, BatchNorm statistics included, so that no two tensors are equal."""
    backbone = timm_backbone(name, options)
    randomise(backbone)
    return backbone


def randomise(module):
    """Random numbers whose scale preserves the signal through all layers, so that features depend on the weights."""
    with torch.no_grad():
        for name, value in module.state_dict().items():
            if not value.is_floating_point():
                value.fill_(7)
            elif value.ndim > 1:
                value.normal_(std=(2 / value[0].numel()) ** 0.5)
            elif name.endswith(("running_var", "weight")):
                value.uniform_(0.5, 1.5)
            else:
                value.normal_(std=0.3)


def narrow_clip():
    """timm's resnet50_clip at an eighth of its width, and a CLIP image tower with the same architecture."""
    blocks = tuple(
        ByoBlockCfg(type="bottle", d=depth, c=4 * CLIP_WIDTH * 2**stage, s=min(2, stage + 1), br=0.25)
        for stage, depth in enumerate(DEPTHS)
    )
    stem = (CLIP_WIDTH // 2, CLIP_WIDTH // 2, CLIP_WIDTH)
    tower = open_clip.modified_resnet.ModifiedResNet(list(DEPTHS), output_dim=16, heads=4, width=CLIP_WIDTH)
    randomise(tower)
    return timm_backbone("resnet50_clip", {"stem_chs": stem, "blocks": blocks}), tower.eval()


def clip_file(tower):
    """A CLIP state dict: the image tower under ``visual.``, and text tensors."""
    text = {
        "positional_embedding": torch.zeros(77, 8),
        "text_projection": torch.zeros(8, 16),
        "logit_scale": torch.tensor(4.6),
        "transformer.resblocks.0.attn.in_proj_weight": torch.zeros(24, 8),
        "token_embedding.weight": torch.zeros(9, 8),
        "ln_final.weight": torch.zeros(8),
    }
    return {**text, **{f"visual.{name}": value for name, value in tower.state_dict().items()}}


def prefixed(prefix, tensors):
    return {prefix + name: value for name, value in tensors.items()}


def by_children(tensors):
    """Names of ``nn.Sequential(*list(resnet.children())[:-1])``."""
    order = ["conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4"]
    renamed = {}
    for name, value in tensors.items():
        child, _, rest = name.partition(".")
        renamed[f"{order.index(child)}.{rest}"] = value
    return renamed


def simclr_v2(tensors):
    """Names of SimCLRv2-Pytorch's ``ResNet`` with sk_ratio 0."""
    renamed = {"net.0.0.weight": tensors["conv1.weight"]}
    pairs = [("bn1", "net.0.1.0")]
    for stage, depth in enumerate(DEPTHS, start=1):
        for block in range(depth):
            ours, theirs = f"layer{stage}.{block}", f"net.{stage}.blocks.{block}"
            if block == 0:
                renamed[f"{theirs}.projection.shortcut.weight"] = tensors[f"{ours}.downsample.0.weight"]
                pairs.append((f"{ours}.downsample.1", f"{theirs}.projection.bn.0"))
            for index in (1, 2, 3):
                renamed[f"{theirs}.net.{2 * index - 2}.weight"] = tensors[f"{ours}.conv{index}.weight"]
                pairs.append((f"{ours}.bn{index}", f"{theirs}.net.{2 * index - 1}.0"))
    for ours, theirs in pairs:
        for part in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
            renamed[f"{theirs}.{part}"] = tensors[f"{ours}.{part}"]
    assert len(renamed) == len(tensors)
    return renamed


def shortcut_first(tensors):
    """The order of simclr-converter, which creates a block's shortcut before its first convolution."""
    return dict(sorted(tensors.items(), key=lambda item: (item[0].split(".")[:2], "downsample" not in item[0])))


def detectron2(tensors):
    """Names of detectron2's ``ResNet``; its frozen norms have no counters."""
    renamed = {}
    for name, value in without_counters(tensors).items():
        name = name.replace(".downsample.0.", ".shortcut.").replace(".downsample.1.", ".shortcut.norm.")
        for number in (1, 2, 3):
            name = name.replace(f"bn{number}.", f"conv{number}.norm.")
        for stage in (1, 2, 3, 4):
            name = name.replace(f"layer{stage}.", f"res{stage + 1}.")
        renamed[name if name.startswith("res") else f"stem.{name}"] = value
    return renamed


def v1c(tensors):
    """mmsegmentation's names of a ResNetV1c, which is timm's resnet50c."""
    stem = {"bn1": "stem.7", **{f"conv1.{place}": f"stem.{place}" for place in (0, 1, 3, 4, 6)}}
    renamed = {}
    for name, value in tensors.items():
        module, _, kind = name.rpartition(".")
        renamed[f"{stem.get(module, module)}.{kind}"] = value
    return renamed


def without_counters(tensors):
    return {name: value for name, value in tensors.items() if not name.endswith("num_batches_tracked")}


def by_other_names(tensors):
    """Uninformative module names; only the names of each layer's own tensors are kept."""
    return {f"layers.{index}.{name.split('.')[-1]}": value for index, (name, value) in enumerate(tensors.items())}


def by_zeros(tensors):
    return {name: torch.zeros_like(value) for name, value in tensors.items()}


FC = {"fc.weight": torch.zeros(128, 8), "fc.bias": torch.zeros(128)}
QUEUE = {"queue": torch.zeros(128, 16), "queue_ptr": torch.zeros(1, dtype=torch.long)}

# method -> (function from tensors in torchvision's names to the file's content, layout, {ignored prefix: tensors})
LAYOUTS = {
    "torchvision": (lambda t: {**t, **FC}, "torchvision", {"fc": 2}),
    "timm's training script": (lambda t: {"epoch": 9, "model": prefixed("module.", t)}, "torchvision", {}),
    "before torch 0.4.1": (lambda t: without_counters({**t, **FC}), "torchvision", {"fc": 2}),
    "MoCo v1": (
        lambda t: {
            "epoch": 200,
            "arch": "resnet50",
            "state_dict": prefixed(
                "module.", {**prefixed("encoder_q.", {**t, **FC}), **prefixed("encoder_k.", {**t, **FC}), **QUEUE}
            ),
            "optimizer": {"state": {}, "param_groups": [{"lr": 0.03}]},
        },
        "MoCo",
        {"fc": 2, "encoder_k": 267, "queue": 1, "queue_ptr": 1},
    ),
    "MoCo v2": (
        lambda t: {
            "state_dict": prefixed(
                "module.encoder_q.", {**t, "fc.0.weight": torch.zeros(8, 8), "fc.2.weight": torch.zeros(4, 8)}
            )
        },
        "MoCo",
        {"fc": 2},
    ),
    "MoCo v3": (
        lambda t: {
            "epoch": 1000,
            "arch": "resnet50",
            "state_dict": prefixed(
                "module.",
                {
                    **prefixed("base_encoder.", {**t, "fc.0.weight": torch.zeros(8, 8)}),
                    **prefixed("momentum_encoder.", {**t, "fc.0.weight": torch.zeros(8, 8)}),
                    "predictor.0.weight": torch.zeros(8, 8),
                },
            ),
            "optimizer": {"state": {0: {"mu": torch.zeros(2)}}, "param_groups": []},
            "scaler": {"scale": 65536.0},
        },
        "MoCo v3",
        {"fc": 1, "momentum_encoder": 266, "predictor": 1},
    ),
    "DINO": (lambda t: {**t}, "torchvision", {}),
    "DINO, whole": (
        lambda t: {
            "student": prefixed("module.", {**prefixed("backbone.", by_zeros(t)), "head.mlp.0.weight": torch.zeros(2)}),
            "teacher": {**prefixed("backbone.", t), "head.mlp.0.weight": torch.zeros(2), "head.last": torch.zeros(2)},
            "optimizer": {"state": {0: {"exp_avg": torch.zeros(2)}}, "param_groups": []},
            "epoch": 100,
            "args": argparse.Namespace(arch="resnet50", out_dim=60000, optimizer="sgd"),
            "dino_loss": {"center": torch.zeros(1, 2)},
        },
        "DINO",
        {"head": 2},
    ),
    "SwAV": (
        lambda t: prefixed(
            "module.", {**t, "projection_head.0.weight": torch.zeros(2, 8), "prototypes.weight": torch.zeros(9, 2)}
        ),
        "SwAV",
        {"projection_head": 1, "prototypes": 1},
    ),
    "SimCLR of VISSL": (
        lambda t: {
            "phase_idx": 799,
            "classy_state_dict": {
                "base_model": {
                    "model": {
                        "trunk": prefixed("_feature_blocks.", t),
                        "heads": {"0.clf.0.weight": torch.zeros(2, 2)},
                    },
                    "meta": {},
                }
            },
        },
        "VISSL",
        {},
    ),
    "SimCLR of lightly": (
        lambda t: {
            "epoch": 99,
            "pytorch-lightning_version": "2.0",
            "state_dict": {
                **prefixed("backbone.", t),
                "projection_head.layers.0.weight": torch.zeros(2, 2),
                "online_classifier.linear.weight": torch.zeros(2, 2),
            },
        },
        "OpenSelfSup, mmselfsup or lightly",
        {"projection_head": 1, "online_classifier": 1},
    ),
    "lightly's tutorials": (
        lambda t: {"state_dict": prefixed("backbone.", by_children(t))},
        "lightly with numbered children",
        {},
    ),
    "BYOL by byol-convert": (lambda t: without_counters({**shortcut_first(t), **FC}), "torchvision", {"fc": 2}),
    "BYOL of mmselfsup": (
        lambda t: {
            "meta": {"mmselfsup_version": "0.7"},
            "state_dict": {
                **prefixed("backbone.", t),
                "neck.fc0.weight": torch.zeros(2, 2),
                "head.predictor.fc0.weight": torch.zeros(2, 2),
                **prefixed("target_net.module.0.", t),
            },
        },
        "OpenSelfSup, mmselfsup or lightly",
        {"neck": 1, "head": 1, "target_net": 265},
    ),
    "BYOL of OpenSelfSup": (
        lambda t: {
            "state_dict": {
                **prefixed("online_net.0.", t),
                "online_net.1.fc0.weight": torch.zeros(2, 2),
                **prefixed("backbone.", t),
            }
        },
        "BYOL of OpenSelfSup",
        {"online_net": 1, "backbone": 265},
    ),
    "BYOL of BYOL-PyTorch": (
        lambda t: {
            "config": {"stage": "train"},
            "model": {
                **prefixed("module.online_network.encoder.", by_children(t)),
                "module.online_network.projetion.l1.weight": torch.zeros(2, 2),
                **prefixed("module.target_network.encoder.", by_children(t)),
            },
        },
        "BYOL-PyTorch",
        {"online_network": 1, "target_network": 265},
    ),
    "BYOL-PyTorch's published file": (
        lambda t: {"online_backbone": by_other_names(t)},
        "BYOL-PyTorch, by order",
        {},
    ),
    "BYOL of PyTorch-BYOL": (
        lambda t: {
            "online_network_state_dict": {
                **prefixed("encoder.", by_children(t)),
                "projetion.net.0.weight": torch.zeros(2, 2),
            },
            "target_network_state_dict": prefixed("encoder.", by_children(t)),
        },
        "PyTorch-BYOL",
        {"projetion": 1},
    ),
    "DetCo": (lambda t: {"state_dict": t, "author": "OpenSelfSup"}, "torchvision", {}),
    "DenseCL, extracted": (lambda t: {"state_dict": t, "author": "DenseCL"}, "torchvision", {}),
    "detectron2, with a feature pyramid": (
        lambda t: {
            "model": {
                **prefixed("backbone.bottom_up.", detectron2(t)),
                "backbone.fpn_lateral2.weight": torch.zeros(2),
                "proposal_generator.rpn_head.conv.weight": torch.zeros(2),
                "pixel_mean": torch.zeros(3),
            },
            "iteration": 9,
        },
        "detectron2",
        {"backbone": 1, "proposal_generator": 1, "pixel_mean": 1},
    ),
    "detectron2": (lambda t: {"model": prefixed("backbone.", detectron2(t))}, "detectron2", {}),
    "detectron2, extracted": (lambda t: {**detectron2(t), "stem.fc.weight": torch.zeros(2)}, "detectron2", {"fc": 1}),
    "DenseCL, whole": (
        lambda t: {
            "state_dict": {
                **QUEUE,
                "queue2": torch.zeros(128, 16),
                **prefixed("encoder_q.0.", t),
                "encoder_q.1.mlp.0.weight": torch.zeros(2, 2),
                **prefixed("encoder_k.0.", t),
                **prefixed("backbone.", t),
            }
        },
        "MoCo or DenseCL of OpenSelfSup and mmselfsup",
        {"queue": 1, "queue_ptr": 1, "queue2": 1, "encoder_q": 1, "encoder_k": 265, "backbone": 265},
    ),
}


def assert_same(backbone, tensors):
    own = backbone.features.state_dict()
    assert own.keys() >= tensors.keys()
    for name, value in tensors.items():
        assert torch.equal(own[name], value), name
