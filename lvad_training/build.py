"""Builds the network, the text encoder and the losses from a recipe; the only place that does."""

import torch

from lvad_perception.errors import ConfigError
from lvad_perception.vocabulary import VOCABULARIES, Vocabulary
from lvad_training.boxes import NmsSettings
from lvad_training.checkpoints import Checkpoint, load_weights
from lvad_training.losses.detection import DetectionCriterion
from lvad_training.losses.multitask import MultiTaskCriterion
from lvad_training.losses.points import PointCriterion
from lvad_training.losses.segmentation import MaskCriterion, PixelCriterion
from lvad_training.model.adapter import (
    LanguageToVision,
    LanguageVisionAdapter,
    ScoreMap,
    TransDecoder,
    VisionToLanguage,
)
from lvad_training.model.backbone import timm_backbone
from lvad_training.model.fcos import FcosHead
from lvad_training.model.maskformer import MaskFormerHead
from lvad_training.model.multitask import MultiTaskNet
from lvad_training.model.neck import FeaturePyramid
from lvad_training.model.prompts import Prompts
from lvad_training.model.semantic_fpn import SemanticFpnHead
from lvad_training.model.sparse_rcnn import SparseRcnnHead, grid_boxes
from lvad_training.model.text_encoders import TextEncoder, TextEncoderMetadata, huggingface_encoder, open_clip_encoder
from lvad_training.recipe.schema import FcosConfig, LossConfig, MaskConfig, ModelConfig, SemanticFpnConfig


def build_text_encoder(config: ModelConfig) -> TextEncoder | None:
    """The frozen text encoder for training; None for a model without language."""
    if config.language is None:
        return None
    tower = config.language.text_encoder
    if tower.kind == "huggingface":
        return huggingface_encoder(tower.name)
    return open_clip_encoder(tower.name, tower.weights)


def build_model(
    config: ModelConfig, *, encoder: TextEncoder | None = None, metadata: TextEncoderMetadata | None = None
) -> MultiTaskNet:
    """The network with random weights, drawn from torch's global generator.

    Weights of the language parts are drawn last, so that the others are the same with and without language.

    Args:
        config: the recipe's section.
        encoder: text encoder, to train a model with language.
        metadata: of the text encoder, from a checkpoint, to use such a model without its encoder.

    Raises:
        ConfigError: the model has language, and neither encoder nor metadata is given.
    """
    backbone = timm_backbone(config.backbone.name, config.backbone.options, stride_in=config.backbone.stride_in)
    first = backbone.strides.index(config.neck_from)
    neck = FeaturePyramid(
        in_channels=backbone.channels[first:],
        strides=backbone.strides[first:],
        width=config.neck_width,
        norm=config.neck_norm,
    )
    detection = _detection_head(config, neck)
    semantic = _mask_head(config, "semantic", neck)
    drivable = _mask_head(config, "drivable", neck)
    prompts = _prompts(config, encoder, metadata)
    return MultiTaskNet(
        backbone=backbone,
        neck=neck,
        detection=detection,
        semantic=semantic,
        drivable=drivable,
        prompts=prompts,
        adapter=_adapter(config, prompts),
    )


def network_of(checkpoint: Checkpoint, *, source: str) -> MultiTaskNet:
    """The network of a checkpoint, without text encoder. Leaves torch's random generator unchanged.

    Args:
        checkpoint: weights and recipe.
        source: name of the checkpoint, for errors.

    Raises:
        CheckpointError: the weights do not fit the recipe's model.
    """
    with torch.random.fork_rng():  # random weights are drawn and replaced; a running training must not notice
        net = build_model(checkpoint.recipe.model, metadata=TextEncoderMetadata.from_dict(checkpoint.text_encoder))
    load_weights(net, checkpoint.weights, source=source)
    return net


def build_criterion(model: ModelConfig, loss: LossConfig) -> MultiTaskCriterion:
    """The losses of the tasks that the model has."""
    return MultiTaskCriterion(
        detection=_detection_criterion(model, loss),
        semantic=_mask_criterion(model, "semantic", loss),
        drivable=_mask_criterion(model, "drivable", loss),
        weights={"detection": loss.detection, "semantic": loss.semantic, "drivable": loss.drivable},
        score_maps=_score_map_criteria(model, loss),
        temperature=model.language.temperature if model.language is not None else 1.0,
    )


def task_classes(model: ModelConfig) -> dict[str, tuple[str, ...]]:
    """Task name -> class names of the tasks that the model has, in the order of the model file's outputs."""
    return {task: vocabulary.names for task, vocabulary in task_vocabularies(model).items()}


def task_vocabularies(model: ModelConfig) -> dict[str, Vocabulary]:
    """Task name -> vocabulary of the tasks that the model has, in the order of the model file's outputs."""
    return {task: VOCABULARIES[model.vocabulary][task] for task in model.tasks}


def boxes_per_image(model: ModelConfig) -> int:
    """K of the model file: ``max_detections``, or fewer if a proposal head has fewer candidates."""
    head = model.detection
    if head is None or isinstance(head, FcosConfig):
        return model.max_detections
    return min(model.max_detections, head.proposals * len(task_classes(model)["detection"]))


def _prompts(config: ModelConfig, encoder: TextEncoder | None, metadata: TextEncoderMetadata | None) -> Prompts | None:
    language = config.language
    if language is None:
        return None
    if encoder is not None:
        metadata = encoder.metadata
    if metadata is None:
        raise ConfigError(
            "model.language: neither a text encoder nor a checkpoint with its metadata is given; "
            "train the model first, or set model.language to null"
        )
    return Prompts(
        classes=task_classes(config),
        mode=language.prompts,
        context=language.context,
        metadata=metadata,
        encoder=encoder,
    )


