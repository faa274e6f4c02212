"""Recipe -> selected images of its data set, and batches of them for training, evaluation and teachers."""

from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
from torch.utils.data import Dataset, Sampler

from lvad_perception.datasets.layout import find_splits, open_split, vocabulary_name
from lvad_perception.datasets.split import Split
from lvad_perception.errors import DatasetError, LvadError, VocabularyMismatchError
from lvad_perception.media.images import image_files, read_image
from lvad_perception.media.video import read_video
from lvad_perception.preprocess import letterbox_image
from lvad_perception.types import Size, Truth, UInt8
from lvad_perception.vocabulary import TASKS, VOCABULARIES, difference
from lvad_training.data.annotation import Annotation, Frames
from lvad_training.data.loader import guarded_loader
from lvad_training.data.sampling import Key, OneTaskStream, TrainingStream
from lvad_training.data.settings import read_lists
from lvad_training.data.torch_datasets import EvaluationSet, TrainingSet
from lvad_training.data.transforms import TrainingTransform
from lvad_training.recipe.schema import DataConfig, Recipe
from lvad_training.samples import Batch, EvaluationSample, collate

COMPARISON_IMAGES = 6
_FRAMES_BETWEEN = 10  # of a video, so that the compared images differ


def training_batches(recipe: Recipe, *, first: int, last: int, process: int, processes: int) -> Iterable[Batch]:
    """The augmented training batches of one process, one per micro-step.

    Annotation follows the recipe: its lists, its pseudo labels, the tasks of its model. With a sampler other than
    "shuffle", a batch has targets of one task.

    Args:
        recipe: the training.
        first: first micro-step.
        last: micro-step to stop before.
        process: rank of this process.
        processes: number of processes.

    Raises:
        DatasetError: the data set has no such split; no selected image is annotated for a task of the model or, for
            samplers of one task per step, for each of its tasks; or lists or pseudo labels do not fit the data set.
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
        if bare := [task for task, indices in images.items() if not len(indices)]:
            raise DatasetError(
                f"{data.root}: no training image is annotated for {', '.join(bare)}, and data.sampler {data.sampler} "
                "learns one task per step; remove that head from the model or set data.sampler to shuffle"
            )
        stream = OneTaskStream(images=images, order=data.sampler, batch_size=train.batch_size, seed=train.seed, **steps)
    return guarded_loader(samples, data.workers, collate, batch_sampler=stream)


def evaluation_batches(
    recipe: Recipe, split_name: str, *, optional: bool, process: int = 0, processes: int = 1
) -> Iterable[list[tuple[EvaluationSample, Truth]]] | None:
    """One process's share of a split's images, letterboxed, with all their annotation, also beyond the recipe's lists.

    Args:
        recipe: names the data set and the network size; ``data.val_only`` selects images of its validation split.
        split_name: the split.
        optional: return None instead of raising if there is no such split.
        process: rank of this process; shares follow each other in the order of the images.
        processes: number of processes.

    Raises:
        DatasetError: there is no such split and it is not optional, or none of its images is selected.
    """
    if optional and split_name not in find_splits(Path(recipe.data.root)):
        return None
    split, frames = _to_evaluate(recipe, split_name)
    samples = EvaluationSet(split, recipe.model.network_hw, np.array_split(frames, processes)[process])
    return guarded_loader(_WithTruth(samples), recipe.data.workers, list, batch_size=recipe.train.batch_size)


def why_not_evaluated(recipe: Recipe) -> str | None:
    """The reason why the validation split cannot be evaluated on, as far as it shows without opening its images.

    None if there is no reason, or no such split, which is no error.
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
    """A split, and the images of it to evaluate on."""
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
    """A split of the recipe's data set, with the cameras of ``data.cameras``.

    Raises:
        VocabularyMismatchError: it is annotated with other classes than the model's.
        DatasetError: there is no data set, or it has no such split or camera.
        LabelError: annotation cannot be read.
    """
    root, ours = Path(recipe.data.root), recipe.model.vocabulary
    theirs = vocabulary_name(root, expected=ours)
    if theirs != ours:
        classes = (VOCABULARIES[name]["detection"].names for name in (theirs, ours))
        raise VocabularyMismatchError(
            f"{root} is annotated in the classes of {theirs}, and the model has those of {ours}: for detection, the "
            f"data set {difference(*classes)}; set model.vocabulary to {theirs} to train on it, or give other data"
        )
    return open_split(root, name, cameras=recipe.data.cameras)


