"""Checkpoints under the names of mmdetection, mmsegmentation and PeizeSun/SparseR-CNN, small and with random weights.

The weights depend on their names alone, so that the original library and this package get the same. Run as a script
where mmdet 3 and mmsegmentation 1 are installed, this module records what they compute: ``python -m
test.training.zoo_files FOLDER`` writes one ``.npz`` a layout with the outputs for ``image()``.
"""

import functools
import sys
import zlib
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

CLASSES = 10
PROPOSALS, STAGES, WIDTH, HIDDEN, DYNAMIC, POOL = 12, 2, 64, 96, 16, 7
SIZE_HW = (64, 128)
FCOS_HW = (128, 256)
"""FCOS's coarsest level needs more than one cell."""
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
CAFFE_RGB_MEAN = (122.7717, 115.9465, 102.9801)
RECORDED = Path(__file__).parent.parent / "data" / "zoo"


def image(size_hw=SIZE_HW):
    """A normalised image, float32 [1, 3, H, W]."""
    random = np.random.RandomState(0)
    return torch.from_numpy(random.standard_normal((1, 3, *size_hw)).astype(np.float32))


@functools.cache
def weight(name, shape):
    """A tensor by its name: scaled to keep activations near 1; positive where it is a variance or a norm's weight."""
    random = np.random.RandomState(zlib.crc32(name.encode()))
    values = random.standard_normal(tuple(shape)).astype(np.float32)
    if name.endswith("running_var"):
        return torch.from_numpy(1 + 0.1 * np.abs(values))
    if name.endswith("num_batches_tracked"):
        return torch.tensor(1)
    if "init_proposal_b" in name:
        return torch.from_numpy(0.5 + 0.1 * np.clip(values, -2, 2))
    if name.endswith(".scale"):
        return torch.tensor(1.2)
    if len(shape) > 1:
        return torch.from_numpy(values / max(1, np.prod(shape[1:])) ** 0.5)
    return torch.from_numpy(0.1 * values + (1 if name.endswith("weight") else 0))


def filled(shapes):
    """Name -> tensor for names with shapes."""
    return {name: weight(name, shape) for name, shape in shapes.items()}


def batch_norm(name, width):
    """The shapes of a BatchNorm's tensors."""
    names = ("weight", "bias", "running_mean", "running_var")
    return {**{f"{name}.{each}": (width,) for each in names}, f"{name}.num_batches_tracked": ()}


def resnet50(*, stem="plain"):
    """mmdetection's names of a ResNet-50 ("plain") and mmsegmentation's of ResNetV1c ("deep")."""
    shapes = {}
    if stem == "plain":
        shapes |= {"backbone.conv1.weight": (64, 3, 7, 7), **batch_norm("backbone.bn1", 64)}
    else:
        for place, (inside, outside) in {0: (3, 32), 3: (32, 32), 6: (32, 64)}.items():
            shapes[f"backbone.stem.{place}.weight"] = (outside, inside, 3, 3)
            shapes |= batch_norm(f"backbone.stem.{place + 1}", outside)
    inside = 64
    for stage, blocks in enumerate((3, 4, 6, 3), start=1):
        middle = 32 * 2**stage
        for block in range(blocks):
            name = f"backbone.layer{stage}.{block}"
            for number, shape in enumerate(
                ((middle, inside, 1, 1), (middle, middle, 3, 3), (4 * middle, middle, 1, 1)), 1
            ):
                shapes[f"{name}.conv{number}.weight"] = shape
                shapes |= batch_norm(f"{name}.bn{number}", shape[0])
            if block == 0:
                shapes[f"{name}.downsample.0.weight"] = (4 * middle, inside, 1, 1)
                shapes |= batch_norm(f"{name}.downsample.1", 4 * middle)
            inside = 4 * middle
    return shapes


