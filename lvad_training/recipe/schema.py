"""The keys of a training recipe: sections, types, ranges, defaults and what each key means.

``config.py`` reads recipes and checks what concerns several keys. Paths are relative to the directory in which the
command runs.
"""

import sys
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

Preset = Literal["r50", "r18", "tiny", "edge"]

Count = Annotated[int, Meta(ge=1)]
"""An integer of at least 1."""
Side = Annotated[int, Meta(ge=32, multiple_of=32)]
"""A side of the network input in pixels: a multiple of 32, the largest stride of the backbone."""
Share = Annotated[float, Meta(ge=0, le=1)]
"""A probability or share, 0 to 1."""
Positive = Annotated[float, Meta(gt=0)]
"""A number above 0."""
Weight = Annotated[float, Meta(ge=0, le=sys.float_info.max)]
"""A weight or multiplier: at least 0, finite."""
Rate = Annotated[float, Meta(gt=0, le=sys.float_info.max)]
"""A learning rate: above 0, finite."""
Precision = Literal["auto", "no", "bf16", "fp16"]
"""Of the computation: "auto" is bf16 on devices that compute in it (CUDA GPUs from compute capability 8.0, CPUs with
AVX512-BF16 or AMX) and FP32 elsewhere; "no" is FP32; "fp16" needs a CUDA GPU."""
Workers = Annotated[int, Meta(ge=0)] | Literal["auto"]
"""Number of loader processes, 0 for none; "auto" is one fewer than this process's share of the cores, from 1 to 8."""


