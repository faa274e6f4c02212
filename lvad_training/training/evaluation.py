"""A checkpoint on a data set: its metrics, or everything that a report shows, which then needs no model run.

Processes that run together share the images, put together what each found, and have the same result.
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

_NOTHING = Targets(None, None, None, None)


def evaluate_checkpoint(
    checkpoint: Checkpoint,
    *,
    device: torch.device | None = None,
    split: str | None = None,
    progress: bool = False,
) -> Metrics | None:
    """Measure a checkpoint in float32 on a data set.

    Args:
        checkpoint: its recipe says which data set.
        device: where to compute; None for this process's GPU if there is one.
        split: name of the split to measure; None for the recipe's validation split.
        progress: show a progress bar.

    Returns:
        The metrics, or None when ``split`` is None and there is no validation split.

    Raises:
        CheckpointError: the weights do not fit the recipe's model.
        DatasetError: ``split`` was asked for and does not exist, or nothing of it is annotated.
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

    That is beside the metrics: curves and confusions, every frame's errors and its terms of the training loss, slices
    by the frames' attributes, and the worst frames with what the model says of them, which it is asked once more.
    """
    device = device or this_process().device
    losses: dict[str, dict[str, float]] = {}
    recipe = checkpoint.recipe
    measured = _measure(checkpoint, device, split, progress, inspect=_loss_notes(recipe, device, losses))
    if measured is None:
        return None
    evaluator, model = measured
    losses = {frame: terms for part in gathered(losses) for frame, terms in part.items()}
    name = split or recipe.data.val_split
    data = recipe_split(recipe, name)
    places = {data.name_of(place): place for place in range(len(data))}
    metadata = {frame: FrameMetadata(frame, data.attributes(places[frame]), found) for frame, found in losses.items()}
    findings = evaluator.findings(metadata, score_threshold=recipe.model.score_threshold)
    kept = _kept(model, recipe, data, [places[frame] for frame in frames_to_keep(findings)], device)
    return Evaluation(findings, kept, {"data": str(recipe.data.root), "split": name, "step": str(checkpoint.step)})


def _measure(
    checkpoint: Checkpoint,
    device: torch.device,
    split: str | None,
    progress: bool,
    inspect: loop.Inspect | None = None,
) -> tuple[Evaluator, nn.Module] | None:
    """The evaluator with all predictions and truths, and the network; None when there is no validation split."""
    recipe, us = checkpoint.recipe, this_process()
    batches = evaluation_batches(
        recipe,
        split or recipe.data.val_split,
        optional=split is None,
        process=us.process_index,
        processes=us.num_processes,
    )
    if batches is None:
        return None
    part, whole = (Evaluator(tasks=recipe.model.tasks, vocabularies=task_vocabularies(recipe.model)) for _ in range(2))
    model = network_of(checkpoint, source="the checkpoint").to(device)
    shown = progress and us.is_main_process
    samples: Iterable[Any] = tqdm(batches, desc="evaluate", unit="batch", disable=not shown)
    complete(
        loop.collect(
            model=model,
            samples=samples,
            evaluator=part,
            device=device,
            max_detections=recipe.model.max_detections,
            inspect=inspect,
        )
    )
    for each in gathered(part):
        whole.merge(each)
    return whole, model


def _loss_notes(recipe: Recipe, device: torch.device, notes: dict[str, dict[str, float]]) -> loop.Inspect:
    """What writes down the weighted terms of the training loss of each image alone, by its name.

    Auxiliary terms that only the training mode has are not among them.
    """
    # In evaluation mode: processes look at different numbers of images, and each image stands alone.
    criterion: Callable[[Outputs, Batch], dict[str, Tensor]]
    criterion = build_criterion(recipe.model, recipe.loss).to(device).eval()
    transform = TrainingTransform.without_augmentation(recipe.model.network_hw)

    def note(outputs: Outputs, images: Tensor, batch: list[tuple[EvaluationSample, Truth]]) -> None:
        names = [sample.name for sample, _ in batch]
        for place, (sample, truth) in enumerate(batch):
            # A task counts over the images that are annotated for it: here over this one, the others have nothing.
            targets = [_NOTHING] * len(batch)
            targets[place] = transform.targets(truth)
            terms = criterion(outputs, Batch(names, images, targets))
            numbers = torch.stack(list(terms.values())).tolist() if terms else []
            notes[sample.name] = dict(zip(terms, numbers, strict=True))

    return note


def _kept(
    model: nn.Module, recipe: Recipe, data: Split, frames: Sequence[int], device: torch.device
) -> tuple[KeptFrame, ...]:
    few = replace(recipe, data=replace(recipe.data, workers=0))  # too few to start processes for
    said = loop.predict(
        model=model,
        samples=teacher_images(few, data, frames),
        device=device,
        max_detections=recipe.model.max_detections,
    )
    kept = []
    for place, found in zip(frames, said, strict=True):
        image = read_image(data.image_path(place))
        predictions = Predictions(found.size_hw, found.detections, found.semantic, found.drivable)
        kept.append(keep_frame(found.name, image, data.truth(place, found.size_hw), predictions))
    return tuple(kept)