def neck():
    """mmdetection's and mmsegmentation's names of an FPN."""
    shapes = {}
    for level, channels in enumerate((256, 512, 1024, 2048)):
        shapes |= {f"neck.lateral_convs.{level}.conv.weight": (WIDTH, channels, 1, 1)}
        shapes |= {f"neck.lateral_convs.{level}.conv.bias": (WIDTH,)}
        shapes |= {
            f"neck.fpn_convs.{level}.conv.weight": (WIDTH, WIDTH, 3, 3),
            f"neck.fpn_convs.{level}.conv.bias": (WIDTH,),
        }
    return shapes


def linear(name, out, inside, *, bias=True):
    """The shapes of a linear layer."""
    return {f"{name}.weight": (out, inside), **({f"{name}.bias": (out,)} if bias else {})}


def norm(name, width=WIDTH):
    """The shapes of a LayerNorm or GroupNorm."""
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def mmdet_sparse_rcnn(classes=CLASSES):
    """The state dict that mmdetection saves of a Sparse R-CNN."""
    shapes = {**resnet50(), **neck()}
    shapes |= {"rpn_head.init_proposal_bboxes.weight": (PROPOSALS, 4)}
    shapes |= {"rpn_head.init_proposal_features.weight": (PROPOSALS, WIDTH)}
    for stage in range(STAGES):
        head = f"roi_head.bbox_head.{stage}"
        shapes |= {**linear(f"{head}.fc_cls", classes, WIDTH), **linear(f"{head}.fc_reg", 4, WIDTH)}
        shapes |= {f"{head}.attention.attn.in_proj_weight": (3 * WIDTH, WIDTH)}
        shapes |= {f"{head}.attention.attn.in_proj_bias": (3 * WIDTH,)}
        shapes |= {**linear(f"{head}.attention.attn.out_proj", WIDTH, WIDTH), **norm(f"{head}.attention_norm")}
        conv = f"{head}.instance_interactive_conv"
        shapes |= linear(f"{conv}.dynamic_layer", 2 * WIDTH * DYNAMIC, WIDTH)
        shapes |= {**norm(f"{conv}.norm_in", DYNAMIC), **norm(f"{conv}.norm_out")}
        shapes |= {**linear(f"{conv}.fc_layer", WIDTH, WIDTH * POOL**2), **norm(f"{conv}.fc_norm")}
        shapes |= norm(f"{head}.instance_interactive_conv_norm")
        shapes |= {**linear(f"{head}.ffn.layers.0.0", HIDDEN, WIDTH), **linear(f"{head}.ffn.layers.1", WIDTH, HIDDEN)}
        shapes |= norm(f"{head}.ffn_norm")
        shapes |= {**linear(f"{head}.cls_fcs.0", WIDTH, WIDTH, bias=False), **norm(f"{head}.cls_fcs.1")}
        for layer in (0, 3, 6):
            shapes |= linear(f"{head}.reg_fcs.{layer}", WIDTH, WIDTH, bias=False)
            shapes |= norm(f"{head}.reg_fcs.{layer + 1}")
    return filled(shapes)


