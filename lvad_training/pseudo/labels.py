"""Teachers' predictions -> labels on disk: shared among processes, and continued after an interruption.

Every process labels its part of what is left and notes each frame once its files are on the disk; at the end one
process puts the notes together. The result does not depend on the number of processes or on interruptions, as far as a
teacher says the same of an image whatever images it sees together with it.
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
from lvad_training.pseudo.teachers import Processes, Teacher, alone, ask
from lvad_training.recipe.schema import PseudoConfig
from lvad_training.samples import ConfidentPredictions

_FORMAT: Final = 2


class _Labelled(Record, frozen=True):
    """A labelled frame: its counts, and when the task is detection its det_20 entry, undecoded, otherwise null."""

    tally: Tally
    entry: msgspec.Raw = msgspec.Raw(b"null")


class _Matched(Record, frozen=True):
    """A frame that thresholds are chosen on: (class, score, whether right) of its boxes, and annotated boxes."""

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
    complete: Callable[[Iterable[object]], None] = alone,
    progress: bool = True,
) -> PseudoReport:
    """Let teachers label images, and say how many labels there are and how good.

    ``folder`` becomes a data set in BDD100K's layout with the split's images, as links, and the labels. A frame that a
    teacher of detection labels has an entry, perhaps without boxes; when it has no threshold for any class, no frame
    has one. Pixels that are not confident are unlabelled (255).

    Args:
        split: the images; its annotation is used for thresholds, where a teacher was trained on it, and to say how good
            the labels are.
        folder: where to write; it may exist.
        teachers: one per task at most.
        config: what of a prediction becomes a label.
        resume: go on with what is there; finished work is not done again. Otherwise labels that are there are removed.
        process: index of this process; all call this function with the same arguments but this one.
        processes: how many there are.
        wait: returns once all processes have called it; needed when there are several.
        complete: goes through this process's share of the images; ``processes.complete`` lets several meet meanwhile.
        progress: show a progress bar, in process 0.

    Returns:
        The report, the same in every process; it is in ``pseudo.json`` and ``pseudo.txt`` as well.

    Raises:
        ConfigError: thresholds of unknown classes, two teachers of a task, no images to choose thresholds on, or
            a folder that holds something else.
        CheckpointError: a teacher has no head for its task.
        DatasetError: the folder cannot be written, or holds damaged files.
        ImageError, LabelError: as their names say.
    """
    _check(split, teachers, config)
    place = LabelFolder(folder, split, _settings(split, teachers, config))
    if process == 0:
        place.prepare(resume=resume)
    wait()
    report = place.finished()
    wait()  # nobody finishes before all have looked
    if report is None:
        us = Processes(process, processes, wait, complete, progress and process == 0)
        thresholds = {teacher.task: _thresholds(teacher, config, place, us) for teacher in teachers}
        for teacher in teachers:
            if thresholds[teacher.task]:
                ask(
                    teacher,
                    teacher.frames,
                    _label_journal(place, teacher),
                    partial(_label, teacher.task, thresholds[teacher.task], config.ignored_score, place),
                    f"pseudo-label {teacher.task}",
                    us,
                    split,
                )
        if process == 0:
            _put_together(place, teachers, thresholds)
        wait()
        report = place.finished()
    elif process == 0:
        place.clean()
    if report is None:
        raise DatasetError(f"{folder} lost its report while labels were made; let one run at a time write to it")
    return report


def _check(split: Split, teachers: Sequence[Teacher], config: PseudoConfig) -> None:
    check_names(config)
    tasks = [teacher.task for teacher in teachers]
    if not tasks or len(set(tasks)) < len(tasks) or not set(tasks) <= set(TASKS):
        raise ConfigError(
            f"teachers of {', '.join(tasks) or 'no task'}: give one for each of some of {', '.join(TASKS)}"
        )
    for teacher in teachers:
        if teacher.task == "detection" and needs_auto(config) and not len(teacher.trained_on):
            raise ConfigError(
                "stages.pseudo.box_score is auto but the teacher of detection has no training images to choose scores "
                "on; set it to a number such as 0.5"
            )
        for frames in (teacher.frames, teacher.trained_on):
            if len(frames) and not 0 <= min(frames) <= max(frames) < len(split):
                raise IndexError(f"frames of split '{split.name}' must lie in 0 to {len(split) - 1}")


def _settings(split: Split, teachers: Sequence[Teacher], config: PseudoConfig) -> dict[str, Any]:
    """What the labels depend on, as plain values; not where the images are."""

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


def _thresholds(teacher: Teacher, config: PseudoConfig, place: LabelFolder, us: Processes) -> dict[str, float]:
    if teacher.task != "detection":
        return mask_thresholds(config, teacher.task)
    if not needs_auto(config):
        return box_thresholds(config, {})
    journal = Journal(place.unfinished, "thresholds", _Matched)
    match = partial(_match, place.split)
    ask(teacher, teacher.trained_on, journal, match, "thresholds of boxes", us, place.split)
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
    place: LabelFolder,
    frame: int,
    found: ConfidentPredictions,
) -> _Labelled:
    """Choose one frame's labels, write its mask, and count."""
    split, vocabulary = place.split, TASKS[task]
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
    place.write_mask(task, found.name, mask)
    return _Labelled(found.name, tally_pixels(mask, truth, vocabulary))


def _label_journal(place: LabelFolder, teacher: Teacher) -> Journal[_Labelled]:
    return Journal(place.unfinished, teacher.task, _Labelled, keep=place.keep_masks)


def _put_together(
    place: LabelFolder, teachers: Sequence[Teacher], thresholds: Mapping[str, Mapping[str, float]]
) -> None:
    tasks = {}
    for teacher in sorted(teachers, key=lambda teacher: list(TASKS).index(teacher.task)):
        records = _label_journal(place, teacher).read()
        if teacher.task == "detection":
            place.write_detections({name: bytes(record.entry) for name, record in records.items()})
        tallies = (record.tally for record in records.values())
        tasks[teacher.task] = task_quality(teacher.task, thresholds[teacher.task], tallies)
    place.finish(PseudoReport(tasks))
