"""``lvad-train data check``: read a whole data set as training would, count what is annotated, report every problem."""

import itertools
import multiprocessing
import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TextIO

import cv2
import numpy as np
from tqdm import tqdm

from lvad_perception.bdd100k import Split, find_splits, open_split
from lvad_perception.bdd100k.index import LabelTable
from lvad_perception.bdd100k.tree import find_sources, unused_labels
from lvad_perception.errors import DatasetError, LabelError
from lvad_perception.vocabulary import DETECTION, DRIVABLE, SEMANTIC, TASKS
from lvad_training.data.check_frames import Counts, Problem, check_frames

_CHUNK: Final = 32
_NAMES_SHOWN: Final = 5


@dataclass(frozen=True, slots=True)
class Report:
    """What a check found.

    Attributes:
        root: the data set.
        splits: split -> counts.
        problems: errors first, then by file.
    """

    root: Path
    splits: dict[str, Counts]
    problems: list[Problem]

    @property
    def errors(self) -> list[Problem]:
        """The problems that make training fail."""
        return [problem for problem in self.problems if problem.severity == "error"]


def check_dataset(
    root: Path, *, workers: int | None = None, progress: bool = True, cache_dir: Path | None = None
) -> Report:
    """Read every image and annotation of every split.

    Args:
        root: the folder that holds images/ and labels/.
        workers: processes; one per core when None, 1 reads in this process.
        progress: show a progress bar on standard error.
        cache_dir: where parsed labels are kept; see ``open_split``.

    Raises:
        DatasetError: ``root`` is no data set, or no image of it is annotated for anything.
    """
    problems: list[Problem] = []
    splits: list[Split] = []
    for name in find_splits(root):
        try:
            split = open_split(root, name, cache_dir=cache_dir)
        except LabelError as err:
            problems.append(Problem("error", str(root), f"split '{name}' cannot be opened: {err}"))
            continue
        splits.append(split)
        problems += _compare_with_tree(root, split)
    if not problems and not any(split.annotated_for(task).any() for split in splits for task in TASKS):
        raise DatasetError(
            f"{root} has images but no labels for them; unpack det_20, sem_seg or drivable labels under {root}/labels"
        )
    problems += _repeated_names(splits)
    for path in unused_labels(root):
        message = "not used: its name fits no split of the images; rename it or the image folder"
        problems.append(Problem("warning", str(path), message))
    for table in {table.source: table for split in splits for table in split.tables}.values():
        problems += _label_problems(table)
    counts = {split.name: Counts() for split in splits}
    for name, part, found in _read_all(splits, _worker_count(workers), progress):
        counts[name].add(part)
        problems += found
    problems.sort(key=lambda problem: (problem.severity != "error", problem.file, problem.message))
    return Report(root, counts, problems)


def print_report(report: Report, file: TextIO | None = None) -> None:
    """Print counts per split, task and class, then every problem, then whether training would fail."""
    out = file or sys.stdout
    names = list(report.splits)
    counts = [report.splits[name] for name in names]
    rows = [("images", [f"{count.images:,}" for count in counts])]
    rows += [(f"  with {task}", [f"{count.annotated[task]:,}" for count in counts]) for task in TASKS]
    _print_table(out, str(report.root), names, rows)
    if any(count.annotated["detection"] for count in counts):
        rows = [(name, [f"{count.boxes[i]:,}" for count in counts]) for i, name in enumerate(DETECTION.names)]
        rows.append(("(crowd, ignored)", [f"{count.crowds:,}" for count in counts]))
        _print_table(out, "detection, boxes", names, rows)
    for vocabulary, pixels in (
        (SEMANTIC, [count.semantic_pixels for count in counts]),
        (DRIVABLE, [count.drivable_pixels for count in counts]),
    ):
        if any(part.sum() for part in pixels):
            rows = [
                (name, [_percent(int(part[i]), int(part.sum())) for part in pixels])
                for i, name in enumerate((*vocabulary.names, "(unlabelled)"))
            ]
            _print_table(out, f"{vocabulary.task}, % of pixels", names, rows)
    for problem in report.problems:
        print(f"{problem.severity}: {problem.file}: {problem.message}", file=out)
    errors = len(report.errors)
    warnings = len(report.problems) - errors
    if errors:
        verdict = "training would fail; repair or remove these files"
    else:
        verdict = "training can use this data set"
    print(f"{_plural(errors, 'error')}, {_plural(warnings, 'warning')}: {verdict}", file=out)


def _print_table(out: TextIO, title: str, names: Sequence[str], rows: list[tuple[str, list[str]]]) -> None:
    first = max(len(title), *(len(label) for label, _ in rows))
    widths = [max(len(name), 9) for name in names]
    print(f"{title:<{first}}", *(f"{name:>{width}}" for name, width in zip(names, widths, strict=True)), file=out)
    for label, cells in rows:
        print(f"{label:<{first}}", *(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True)), file=out)
    print(file=out)


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.2f}" if whole else "-"


