"""``lvad-train data check``: read a whole data set as training does, count its annotation, report every problem."""

import multiprocessing
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TextIO

import cv2
from tqdm import tqdm

from lvad_perception.command_line import printable
from lvad_perception.datasets import bdd100k
from lvad_perception.datasets.layout import find_splits, open_split, vocabulary_name
from lvad_perception.datasets.nuimages import NuImagesSplit
from lvad_perception.datasets.split import Split
from lvad_perception.errors import DatasetError, LabelError
from lvad_perception.machine import usable_cores
from lvad_perception.vocabulary import TASKS, VOCABULARIES, Vocabulary
from lvad_training.data.check_bdd100k import bdd100k_problems, has_labels
from lvad_training.data.check_frames import Counts, check_frames
from lvad_training.data.check_nuimages import nuimages_problems
from lvad_training.data.check_problems import Problem, plural

_CHUNK: Final = 32


@dataclass(frozen=True, slots=True)
class Report:
    """The result of a check.

    Attributes:
        root: the data set.
        splits: split -> counts.
        problems: errors first, then by file.
        vocabularies: task -> its classes.
    """

    root: Path
    splits: dict[str, Counts]
    problems: list[Problem]
    vocabularies: Mapping[str, Vocabulary]

    @property
    def errors(self) -> list[Problem]:
        """The problems that make training fail."""
        return [problem for problem in self.problems if problem.severity == "error"]


def check_dataset(
    root: Path, *, workers: int | None = None, progress: bool = True, cache_dir: Path | None = None
) -> Report:
    """Read every image and annotation of every split.

    Args:
        root: the folder that holds images/ and labels/, or samples/ and versions of nuImages.
        workers: processes; one per core if None, 1 reads in this process.
        progress: show a progress bar on standard error.
        cache_dir: where parsed labels are kept; see ``open_split``.

    Raises:
        DatasetError: ``root`` is no data set, or no image of it is annotated for anything.
    """
    vocabularies = VOCABULARIES[vocabulary_name(root)]
    problems: list[Problem] = []
    splits: list[Split] = []
    for name in find_splits(root):
        try:
            split = open_split(root, name, cache_dir=cache_dir, report=_ignore)
        except LabelError as err:
            problems.append(Problem("error", str(root), f"split '{name}' cannot be opened: {err}"))
            continue
        splits.append(split)
    of_bdd100k = [split for split in splits if isinstance(split, bdd100k.Bdd100kSplit)]
    # A split that could not be opened may have labels, so only without such splits is it certain that there are none.
    if not problems and not any(split.annotated_for(task).any() for split in splits for task in TASKS):
        if of_bdd100k and not has_labels(root, of_bdd100k):
            raise DatasetError(f"{root} has images but no labels for them; unpack BDD100K's labels under {root}/labels")
        message = "no image is annotated, so training has nothing to learn; bring labels of the same frames"
        problems.append(Problem("error", str(root), message))
    if of_bdd100k or "drivable" in vocabularies:
        problems += bdd100k_problems(root, of_bdd100k)
    problems += nuimages_problems([split for split in splits if isinstance(split, NuImagesSplit)])
    counts = {split.name: Counts(vocabularies) for split in splits}
    processes = usable_cores() if workers is None else max(1, workers)
    for name, part, of_frames in _read_all(splits, vocabularies, processes, progress):
        counts[name].add(part)
        problems += of_frames
    problems.sort(key=lambda problem: (problem.severity != "error", problem.file, problem.message))
    return Report(root, counts, problems, vocabularies)


def _ignore(_line: str) -> None:
    """Drop notes of opening a split; the checks report the same."""


