"""Recipe -> batches for training and evaluation, and the images that an export is compared on."""

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Final, Literal

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from lvad_perception.datasets.layout import find_splits, open_split, vocabulary_name
from lvad_perception.datasets.split import Split
from lvad_perception.errors import DatasetError, LvadError, VocabularyMismatchError
from lvad_perception.machine import usable_cores
from lvad_perception.media.images import image_files, read_image
from lvad_perception.preprocess import letterbox_image
from lvad_perception.types import Size, Truth, UInt8
from lvad_perception.vocabulary import TASKS, VOCABULARIES, difference
from lvad_training.data.annotation import Annotation, Frames
from lvad_training.data.loader import Batches, Guarded, merge_and_pack
from lvad_training.data.sampling import Key, OneTaskStream, TrainingStream
from lvad_training.data.settings import read_lists
from lvad_training.data.torch_datasets import EvaluationSet, TrainingSet
from lvad_training.data.transforms import TrainingTransform
from lvad_training.recipe.schema import DataConfig, Recipe
from lvad_training.samples import Batch, EvaluationSample, collate

COMPARISON_IMAGES = 6
MOST_LOADER_PROCESSES = 8
"""That "auto" takes: enough for a GPU, and each needs memory of its own."""
START_METHOD: Final = "forkserver"
"""How a loader's processes start, whatever Python's default is: fork up to 3.13, forkserver from 3.14 on.

Forking a training would copy its locks without the threads that hold them (OpenMP's and OpenCV's pools, the progress
bar's monitor, CUDA's), which can deadlock; Python warns of it from 3.12 on. A process that is spawned imports torch
anew, at every evaluation again, and has 395 MB of its own. The fork server is one process without such threads that
imports this module once, in some seconds, and then forks in milliseconds; those processes have 25 MB of their own, as
forks of the training have.
"""


def training_batches(recipe: Recipe, *, first: int, last: int, process: int, processes: int) -> Iterable[Batch]:
    """The training images of one process, augmented, from micro-step ``first`` to before ``last``.

    What counts as annotation is the recipe's: its lists, its pseudo labels, the tasks of its model. With a sampler
    other than "shuffle", the targets of a batch are of one task.

    Raises:
        DatasetError: the data set has no such split, no image that is selected and annotated for a task of the model,
            or for the samplers of one task per step, none for one of its tasks; lists or pseudo labels do not fit it.
    """
    data, model, train = recipe.data, recipe.model, recipe.train
    annotation = _annotation(recipe, model.tasks)
    frames = _useful(annotation, recipe)
    augment = data.augment
    transform = TrainingTransform(
        network_hw=model.network_hw, flip=augment.flip, scale=augment.scale, crop=augment.crop, color=augment.color
    )
    samples = TrainingSet(annotation, transform, frames, seed=train.seed)
    steps = {"first": first, "last": last, "process": process, "processes": processes}
    stream: Sampler[list[Key]]
    if data.sampler == "shuffle":
        stream = TrainingStream(count=len(samples), batch_size=train.batch_size, seed=train.seed, **steps)
    else:
        images = {task: np.flatnonzero(annotation.labelled_for(task)[frames]) for task in model.tasks}
        if bare := [task for task, found in images.items() if not len(found)]:
            raise DatasetError(
                f"{data.root}: no training image is annotated for {', '.join(bare)}, and data.sampler {data.sampler} "
                "learns one task per step; remove that head from the model or set data.sampler to shuffle"
            )
        stream = OneTaskStream(images=images, order=data.sampler, batch_size=train.batch_size, seed=train.seed, **steps)
    return guarded_loader(samples, data.workers, collate, batch_sampler=stream)


def evaluation_batches(
    recipe: Recipe, split_name: str, *, optional: bool, process: int = 0, processes: int = 1
) -> Iterable[list[tuple[EvaluationSample, Truth]]] | None:
    """One process's part of a split's images with their annotation, letterboxed.

    The parts follow each other in the order of the images. None when ``optional`` and there is no such split.
    Of the recipe's validation split only what ``data.val_only`` selects; the annotation is all that the data set has,
    whatever the recipe's lists say.

    Raises:
        DatasetError: there is no such split and it is not optional, or nothing of it is selected.
    """
    if optional and split_name not in find_splits(Path(recipe.data.root)):
        return None
    split, frames = _to_evaluate(recipe, split_name)
    samples = EvaluationSet(split, recipe.model.network_hw, np.array_split(frames, processes)[process])
    return guarded_loader(_WithTruth(samples), recipe.data.workers, list, batch_size=recipe.train.batch_size)