def _plural(count: int, word: str, words: str | None = None) -> str:
    return f"{count:,} {word if count == 1 else words or word + 's'}"


def _worker_count(workers: int | None) -> int:
    if workers is not None:
        return max(1, workers)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _read_all(splits: list[Split], workers: int, progress: bool) -> Iterator[tuple[str, Counts, list[Problem]]]:
    """Check all frames in chunks, in parallel, in no particular order."""
    chunks = [
        (which, range(start, min(start + _CHUNK, len(split))))
        for which, split in enumerate(splits)
        for start in range(0, len(split), _CHUNK)
    ]
    total = sum(len(split) for split in splits)
    with tqdm(total=total, desc="check", unit="image", disable=not progress, mininterval=0.5) as bar:
        if workers == 1 or len(chunks) == 1:
            for which, frames in chunks:
                part, found = check_frames(splits[which], frames)
                bar.update(len(frames))
                yield splits[which].name, part, found
            return
        # Spawned, not forked: the parent may run threads (the progress bar's monitor, OpenCV's pool).
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(
            min(workers, len(chunks)), mp_context=context, initializer=_start_worker, initargs=(splits,)
        ) as pool:
            pending = {pool.submit(_check_in_worker, which, frames): (which, frames) for which, frames in chunks}
            try:
                for done in as_completed(pending):
                    which, frames = pending[done]
                    part, found = done.result()
                    bar.update(len(frames))
                    yield splits[which].name, part, found
            except BrokenProcessPool as err:
                raise DatasetError("a checking process died, likely for lack of memory; use fewer --workers") from err
            finally:
                pool.shutdown(wait=False, cancel_futures=True)


_worker_splits: list[Split] = []


def _start_worker(splits: list[Split]) -> None:
    cv2.setNumThreads(1)
    _worker_splits[:] = splits


def _check_in_worker(which: int, frames: range) -> tuple[Counts, list[Problem]]:
    return check_frames(_worker_splits[which], frames)


def _compare_with_tree(root: Path, split: Split) -> Iterator[Problem]:
    """Masks and label entries without image, and images without any annotation."""
    sources = find_sources(root, split.name)
    images = {name for folder in sources.images for name in folder.files}
    for masks in sources.masks.values():
        for folder in masks:
            if missing := sorted(folder.names - images):
                message = f"{_plural(len(missing), 'mask')} without image: {_listed(missing)}; not used"
                yield Problem("warning", folder.path, message)
    for table in split.tables:
        if missing := sorted({bytes(name).decode() for name in table.names} - images):
            message = f"{_plural(len(missing), 'entry', 'entries')} without image: {_listed(missing)}; not used"
            yield Problem("warning", str(table.source), message)
    bare = ~np.any([split.annotated_for(task) for task in TASKS], axis=0)
    if bare.any():
        names = [split.name_of(int(i)) for i in np.flatnonzero(bare)]
        message = f"{_plural(len(names), 'image')} without annotation: {_listed(names)}; not trained on"
        yield Problem("warning", sources.images[0].path, message)


def _label_problems(table: LabelTable) -> Iterator[Problem]:
    file, problems = str(table.source), table.problems
    for category, count in sorted(problems.unknown_categories.items()):
        yield Problem("warning", file, f"unknown category '{category}' of {_plural(count, 'label')}; skipped")
    if problems.shapeless:
        yield Problem("warning", file, f"{_plural(problems.shapeless, 'label')} without box or shape; skipped")
    for name, count in problems.degenerate_boxes:
        yield Problem("warning", file, f"entry {name}: {count} without area among its boxes; skipped")
    if problems.duplicates:
        names = sorted(set(problems.duplicates))
        yield Problem("warning", file, f"listed more than once: {_listed(names)}; the first entry counts")


def _repeated_names(splits: list[Split]) -> Iterator[Problem]:
    """Frames in two splits: BDD100K's 10k set is divided otherwise than its 100k set, so truth can leak."""
    names = {split.name: {split.name_of(i) for i in range(len(split))} for split in splits}
    for one, other in itertools.combinations(names, 2):
        if both := sorted(names[one] & names[other]):
            message = (
                f"{_plural(len(both), 'frame')} in both '{one}' and '{other}': {_listed(both)}; "
                "scores on the one flatter when the other was trained on"
            )
            yield Problem("warning", str(splits[0].root), message)


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _NAMES_SHOWN
    return ", ".join(names[:_NAMES_SHOWN]) + (f" and {more:,} more" if more > 0 else "")