def selected_images(recipe: Recipe) -> Frames:
    """Training images selected by ``data.only`` and ``data.exclude``, annotated or not.

    Returns:
        int64 [N], indices into the training split, ascending.

    Raises:
        DatasetError: the data set has no such split.
    """
    return _selected(recipe_split(recipe, recipe.data.train_split), recipe.data)


def unlabelled_images(recipe: Recipe, task: str) -> tuple[Split, Frames]:
    """The training images that a teacher of ``task`` has to label, and their split.

    These are the selected images that under the recipe's lists are not annotated for ``task`` but for another task,
    whether the model has that or not; with ``stages.pseudo.images`` "all" also those without any annotation.
    ``data.pseudo`` does not count.

    Returns:
        The training split, and int64 [N], indices into it, ascending; there may be none.

    Raises:
        DatasetError: the data set has no such split, or lists do not fit it.
    """
    return _images(recipe, task, labelled=False)


def labelled_images(recipe: Recipe, task: str) -> tuple[Split, Frames]:
    """The training images that a teacher of ``task`` learns from; as ``unlabelled_images``."""
    return _images(recipe, task, labelled=True)


def teacher_images(recipe: Recipe, split: Split, frames: Sequence[int] | Frames) -> Iterable[list[EvaluationSample]]:
    """Frames of a split in the given order, letterboxed, in batches of ``train.batch_size``, for a teacher to label."""
    samples = EvaluationSet(split, recipe.model.network_hw, frames)
    return guarded_loader(samples, recipe.data.workers, list, batch_size=recipe.train.batch_size)


def comparison_images(recipe: Recipe, source: Path | None, size_hw: Size) -> list[UInt8]:
    """Up to ``COMPARISON_IMAGES`` images, letterboxed, to compare a model file with torch on.

    Args:
        recipe: the images of its validation split, else of its training split, are taken if ``source`` is None.
        source: a folder of images, or a video.
        size_hw: network size.

    Returns:
        uint8 [H, W, 3] each, RGB.

    Raises:
        DatasetError: there are none.
        ImageError: an image or the video cannot be read.
        MissingDependencyError: PyAV is not installed, for a video.
    """
    if source is not None and source.is_file():
        frames = islice(read_video(source), 0, COMPARISON_IMAGES * _FRAMES_BETWEEN, _FRAMES_BETWEEN)
        return [letterbox_image(frame, size_hw)[0] for _, frame in frames]
    if source is not None:
        paths = image_files(source)
    else:
        root = Path(recipe.data.root)
        if not root.exists():
            raise DatasetError(
                f"{root}: the recipe's data set is not there to compare on; give images, or a video, with --images"
            )
        name = recipe.data.val_split if recipe.data.val_split in find_splits(root) else recipe.data.train_split
        split = open_split(root, name, cameras=recipe.data.cameras)
        picks = np.linspace(0, len(split) - 1, min(COMPARISON_IMAGES, len(split))).astype(int)
        paths = [split.image_path(int(index)) for index in picks]
    if not paths:
        raise DatasetError(f"{source}: no .jpg or .png image to compare on; give another folder with --images")
    return [letterbox_image(read_image(path), size_hw)[0] for path in paths[:COMPARISON_IMAGES]]


def _annotation(recipe: Recipe, tasks: Sequence[str], *, pseudo: bool = True) -> Annotation:
    """Annotation of the training images: truth under the recipe's lists and, with ``pseudo``, its pseudo labels."""
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
    used = np.any([annotation.true_for(each)[frames] for each in TASKS], axis=0)
    if recipe.stages is not None and recipe.stages.pseudo.images == "all":
        used[:] = True
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
    return np.flatnonzero(
        [not name.startswith(data.exclude) and (not data.only or name.startswith(data.only)) for name in names]
    )


class _WithTruth(Dataset[tuple[EvaluationSample, Truth]]):
    """Letterboxed images with their annotation, so that worker processes read both."""

    def __init__(self, samples: EvaluationSet) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[EvaluationSample, Truth]:
        sample = self.samples[index]
        return sample, self.samples.truth(index, sample.letterbox.source_hw)
