"""Teachers, and how several processes share the frames to ask them about."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tqdm import tqdm

from lvad_perception.datasets.split import Split
from lvad_perception.errors import CheckpointError
from lvad_training.pseudo.journal import Journal, Record
from lvad_training.samples import ConfidentPredictions

Predict = Callable[[Sequence[int]], Iterable[ConfidentPredictions]]
"""Frames of a split, by index -> what a teacher says of each, in the same order."""


@dataclass(frozen=True, kw_only=True)
class Teacher:
    """Who labels what.

    Attributes:
        task: "detection", "semantic" or "drivable".
        identity: what tells this teacher from others, such as the digest of its weights; labels of another teacher are
            not continued.
        predict: what it says of frames of the split.
        frames: those to label, by index.
        trained_on: frames that it learned the task from; box scores that are "auto" are chosen on them.
    """

    task: str
    identity: str
    predict: Predict
    frames: Sequence[int]
    trained_on: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class Processes:
    """This process among those that share the work.

    Attributes:
        index: of this process, from 0.
        count: how many there are.
        wait: returns once all have called it.
        complete: goes through this one's share of some work, and may return only once all have done theirs.
        progress: whether this one shows a progress bar.
    """

    index: int
    count: int
    wait: Callable[[], None]
    complete: Callable[[Iterable[object]], None]
    progress: bool


def ask(
    teacher: Teacher,
    frames: Sequence[int],
    journal: Journal[Any],
    work: Callable[[int, ConfidentPredictions], Record],
    title: str,
    us: Processes,
    split: Split,
) -> None:
    """Ask a teacher about this process's part of the frames that the journal lacks; returns when all are done.

    Args:
        teacher: whom to ask.
        frames: of the split, by index.
        journal: what is done.
        work: what to do with a prediction: frame and prediction -> what is noted once everything of it is on disk.
        title: of the progress bar.
        us: the processes.
        split: the images.

    Raises:
        CheckpointError: the teacher has no head for its task.
        ValueError: it did not answer frame by frame.
    """
    done = journal.read()
    us.wait()  # all have read before one writes
    left = [frame for frame in sorted(set(frames)) if split.name_of(frame) not in done]
    part = left[us.index :: us.count]
    title += f" ({us.count} processes)" if us.count > 1 else ""

    def answers() -> Iterator[None]:
        with (
            journal.writer(us.index) as writer,
            tqdm(total=len(part), desc=title, unit="image", disable=not us.progress, mininterval=0.5) as bar,
        ):
            for frame, found in zip(part, teacher.predict(part) if part else (), strict=True):
                if found.name != split.name_of(frame):
                    raise ValueError(f"asked for {split.name_of(frame)}, the teacher predicted {found.name}")
                if getattr(found, "detections" if teacher.task == "detection" else teacher.task) is None:
                    raise CheckpointError(
                        f"the teacher of {teacher.task} has no head for it; give a checkpoint that was trained for the "
                        "task"
                    )
                writer.append(work(frame, found))
                bar.update()
                yield

    us.complete(answers())
    us.wait()


def alone(work: Iterable[object]) -> None:
    """Go through some work, whatever other processes do."""
    for _ in work:
        pass
