"""The paper's annotation settings: lists of the images whose annotation counts for each task.

BDD100K's images are annotated for several tasks at once. To measure what a model learns from images annotated for one
task each, the paper keeps one annotation of some of them: "disjoint_normal" and "disjoint_balance". The images are
chosen here by seed and written to a file, which training reads; other annotation is ignored.
"""

import hashlib
import itertools
import json
import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

from lvad_perception.datasets.formats import JSON_ERRORS
from lvad_perception.datasets.split import Split
from lvad_perception.errors import ConfigError, DatasetError
from lvad_perception.files import write_whole
from lvad_perception.types import Bool
from lvad_perception.vocabulary import TASKS

PAPER_SIZES: Final = {
    "disjoint_normal": {"detection": 10_000, "semantic": 7_000, "drivable": 20_000},
    "disjoint_balance": {"detection": 7_000, "semantic": 7_000, "drivable": 7_000},
}
"""Images per task of the paper's disjoint settings on BDD100K."""

SETTINGS: Final = ("full", *PAPER_SIZES)

_Group = frozenset[str]


@dataclass(frozen=True)
class Lists:
    """For each task, the images of a split that count as annotated for it.

    Attributes:
        setting: "full", "disjoint_normal" or "disjoint_balance".
        seed: of the choice; "full" takes all images.
        split: name of the split.
        scaled: whether the paper's sizes were scaled down in proportion, because the data set is smaller.
        images: task -> names of its images, sorted.
    """

    setting: str
    seed: int
    split: str
    scaled: bool
    images: dict[str, tuple[str, ...]]

    def describe(self) -> str:
        """One line for logs: the setting and how many images each task has."""
        counts = ", ".join(f"{len(names):,} {task}" for task, names in self.images.items())
        how = f"seed {self.seed}" + (", the paper's sizes scaled down" if self.scaled else "")
        return f"{self.setting} of split {self.split!r} ({how}): {counts}"


def make_lists(
    split: Split,
    indices: Sequence[int] | npt.NDArray[np.int64] | None = None,
    *,
    setting: str,
    seed: int,
    sizes: Mapping[str, float] | None = None,
) -> Lists:
    """Choose the images of each task.

    In the disjoint settings no image belongs to two tasks, and an image belongs to a task only if it is annotated for
    it. The choice depends on seed, sizes and the images' names and annotation alone. Images are ordered by a hash of
    seed and name; each goes to the scarcest task that still needs images, unless that would leave too few for the
    others. So all sizes are reached that are possible at all.

    Args:
        split: images and their annotation.
        indices: images to choose from; all if None.
        setting: one of ``SETTINGS``.
        seed: of the choice.
        sizes: task -> number of images, instead of the paper's; numbers up to 1 are shares of the images to choose
            from. Without ``sizes``, the paper's are scaled down in proportion, as little as needed, if there are too
            few images.

    Raises:
        ConfigError: the setting is unknown, or a size is impossible.
        DatasetError: there are too few annotated images for the sizes, or for one image per task.
    """
    if setting not in SETTINGS:
        raise ConfigError(f"setting {setting!r} is unknown; choose one of {', '.join(SETTINGS)}")
    chosen = np.arange(len(split)) if indices is None else np.asarray(indices, np.int64)
    annotated = {task: split.annotated_for(task)[chosen] for task in TASKS}
    names = [split.name_of(int(index)) for index in chosen]
    if setting == "full":
        if sizes:
            raise ConfigError("sizes need a disjoint setting: 'full' takes everything that is annotated")
        everything = {task: [names[i] for i in np.flatnonzero(annotated[task])] for task in TASKS}
        return _lists(setting, seed, split, everything, scaled=False)

    tasks_of = dict(zip(names, _tasks_of(annotated, len(names)), strict=True))
    available = _available(list(tasks_of.values()))
    where = f"{split.root}: setting {setting}"
    paper = PAPER_SIZES[setting]
    counts = {**paper, **_image_counts(sizes or {}, len(names))}
    _require(available, dict.fromkeys(paper, 1), split, where, "annotate more images, or choose another setting")
    scaled = not sizes and not _fits(available, counts)
    if scaled:
        counts = _scaled_down(counts, available)
    _require(available, counts, split, where, "give smaller sizes, for every task")
    return _lists(setting, seed, split, _assign(tasks_of, counts, available, seed), scaled=scaled)


def write_lists(lists: Lists, path: Path) -> None:
    """Write lists as JSON, atomically.

    Raises:
        ConfigError: ``path`` cannot be written.
    """
    try:
        write_whole(path, json.dumps(asdict(lists), indent=1) + "\n")
    except OSError as err:
        raise ConfigError(f"{path}: lists cannot be written there ({err.strerror}); choose another path") from err


def read_lists(path: Path, split: Split | None = None) -> Lists:
    """Read what ``write_lists`` wrote.

    Args:
        path: the file.
        split: if given, it must contain every image of the lists, annotated for its task.

    Raises:
        DatasetError: the file is missing or malformed, names an unknown task, or does not belong to ``split``.
    """
    remedy = "make it anew with lvad-train data lists"
    try:
        lists = msgspec.json.decode(path.read_bytes(), type=Lists)
    except OSError as err:
        raise DatasetError(f"{path}: these lists cannot be read ({err.strerror}); check data.lists") from err
    except JSON_ERRORS as err:
        raise DatasetError(f"{path}: these are no lists of images ({err}); {remedy}") from err
    if unknown := sorted(set(lists.images) - set(TASKS)):
        raise DatasetError(f"{path}: task {unknown[0]!r} is unknown; the tasks are {', '.join(TASKS)}")
    if split is not None:
        _check_against(lists, split, path, remedy)
    return lists