def _adapter(config: ModelConfig, prompts: Prompts | None) -> LanguageVisionAdapter | None:
    language = config.language
    if language is None or prompts is None:
        return None
    width, text_width = config.neck_width, prompts.embeddings.shape[1]
    classes = len(prompts.embeddings)
    rows = prompts.slices if language.per_task else {"joint": slice(0, classes)}

    def decoders(query_width: int, memory_width: int) -> dict[str, TransDecoder]:
        return {
            part: TransDecoder(
                query_width=query_width,
                memory_width=memory_width,
                width=language.width,
                heads=language.heads,
                layers=language.layers,
                dropout=language.dropout,
            )
            for part in rows
        }

    v2l = l2v = score_map = None
    if language.v2l:
        v2l = VisionToLanguage(decoders=decoders(text_width, width), rows=rows, width=text_width, gamma=language.gamma)
    if language.l2v:
        l2v = LanguageToVision(decoders=decoders(width, text_width), rows=rows, width=width, gamma=language.gamma)
    if language.score_map:
        score_map = ScoreMap(width=width, text_width=text_width, classes=classes)
    return LanguageVisionAdapter(v2l=v2l, l2v=l2v, score_map=score_map)


def _detection_head(config: ModelConfig, neck: FeaturePyramid) -> SparseRcnnHead | FcosHead | None:
    head = config.detection
    if head is None:
        return None
    classes = len(task_classes(config)["detection"])
    if isinstance(head, FcosConfig):
        return FcosHead(
            classes=classes,
            in_width=config.neck_width,
            in_strides=neck.strides,
            strides=head.strides,
            width=head.width,
            convolutions=head.convolutions,
            norm=head.norm,
            nms=NmsSettings(head.candidates, head.overlap, head.least_score),
            distance=head.distance,
            centerness=head.centerness,
        )
    whole_image = torch.tensor([[0.5, 0.5, 1.0, 1.0]]).repeat(head.proposals, 1)
    return SparseRcnnHead(
        classes=classes,
        in_width=config.neck_width,
        strides=neck.strides,
        initial_boxes=grid_boxes(head.proposals) if head.proposal_boxes == "grid" else whole_image,
        refinements=head.refinements,
        width=head.width,
        heads=head.heads,
        feedforward=head.feedforward,
        dynamic_width=head.dynamic_width,
        pool_size=head.pool_size,
        pool_samples=head.pool_samples,
        # FPN's 224 px are for images with a short side of 800 px.
        canonical_px=head.canonical_px or 224 * min(config.network_hw) / 800,
        small_deltas=head.proposal_boxes == "grid",
    )


def _mask_head(config: ModelConfig, task: str, neck: FeaturePyramid) -> MaskFormerHead | SemanticFpnHead | None:
    head, in_width = _mask_section(config, task), config.neck_width
    if head is None:
        return None
    classes = len(task_classes(config)[task])
    if isinstance(head, SemanticFpnConfig):
        return SemanticFpnHead(
            classes=classes,
            in_width=in_width,
            levels=len(neck.strides),
            width=head.width,
            norm=head.norm,
            label_stride=head.label_stride,
        )
    return MaskFormerHead(
        classes=classes,
        in_width=in_width,
        memory_level=neck.strides.index(head.memory_stride),
        queries=head.queries,
        layers=head.layers,
        width=head.width,
        heads=head.heads,
        feedforward=head.feedforward,
        dropout=head.dropout,
        mask_width=head.mask_width,
        mask_kernel=head.mask_kernel,
        pixel_loss=head.pixel_loss,
    )


def _detection_criterion(model: ModelConfig, loss: LossConfig) -> DetectionCriterion | PointCriterion | None:
    head = model.detection
    if head is None:
        return None
    if isinstance(head, FcosConfig):
        return PointCriterion(
            class_weight=loss.point_class,
            giou_weight=loss.point_giou,
            centerness_weight=loss.point_centerness,
            center_radius=head.center_radius,
        )
    return DetectionCriterion(
        class_weight=loss.box_class,
        l1_weight=loss.box_l1,
        giou_weight=loss.box_giou,
        matches_per_truth=head.matches_per_truth,
    )


def _score_map_criteria(model: ModelConfig, loss: LossConfig) -> dict[str, PixelCriterion]:
    """Criteria of the auxiliary loss of the score map, for the tasks with masks; empty when it has no weight."""
    if model.language is None or not model.language.score_map or loss.score_map == 0:
        return {}
    classes = {task: len(names) for task, names in task_classes(model).items() if task != "detection"}
    return {
        task: PixelCriterion(prefix=f"{task}_score_map", classes=count, pixel_weight=loss.score_map)
        for task, count in classes.items()
    }


def _mask_section(model: ModelConfig, task: str) -> MaskConfig | None:
    return {"semantic": model.semantic, "drivable": model.drivable}[task]


def _mask_criterion(model: ModelConfig, task: str, loss: LossConfig) -> MaskCriterion | PixelCriterion | None:
    head = _mask_section(model, task)
    if head is None:
        return None
    classes = len(task_classes(model)[task])
    if isinstance(head, SemanticFpnConfig):
        return PixelCriterion(prefix=task, classes=classes, pixel_weight=loss.pixel)
    return MaskCriterion(
        prefix=task,
        classes=classes,
        class_weight=loss.mask_class,
        focal_weight=loss.mask_focal,
        dice_weight=loss.mask_dice,
        no_object=loss.no_object,
        pixel_weight=loss.pixel,
    )
