"""Teachers, and the loop in which several processes share the frames to predict."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tqdm import tqdm

from lvad_perception.datasets.split import Split
from lvad_perception.errors import CheckpointError
from lvad_training.pseudo.journal import Journal, Record
from lvad_training.samples import ConfidentPredictions

Predict = Callable[[Sequence[int]], Iterable[ConfidentPredictions]]
"""Frames of a split, by index -> a teacher's prediction for each, in the same order."""


@dataclass(frozen=True, kw_only=True)
class Teacher:
    """A model that labels frames for one task.

    Attributes:
        task: "detection", "semantic" or "drivable".
        identity: identifies the teacher, such as the digest of its weights; labels of another teacher are not resumed.
        predict: its predictions on frames of the split.
        frames: frames to label, by index.
        trained_on: frames that it was trained on; "auto" box thresholds are chosen on them.
    """

    task: str
    identity: str
    predict: Predict
    frames: Sequence[int]
    trained_on: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class Processes:
    """This process's rank, and how to synchronise with the others.

    Attributes:
        index: rank of this process, from 0.
        count: number of processes.
        wait: a barrier: returns once all processes have called it.
        complete: iterates over this process's share of the work; may return only once all have finished theirs.
        progress: whether this process shows a progress bar.
    """

    index: int
    count: int
    wait: Callable[[], None]
    complete: Callable[[Iterable[object]], None]
    progress: bool


def predict_remaining(
    teacher: Teacher,
    frames: Sequence[int],
    journal: Journal[Any],
    handle: Callable[[int, ConfidentPredictions], Record],
    title: str,
    processes: Processes,
    split: Split,
) -> None:
    """Predict this process's share of the frames that are not in the journal; returns when all processes are done.

    Args:
        teacher: the model.
        frames: of the split, by index.
        journal: records finished frames.
        handle: frame and prediction -> the frame's record; writes its files.
        title: of the progress bar.
        processes: this process and the others.
        split: the images.

    Raises:
        CheckpointError: the teacher has no head for its task.
        ValueError: it did not yield one prediction per frame, in order.
    """
    done = journal.read()
    processes.wait()  # every process has read the journals before one appends
    left = [frame for frame in sorted(set(frames)) if split.name_of(frame) not in done]
    share = left[processes.index :: processes.count]
    title += f" ({processes.count} processes)" if processes.count > 1 else ""

    def predicted() -> Iterator[None]:
        with (
            journal.writer(processes.index) as writer,
            tqdm(total=len(share), desc=title, unit="image", disable=not processes.progress, mininterval=0.5) as bar,
        ):
            for frame, found in zip(share, teacher.predict(share) if share else (), strict=True):
                if found.name != split.name_of(frame):
                    raise ValueError(f"asked for {split.name_of(frame)}, the teacher predicted {found.name}")
                if getattr(found, "detections" if teacher.task == "detection" else teacher.task) is None:
                    raise CheckpointError(
                        f"the teacher of {teacher.task} has no head for it; give a checkpoint that was trained for the "
                        "task"
                    )
                writer.append(handle(frame, found))
                bar.update()
                yield

    processes.complete(predicted())
    processes.wait()


def complete_alone(work: Iterable[object]) -> None:
    """``Processes.complete`` of a single process: iterate over the work."""
    for _ in work:
        pass