def _check_against(lists: Lists, split: Split, path: Path, remedy: str) -> None:
    if lists.split != split.name:
        raise DatasetError(f"{path}: made for split {lists.split!r}, not {split.name!r}; {remedy}")
    index_of = {split.name_of(index): index for index in range(len(split))}
    for task, names in lists.images.items():
        annotated = split.annotated_for(task)
        for name in names:
            if name not in index_of:
                raise DatasetError(f"{path}: image {name!r} is not in split {split.name!r} of {split.root}; {remedy}")
            if not annotated[index_of[name]]:
                raise DatasetError(f"{path}: image {name!r} of {split.root} is not annotated for {task}; {remedy}")


def _lists(setting: str, seed: int, split: Split, images: Mapping[str, list[str]], *, scaled: bool) -> Lists:
    return Lists(setting, seed, split.name, scaled, {task: tuple(sorted(images[task])) for task in TASKS})


def _image_counts(sizes: Mapping[str, float], count: int) -> dict[str, int]:
    """Sizes as numbers of images; shares are rounded down, so that shares that sum to 1 fit."""
    counts = {}
    for task, size in sizes.items():
        if task not in TASKS:
            raise ConfigError(f"sizes: task {task!r} is unknown; the tasks are {', '.join(TASKS)}")
        if not (0 < size <= 1 or (math.isfinite(size) and size > 1 and size == int(size))):
            raise ConfigError(f"sizes: {task} is {size}; give a whole number of images, or a share above 0 and up to 1")
        counts[task] = int(size) if size > 1 else math.floor(size * count + 1e-9)
        if counts[task] < 1:
            raise ConfigError(f"sizes: {task} is {size} of {count} images, less than one; give a larger share")
    return counts


def _tasks_of(annotated: Mapping[str, Bool], count: int) -> list[_Group]:
    """The tasks that each image is annotated for."""
    return [frozenset(task for task in TASKS if annotated[task][index]) for index in range(count)]


def _available(tasks_of: Sequence[_Group]) -> dict[_Group, int]:
    """Group of tasks, small groups first -> number of images annotated for at least one of them.

    Sizes are possible exactly if no group of tasks needs more images than that (Hall's marriage theorem).
    """
    groups = [frozenset(g) for n in range(1, len(TASKS) + 1) for g in itertools.combinations(TASKS, n)]
    counts = Counter(tasks_of)
    return {group: sum(count for tasks, count in counts.items() if tasks & group) for group in groups}


def _needed(group: _Group, sizes: Mapping[str, int]) -> int:
    return sum(sizes[task] for task in group)


def _fits(available: Mapping[_Group, int], sizes: Mapping[str, int]) -> bool:
    return all(_needed(group, sizes) <= count for group, count in available.items())


def _require(available: Mapping[_Group, int], sizes: Mapping[str, int], split: Split, where: str, remedy: str) -> None:
    for group, count in available.items():
        if (needed := _needed(group, sizes)) > count:
            tasks = " or ".join(task for task in TASKS if task in group)
            raise DatasetError(
                f"{where} needs at least {needed:,} images of split {split.name!r} that are annotated for {tasks}, "
                f"and it has {count:,}; {remedy}"
            )


def _scaled_down(sizes: Mapping[str, int], available: Mapping[_Group, int]) -> dict[str, int]:
    """The largest sizes in the same proportion that fit, at least 1 each; largest remainders are rounded up."""
    factor = min(Fraction(count, _needed(group, sizes)) for group, count in available.items())
    exact = {task: factor * size for task, size in sizes.items()}
    rounded = {task: max(1, math.floor(size)) for task, size in exact.items()}
    remaining = math.floor(sum(exact.values())) - sum(rounded.values())
    for task in sorted(exact, key=lambda task: rounded[task] - exact[task]):
        more = {**rounded, task: rounded[task] + 1}
        if remaining > 0 and _fits(available, more):
            rounded, remaining = more, remaining - 1
    return rounded


def _assign(
    tasks_of: Mapping[str, _Group], sizes: Mapping[str, int], available: Mapping[_Group, int], seed: int
) -> dict[str, list[str]]:
    """Give each task as many images as ``sizes`` says; the sizes must fit.

    ``spare``: for each group of tasks, available minus needed images. Giving an image to a task takes it from every
    group with a task that it is annotated for, and lowers the need of every group with that task. While no group is
    below 0, the rest of the sizes remains possible.
    """
    scarcest_first = sorted(sizes, key=lambda task: Fraction(available[frozenset([task])], sizes[task]))
    needed = dict(sizes)
    spare = {group: count - _needed(group, sizes) for group, count in available.items()}
    chosen: dict[str, list[str]] = {task: [] for task in sizes}
    for name in sorted(tasks_of, key=lambda name: hashlib.sha256(f"{seed} ".encode() + os.fsencode(name)).digest()):
        if not any(needed.values()):
            break
        for task in scarcest_first:
            if task not in tasks_of[name] or not needed[task]:
                continue
            after = {group: n - bool(group & tasks_of[name]) + (task in group) for group, n in spare.items()}
            if min(after.values()) >= 0:
                chosen[task].append(name)
                needed[task] -= 1
                spare = after
                break
    return chosen
