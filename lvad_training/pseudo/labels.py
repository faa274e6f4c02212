"""Writes teachers' predictions as labels, shared among processes and resumable after an interruption.

Each process labels its share of the remaining frames and records each in a journal once its files are on disk; in the
end process 0 merges the journals. The result does not depend on the number of processes or on interruptions, provided
that a teacher's prediction for an image does not depend on the other images in the batch.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from lvad_perception.datasets.split import Split
from lvad_perception.errors import ConfigError, DatasetError
from lvad_perception.vocabulary import DETECTION, TASKS
from lvad_training.pseudo.folder import LabelFolder, detection_entry
from lvad_training.pseudo.journal import Journal, Record
from lvad_training.pseudo.matching import Matches, match_boxes
from lvad_training.pseudo.quality import PseudoReport, Tally, tally_boxes, tally_pixels, task_quality
from lvad_training.pseudo.selection import (
    auto_thresholds,
    box_thresholds,
    check_names,
    ignored_boxes,
    mask_thresholds,
    needs_auto,
    select_boxes,
    select_pixels,
)
from lvad_training.pseudo.teachers import Processes, Teacher, complete_alone, predict_remaining
from lvad_training.recipe.schema import PseudoConfig
from lvad_training.samples import ConfidentPredictions

_FORMAT: Final = 2


class _Labelled(Record, frozen=True):
    """A labelled frame: its counts and, for detection, its det_20 entry as raw JSON; null for masks."""

    tally: Tally
    entry: msgspec.Raw = msgspec.Raw(b"null")


class _Matched(Record, frozen=True):
    """A frame for choosing thresholds: (class, score, whether a hit) of its boxes, and annotated boxes per class."""

    boxes: list[tuple[int, float, bool]]
    truth: list[int]


def write_pseudo_labels(
    *,
    split: Split,
    folder: Path,
    teachers: Sequence[Teacher],
    config: PseudoConfig,
    resume: bool = False,
    process: int = 0,
    processes: int = 1,
    wait: Callable[[], None] = lambda: None,
    complete: Callable[[Iterable[object]], None] = complete_alone,
    progress: bool = True,
) -> PseudoReport:
    """Label images with teachers' predictions, and report the number of labels and their quality.

    ``folder`` becomes a data set in BDD100K's layout with the labels and links to the split's images. Every frame that
    the detection teacher labels gets an entry, possibly without boxes; if no class has a threshold, no frame gets one.
    Pixels below their confidence threshold are unlabelled (255).

    Args:
        split: the images. Its annotation serves to choose thresholds, on frames that a teacher was trained on, and to
            measure the labels' quality.
        folder: where to write; it may exist.
        teachers: at most one per task.
        config: thresholds.
        resume: continue unfinished labels, keep finished ones; False removes existing labels.
        process: rank of this process; every process calls this function with otherwise equal arguments.
        processes: number of processes.
        wait: a barrier; required for several processes.
        complete: iterates over this process's share of the images; ``training.processes.complete`` also keeps several
            processes within the time limit of their barrier.
        progress: show a progress bar, in process 0.

    Returns:
        The report, the same in every process; also written to ``pseudo.json`` and ``pseudo.txt``.

    Raises:
        ConfigError: thresholds of unknown classes, two teachers of a task, no images to choose thresholds on, or
            a folder that holds something else.
        CheckpointError: a teacher has no head for its task.
        DatasetError: the folder cannot be written, or holds damaged files.
        ImageError, LabelError: an image, or annotation of the split, is invalid.
    """
    _check(split, teachers, config)
    labels = LabelFolder(folder, split, _settings(split, teachers, config))
    if process == 0:
        labels.prepare(resume=resume)
    wait()
    report = labels.finished()
    wait()  # every process has looked before one can finish the labels
    if report is None:
        group = Processes(process, processes, wait, complete, progress and process == 0)
        thresholds = {teacher.task: _thresholds(teacher, config, labels, group) for teacher in teachers}
        for teacher in teachers:
            if thresholds[teacher.task]:
                predict_remaining(
                    teacher,
                    teacher.frames,
                    _label_journal(labels, teacher),
                    partial(_label, teacher.task, thresholds[teacher.task], config.ignored_score, labels),
                    f"pseudo-label {teacher.task}",
                    group,
                    split,
                )
        if process == 0:
            _merge(labels, teachers, thresholds)
        wait()
        report = labels.finished()
    elif process == 0:
        labels.clean()
    if report is None:
        raise DatasetError(f"{folder} lost its report while labels were made; let one run at a time write to it")
    return report


def _check(split: Split, teachers: Sequence[Teacher], config: PseudoConfig) -> None:
    check_names(config)
    tasks = [teacher.task for teacher in teachers]
    if not tasks or len(set(tasks)) < len(tasks) or not set(tasks) <= set(TASKS):
        raise ConfigError(
            f"teachers of {', '.join(tasks) or 'no task'}: give one teacher per task, of {', '.join(TASKS)}"
        )
    for teacher in teachers:
        if teacher.task == "detection" and needs_auto(config) and not len(teacher.trained_on):
            raise ConfigError(
                "stages.pseudo.box_score is auto but the teacher of detection has no annotated images to choose "
                "scores on; set it to a number such as 0.5"
            )
        for frames in (teacher.frames, teacher.trained_on):
            if len(frames) and not 0 <= min(frames) <= max(frames) < len(split):
                raise IndexError(f"frames of split '{split.name}' must lie in 0 to {len(split) - 1}")


def _settings(split: Split, teachers: Sequence[Teacher], config: PseudoConfig) -> dict[str, Any]:
    """Everything that the labels depend on, as plain values; paths are not part of it, so that folders can move."""

    def digest(frames: Sequence[int]) -> str:
        names = "\n".join(sorted(split.name_of(i) for i in frames))
        try:
            return hashlib.sha256(names.encode()).hexdigest()[:16]
        except UnicodeEncodeError as err:
            raise DatasetError(
                f"{split.root}: an image of split '{split.name}' has a name that is not UTF-8 "
                f"(near {names[max(0, err.start - 20) : err.end + 20]!r}), which no label file can hold; rename it"
            ) from err

    return {
        "format": _FORMAT,
        "split": split.name,
        "thresholds": msgspec.to_builtins(config),
        "teachers": {
            teacher.task: {
                "identity": teacher.identity,
                "frames": digest(teacher.frames),
                "trained_on": digest(teacher.trained_on) if teacher.task == "detection" else None,
            }
            for teacher in teachers
        },
    }


def _thresholds(teacher: Teacher, config: PseudoConfig, labels: LabelFolder, group: Processes) -> dict[str, float]:
    if teacher.task != "detection":
        return mask_thresholds(config, teacher.task)
    if not needs_auto(config):
        return box_thresholds(config, {})
    journal = Journal(labels.unfinished, "thresholds", _Matched)
    match = partial(_match, labels.split)
    predict_remaining(teacher, teacher.trained_on, journal, match, "thresholds of boxes", group, labels.split)
    return box_thresholds(config, auto_thresholds(_matches(record) for record in journal.read().values()))


def _match(split: Split, frame: int, found: ConfidentPredictions) -> _Matched:
    truth = split.boxes(frame, found.size_hw)
    if truth is None or found.detections is None:
        raise ConfigError(
            f"{found.name} is not annotated for detection, so no teacher was trained on it; correct the lists"
        )
    matches = match_boxes(found.detections, truth)
    boxes = zip(matches.labels.tolist(), matches.scores.tolist(), matches.hits.tolist(), strict=True)
    return _Matched(found.name, list(boxes), matches.truth.tolist())


def _matches(record: _Matched) -> Matches:
    labels, scores, hits = zip(*record.boxes, strict=True) if record.boxes else ((), (), ())
    return Matches(
        np.array(labels, np.int32), np.array(scores, np.float32), np.array(hits, np.bool_), np.array(record.truth)
    )


def _label(
    task: str,
    thresholds: Mapping[str, float],
    ignored_score: float,
    labels: LabelFolder,
    frame: int,
    found: ConfidentPredictions,
) -> _Labelled:
    """Select one frame's labels, write its mask, and count them."""
    split, vocabulary = labels.split, TASKS[task]
    if task == "detection":
        assert found.detections is not None
        boxes = select_boxes(found.detections, thresholds)
        tally = tally_boxes(boxes, split.boxes(frame, found.size_hw), DETECTION)
        unsure = ignored_boxes(found.detections, thresholds, ignored_score)
        return _Labelled(found.name, tally, msgspec.Raw(detection_entry(split.image_path(frame).name, boxes, unsure)))
    semantic = task == "semantic"
    label_map = found.semantic if semantic else found.drivable
    confidence = found.semantic_confidence if semantic else found.drivable_confidence
    assert label_map is not None
    assert confidence is not None
    mask = select_pixels(label_map, confidence, thresholds, vocabulary)
    truth = (split.semantic if semantic else split.drivable)(frame, found.size_hw)
    labels.write_mask(task, found.name, mask)
    return _Labelled(found.name, tally_pixels(mask, truth, vocabulary))


def _label_journal(labels: LabelFolder, teacher: Teacher) -> Journal[_Labelled]:
    return Journal(labels.unfinished, teacher.task, _Labelled, sync_files=labels.sync_masks)


def _merge(labels: LabelFolder, teachers: Sequence[Teacher], thresholds: Mapping[str, Mapping[str, float]]) -> None:
    tasks = {}
    for teacher in sorted(teachers, key=lambda teacher: list(TASKS).index(teacher.task)):
        records = _label_journal(labels, teacher).read()
        if teacher.task == "detection":
            labels.write_detections({name: bytes(record.entry) for name, record in records.items()})
        tallies = (record.tally for record in records.values())
        tasks[teacher.task] = task_quality(teacher.task, thresholds[teacher.task], tallies)
    labels.finish(PseudoReport(tasks))