def detectron2_sparse_rcnn():
    """The state dict that PeizeSun/SparseR-CNN saves, of the same network as ``mmdet_sparse_rcnn`` for 80 classes."""
    names = {}
    for name in mmdet_sparse_rcnn(classes=80):
        other = name
        if name.startswith("backbone.conv1"):
            other = name.replace("backbone.", "backbone.bottom_up.stem.")
        elif name.startswith("backbone.bn1"):
            other = name.replace("backbone.bn1", "backbone.bottom_up.stem.conv1.norm")
        elif name.startswith("backbone."):
            stage = int(name[len("backbone.layer")])
            other = name.replace(f"backbone.layer{stage}", f"backbone.bottom_up.res{stage + 1}")
            other = other.replace("downsample.0", "shortcut").replace("downsample.1", "shortcut.norm")
            for number in (1, 2, 3):
                other = other.replace(f".bn{number}.", f".conv{number}.norm.")
        elif name.startswith("neck."):
            kind, level = ("lateral", name.split(".")[2]) if "lateral" in name else ("output", name.split(".")[2])
            other = f"backbone.fpn_{kind}{int(level) + 2}.{name.rpartition('.')[2]}"
        elif name.startswith("rpn_head."):
            other = name.removeprefix("rpn_head.").replace("bboxes", "boxes")
        else:
            other = name.replace("roi_head.bbox_head.", "head.head_series.")
            for theirs, ours in (
                (".attention.attn.", ".self_attn."),
                (".attention_norm.", ".norm1."),
                (".instance_interactive_conv_norm.", ".norm2."),
                (".ffn_norm.", ".norm3."),
                (".instance_interactive_conv.norm_in.", ".inst_interact.norm1."),
                (".instance_interactive_conv.norm_out.", ".inst_interact.norm2."),
                (".instance_interactive_conv.fc_norm.", ".inst_interact.norm3."),
                (".instance_interactive_conv.fc_layer.", ".inst_interact.out_layer."),
                (".instance_interactive_conv.", ".inst_interact."),
                (".ffn.layers.0.0.", ".linear1."),
                (".ffn.layers.1.", ".linear2."),
                (".cls_fcs.", ".cls_module."),
                (".reg_fcs.", ".reg_module."),
                (".fc_cls.", ".class_logits."),
                (".fc_reg.", ".bboxes_delta."),
            ):
                other = other.replace(theirs, ours)
        names[other] = name
    tensors = mmdet_sparse_rcnn(classes=80)
    return {other: tensors[name] for other, name in names.items() if not name.endswith("num_batches_tracked")}


def mmseg_semantic_fpn(classes=19, *, norm_name="gn", stem="deep"):
    """The state dict that mmsegmentation saves of an ``FPNHead`` on ResNetV1c, with GroupNorm or BatchNorm."""
    shapes = {**resnet50(stem=stem), **neck()}
    for level in range(4):
        for step in range(max(1, level)):
            name = f"decode_head.scale_heads.{level}.{2 * step}"
            shapes[f"{name}.conv.weight"] = (WIDTH, WIDTH, 3, 3)
            shapes |= norm(f"{name}.gn") if norm_name == "gn" else batch_norm(f"{name}.bn", WIDTH)
    shapes |= {"decode_head.conv_seg.weight": (classes, WIDTH, 1, 1), "decode_head.conv_seg.bias": (classes,)}
    return filled(shapes)


def mmdet_fcos(classes=CLASSES):
    """The state dict that mmdetection saves of FCOS on levels of strides 8 to 128."""
    shapes = resnet50()
    for level, channels in enumerate((512, 1024, 2048)):
        shapes[f"neck.lateral_convs.{level}.conv.weight"] = (WIDTH, channels, 1, 1)
        shapes[f"neck.lateral_convs.{level}.conv.bias"] = (WIDTH,)
    for level in range(5):
        shapes[f"neck.fpn_convs.{level}.conv.weight"] = (WIDTH, WIDTH, 3, 3)
        shapes[f"neck.fpn_convs.{level}.conv.bias"] = (WIDTH,)
        shapes[f"bbox_head.scales.{level}.scale"] = ()
    for tower in ("cls_convs", "reg_convs"):
        for layer in range(2):
            shapes[f"bbox_head.{tower}.{layer}.conv.weight"] = (WIDTH, WIDTH, 3, 3)
            shapes |= norm(f"bbox_head.{tower}.{layer}.gn")
    for name, out in (("conv_cls", classes), ("conv_reg", 4), ("conv_centerness", 1)):
        shapes |= {f"bbox_head.{name}.weight": (out, WIDTH, 3, 3), f"bbox_head.{name}.bias": (out,)}
    return filled(shapes)


