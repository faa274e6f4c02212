"""Settings of the experiments: which image counts as annotated for which task, as lists that can be shared.

BDD100K's images are annotated for several tasks at once. To ask what a model learns from images that are annotated for
one task each, the paper keeps one annotation of some of them: "disjoint_normal" and "disjoint_balance". The choice is
made here, once, by seed, and written to a file; training looks at no other annotation.
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
    """Which images of a split are annotated for which task in a setting.

    Attributes:
        setting: "full", "disjoint_normal" or "disjoint_balance".
        seed: by which images were chosen; "full" takes them all.
        split: name of the split.
        scaled: the data set was too small for the paper's sizes, and they were scaled down in proportion.
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
    it. The choice depends on seed, sizes and the images' names and annotation alone. Images come in an order that a
    hash of seed and name decides; each goes to the scarcest task that still needs it, unless that would leave too few
    for the others, so that whatever sizes can be had are had.

    Args:
        split: images and what they are annotated for.
        indices: images to choose from; all when None.
        setting: one of ``SETTINGS``.
        seed: of the choice.
        sizes: images per task where they differ from the paper's: numbers above 1 are images, numbers up to 1 shares of
            the images to choose from. When none are given and there are too few images for the paper's sizes, these
            are scaled down in proportion, as little as needed.

    Raises:
        ConfigError: an unknown setting, or sizes that no choice can have.
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
    wanted = {**paper, **_in_images(sizes or {}, len(names))}
    _require(available, dict.fromkeys(paper, 1), split, where, "annotate more images, or choose another setting")
    scaled = not sizes and not _fits(available, wanted)
    if scaled:
        wanted = _scaled_down(wanted, available)
    _require(available, wanted, split, where, "give smaller sizes, for every task")
    return _lists(setting, seed, split, _assign(tasks_of, wanted, available, seed), scaled=scaled)


def write_lists(lists: Lists, path: Path) -> None:
    """Write lists as JSON, whole or not at all.

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
        split: when given, every image of the lists must be in it and annotated for its task.

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


def _in_images(sizes: Mapping[str, float], count: int) -> dict[str, int]:
    """Sizes in whole images; shares are rounded down, so that shares that sum to 1 fit."""
    found = {}
    for task, size in sizes.items():
        if task not in TASKS:
            raise ConfigError(f"sizes: task {task!r} is unknown; the tasks are {', '.join(TASKS)}")
        if not (0 < size <= 1 or (math.isfinite(size) and size > 1 and size == int(size))):
            raise ConfigError(f"sizes: {task} is {size}; give a whole number of images, or a share above 0 and up to 1")
        found[task] = int(size) if size > 1 else math.floor(size * count + 1e-9)
        if found[task] < 1:
            raise ConfigError(f"sizes: {task} is {size} of {count} images, less than one; give a larger share")
    return found


def _tasks_of(annotated: Mapping[str, Bool], count: int) -> list[_Group]:
    """The tasks that each image is annotated for."""
    return [frozenset(task for task in TASKS if annotated[task][index]) for index in range(count)]


def _available(tasks_of: Sequence[_Group]) -> dict[_Group, int]:
    """For each group of tasks, small groups first, how many images are annotated for at least one of them.

    Sizes can be had together exactly if no group of tasks needs more images than that (Hall's marriage theorem).
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
    """The largest sizes in the same proportion that fit, at least 1 each; remainders go to the largest fractions."""
    factor = min(Fraction(count, _needed(group, sizes)) for group, count in available.items())
    exact = {task: factor * size for task, size in sizes.items()}
    whole = {task: max(1, math.floor(size)) for task, size in exact.items()}
    left = math.floor(sum(exact.values())) - sum(whole.values())
    for task in sorted(exact, key=lambda task: whole[task] - exact[task]):
        more = {**whole, task: whole[task] + 1}
        if left > 0 and _fits(available, more):
            whole, left = more, left - 1
    return whole


def _assign(
    tasks_of: Mapping[str, _Group], sizes: Mapping[str, int], available: Mapping[_Group, int], seed: int
) -> dict[str, list[str]]:
    """Give each task as many images as ``sizes`` says, which must fit.

    ``spare``: how many images each group of tasks could do without. An image that goes to a task is lost to every group
    that it could have served, but also needed no more by the groups that the task is in. While no group falls below 0,
    what is still needed can be had.
    """
    scarcest_first = sorted(sizes, key=lambda task: Fraction(available[frozenset([task])], sizes[task]))
    open_places = dict(sizes)
    spare = {group: count - _needed(group, sizes) for group, count in available.items()}
    chosen: dict[str, list[str]] = {task: [] for task in sizes}
    for name in sorted(tasks_of, key=lambda name: hashlib.sha256(f"{seed} ".encode() + os.fsencode(name)).digest()):
        if not any(open_places.values()):
            break
        for task in scarcest_first:
            if task not in tasks_of[name] or not open_places[task]:
                continue
            after = {group: n - bool(group & tasks_of[name]) + (task in group) for group, n in spare.items()}
            if min(after.values()) >= 0:
                chosen[task].append(name)
                open_places[task] -= 1
                spare = after
                break
    return chosen
