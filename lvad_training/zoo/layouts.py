"""Names and shapes of published detection and segmentation checkpoints, and the recipes that rebuild their networks.

The names are those with which each project saves its state dict: mmdetection (``mmdet/models``), mmsegmentation
(``mmseg/models``) and PeizeSun/SparseR-CNN on detectron2.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import torch
from torch import Tensor

from lvad_perception.errors import CheckpointError
from lvad_perception.vocabulary import DETECTION, DRIVABLE, SEMANTIC, Vocabulary

Tensors = Mapping[str, Tensor]
Rules = tuple[tuple[str, str], ...]

_STAGE_3: Final = r"backbone\.layer3\.(\d+)\."
_NECK: Final = "neck.fpn_convs.0.conv.weight"
_RESNET: Final[Rules] = ((r"^backbone\.(conv1|bn1|layer\d)\.", r"backbone.features.\1."),)
_RESNET_V1C: Final[Rules] = (
    (r"^backbone\.stem\.([01346])\.", r"backbone.features.conv1.\1."),
    (r"^backbone\.stem\.7\.", "backbone.features.bn1."),
    (r"^backbone\.(layer\d)\.", r"backbone.features.\1."),
)
_FPN: Final[Rules] = (
    (r"^neck\.lateral_convs\.(\d)\.conv\.", r"neck.lateral.\1.0."),
    (r"^neck\.fpn_convs\.(\d)\.conv\.", r"neck.output.\1.0."),
)
_MMDET_HEAD: Final[Rules] = (
    (r"^rpn_head\.init_proposal_bboxes\.weight$", "detection.boxes"),
    (r"^rpn_head\.init_proposal_features\.weight$", "detection.features"),
    (r"^roi_head\.bbox_head\.", "detection.refinements."),
    (r"\.attention\.attn\.in_proj_", ".attention.stacked_"),
    (r"\.attention\.attn\.out_proj\.", ".attention.out."),
    (r"\.attention_norm\.", ".norms.0."),
    (r"\.instance_interactive_conv_norm\.", ".norms.1."),
    (r"\.ffn_norm\.", ".norms.2."),
    (r"\.instance_interactive_conv\.dynamic_layer\.", ".interact.make_weights."),
    (r"\.instance_interactive_conv\.norm_in\.", ".interact.norm_inner."),
    (r"\.instance_interactive_conv\.norm_out\.", ".interact.norm_outer."),
    (r"\.instance_interactive_conv\.fc_layer\.", ".interact.out."),
    (r"\.instance_interactive_conv\.fc_norm\.", ".interact.norm_out."),
    (r"\.ffn\.layers\.0\.0\.", ".feedforward.0."),
    (r"\.ffn\.layers\.1\.", ".feedforward.3."),
    (r"\.cls_fcs\.", ".class_tower."),
    (r"\.reg_fcs\.", ".box_tower."),
    (r"\.fc_cls\.", ".classify."),
    (r"\.fc_reg\.", ".regress."),
)
_PEIZE_SUN: Final[Rules] = (
    (r"^init_proposal_boxes\.weight$", "detection.boxes"),
    (r"^init_proposal_features\.weight$", "detection.features"),
    (r"^head\.head_series\.", "detection.refinements."),
    (r"\.self_attn\.in_proj_", ".attention.stacked_"),
    (r"\.self_attn\.out_proj\.", ".attention.out."),
    (r"\.inst_interact\.dynamic_layer\.", ".interact.make_weights."),
    (r"\.inst_interact\.norm1\.", ".interact.norm_inner."),
    (r"\.inst_interact\.norm2\.", ".interact.norm_outer."),
    (r"\.inst_interact\.out_layer\.", ".interact.out."),
    (r"\.inst_interact\.norm3\.", ".interact.norm_out."),
    (r"^(detection\.refinements\.\d+)\.norm1\.", r"\1.norms.0."),
    (r"^(detection\.refinements\.\d+)\.norm2\.", r"\1.norms.1."),
    (r"^(detection\.refinements\.\d+)\.norm3\.", r"\1.norms.2."),
    (r"\.linear1\.", ".feedforward.0."),
    (r"\.linear2\.", ".feedforward.3."),
    (r"\.cls_module\.", ".class_tower."),
    (r"\.reg_module\.", ".box_tower."),
    (r"\.class_logits\.", ".classify."),
    (r"\.bboxes_delta\.", ".regress."),
)
_DETECTRON2: Final[Rules] = (
    (r"^backbone\.bottom_up\.stem\.conv1\.norm\.", "backbone.features.bn1."),
    (r"^backbone\.bottom_up\.stem\.conv1\.", "backbone.features.conv1."),
    *((rf"^backbone\.bottom_up\.res{stage + 1}\.", f"backbone.features.layer{stage}.") for stage in (1, 2, 3, 4)),
    (r"^(backbone\.features\.layer\d\.\d+)\.conv(\d)\.norm\.", r"\1.bn\2."),
    (r"^(backbone\.features\.layer\d\.\d+)\.shortcut\.norm\.", r"\1.downsample.1."),
    (r"^(backbone\.features\.layer\d\.\d+)\.shortcut\.", r"\1.downsample.0."),
    *((rf"^backbone\.fpn_lateral{level + 2}\.", f"neck.lateral.{level}.0.") for level in range(4)),
    *((rf"^backbone\.fpn_output{level + 2}\.", f"neck.output.{level}.0.") for level in range(4)),
)
_FPN_HEAD: Final[Rules] = (
    (r"^decode_head\.scale_heads\.0\.0\.", "TASK.branches.0.0."),
    *((rf"^decode_head\.scale_heads\.(\d)\.{2 * step}\.", rf"TASK.branches.\1.{step}.") for step in range(3)),
    (r"^(TASK\.branches\.\d\.\d)\.conv\.", r"\1.0."),
    (r"^(TASK\.branches\.\d\.\d)\.(?:bn|gn)\.", r"\1.1."),
    (r"^decode_head\.conv_seg\.", "TASK.classify."),
)
_FCOS: Final[Rules] = (
    *((rf"^neck\.fpn_convs\.{level + 3}\.conv\.", f"detection.coarser.{level}.") for level in range(2)),
    (r"^bbox_head\.cls_convs\.(\d)\.conv\.", r"detection.class_tower.convolutions.\1."),
    (r"^bbox_head\.cls_convs\.(\d)\.gn\.", r"detection.class_tower.norms.\1.0."),
    (r"^bbox_head\.reg_convs\.(\d)\.conv\.", r"detection.box_tower.convolutions.\1."),
    (r"^bbox_head\.reg_convs\.(\d)\.gn\.", r"detection.box_tower.norms.\1.0."),
    (r"^bbox_head\.conv_cls\.", "detection.classify."),
    (r"^bbox_head\.conv_reg\.", "detection.regress."),
    (r"^bbox_head\.conv_centerness\.", "detection.center."),
    (r"^bbox_head\.scales\.(\d)\.scale$", r"detection.scales.\1"),
)


@dataclass(frozen=True, slots=True)
class Layout:
    """A kind of checkpoint.

    Attributes:
        name: for messages.
        marker: the name of a tensor that every such file has, and no other.
        rules: pattern and replacement, applied one after the other to each published name; "TASK" is the task's name.
        classes: the name of the tensor with one row a class.
        vocabularies: of the tasks that such files are published for; the number of classes tells which one.
        model: published tensors -> the keys of the recipe's ``model`` section that they imply, with the task's own
            section as "TASK".
        caffe: whether files that do not state it have a ResNet of Caffe's, with BGR images.
    """

    name: str
    marker: str
    rules: Rules
    classes: str
    vocabularies: tuple[Vocabulary, ...]
    model: Callable[[Tensors], dict[str, Any]]
    caffe: bool = False

    def rename(self, name: str, task: str) -> str:
        """The network's own name of a published tensor."""
        for pattern, replacement in self.rules:
            name = re.sub(pattern, replacement, name)
        return name.replace("TASK.", f"{task}.")


