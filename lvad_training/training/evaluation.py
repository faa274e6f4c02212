"""Evaluation of a checkpoint on a data set: its metrics, or everything that a report shows.

Processes that run together share the images, merge their results, and all return the same.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from msgspec.structs import replace
from torch import Tensor, nn
from tqdm import tqdm

from lvad_perception.datasets.split import Split
from lvad_perception.media.images import read_image
from lvad_perception.metrics import Evaluator, FrameMetadata, Metrics
from lvad_perception.report.evaluation import Evaluation, KeptFrame, frames_to_keep, keep_frame
from lvad_perception.types import Predictions, Truth
from lvad_training.build import build_criterion, network_of, task_vocabularies
from lvad_training.checkpoints import Checkpoint
from lvad_training.data.batches import evaluation_batches, recipe_split, teacher_images
from lvad_training.data.transforms import TrainingTransform
from lvad_training.recipe.schema import Recipe
from lvad_training.samples import Batch, EvaluationSample, Outputs, Targets
from lvad_training.training import loop
from lvad_training.training.processes import complete, gathered, this_process

_UNANNOTATED = Targets(None, None, None, None)


def evaluate_checkpoint(
    checkpoint: Checkpoint,
    *,
    device: torch.device | None = None,
    split: str | None = None,
    progress: bool = False,
) -> Metrics | None:
    """Measure a checkpoint in float32 on a data set.

    Args:
        checkpoint: with the recipe of the data set.
        device: to compute on; None for this process's GPU if there is one.
        split: name of the split to measure; None for the recipe's validation split.
        progress: show a progress bar.

    Returns:
        The metrics, or None when ``split`` is None and there is no validation split.

    Raises:
        CheckpointError: the weights do not fit the recipe's model.
        DatasetError: the given ``split`` does not exist, or none of it is annotated.
        LabelError, ImageError: a file of the data set cannot be read.
    """
    measured = _measure(checkpoint, device or this_process().device, split, progress)
    return None if measured is None else measured[0].compute()


def examine_checkpoint(
    checkpoint: Checkpoint,
    *,
    device: torch.device | None = None,
    split: str | None = None,
    progress: bool = False,
) -> Evaluation | None:
    """Measure a checkpoint as ``evaluate_checkpoint`` does, and keep what a report shows.

    Beside the metrics these are curves and confusions, every frame's errors and terms of the training loss, slices by
    the frames' attributes, and the worst frames with their predictions, which are computed a second time.
    """
    device = device or this_process().device
    losses: dict[str, dict[str, float]] = {}
    recipe = checkpoint.recipe
    measured = _measure(checkpoint, device, split, progress, inspect=_frame_losses(recipe, device, losses))
    if measured is None:
        return None
    evaluator, model = measured
    losses = {frame: terms for part in gathered(losses) for frame, terms in part.items()}
    name = split or recipe.data.val_split
    data = recipe_split(recipe, name)
    indices = {data.name_of(index): index for index in range(len(data))}
    metadata = {frame: FrameMetadata(frame, data.attributes(indices[frame]), terms) for frame, terms in losses.items()}
    findings = evaluator.findings(metadata, score_threshold=recipe.model.score_threshold)
    kept = _kept(model, recipe, data, [indices[frame] for frame in frames_to_keep(findings)], device)
    return Evaluation(findings, kept, {"data": str(recipe.data.root), "split": name, "step": str(checkpoint.step)})


def _measure(
    checkpoint: Checkpoint,
    device: torch.device,
    split: str | None,
    progress: bool,
    inspect: loop.Inspect | None = None,
) -> tuple[Evaluator, nn.Module] | None:
    """The evaluator with all predictions and truths, and the network; None when there is no validation split."""
    recipe, processes = checkpoint.recipe, this_process()
    batches = evaluation_batches(
        recipe,
        split or recipe.data.val_split,
        optional=split is None,
        process=processes.process_index,
        processes=processes.num_processes,
    )
    if batches is None:
        return None
    own, merged = (Evaluator(tasks=recipe.model.tasks, vocabularies=task_vocabularies(recipe.model)) for _ in range(2))
    model = network_of(checkpoint, source="the checkpoint").to(device)
    shown = progress and processes.is_main_process
    samples: Iterable[Any] = tqdm(batches, desc="evaluate", unit="batch", disable=not shown)
    complete(
        loop.collect(
            model=model,
            samples=samples,
            evaluator=own,
            device=device,
            max_detections=recipe.model.max_detections,
            inspect=inspect,
        )
    )
    for part in gathered(own):
        merged.merge(part)
    return merged, model


def _frame_losses(recipe: Recipe, device: torch.device, losses: dict[str, dict[str, float]]) -> loop.Inspect:
    """A callback that adds each image's weighted terms of the training loss to ``losses``, by the image's name.

    Auxiliary terms, which only the training mode has, are not among them.
    """
    # In evaluation mode the criterion does not synchronise: processes have different numbers of images.
    criterion: Callable[[Outputs, Batch], dict[str, Tensor]]
    criterion = build_criterion(recipe.model, recipe.loss).to(device).eval()
    transform = TrainingTransform.without_augmentation(recipe.model.network_hw)

    def add(outputs: Outputs, images: Tensor, batch: list[tuple[EvaluationSample, Truth]]) -> None:
        names = [sample.name for sample, _ in batch]
        for index, (sample, truth) in enumerate(batch):
            # Terms are over the annotated images of a batch: here over this one only.
            targets = [_UNANNOTATED] * len(batch)
            targets[index] = transform.targets(truth)
            terms = criterion(outputs, Batch(names, images, targets))
            numbers = torch.stack(list(terms.values())).tolist() if terms else []
            losses[sample.name] = dict(zip(terms, numbers, strict=True))

    return add


def _kept(
    model: nn.Module, recipe: Recipe, data: Split, frames: Sequence[int], device: torch.device
) -> tuple[KeptFrame, ...]:
    few = replace(recipe, data=replace(recipe.data, workers=0))  # too few to start processes for
    predicted = loop.predict(
        model=model,
        samples=teacher_images(few, data, frames),
        device=device,
        max_detections=recipe.model.max_detections,
    )
    kept = []
    for index, found in zip(frames, predicted, strict=True):
        image = read_image(data.image_path(index))
        predictions = Predictions(found.size_hw, found.detections, found.semantic, found.drivable)
        kept.append(keep_frame(found.name, image, data.truth(index, found.size_hw), predictions))
    return tuple(kept)
