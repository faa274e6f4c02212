"""Recipe -> batches for training and evaluation, and the images that an export is compared on."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from lvad_perception.bdd100k import Split, find_splits, open_split, read_image
from lvad_perception.errors import DatasetError, LvadError
from lvad_perception.preprocess import letterbox_image
from lvad_perception.types import Size, Truth, UInt8
from lvad_training.data.bdd100k import EvaluationSet, TrainingSet
from lvad_training.data.sampling import Key, TrainingStream
from lvad_training.data.transforms import TrainingTransform
from lvad_training.recipe import DataConfig, Recipe
from lvad_training.samples import Batch, EvaluationSample, Sample, collate

COMPARISON_IMAGES = 6


def training_batches(recipe: Recipe, *, first: int, last: int, process: int, processes: int) -> Iterable[Batch]:
    """The training images of one process, augmented, from micro-step ``first`` to before ``last``.

    Raises:
        DatasetError: the data set has no such split, or no image that is annotated for a task of the model.
    """
    data, model = recipe.data, recipe.model
    split = open_split(Path(data.root), data.train_split)
    indices = _selected(split, data, model.tasks)
    augment = data.augment
    transform = TrainingTransform(
        network_hw=model.network_hw, flip=augment.flip, scale=augment.scale, crop=augment.crop, color=augment.color
    )
    samples = TrainingSet(split, transform, indices=indices, seed=recipe.train.seed)
    stream = TrainingStream(
        count=len(samples),
        batch_size=recipe.train.batch_size,
        seed=recipe.train.seed,
        first=first,
        last=last,
        process=process,
        processes=processes,
    )
    return _loader(_EpochKeyed(samples), data.workers, collate, batch_sampler=stream)


def evaluation_batches(
    recipe: Recipe, split_name: str, *, optional: bool
) -> Iterable[list[tuple[EvaluationSample, Truth]]] | None:
    """The images of a split with their annotation, letterboxed; None when ``optional`` and there is no such split.

    Raises:
        DatasetError: there is no such split and it is not optional.
    """
    root = Path(recipe.data.root)
    if optional and split_name not in find_splits(root):
        return None
    split = open_split(root, split_name)
    samples = EvaluationSet(split, recipe.model.network_hw)
    return _loader(_WithTruth(samples), recipe.data.workers, list, batch_size=recipe.train.batch_size)


def comparison_images(recipe: Recipe, folder: Path | None, network_hw: Size) -> list[UInt8]:
    """A few images at network size: of a folder, or of the recipe's validation (else training) split.

    Raises:
        DatasetError: there are none.
    """
    if folder is not None:
        paths = sorted(path for path in folder.glob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    else:
        root = Path(recipe.data.root)
        found = find_splits(root)
        name = recipe.data.val_split if recipe.data.val_split in found else recipe.data.train_split
        split = open_split(root, name)
        picks = np.linspace(0, len(split) - 1, min(COMPARISON_IMAGES, len(split))).astype(int)
        paths = [split.image_path(int(index)) for index in picks]
    if not paths:
        raise DatasetError(f"{folder}: no .jpg or .png image to compare on; give another folder with --images")
    return [letterbox_image(read_image(path), network_hw)[0] for path in paths[:COMPARISON_IMAGES]]


def _selected(split: Split, data: DataConfig, tasks: Sequence[str]) -> list[int]:
    """Training images by name prefix that are annotated for at least one of the tasks."""
    useful = np.any([split.annotated_for(task) for task in tasks], axis=0)
    chosen = []
    for index in np.flatnonzero(useful):
        name = split.name_of(int(index))
        if not name.startswith(data.exclude or ("/",)) and (not data.only or name.startswith(data.only)):
            chosen.append(int(index))
    if not chosen:
        raise DatasetError(
            f"{split.root}: no image of split {split.name!r} is annotated for {', '.join(tasks)} "
            "and selected by data.only and data.exclude; check the labels with lvad-train data check"
        )
    return chosen


def _loader(dataset: Dataset[Any], workers: int, merge: Callable[[list[Any]], Any], **options: Any) -> "_Batches":
    loader = DataLoader(
        _Guarded(dataset),
        num_workers=workers,
        prefetch_factor=4 if workers else None,
        collate_fn=partial(_merge_unless_failed, merge),
        worker_init_fn=_one_thread,
        generator=torch.Generator(),  # its draws must not disturb the global generator, which a resumed run restores
        **options,
    )
    return _Batches(loader)


class _Batches:
    """A loader that raises what went wrong in its processes as it was raised there, without their traceback."""

    def __init__(self, loader: DataLoader[Any]) -> None:
        self.loader = loader

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        for batch in self.loader:
            if isinstance(batch, LvadError):
                raise batch
            yield batch


class _Guarded(Dataset[Any]):
    """Gives a bad file's error as the sample, so that it reaches the main process whole."""

    def __init__(self, samples: Dataset[Any]) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)  # type: ignore[arg-type]

    def __getitem__(self, key: Any) -> Any:
        try:
            return self.samples[key]
        except LvadError as err:
            return err


def _one_thread(_: int) -> None:
    """The processes are the parallelism: OpenCV's own threads would only fight over the cores."""
    cv2.setNumThreads(0)


def _merge_unless_failed(merge: Callable[[list[Any]], Any], samples: list[Any]) -> Any:
    return next((sample for sample in samples if isinstance(sample, LvadError)), None) or merge(samples)


class _EpochKeyed(Dataset[Sample]):
    """A training set addressed by (epoch, index), so that one loader runs through all epochs."""

    def __init__(self, samples: TrainingSet) -> None:
        self.samples = samples

    def __getitem__(self, key: Key) -> Sample:
        epoch, index = key
        self.samples.set_epoch(epoch)
        return self.samples[index]


class _WithTruth(Dataset[tuple[EvaluationSample, Truth]]):
    """Letterboxed images with their annotation, both read in the loader's processes."""

    def __init__(self, samples: EvaluationSet) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[EvaluationSample, Truth]:
        sample = self.samples[index]
        return sample, self.samples.truth(index, sample.letterbox.source_hw)
