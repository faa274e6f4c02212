"""Pairing of predictions with annotation by task, camera and header stamp, and their evaluation.

The evaluation of a bag and that of topics under ROS both use ``Pairing``, so that the same messages give the same
metrics.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from lvad_perception.bags.error_log import ErrorLog
from lvad_perception.errors import DatasetError, EngineError, MessageError, VocabularyMismatchError
from lvad_perception.messages import (
    Message,
    check_label_info,
    detections_from_message,
    mask_from_message,
    stamp_ns,
    truth_boxes_from_message,
)
from lvad_perception.metrics import Evaluator, Findings, FrameMetadata, Metrics
from lvad_perception.topics import Side
from lvad_perception.types import Predictions, Size, Truth, UInt8
from lvad_perception.vocabulary import TASKS, Vocabulary

PENDING: Final = 64
"""Maximum number of messages of a topic that wait for their counterpart in memory; two seconds at 30 Hz."""


class Pairing:
    """Pairs and evaluates messages in any order of arrival, in bounded memory.

    Annotation without a prediction (of a corrupt or dropped image) is reported and left out; predictions without
    annotation are ignored. When more than ``PENDING`` messages of a topic wait, the oldest is dropped from memory: one
    of a bag is read again when its counterpart comes, one of a ROS topic is given up.

    Args:
        errors: log of the messages that are left out.
        by_frame: keep the data of every image for ``findings``; memory then grows with the number of images.
        vocabularies: the classes of predictions and annotation by task; BDD100K's where a task is absent.

    Attributes:
        vocabularies: those classes, of all tasks.
    """

    def __init__(
        self, errors: ErrorLog, *, by_frame: bool = False, vocabularies: Mapping[str, Vocabulary] = TASKS
    ) -> None:
        self.vocabularies: dict[str, Vocabulary] = {**TASKS, **vocabularies}
        self._errors = errors
        self._by_frame = by_frame
        self._evaluator = Evaluator(vocabularies=self.vocabularies)
        self._joins: dict[tuple[str, str], _Join] = {}
        self.paired = 0
        """Number of pairs so far, all tasks together."""

    def add(self, side: Side, msg: Message, name: str, *, read_again: Callable[[], Message] | None = None) -> None:
        """Add a message; a malformed one is reported and left out.

        Args:
            side: role of its topic.
            msg: of ROS's or rosbags' message classes.
            name: which message of the topic it is, for error messages.
            read_again: reads the message again; None where that is impossible.

        Raises:
            VocabularyMismatchError: it lists other classes than ``vocabularies``.
            BagError: ``read_again`` failed.
        """
        try:
            if side.label_info:
                check_label_info(msg, self.vocabularies[side.task], source="label info")
                return
            pair = self._joins.setdefault((side.camera, side.task), _Join(self._errors)).add(
                side, msg, name, read_again
            )
            if pair is not None:
                frame = frame_key(side.camera, stamp_ns(msg.header)) if self._by_frame else None
                self._evaluator.add(*_values(self.vocabularies[side.task], *pair), frame=frame)
                self.paired += 1
        except VocabularyMismatchError as err:
            raise VocabularyMismatchError(f"{side.topic} {name}: {err}") from err
        except (MessageError, DatasetError, EngineError) as err:
            self._errors.add(side.topic, name, err)

    @property
    def in_flight(self) -> int:
        """Maximum over cameras and tasks of the number of annotated images whose prediction may still arrive.

        Predictions arrive in the order of the images, so that one of a later image rules out those before it.
        """
        return max((join.in_flight for join in self._joins.values()), default=0)

    def finish(self) -> Metrics:
        """Report all annotation without a prediction, and compute the metrics.

        Raises:
            DatasetError: nothing was paired.
        """
        self._report_unpaired()
        return self._evaluator.compute()

    def findings(self, frames: Mapping[str, FrameMetadata], *, score_threshold: float) -> Findings:
        """As ``finish``, with findings beyond the metrics; those of single images need ``by_frame``.

        Args:
            frames: ``frame_key`` -> metadata of the image.
            score_threshold: minimum score of the boxes in confusions.

        Raises:
            DatasetError: nothing was paired.
        """
        self._report_unpaired()
        return self._evaluator.findings(frames, score_threshold=score_threshold)

    def _report_unpaired(self) -> None:
        for join in self._joins.values():
            join.finish()


def frame_key(camera: str, stamp: int) -> str:
    """Key of an image: its camera and its header stamp in nanoseconds."""
    return f"{camera} {stamp}"


@dataclass(frozen=True, slots=True)
class _Half:
    """A message that waits for its counterpart, its name, and its index among the messages of its topic.

    ``msg`` is None once it was dropped from memory and must be read again.
    """

    side: Side
    msg: Message | None
    name: str
    index: int
    read_again: Callable[[], Message] | None

    def message(self) -> Message:
        return self.msg if self.read_again is None or self.msg is not None else self.read_again()


class _Join:
    """Pairs predictions and annotation of one camera and task by stamp."""

    def __init__(self, errors: ErrorLog) -> None:
        self._errors = errors
        # By Side.truth and stamp, in the order of arrival: halves in memory, and halves to be read again.
        self._waiting: dict[bool, dict[int, _Half]] = {True: {}, False: {}}
        self._dropped: dict[bool, dict[int, _Half]] = {True: {}, False: {}}
        self._counts = {True: 0, False: 0}
        self._newest_paired = -1  # index of annotation

    def add(
        self, side: Side, msg: Message, name: str, read_again: Callable[[], Message] | None
    ) -> tuple[Message, Message] | None:
        """(prediction, annotation) once both are there, else None."""
        stamp = stamp_ns(msg.header)
        half = _Half(side, msg, name, self._counts[side.truth], read_again)
        self._counts[side.truth] += 1
        counterpart = self._waiting[not side.truth].pop(stamp, None) or self._dropped[not side.truth].pop(stamp, None)
        if counterpart is not None:
            prediction, truth = (counterpart, half) if side.truth else (half, counterpart)
            self._newest_paired = max(self._newest_paired, truth.index)
            return prediction.message(), truth.message()
        waiting, dropped = self._waiting[side.truth], self._dropped[side.truth]
        if stamp in waiting or stamp in dropped:
            self._errors.add(
                side.topic, name, "its header stamp occurs twice, so it cannot be paired; stamp each image"
            )
            return None
        waiting[stamp] = half
        if len(waiting) > PENDING:
            oldest = next(iter(waiting))
            half = waiting.pop(oldest)
            if half.read_again is None:
                self._give_up(half)
            else:
                dropped[oldest] = replace(half, msg=None)
        return None

    @property
    def in_flight(self) -> int:
        halves = (*self._dropped[True].values(), *self._waiting[True].values())
        return sum(half.index > self._newest_paired for half in halves)

    def finish(self) -> None:
        """Report all annotation without a prediction."""
        for half in (*self._dropped[True].values(), *self._waiting[True].values()):
            self._give_up(half)

    def _give_up(self, half: _Half) -> None:
        if half.side.truth:
            self._errors.add(half.side.topic, half.name, "it has no prediction with its stamp and is left out")


def _values(vocabulary: Vocabulary, prediction: Message, annotation: Message) -> tuple[Predictions, Truth]:
    """One task's messages of an image as input of the evaluator. Raises as the readers of ``messages`` do."""
    if vocabulary.task == "detection":
        # Messages of boxes do not contain the image size, and the evaluation of boxes does not need it.
        unknown: Size = (0, 0)
        boxes = truth_boxes_from_message(annotation, names=vocabulary.names)
        return (
            Predictions(unknown, detections_from_message(prediction, names=vocabulary.names), None, None),
            Truth(unknown, boxes, None, None),
        )
    mask, truth = mask_from_message(prediction), mask_from_message(annotation)
    masks = {"semantic": (mask, None), "drivable": (None, mask)}[vocabulary.task]
    truths = {"semantic": (truth, None), "drivable": (None, truth)}[vocabulary.task]
    return Predictions(_size(mask), None, *masks), Truth(_size(truth), None, *truths)


def _size(mask: UInt8) -> Size:
    return (mask.shape[0], mask.shape[1])
