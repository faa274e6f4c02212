"""The stage "pseudo": teachers' checkpoints label the images that they were not trained on."""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

import torch
from msgspec.structs import replace
from torch import nn

from lvad_perception.datasets.split import Split
from lvad_perception.errors import ConfigError
from lvad_training.build import network_of
from lvad_training.checkpoints import load_checkpoint, resolve_start, weights_sha256
from lvad_training.data.batches import labelled_images, recipe_split, teacher_images, unlabelled_images
from lvad_training.pseudo import Teacher, write_pseudo_labels
from lvad_training.recipe.schema import Recipe
from lvad_training.samples import ConfidentPredictions
from lvad_training.training import loop
from lvad_training.training.processes import complete, this_process


def check_teachers(recipe: Recipe) -> None:
    """Check that the checkpoints of ``stages.teachers`` can label the recipe's images for their tasks.

    Raises:
        ConfigError: one has no head for its task, or was trained in other classes than the recipe's.
        CheckpointError: one is missing or damaged.
    """
    assert recipe.stages is not None
    for task, name in recipe.stages.given.items():
        model = load_checkpoint(resolve_start(name)).recipe.model
        if task not in model.tasks:
            raise ConfigError(
                f"stages.teachers.{task}: {name} has no head for {task}, but for {', '.join(model.tasks)}; give a "
                "checkpoint that was trained for the task"
            )
        if model.vocabulary != recipe.model.vocabulary:
            raise ConfigError(
                f"stages.teachers.{task}: {name} was trained in the classes of {model.vocabulary}, and this recipe has "
                f"those of {recipe.model.vocabulary}; give a checkpoint with the same classes"
            )


def label(recipe: Recipe, teachers: Mapping[str, Path], folder: Path, *, resume: bool, progress: bool) -> None:
    """Add pseudo labels to training images for tasks that they are not annotated for; the processes share the images.

    Args:
        recipe: with the data set and ``stages.pseudo``.
        teachers: task -> checkpoint of its teacher, whose network size need not be the recipe's.
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
    model = replace(recipe.model, network_hw=checkpoint.recipe.model.network_hw)  # the teacher's, not the student's
    return Teacher(
        task=task,
        identity=weights_sha256(checkpoint.weights),
        predict=partial(_predict, net, replace(recipe, model=model), split, device),
        frames=unlabelled.tolist(),
        trained_on=labelled.tolist(),
    )


def _predict(
    net: nn.Module, recipe: Recipe, split: Split, device: torch.device, frames: Sequence[int]
) -> Iterable[ConfidentPredictions]:
    samples = teacher_images(recipe, split, frames)
    return loop.predict(model=net, samples=samples, device=device, max_detections=recipe.model.max_detections)