def _count(tensors: Tensors, pattern: str) -> int:
    return len({match[1] for name in tensors if (match := re.match(pattern, name))})


def _resnet(tensors: Tensors, stage3: str) -> str:
    """The depth of a bottleneck ResNet by the number of blocks in its third stage."""
    blocks = _count(tensors, stage3)
    depth = {6: 50, 23: 101, 36: 152}.get(blocks)
    if depth is None:
        raise CheckpointError(f"a ResNet with {blocks} blocks in its third stage is not one of 50, 101 or 152 layers")
    return f"resnet{depth}"


def _model(backbone: str, neck: Tensor, head: dict[str, Any], **more: Any) -> dict[str, Any]:
    """What the layouts have in common: images of 1280 x 720, and a neck without norms of the given weights' width."""
    network = {"network_hw": [736, 1280], "backbone": {"name": backbone}, "neck_width": len(neck), "neck_norm": "none"}
    return {**network, **more, "TASK": head}


def _sparse_rcnn_model(
    tensors: Tensors, *, stage3: str, neck: str, series: str, proposals: str, grow: str, inner: str, out: str
) -> dict[str, Any]:
    """The keywords are names of tensors; those of ``grow``, ``inner`` and ``out`` follow that of a refinement."""
    count, width = tensors[proposals].shape
    first = f"{series}.0."
    head = {
        "head": "sparse_rcnn",
        "proposals": count,
        "refinements": _count(tensors, rf"{re.escape(series)}\.(\d+)\."),
        "width": width,
        "heads": width // 32,
        "feedforward": tensors[first + grow].shape[0],
        "dynamic_width": tensors[first + inner].shape[0],
        "pool_size": round((tensors[first + out].shape[1] / width) ** 0.5),
        "pool_samples": 2,
        "canonical_px": 224.0,
    }
    return _model(_resnet(tensors, stage3), tensors[neck], head)