def why_not_evaluated(recipe: Recipe) -> str | None:
    """What of the validation split will keep a model from being measured, as far as that shows without its files.

    None where nothing will, or where there is no such split, which is not an error.
    """
    name, tasks = recipe.data.val_split, recipe.model.tasks
    try:
        if name not in find_splits(Path(recipe.data.root)):
            return None
        split, frames = _to_evaluate(recipe, name)
    except LvadError as err:
        return str(err)
    if any(split.annotated_for(task)[frames].any() for task in tasks):
        return None
    return (
        f"{recipe.data.root}: no image of split {name!r} is annotated for {', '.join(tasks)}; bring its labels or name "
        "another split with data.val_split"
    )


def _to_evaluate(recipe: Recipe, name: str) -> tuple[Split, Frames]:
    """A split, and which of its images an evaluation looks at."""
    data = recipe.data
    split = recipe_split(recipe, name)
    frames: Frames = np.arange(len(split), dtype=np.int64)
    if data.val_only and name == data.val_split:
        frames = frames[[split.name_of(int(frame)).startswith(data.val_only) for frame in frames]]
        if not len(frames):
            raise DatasetError(
                f"{data.root}: no image of split {name!r} has a name that starts with {' or '.join(data.val_only)}; "
                "correct data.val_only"
            )
    return split, frames


def recipe_split(recipe: Recipe, name: str) -> Split:
    """A split of the recipe's data set, of the cameras that it looks at.

    Raises:
        VocabularyMismatchError: its annotation is in other classes than the model's.
        DatasetError: there is no data set, or it has no such split or camera.
        LabelError: annotation cannot be read.
    """
    root, wanted = Path(recipe.data.root), recipe.model.vocabulary
    found = vocabulary_name(root, expected=wanted)
    if found != wanted:
        theirs, ours = VOCABULARIES[found]["detection"].names, VOCABULARIES[wanted]["detection"].names
        raise VocabularyMismatchError(
            f"{root} is annotated in the classes of {found}, and the model has those of {wanted}: for detection, the "
            f"data set {difference(theirs, ours)}; set model.vocabulary to {found} to train on it, or give other data"
        )
    return open_split(root, name, cameras=recipe.data.cameras)


def selected_images(recipe: Recipe) -> Frames:
    """Training images by name: those that ``data.only`` and ``data.exclude`` leave, annotated or not.

    Returns:
        int64 [N], indices into the training split, ascending.

    Raises:
        DatasetError: the data set has no such split.
    """
    return _selected(recipe_split(recipe, recipe.data.train_split), recipe.data)


def unlabelled_images(recipe: Recipe, task: str) -> tuple[Split, Frames]:
    """The training images that a teacher of ``task`` has to label, and their split.

    These are the images that some task is learned from, of the model or not, but not this one: selected by name, not
    annotated for ``task`` under the recipe's lists, and annotated for another. ``data.pseudo`` is not looked at.

    Returns:
        The training split, and int64 [N], indices into it, ascending; there may be none.

    Raises:
        DatasetError: the data set has no such split, or lists do not fit it.
    """
    return _images(recipe, task, labelled=False)


def labelled_images(recipe: Recipe, task: str) -> tuple[Split, Frames]:
    """The training images that a teacher of ``task`` learns from, as ``unlabelled_images``: to choose thresholds on."""
    return _images(recipe, task, labelled=True)


def teacher_images(recipe: Recipe, split: Split, frames: Sequence[int] | Frames) -> Iterable[list[EvaluationSample]]:
    """Frames of a split in the given order, letterboxed, in batches of the recipe's size: what a teacher looks at."""
    samples = EvaluationSet(split, recipe.model.network_hw, frames)
    return guarded_loader(samples, recipe.data.workers, list, batch_size=recipe.train.batch_size)


def comparison_images(recipe: Recipe, folder: Path | None, size_hw: Size) -> list[UInt8]:
    """A few images, letterboxed to a size: of a folder, or of the recipe's validation (else training) split.

    Raises:
        DatasetError: there are none.
    """
    if folder is not None:
        paths = image_files(folder)
    else:
        root = Path(recipe.data.root)
        found = find_splits(root)
        name = recipe.data.val_split if recipe.data.val_split in found else recipe.data.train_split
        split = open_split(root, name, cameras=recipe.data.cameras)
        picks = np.linspace(0, len(split) - 1, min(COMPARISON_IMAGES, len(split))).astype(int)
        paths = [split.image_path(int(index)) for index in picks]
    if not paths:
        raise DatasetError(f"{folder}: no .jpg or .png image to compare on; give another folder with --images")
    return [letterbox_image(read_image(path), size_hw)[0] for path in paths[:COMPARISON_IMAGES]]