class Section(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """Base of all sections: immutable, keyword-only, no unknown keys."""


class BackboneConfig(Section, frozen=True):
    """A timm backbone.

    ``name``: a model of timm. ``options``: further arguments of its constructor. ``weights``: None for random ones; a
    local file in any layout that ``model/published.py`` reads; "timm" or "timm:TAG" for the weights that timm publishes
    under the name; "shipped/NAME" for the backbone of a checkpoint that comes with the package. ``stride_in``: the
    convolution of a ResNet's bottleneck that has the stride, "3x3" as in torchvision and timm, or "1x1" as in the
    original ResNet, whose weights Caffe and Detectron publish.
    """

    name: str = "resnet50"
    options: dict[str, Any] = {}
    weights: str | None = None
    stride_in: Literal["3x3", "1x1"] = "3x3"


class SparseRcnnConfig(Section, frozen=True, tag_field="head", tag="sparse_rcnn"):
    """Sparse R-CNN, defaults of its paper (projects/SparseRCNN/configs, 100 proposals).

    ``proposal_boxes``: "image" starts every proposal as the whole image, as the paper does; "grid" spreads them over
    positions and sizes, which learns faster from random weights. ``matches_per_truth``: number of proposals matched to
    each truth box in every refinement but the last, which is always one to one; the paper has 1. ``pool_samples``:
    points per side of a bin at which RoIAlign samples. ``canonical_px``: side of the boxes that are pooled from the
    level of stride 16; null is FPN's 224 for a short side of 800, in proportion to ``network_hw``.
    """

    proposals: Count = 100
    refinements: Count = 6
    width: Count = 256
    heads: Count = 8
    feedforward: Count = 2048
    dynamic_width: Count = 64
    pool_size: Count = 7
    pool_samples: int = 2
    proposal_boxes: Literal["image", "grid"] = "image"
    matches_per_truth: Count = 1
    canonical_px: Positive | None = None


class FcosConfig(Section, frozen=True, tag_field="head", tag="fcos"):
    """FCOS, fully convolutional; defaults of its paper (arXiv 1904.01355).

    ``convolutions``: number in each of the two towers. ``norm``: "group" as in the paper, or "batch" with its own
    statistics per level, which runtimes fold into the convolutions at no cost. ``strides``: of the levels, each twice
    the one before; levels beyond stride 32, the backbone's last, are made from its coarsest. ``center_radius``:
    distance from a box's centre, in strides, up to which points learn it. Non-maximum suppression takes the
    ``candidates`` best points of an image (at most 3,839, the limit of TensorRT's TopK) with a score of at least
    ``least_score``, and treats boxes with an intersection over union of ``overlap`` or more as one object.
    ``distance``: unit of the distances, exponentials of the regression: "stride" as in the improved paper, or "pixel"
    as in its first version and mmdetection's default. ``centerness``: the tower that predicts it, "box" or "class".
    """

    width: Count = 256
    convolutions: Count = 4
    norm: Literal["group", "batch"] = "group"
    strides: tuple[int, ...] = (8, 16, 32, 64, 128)
    center_radius: Positive = 1.5
    candidates: Annotated[int, Meta(ge=1, le=3839)] = 1000
    overlap: Annotated[float, Meta(gt=0, lt=1)] = 0.6
    least_score: Annotated[float, Meta(ge=0, lt=1)] = 0.05
    distance: Literal["stride", "pixel"] = "stride"
    centerness: Literal["box", "class"] = "box"


class MaskFormerConfig(Section, frozen=True, tag_field="head", tag="maskformer"):
    """A MaskFormer head, defaults of its paper (configs/cityscapes-19).

    ``memory_stride``: stride of the pyramid level that the queries attend to. ``mask_kernel``: kernel size of the
    convolution that makes the mask features. ``pixel_loss``: train an auxiliary per-pixel classifier on the mask
    features.
    """

    queries: Count = 100
    layers: Count = 6
    width: Count = 256
    heads: Count = 8
    feedforward: Count = 2048
    dropout: Share = 0.1
    mask_width: Count = 256
    mask_kernel: Literal[1, 3] = 3
    memory_stride: Literal[4, 8, 16, 32] = 32
    pixel_loss: bool = False


class SemanticFpnConfig(Section, frozen=True, tag_field="head", tag="semantic_fpn"):
    """Panoptic FPN's semantic branch, fully convolutional; defaults of its paper (arXiv 1901.02446).

    ``norm``: "group" as in the paper, or "batch", which runtimes fold into the convolutions at no cost.
    ``label_stride``: one class is chosen per block of this many pixels of the network input, across and down. At 1, the
    choice among 19 classes costs more than a convolution of the finest level.
    """

    width: Count = 128
    norm: Literal["group", "batch"] = "group"
    label_stride: Literal[1, 2, 4] = 1


DetectionConfig = SparseRcnnConfig | FcosConfig
MaskConfig = MaskFormerConfig | SemanticFpnConfig
HEADS: dict[str, tuple[type[Section], ...]] = {
    "detection": (SparseRcnnConfig, FcosConfig),
    "semantic": (MaskFormerConfig, SemanticFpnConfig),
    "drivable": (MaskFormerConfig, SemanticFpnConfig),
}
"""Task -> sections of its heads, chosen by the key ``head``; the first is the default."""


class TextEncoderConfig(Section, frozen=True):
    """The frozen text encoder, needed in training only: its embeddings are saved in the checkpoint.

    ``kind``: "open_clip", or "huggingface" for a text encoder of transformers. ``name``: open_clip's model name, or the
    local folder of the Hugging Face model. ``weights``: open_clip's tag or a local file; None for random weights, for
    tests. Hugging Face folders contain their weights.
    """

    kind: Literal["open_clip", "huggingface"] = "open_clip"
    name: str = "RN50"
    weights: str | None = "openai"


class LanguageConfig(Section, frozen=True):
    """Prompts and language-vision adapter; defaults of the paper, else of DenseCLIP and CoOp.

    ``prompts``: "learned" contexts before each class name, "engineering" (one template) or "ensembling" (the mean over
    many). ``context``: learned vectors per task. ``l2v``: text updates z5, the top level before FPN's top-down path.
    ``v2l``: z5 updates the text first. ``score_map``: the cosine of every position of z5 with every class is added to
    z5 through a convolution that starts at zero, for prompts without ``l2v``. ``per_task``: one decoder per task over
    the task's own classes, their updates summed, instead of one over the classes of all tasks. ``gamma``: initial
    weight of an update. ``layers``, ``width``, ``heads``, ``dropout``: of each decoder. ``temperature``: DenseCLIP's
    tau, which divides the cosines for the auxiliary loss of the score map, ``loss.score_map``.
    """

    text_encoder: TextEncoderConfig = TextEncoderConfig()
    prompts: Literal["learned", "engineering", "ensembling"] = "learned"
    context: Count = 16
    l2v: bool = True
    v2l: bool = False
    score_map: bool = False
    temperature: Positive = 0.07
    per_task: bool = False
    gamma: float = 1e-4
    layers: Count = 3
    width: Count = 256
    heads: Count = 4
    dropout: Share = 0.1


class ModelConfig(Section, frozen=True):
    """The network. A task whose section is null has no head; if ``language`` is null there are no prompts.

    ``vocabulary``: the data set whose classes it learns; nuImages has no drivable areas and needs ``drivable: null``.
    ``network_hw``: height and width of the network input. ``detection``: a section with ``head: sparse_rcnn`` or
    ``head: fcos``; ``semantic`` and ``drivable``: with ``head: maskformer`` or ``head: semantic_fpn``. The other keys
    of the section belong to its head. ``neck_norm``: "group" as MaskFormer, "batch", which runtimes fold into the
    convolutions at no cost, or "none" as the original FPN. ``neck_from``: stride of the finest level of the backbone
    that the neck takes; 8 saves time where the only head is FCOS without the stride 4.
    """

    vocabulary: Literal["bdd100k", "nuimages"] = "bdd100k"
    network_hw: tuple[Side, Side] = (720, 1280)
    backbone: BackboneConfig = BackboneConfig()
    neck_width: Count = 256
    neck_norm: Literal["group", "batch", "none"] = "group"
    neck_from: Literal[4, 8] = 4
    detection: DetectionConfig | None = SparseRcnnConfig()
    semantic: MaskConfig | None = MaskFormerConfig()
    drivable: MaskConfig | None = MaskFormerConfig()
    language: LanguageConfig | None = None
    score_threshold: Share = 0.3
    max_detections: Count = 100

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the tasks that have a head, in the order of the vocabulary."""
        heads = {"detection": self.detection, "semantic": self.semantic, "drivable": self.drivable}
        return tuple(task for task, head in heads.items() if head is not None)


class LossConfig(Section, frozen=True):
    """Loss weights; defaults of the heads' papers.

    ``detection``, ``semantic`` and ``drivable`` weight the tasks (the paper's alphas). ``box_*`` belong to Sparse
    R-CNN, ``point_*`` to FCOS, ``mask_*`` and ``no_object`` to MaskFormer; ``pixel`` weights the cross-entropy per
    pixel of Semantic FPN and of MaskFormer's auxiliary classifier, ``score_map`` that of the score map; DenseCLIP has
    0.4.
    """

    detection: Weight = 1.0
    semantic: Weight = 1.0
    drivable: Weight = 1.0
    box_class: Weight = 2.0
    box_l1: Weight = 5.0
    box_giou: Weight = 2.0
    point_class: Weight = 1.0
    point_giou: Weight = 1.0
    point_centerness: Weight = 1.0
    mask_class: Weight = 1.0
    mask_focal: Weight = 20.0
    mask_dice: Weight = 1.0
    no_object: Weight = 0.1
    pixel: Weight = 1.0
    score_map: Weight = 0.0


class AugmentConfig(Section, frozen=True):
    """Training augmentation: probability of a flip, range of scale jitter, random crop, strength of colour changes."""

    flip: Share = 0.5
    scale: tuple[float, float] = (0.75, 1.5)
    crop: bool = True
    color: Annotated[float, Meta(ge=0, lt=1)] = 0.4


class DataConfig(Section, frozen=True):
    """A data set in BDD100K's layout or nuImages, its splits, and how its images are sampled and loaded.

    ``exclude`` and ``only`` select training images by name prefix, for instance to hold out a sequence; ``val_only``
    selects validation images. ``cameras``: of nuImages, such as "CAM_FRONT"; all when empty. ``lists``: a file with the
    images annotated for each task (see ``data/settings.py``); other annotation is ignored. ``pseudo``: a folder of
    pseudo labels in BDD100K's layout, used for the tasks that an image is not annotated for. ``sampler``: "shuffle"
    mixes all images, and a task that an image is not annotated for adds no loss; "uniform", "weighted" (by number of
    images) and "round_robin" choose one task per step and train it alone, on images annotated for it. ``workers``:
    loader processes of each training process.
    """

    root: str
    train_split: str = "train"
    val_split: str = "val"
    exclude: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    val_only: tuple[str, ...] = ()
    cameras: tuple[str, ...] = ()
    lists: str | None = None
    pseudo: str | None = None
    sampler: Literal["shuffle", "uniform", "weighted", "round_robin"] = "shuffle"
    workers: Workers = "auto"
    augment: AugmentConfig = AugmentConfig()


class TrainConfig(Section, frozen=True):
    """Optimisation. ``batch_size`` is images per process and micro-step; ``accumulate`` micro-steps make one step.

    The learning rate warms up linearly over ``warmup_steps``, then follows ``schedule``: "cosine" to zero, or "step",
    divided by ten at ``drop_at`` of the steps, one share or several. ``backbone_multiplier``, ``detection_multiplier``
    and ``prompt_multiplier`` scale it for the backbone, the detection head and the prompts' contexts. Validation runs
    every ``evaluate_every`` steps when above 0, and always at the end. ``start_from``: a checkpoint, or "shipped/NAME".
    ``freeze``: "backbone" keeps it bit for bit, BatchNorm statistics included: the *adapt* stage. ``batch_norm``:
    "frozen" keeps statistics, scales and shifts of the backbone's BatchNorm, as the papers do with pretrained
    backbones; "batch" trains every BatchNorm on the images of each process, "sync" on those of all processes, for which
    it needs GPUs; "auto" is "frozen" for a backbone with pretrained weights (``model.backbone.weights`` or
    ``start_from``) and "batch" for one with random weights.
    """

    steps: Count = 1000
    batch_size: Count = 8
    accumulate: Count = 1
    learning_rate: Rate = 1e-4
    backbone_multiplier: Weight = 1.0
    detection_multiplier: Weight = 1.0
    weight_decay: Weight = 1e-4
    warmup_steps: Annotated[int, Meta(ge=0)] = 100
    schedule: Literal["cosine", "step"] = "cosine"
    drop_at: Share | tuple[Share, ...] = 0.7
    gradient_clip: Weight = 1.0
    precision: Precision = "auto"
    seed: Annotated[int, Meta(ge=0)] = 0
    checkpoint_every: Count = 200
    evaluate_every: int = 0
    start_from: str | None = None
    freeze: Literal["nothing", "backbone"] = "nothing"
    batch_norm: Literal["auto", "frozen", "sync", "batch"] = "auto"
    prompt_multiplier: Weight = 1.0


class PseudoConfig(Section, frozen=True):
    """Which images teachers label, and the thresholds from which their predictions become labels.

    ``images``: "annotated" labels images that are annotated for another task, "all" also those without any annotation.
    ``box_score``: smallest score of a box; "auto" takes per class the score with the best F1 on the images that are
    annotated with boxes, which a taught teacher learned from. ``box_scores``: per class name, instead of ``box_score``.
    ``ignored_score``: a box with this score or more that does not become a label is ignored, neither label nor
    background; 1 ignores none. ``mask_confidence``: smallest probability of the winning class of a pixel; below it the
    pixel stays unlabelled (255). ``mask_confidences``: per class name, instead of ``mask_confidence``.
    """

    images: Literal["annotated", "all"] = "annotated"
    box_score: Share | Literal["auto"] = "auto"
    box_scores: dict[str, Share] = {}
    ignored_score: Share = 0.1
    mask_confidence: Share = 0.5
    mask_confidences: dict[str, Share] = {}


class StageConfig(Section, frozen=True):
    """A stage's own values of keys of the section ``train``; None takes the value from there."""

    steps: Count
    learning_rate: float | None = None
    warmup_steps: int | None = None


class TeachersConfig(Section, frozen=True):
    """Checkpoints that label images for a task: of a run, imported, or "shipped/NAME"; of networks of any size."""

    detection: str | None = None
    semantic: str | None = None
    drivable: str | None = None

    @property
    def given(self) -> dict[str, str]:
        """Task -> checkpoint, of the tasks that have one."""
        return {task: path for task, path in msgspec.structs.asdict(self).items() if path is not None}


class StagesConfig(Section, frozen=True):
    """Training in several stages: teach, pseudo-label, adapt, finetune. A stage that is None does not run.

    ``setting``: "full" uses all annotation of the data set; "disjoint_normal" and "disjoint_balance" use disjoint
    images per task, chosen by ``train.seed``. ``sizes``: task -> number of images, instead of the paper's; numbers up
    to 1 are shares of the images. ``teach``: trains one single-task teacher per task on the images annotated for it;
    their pseudo labels, with the thresholds of ``pseudo``, complete the annotation that the model is then trained on
    (self-training). ``teachers``: finished checkpoints that label instead; the tasks that it leaves out are taught if
    ``teach`` is there, else learned from annotation alone. ``adapt``: trains with frozen backbone, before the
    finetuning that the section ``train`` describes. ``shared``: folder of the lists, teachers and pseudo labels, by
    default ``output``; recipes that name the same folder share them. ``teacher_backbone``: of the teachers, if not the
    model's, so that recipes with different backbones can share teachers.
    """

    setting: Literal["full", "disjoint_normal", "disjoint_balance"] = "full"
    sizes: dict[str, Positive] = {}
    teach: StageConfig | None = None
    teachers: TeachersConfig | None = None
    pseudo: PseudoConfig = PseudoConfig()
    adapt: StageConfig | None = None
    shared: str | None = None
    teacher_backbone: BackboneConfig | None = None

    @property
    def given(self) -> dict[str, str]:
        """Task -> checkpoint of ``teachers``."""
        return self.teachers.given if self.teachers is not None else {}

    @property
    def labelling(self) -> bool:
        """Whether there are teachers, taught or given, and so pseudo labels."""
        return self.teach is not None or self.teachers is not None


class Recipe(Section, frozen=True):
    """A training recipe, as ``lvad-train run`` reads it. Without ``stages`` it is one training."""

    data: DataConfig
    preset: Preset = "r50"
    model: ModelConfig = ModelConfig()
    loss: LossConfig = LossConfig()
    train: TrainConfig = TrainConfig()
    stages: StagesConfig | None = None
    output: str = "runs/latest"