def run_fcos(state):
    """Class scores [P, K], centre-ness [P] and boxes [P, 4], xyxy in pixels, of all points of mmdetection's FCOS."""
    from mmdet.registry import MODELS
    from mmdet.utils import register_all_modules
    from mmengine.config import ConfigDict

    register_all_modules()
    neck = {"type": "FPN", "in_channels": [256, 512, 1024, 2048], "out_channels": WIDTH, "num_outs": 5}
    extra = {"start_level": 1, "add_extra_convs": "on_output", "relu_before_extra_convs": True}
    head = {"type": "FCOSHead", "num_classes": CLASSES, "in_channels": WIDTH, "feat_channels": WIDTH}
    model = MODELS.build(
        ConfigDict(
            {
                "type": "FCOS",
                "data_preprocessor": {"type": "DetDataPreprocessor"},
                "backbone": {"type": "ResNet", "depth": 50, "norm_eval": True, "style": "caffe"},
                "neck": {**neck, **extra},
                "bbox_head": {**head, "stacked_convs": 2, "strides": [8, 16, 32, 64, 128]},
                "test_cfg": {},
            }
        )
    ).eval()
    model.load_state_dict(state, strict=True)
    model.backbone.conv1.padding = (0, 0)

    def per_point(levels):
        return torch.cat([level[0].flatten(1).T for level in levels])

    with torch.no_grad():
        scores, boxes, center = model.bbox_head(model.extract_feat(caffe_image()))
        points = torch.cat(
            model.bbox_head.prior_generator.grid_priors([level.shape[-2:] for level in boxes], device="cpu")
        )
        boxes = model.bbox_head.bbox_coder.decode(points, per_point(boxes))
    found = {"scores": per_point(scores).sigmoid(), "centerness": per_point(center)[:, 0].sigmoid(), "boxes": boxes}
    return {key: value.numpy() for key, value in found.items()}


def caffe_image():
    """``image(FCOS_HW)`` as Caffe's networks get it: BGR, mean subtracted, not divided by the deviation.

    It is padded for the first convolution as this package pads, with ImageNet's mean colour instead of Caffe's.
    """
    mean, std = (torch.tensor(each).view(1, 3, 1, 1) for each in (MEAN, STD))
    pixels = functional.pad(image(FCOS_HW), (3, 3, 3, 3)) * std + mean
    return (pixels - torch.tensor(CAFFE_RGB_MEAN).view(1, 3, 1, 1)).flip(1)