def _fcos_model(tensors: Tensors) -> dict[str, Any]:
    if "bbox_head.cls_convs.0.conv.bias" in tensors:
        raise CheckpointError('its towers\' convolutions have a bias beside GroupNorm, as FCOS "with tricks"')
    head = {
        "head": "fcos",
        "width": tensors["bbox_head.conv_cls.weight"].shape[1],
        "convolutions": _count(tensors, r"bbox_head\.cls_convs\.(\d)\."),
        "strides": [8, 16, 32, 64, 128],
        "distance": "pixel",
        "centerness": "class",
        "overlap": 0.5,
    }
    return _model(_resnet(tensors, _STAGE_3), tensors[_NECK], head, neck_from=8)


def _fpn_head_model(tensors: Tensors) -> dict[str, Any]:
    stem = "c" if "backbone.stem.0.weight" in tensors else ""
    head = {
        "head": "semantic_fpn",
        "width": tensors["decode_head.conv_seg.weight"].shape[1],
        "norm": "group" if "decode_head.scale_heads.0.0.gn.weight" in tensors else "batch",
    }
    return _model(_resnet(tensors, _STAGE_3) + stem, tensors[_NECK], head)


LAYOUTS: Final = (
    Layout(
        "Sparse R-CNN of mmdetection",
        marker="rpn_head.init_proposal_bboxes.weight",
        rules=(*_RESNET, *_FPN, *_MMDET_HEAD),
        classes="roi_head.bbox_head.0.fc_cls.weight",
        vocabularies=(DETECTION,),
        model=partial(
            _sparse_rcnn_model,
            stage3=_STAGE_3,
            neck=_NECK,
            series="roi_head.bbox_head",
            proposals="rpn_head.init_proposal_features.weight",
            grow="ffn.layers.0.0.weight",
            inner="instance_interactive_conv.norm_in.weight",
            out="instance_interactive_conv.fc_layer.weight",
        ),
    ),
    Layout(
        "PeizeSun's Sparse R-CNN on detectron2",
        marker="init_proposal_boxes.weight",
        rules=(*_DETECTRON2, *_PEIZE_SUN),
        classes="head.head_series.0.class_logits.weight",
        vocabularies=(DETECTION,),
        model=partial(
            _sparse_rcnn_model,
            stage3=r"backbone\.bottom_up\.res4\.(\d+)\.",
            neck="backbone.fpn_output2.weight",
            series="head.head_series",
            proposals="init_proposal_features.weight",
            grow="linear1.weight",
            inner="inst_interact.norm1.weight",
            out="inst_interact.out_layer.weight",
        ),
    ),
    Layout(
        "FCOS of mmdetection",
        marker="bbox_head.conv_centerness.weight",
        rules=(*_RESNET, *_FCOS, *_FPN),
        classes="bbox_head.conv_cls.weight",
        vocabularies=(DETECTION,),
        model=_fcos_model,
        caffe=True,
    ),
    Layout(
        "Semantic FPN of mmsegmentation",
        marker="decode_head.scale_heads.0.0.conv.weight",
        rules=(*_RESNET_V1C, *_RESNET, *_FPN, *_FPN_HEAD),
        classes="decode_head.conv_seg.weight",
        vocabularies=(SEMANTIC, DRIVABLE),
        model=_fpn_head_model,
    ),
)


def restructure(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Separate query, key and value of ``nn.MultiheadAttention``, and one vector of FCOS's scales of all levels."""
    separate: dict[str, Tensor] = {}
    scales = sorted(name for name in weights if name.startswith("detection.scales."))
    if scales:
        separate["detection.scales"] = torch.stack([weights.pop(name) for name in scales])
    for name, value in weights.items():
        before, stacked, kind = name.partition(".attention.stacked_")
        if stacked:
            for part, rows in zip(("query", "key", "value"), value.chunk(3), strict=True):
                separate[f"{before}.attention.{part}.{kind}"] = rows
        else:
            separate[name] = value
    return separate
