"""What a recipe may say: its sections, their defaults and what each key means. ``config.py`` reads and checks them.

Paths in a recipe are relative to the directory in which the command runs.
"""

from typing import Any, Literal

import msgspec

Preset = Literal["r50", "r18", "tiny", "edge"]


class Section(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """Base of every part of a recipe: immutable, keyword-only, strict about keys."""


class BackboneConfig(Section, frozen=True):
    """A timm backbone: name, constructor options, and where its weights come from.

    ``stride_in``: which convolution of a ResNet's bottleneck has the stride: "3x3" as torchvision and timm, or "1x1" as
    the original ResNet, whose weights Caffe and Detectron publish.

    ``weights``: None for random ones; a local file in any layout that ``model/published.py`` knows; "timm" or
    "timm:TAG" for the weights that timm publishes under the name; "shipped/NAME" for the backbone of a checkpoint that
    comes with the package.
    """

    name: str = "resnet50"
    options: dict[str, Any] = {}
    weights: str | None = None
    stride_in: Literal["3x3", "1x1"] = "3x3"


class SparseRcnnConfig(Section, frozen=True, tag_field="head", tag="sparse_rcnn"):
    """Sparse R-CNN, defaults of its paper (projects/SparseRCNN/configs, 100 proposals).

    ``proposal_boxes``: "image" starts every proposal as the whole image, as the paper does; "grid" spreads them over
    positions and sizes, which learns faster from random weights. ``matches_per_truth``: how many proposals each truth
    box is matched to in every refinement but the last, which is always one to one; 1 is the paper.
    ``pool_samples``: points per side of a bin at which RoIAlign samples. ``canonical_px``: side of the boxes that are
    pooled from the level of stride 16; null is FPN's 224 for a short side of 800, in proportion to ``network_hw``.
    """

    proposals: int = 100
    refinements: int = 6
    width: int = 256
    heads: int = 8
    feedforward: int = 2048
    dynamic_width: int = 64
    pool_size: int = 7
    pool_samples: int = 2
    proposal_boxes: Literal["image", "grid"] = "image"
    matches_per_truth: int = 1
    canonical_px: float | None = None


class FcosConfig(Section, frozen=True, tag_field="head", tag="fcos"):
    """FCOS, all convolutions; defaults of its paper (arXiv 1904.01355).

    ``convolutions``: of each of the two towers. ``norm``: "group" as the paper, or "batch", each level its own, which
    costs nothing once a runtime has folded it into the convolutions. ``strides``: of the levels, each twice the one
    before; those beyond the backbone's 32 are made from its coarsest level. ``center_radius``: how near its centre
    points learn a box, in strides. ``candidates``: points of an image, best first, that take part in the suppression of
    boxes of the same object; ``overlap``: intersection over union from which two are; ``least_score``: of a box.
    ``distance``: what exp(s x), s learned for each level, is counted in: "stride" as the improved paper, or "pixel" as
    its first version and mmdetection's default. ``centerness``: the tower that predicts it, "box" or "class".
    """

    width: int = 256
    convolutions: int = 4
    norm: Literal["group", "batch"] = "group"
    strides: tuple[int, ...] = (8, 16, 32, 64, 128)
    center_radius: float = 1.5
    candidates: int = 1000
    overlap: float = 0.6
    least_score: float = 0.05
    distance: Literal["stride", "pixel"] = "stride"
    centerness: Literal["box", "class"] = "box"


class MaskFormerConfig(Section, frozen=True, tag_field="head", tag="maskformer"):
    """A MaskFormer head, defaults of its paper (configs/cityscapes-19).

    ``memory_stride``: which pyramid level the queries attend to. ``mask_kernel``: of the convolution that makes the
    mask features. ``pixel_loss``: an auxiliary per-pixel classifier on the mask features, in training only.
    """

    queries: int = 100
    layers: int = 6
    width: int = 256
    heads: int = 8
    feedforward: int = 2048
    dropout: float = 0.1
    mask_width: int = 256
    mask_kernel: Literal[1, 3] = 3
    memory_stride: Literal[4, 8, 16, 32] = 32
    pixel_loss: bool = False


class SemanticFpnConfig(Section, frozen=True, tag_field="head", tag="semantic_fpn"):
    """Panoptic FPN's semantic branch, all convolutions; defaults of its paper (arXiv 1901.02446).

    ``norm``: "group" as the paper, or "batch", which costs nothing once folded into the convolutions.
    ``label_stride``: at every how many-th pixel of the network's input, across and down, the class is chosen that its
    block gets. At 1 choosing among 19 classes costs more than a convolution of the finest level.
    """

    width: int = 128
    norm: Literal["group", "batch"] = "group"
    label_stride: Literal[1, 2, 4] = 1


DetectionConfig = SparseRcnnConfig | FcosConfig
MaskConfig = MaskFormerConfig | SemanticFpnConfig
HEADS: dict[str, tuple[type[Section], ...]] = {
    "detection": (SparseRcnnConfig, FcosConfig),
    "semantic": (MaskFormerConfig, SemanticFpnConfig),
    "drivable": (MaskFormerConfig, SemanticFpnConfig),
}
"""Task -> the heads to choose from by the key ``head`` of its section; the first where a recipe names none."""


class TextEncoderConfig(Section, frozen=True):
    """The frozen text tower. It is needed in training only: its output is folded into the checkpoint.

    ``kind``: "open_clip", or "huggingface" for a text encoder of transformers. ``name``: open_clip's model name, or the
    local folder of the Hugging Face model. ``weights``: open_clip's tag or a local file; None for random weights, which
    only tests want. Hugging Face folders hold their own.
    """

    kind: Literal["open_clip", "huggingface"] = "open_clip"
    name: str = "RN50"
    weights: str | None = "openai"


class LanguageConfig(Section, frozen=True):
    """Prompts and language-vision adapter; defaults of the paper, where it is silent of DenseCLIP and CoOp.

    ``prompts``: "learned" contexts before each class name, "engineering" (one template) or "ensembling" (the mean over
    many). ``context``: learned vectors per task. ``l2v``: text updates z5, the top level before FPN's top-down path.
    ``v2l``: z5 updates the text first. ``score_map``: the cosine of every position of z5 with every class is added to
    z5 through a convolution that starts at zero; how prompts alone reach the image. ``per_task``: one decoder per task
    over the task's own classes, their updates summed, instead of one over the classes of all tasks. ``gamma``: initial
    weight of an update. ``layers``, ``width``, ``heads``, ``dropout``: of each decoder.
    """

    text_encoder: TextEncoderConfig = TextEncoderConfig()
    prompts: Literal["learned", "engineering", "ensembling"] = "learned"
    context: int = 16
    l2v: bool = True
    v2l: bool = False
    score_map: bool = False
    per_task: bool = False
    gamma: float = 1e-4
    layers: int = 3
    width: int = 256
    heads: int = 4
    dropout: float = 0.1


class ModelConfig(Section, frozen=True):
    """The network. A task whose section is null has no head; without ``language`` there is no text.

    ``vocabulary``: whose classes it learns, "bdd100k" or "nuimages" (which has no drivable areas: ``drivable: null``).
    ``detection``: a section with ``head: sparse_rcnn`` or ``head: fcos``; ``semantic`` and ``drivable``: with
    ``head: maskformer`` or ``head: semantic_fpn``. The other keys of the section are those of its head.
    ``neck_norm``: "group" as MaskFormer, "batch", which costs nothing once folded into the convolutions of the model
    file, or "none" as the original FPN. ``neck_from``: stride of the finest level of the backbone that the neck takes;
    8 saves time where the only head is FCOS without the stride 4.
    """

    vocabulary: Literal["bdd100k", "nuimages"] = "bdd100k"
    network_hw: tuple[int, int] = (720, 1280)
    backbone: BackboneConfig = BackboneConfig()
    neck_width: int = 256
    neck_norm: Literal["group", "batch", "none"] = "group"
    neck_from: Literal[4, 8] = 4
    detection: DetectionConfig | None = SparseRcnnConfig()
    semantic: MaskConfig | None = MaskFormerConfig()
    drivable: MaskConfig | None = MaskFormerConfig()
    language: LanguageConfig | None = None
    score_threshold: float = 0.3
    max_detections: int = 100

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the tasks that have a head, in the order of the vocabulary."""
        heads = {"detection": self.detection, "semantic": self.semantic, "drivable": self.drivable}
        return tuple(task for task, head in heads.items() if head is not None)


class LossConfig(Section, frozen=True):
    """Loss weights, defaults of the heads' papers; the first three are the tasks' alphas.

    ``box_*`` are Sparse R-CNN's, ``point_*`` FCOS's, ``mask_*`` and ``no_object`` MaskFormer's; ``pixel`` is of the
    cross-entropy per pixel, Semantic FPN's and MaskFormer's auxiliary one.
    """

    detection: float = 1.0
    semantic: float = 1.0
    drivable: float = 1.0
    box_class: float = 2.0
    box_l1: float = 5.0
    box_giou: float = 2.0
    point_class: float = 1.0
    point_giou: float = 1.0
    point_centerness: float = 1.0
    mask_class: float = 1.0
    mask_focal: float = 20.0
    mask_dice: float = 1.0
    no_object: float = 0.1
    pixel: float = 1.0


class AugmentConfig(Section, frozen=True):
    """Training augmentation: chance of a flip, range of the scale jitter, random crop, strength of colour changes."""

    flip: float = 0.5
    scale: tuple[float, float] = (0.75, 1.5)
    crop: bool = True
    color: float = 0.4


class DataConfig(Section, frozen=True):
    """A data set in BDD100K's layout or nuImages, the splits to train and evaluate on, and how it is fed.

    ``exclude`` and ``only`` select training images by name prefix, for instance to hold out a sequence; ``val_only``
    selects validation images. ``cameras``: of nuImages, such as "CAM_FRONT"; all when empty. ``lists``: a file that
    says which images are annotated for which task (see ``data/settings.py``); other annotation is not looked at.
    ``pseudo``: a folder of pseudo labels in BDD100K's layout; they take the place of what an image is not annotated
    for. ``sampler``: "shuffle" mixes all images, a task that an image is not annotated for adds no loss; "uniform",
    "weighted" (by number of images) and "round_robin" choose one task per step and learn it alone, from images that
    are annotated for it. ``workers``: loader processes of each training process; "auto" is one fewer than its share of
    the usable cores, from 1 to 8.
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
    workers: int | Literal["auto"] = "auto"
    augment: AugmentConfig = AugmentConfig()


class TrainConfig(Section, frozen=True):
    """Optimisation. ``batch_size`` is images per process and micro-step; ``accumulate`` micro-steps make one step.

    The learning rate warms up linearly, then follows ``schedule``: "cosine" to zero, or "step", dropped tenfold at
    ``drop_at`` of the steps. ``precision``: "auto" is bf16 where the device computes in it (CUDA GPUs from compute
    capability 8.0, CPUs with AVX512-BF16 or AMX) and FP32 elsewhere; "no" is FP32; "bf16"; "fp16" (CUDA). Validation
    runs every ``evaluate_every`` steps when above 0, and always at the end. ``freeze``: "backbone" keeps it bit for
    bit, BatchNorm statistics included: the *adapt* stage. ``prompt_multiplier``: of the learning rate of the prompts'
    contexts.
    """

    steps: int = 1000
    batch_size: int = 8
    accumulate: int = 1
    learning_rate: float = 1e-4
    backbone_multiplier: float = 1.0
    weight_decay: float = 1e-4
    warmup_steps: int = 100
    schedule: Literal["cosine", "step"] = "cosine"
    drop_at: float = 0.7
    gradient_clip: float = 1.0
    precision: Literal["auto", "no", "bf16", "fp16"] = "auto"
    seed: int = 0
    checkpoint_every: int = 200
    evaluate_every: int = 0
    start_from: str | None = None
    freeze: Literal["nothing", "backbone"] = "nothing"
    prompt_multiplier: float = 1.0


class PseudoConfig(Section, frozen=True):
    """What of a teacher's predictions becomes a label.

    ``box_score``: smallest score of a box; "auto" takes per class the score with the best F1 on the teacher's own
    training images. ``box_scores``: by class name, before ``box_score``. ``ignored_score``: a box that reaches this
    score without becoming a label is ignored, neither label nor background; 1 ignores none. ``mask_confidence``:
    smallest share of the winning class of a pixel; below it the pixel is left unlabelled (255).
    ``mask_confidences``: by class name, before it.
    """

    box_score: float | Literal["auto"] = "auto"
    box_scores: dict[str, float] = {}
    ignored_score: float = 0.1
    mask_confidence: float = 0.5
    mask_confidences: dict[str, float] = {}


class StageConfig(Section, frozen=True):
    """Where a stage's training differs from the section ``train``; None means as there."""

    steps: int
    learning_rate: float | None = None
    warmup_steps: int | None = None


class StagesConfig(Section, frozen=True):
    """The recipe in several stages: teach, pseudo-label, adapt, finetune. A stage that is None does not run.

    ``setting``: which images are annotated for what: "full" as the data set has it, "disjoint_normal" and
    "disjoint_balance" with disjoint images per task, chosen by ``train.seed``. ``sizes``: images per task, by its name,
    where they differ from the paper's; numbers up to 1 are shares of the images. ``teach``: one single-task teacher per
    task, each on the images annotated for it; with it, ``pseudo`` labels the rest and the finetuned model learns from
    both (self-training). ``adapt``: training with frozen backbone before finetuning, which the section ``train``
    describes. ``shared``: folder of the lists, teachers and pseudo labels, by default ``output``; recipes that name the
    same one share them. ``teacher_backbone``: of the teachers, where it is not the model's; so recipes of different
    backbones can share their teachers.
    """

    setting: Literal["full", "disjoint_normal", "disjoint_balance"] = "full"
    sizes: dict[str, float] = {}
    teach: StageConfig | None = None
    pseudo: PseudoConfig = PseudoConfig()
    adapt: StageConfig | None = None
    shared: str | None = None
    teacher_backbone: BackboneConfig | None = None


class Recipe(Section, frozen=True):
    """Everything that ``lvad-train run`` needs. Without ``stages`` it is one training."""

    data: DataConfig
    preset: Preset = "r50"
    model: ModelConfig = ModelConfig()
    loss: LossConfig = LossConfig()
    train: TrainConfig = TrainConfig()
    stages: StagesConfig | None = None
    output: str = "runs/latest"