def _annotation(recipe: Recipe, tasks: Sequence[str], *, pseudo: bool = True) -> Annotation:
    """What the training images are annotated for: truth under the recipe's lists, and pseudo labels if wanted."""
    data = recipe.data
    split = recipe_split(recipe, data.train_split)
    return Annotation(
        split,
        lists=read_lists(Path(data.lists), split) if data.lists is not None else None,
        pseudo=open_split(Path(data.pseudo), data.train_split) if pseudo and data.pseudo is not None else None,
        tasks=tasks,
    )


def _images(recipe: Recipe, task: str, *, labelled: bool) -> tuple[Split, Frames]:
    annotation = _annotation(recipe, tuple(TASKS), pseudo=False)
    frames = _selected(annotation.split, recipe.data)
    used = np.any([annotation.true_for(any_task)[frames] for any_task in TASKS], axis=0)
    return annotation.split, frames[used & (annotation.true_for(task)[frames] == labelled)]


def _useful(annotation: Annotation, recipe: Recipe) -> Frames:
    """The selected training images with a label for at least one task of the model."""
    frames = _selected(annotation.split, recipe.data)
    frames = frames[np.any([annotation.labelled_for(task)[frames] for task in annotation.tasks], axis=0)]
    if not len(frames):
        lists = f" under {recipe.data.lists}" if recipe.data.lists is not None else ""
        raise DatasetError(
            f"{annotation.split.root}: no image of split {annotation.split.name!r} is annotated for "
            f"{', '.join(annotation.tasks)}{lists} and selected by data.only and data.exclude; "
            "check the labels with lvad-train data check"
        )
    return frames


def _selected(split: Split, data: DataConfig) -> Frames:
    names = [split.name_of(frame) for frame in range(len(split))]
    wanted = [
        not (data.exclude and name.startswith(data.exclude)) and (not data.only or name.startswith(data.only))
        for name in names
    ]
    return np.flatnonzero(wanted)


def loader_processes(asked: int | Literal["auto"]) -> int:
    """Loader processes of this training process: as asked, or as the recipe's ``data.workers`` says of "auto"."""
    if asked != "auto":
        return asked
    share = usable_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # of the processes on this machine
    return max(1, min(MOST_LOADER_PROCESSES, share - 1))


def guarded_loader(
    dataset: Dataset[Any], workers: int | Literal["auto"], merge: Callable[[list[Any]], Any], **options: Any
) -> Batches:
    """A loader whose bad files end it with their sentence, also out of other processes, as does what these lack.

    The processes start by ``START_METHOD``: a script that makes such a loader keeps its own work behind
    ``if __name__ == "__main__":``, since they import it.

    Args:
        dataset: raises an LvadError where a file is bad. Every process gets a pickled copy, which is to be small: what
            is large is memory-mapped and opened again.
        workers: processes; 0 for this one, "auto" as ``loader_processes`` says.
        merge: samples -> batch; pickled as well.
        options: further arguments of torch's loader.
    """
    context = multiprocessing.get_context(START_METHOD)
    context.set_forkserver_preload([__name__])
    workers = loader_processes(workers)
    loader = DataLoader(
        Guarded(dataset),
        num_workers=workers,
        multiprocessing_context=context if workers else None,
        prefetch_factor=4 if workers else None,
        collate_fn=partial(merge_and_pack, merge),
        worker_init_fn=partial(_start_worker, Path.cwd()),
        generator=torch.Generator(),  # its draws must not disturb the global generator, which a resumed run restores
        **options,
    )
    return Batches(loader)


def _start_worker(folder: Path, _: int) -> None:
    """Relative paths mean what they mean in the main process, whose folder when Python started may have been another.

    The processes are the parallelism: OpenCV's own threads would only fight over the cores. When the main process is
    killed this one ends; torch looks only at the process that forked it, a server that lives as long as this one.
    """
    os.chdir(folder)
    cv2.setNumThreads(0)
    threading.Thread(target=_end_with, args=(multiprocessing.parent_process(),), daemon=True).start()


def _end_with(parent: BaseProcess | None) -> None:
    if parent is not None:
        parent.join()
        os._exit(1)


class _WithTruth(Dataset[tuple[EvaluationSample, Truth]]):
    """Letterboxed images with their annotation, both read in the loader's processes."""

    def __init__(self, samples: EvaluationSet) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[EvaluationSample, Truth]:
        sample = self.samples[index]
        return sample, self.samples.truth(index, sample.letterbox.source_hw)
