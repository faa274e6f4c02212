"""The stage "pseudo": teachers' checkpoints label the images that they were not trained on."""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import nn

from lvad_perception.datasets.split import Split
from lvad_training.build import network_of
from lvad_training.checkpoints import load_checkpoint, weights_sha256
from lvad_training.data.batches import labelled_images, recipe_split, teacher_images, unlabelled_images
from lvad_training.pseudo import Teacher, write_pseudo_labels
from lvad_training.recipe.schema import Recipe
from lvad_training.samples import ConfidentPredictions
from lvad_training.training import loop
from lvad_training.training.processes import complete, this_process


def label(recipe: Recipe, teachers: Mapping[str, Path], folder: Path, *, resume: bool, progress: bool) -> None:
    """Add pseudo labels to training images for tasks that they are not annotated for; the processes share the images.

    Args:
        recipe: with the data set and ``stages.pseudo``.
        teachers: task -> checkpoint of its teacher.
        folder: to write.
        resume: continue after an interruption.
        progress: show a progress bar and, at the end, the counts of labels.

    Raises:
        CheckpointError, DatasetError, LabelError, ImageError: see ``errors.py``.
    """
    processes = this_process()
    assert recipe.stages is not None
    report = write_pseudo_labels(
        split=recipe_split(recipe, recipe.data.train_split),
        folder=folder,
        teachers=[_teacher(recipe, task, path, processes.device) for task, path in teachers.items()],
        config=recipe.stages.pseudo,
        resume=resume,
        process=processes.process_index,
        processes=processes.num_processes,
        wait=processes.wait_for_everyone,
        complete=complete,
        progress=progress,
    )
    if progress and processes.is_main_process:
        print(report.to_text())


def _teacher(recipe: Recipe, task: str, path: Path, device: torch.device) -> Teacher:
    checkpoint = load_checkpoint(path)
    net = network_of(checkpoint, source=str(path)).to(device)
    split, unlabelled = unlabelled_images(recipe, task)
    _, labelled = labelled_images(recipe, task)
    return Teacher(
        task=task,
        identity=weights_sha256(checkpoint.weights),
        predict=partial(_predict, net, recipe, split, device),
        frames=unlabelled.tolist(),
        trained_on=labelled.tolist(),
    )


def _predict(
    net: nn.Module, recipe: Recipe, split: Split, device: torch.device, frames: Sequence[int]
) -> Iterable[ConfidentPredictions]:
    samples = teacher_images(recipe, split, frames)
    return loop.predict(model=net, samples=samples, device=device, max_detections=recipe.model.max_detections)