def run_mmdet(state):
    """Class scores [Q, K] and boxes [Q, 4], xyxy in pixels, of mmdetection's last refinement."""
    from mmdet.registry import MODELS
    from mmdet.utils import register_all_modules
    from mmengine.config import ConfigDict

    register_all_modules()
    head = {
        "type": "DIIHead",
        "num_classes": CLASSES,
        "num_ffn_fcs": 2,
        "num_heads": WIDTH // 32,
        "num_cls_fcs": 1,
        "num_reg_fcs": 3,
        "feedforward_channels": HIDDEN,
        "in_channels": WIDTH,
        "dropout": 0.0,
        "ffn_act_cfg": {"type": "ReLU", "inplace": True},
        "dynamic_conv_cfg": {
            "type": "DynamicConv",
            "in_channels": WIDTH,
            "feat_channels": DYNAMIC,
            "out_channels": WIDTH,
            "input_feat_shape": POOL,
            "act_cfg": {"type": "ReLU", "inplace": True},
            "norm_cfg": {"type": "LN"},
        },
        "loss_cls": {"type": "FocalLoss", "use_sigmoid": True},
        "bbox_coder": {"type": "DeltaXYWHBBoxCoder", "clip_border": False, "target_stds": [0.5, 0.5, 1.0, 1.0]},
    }
    model = MODELS.build(
        ConfigDict(
            {
                "type": "SparseRCNN",
                "data_preprocessor": {"type": "DetDataPreprocessor"},
                "backbone": {"type": "ResNet", "depth": 50, "norm_eval": True, "style": "pytorch"},
                "neck": {"type": "FPN", "in_channels": [256, 512, 1024, 2048], "out_channels": WIDTH, "num_outs": 4},
                "rpn_head": {"type": "EmbeddingRPNHead", "num_proposals": PROPOSALS, "proposal_feature_channel": WIDTH},
                "roi_head": {
                    "type": "SparseRoIHead",
                    "num_stages": STAGES,
                    "stage_loss_weights": [1] * STAGES,
                    "proposal_feature_channel": WIDTH,
                    "bbox_roi_extractor": {
                        "type": "SingleRoIExtractor",
                        "roi_layer": {"type": "RoIAlign", "output_size": POOL, "sampling_ratio": 2},
                        "out_channels": WIDTH,
                        "featmap_strides": [4, 8, 16, 32],
                    },
                    "bbox_head": [head] * STAGES,
                },
                "test_cfg": {"rpn": None, "rcnn": {"max_per_img": PROPOSALS}},
            }
        )
    ).eval()
    model.load_state_dict(state, strict=True)
    with torch.no_grad():
        levels = model.extract_feat(image())
        boxes = model.rpn_head.init_proposal_bboxes.weight
        extent = torch.tensor([SIZE_HW[1], SIZE_HW[0]] * 2)
        center, half = boxes[:, :2], boxes[:, 2:] / 2
        rois = (torch.cat([center - half, center + half], 1) * extent)[None]
        features = model.rpn_head.init_proposal_features.weight[None]
        meta = [{"img_shape": SIZE_HW}]
        for stage in range(STAGES):
            index = torch.zeros(PROPOSALS, 1)
            found = model.roi_head._bbox_forward(stage, levels, torch.cat([index, rois[0]], 1), features, meta)
            rois, features = torch.stack(found["detached_proposals"]), found["object_feats"]
    return {"scores": found["cls_score"][0].sigmoid().numpy(), "boxes": rois[0].numpy()}


def run_mmseg(state, classes, norm_name):
    """Logits [K, H / 4, W / 4] of mmsegmentation's head."""
    from mmengine.config import ConfigDict
    from mmseg.registry import MODELS
    from mmseg.utils import register_all_modules

    register_all_modules()
    norms = {"bn": {"type": "BN"}, "gn": {"type": "GN", "num_groups": 32}}
    model = MODELS.build(
        ConfigDict(
            {
                "type": "EncoderDecoder",
                "backbone": {"type": "ResNetV1c", "depth": 50, "norm_cfg": norms["bn"], "style": "pytorch"},
                "neck": {"type": "FPN", "in_channels": [256, 512, 1024, 2048], "out_channels": WIDTH, "num_outs": 4},
                "decode_head": {
                    "type": "FPNHead",
                    "in_channels": [WIDTH] * 4,
                    "in_index": [0, 1, 2, 3],
                    "feature_strides": [4, 8, 16, 32],
                    "channels": WIDTH,
                    "num_classes": classes,
                    "norm_cfg": norms[norm_name],
                    "align_corners": False,
                },
                "test_cfg": {"mode": "whole"},
            }
        )
    ).eval()
    model.load_state_dict(state, strict=True)
    with torch.no_grad():
        return {"logits": model.decode_head(model.extract_feat(image()))[0].numpy()}


def official(name):
    """What the original library computes with a layout's weights."""
    if name == "sparse_rcnn":
        return run_mmdet(mmdet_sparse_rcnn())
    if name == "fcos":
        return run_fcos(mmdet_fcos())
    classes, norm_name = {"semantic": (19, "gn"), "drivable": (3, "bn")}[name]
    return run_mmseg(mmseg_semantic_fpn(classes, norm_name=norm_name), classes, norm_name)


if __name__ == "__main__":
    for each in ("sparse_rcnn", "fcos", "semantic", "drivable"):
        np.savez_compressed(
            Path(sys.argv[1]) / f"{each}.npz", **{k: v.astype(np.float32) for k, v in official(each).items()}
        )