def print_report(report: Report, file: TextIO | None = None) -> None:
    """Print counts per split, task and class, then every problem, then whether training would fail."""
    out = file or sys.stdout
    names = list(report.splits)
    counts = [report.splits[name] for name in names]
    rows = [("images", [f"{count.images:,}" for count in counts])]
    rows += [(f"  with {task}", [f"{count.annotated[task]:,}" for count in counts]) for task in report.vocabularies]
    _print_table(out, str(report.root), names, rows)
    if any(count.annotated["detection"] for count in counts):
        names_of_boxes = report.vocabularies["detection"].names
        rows = [(name, [f"{count.boxes[i]:,}" for count in counts]) for i, name in enumerate(names_of_boxes)]
        rows.append(("(crowd, ignored)", [f"{count.crowds:,}" for count in counts]))
        _print_table(out, "detection, boxes", names, rows)
    for task, pixels in (
        ("semantic", [count.semantic_pixels for count in counts]),
        ("drivable", [count.drivable_pixels for count in counts]),
    ):
        if any(part.sum() for part in pixels):
            vocabulary = report.vocabularies[task]
            rows = [
                (name, [_percent(int(part[i]), int(part.sum())) for part in pixels])
                for i, name in enumerate((*vocabulary.names, "(unlabelled)"))
            ]
            _print_table(out, f"{vocabulary.task}, % of pixels", names, rows)
    for problem in report.problems:
        print(printable(f"{problem.severity}: {problem.file}: {problem.message}"), file=out)
    errors = len(report.errors)
    warnings = len(report.problems) - errors
    if errors:
        verdict = "training would fail; repair or remove these files"
    else:
        verdict = "training can use this data set"
    print(f"{plural(errors, 'error')}, {plural(warnings, 'warning')}: {verdict}", file=out)


def _print_table(out: TextIO, title: str, names: Sequence[str], rows: list[tuple[str, list[str]]]) -> None:
    first = max(len(title), *(len(label) for label, _ in rows))
    widths = [max(len(name), 9) for name in names]
    print(f"{title:<{first}}", *(f"{name:>{width}}" for name, width in zip(names, widths, strict=True)), file=out)
    for label, cells in rows:
        print(f"{label:<{first}}", *(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True)), file=out)
    print(file=out)


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.2f}" if whole else "-"


def _read_all(
    splits: list[Split], vocabularies: Mapping[str, Vocabulary], workers: int, progress: bool
) -> Iterator[tuple[str, Counts, list[Problem]]]:
    """Check all frames in chunks, in parallel, in no particular order."""
    chunks = [
        (index, range(start, min(start + _CHUNK, len(split))))
        for index, split in enumerate(splits)
        for start in range(0, len(split), _CHUNK)
    ]
    total = sum(len(split) for split in splits)
    with tqdm(total=total, desc="check", unit="image", disable=not progress, mininterval=0.5) as bar:
        if workers == 1 or len(chunks) == 1:
            for index, frames in chunks:
                part, problems = check_frames(splits[index], frames, vocabularies)
                bar.update(len(frames))
                yield splits[index].name, part, problems
            return
        # Spawned, not forked: this process may run threads (the progress bar's monitor, OpenCV's pool).
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(
            min(workers, len(chunks)), mp_context=context, initializer=_start_worker, initargs=(splits, vocabularies)
        ) as pool:
            pending = {pool.submit(_check_in_worker, index, frames): (index, frames) for index, frames in chunks}
            try:
                for future in as_completed(pending):
                    index, frames = pending[future]
                    part, problems = future.result()
                    bar.update(len(frames))
                    yield splits[index].name, part, problems
            except BrokenProcessPool as err:
                raise DatasetError("a checking process died, likely for lack of memory; use fewer --workers") from err
            finally:
                pool.shutdown(wait=False, cancel_futures=True)


# Each worker process has its own, set once when it starts.
_worker_splits: list[Split] = []
_worker_vocabularies: dict[str, Vocabulary] = {}


def _start_worker(splits: list[Split], vocabularies: Mapping[str, Vocabulary]) -> None:
    cv2.setNumThreads(1)
    _worker_splits[:] = splits
    _worker_vocabularies.update(vocabularies)


def _check_in_worker(index: int, frames: range) -> tuple[Counts, list[Problem]]:
    return check_frames(_worker_splits[index], frames, _worker_vocabularies)
