"""Predictions and annotation, message by message, paired by task, camera and header stamp, and measured.

Of a bag that is read and of one that is played under ROS: both hand their messages to ``Pairing``, so that both get the
same numbers from the same messages.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from lvad_perception.bags.problems import Problems
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
"""So many messages of a topic may wait for their counterpart in memory. At 30 Hz that is two seconds."""


class Pairing:
    """Collects the messages of an evaluation in whatever order they come, in bounded memory.

    Annotation without a prediction (a corrupt or dropped image) is told and left out; predictions without annotation
    are passed over. When more than ``PENDING`` of a topic wait, the oldest of a bag gives up its memory and is read
    again when its counterpart comes, however late; of a topic under ROS, where nothing is read again, it gives way.

    Args:
        problems: is told of each message that is left out.
        by_frame: keep what ``findings`` needs of every image, so that memory grows with their number.
        vocabularies: the classes of predictions and annotation by task; BDD100K's where a task is absent.

    Attributes:
        vocabularies: those classes, of all tasks.
    """

    def __init__(
        self, problems: Problems, *, by_frame: bool = False, vocabularies: Mapping[str, Vocabulary] = TASKS
    ) -> None:
        self.vocabularies: dict[str, Vocabulary] = {**TASKS, **vocabularies}
        self._problems = problems
        self._by_frame = by_frame
        self._evaluator = Evaluator(vocabularies=self.vocabularies)
        self._joins: dict[tuple[str, str], _Join] = {}
        self.paired = 0
        """Predictions that met their annotation so far, all tasks together."""

    def add(self, side: Side, msg: Message, what: str, *, again: Callable[[], Message] | None = None) -> None:
        """Add a message; one that is malformed is told and left out.

        Args:
            side: which topic it is of.
            msg: of ROS's own classes or of rosbags'.
            what: which message of the topic it is, for people.
            again: reads the message once more; None where that cannot be.

        Raises:
            VocabularyMismatchError: it lists other classes than ``vocabularies``.
            BagError: ``again`` cannot read a message that it could read before.
        """
        try:
            if side.label_info:
                check_label_info(msg, self.vocabularies[side.task], source="label info")
                return
            pair = self._joins.setdefault((side.camera, side.task), _Join(self._problems)).add(side, msg, what, again)
            if pair is not None:
                frame = frame_key(side.camera, stamp_ns(msg.header)) if self._by_frame else None
                self._evaluator.add(*_values(self.vocabularies[side.task], *pair), frame=frame)
                self.paired += 1
        except VocabularyMismatchError as err:
            raise VocabularyMismatchError(f"{side.topic} {what}: {err}") from err
        except (MessageError, DatasetError, EngineError) as err:
            self._problems.add(side.topic, what, err)

    @property
    def in_flight(self) -> int:
        """Annotated images whose predictions can still be expected, of the camera and task that has most of them.

        Results come in the order of the images: once one of a later image is there, those before it are not coming.
        """
        return max((join.in_flight for join in self._joins.values()), default=0)

    def finish(self) -> Metrics:
        """Tell of all annotation that no prediction came for, and compute.

        Raises:
            DatasetError: nothing was paired.
        """
        self._tell_unpaired()
        return self._evaluator.compute()

    def findings(self, frames: Mapping[str, FrameMetadata], *, score_threshold: float) -> Findings:
        """As ``finish``, with everything that is found beyond the metrics; images alone only where ``by_frame``.

        Args:
            frames: ``frame_key`` -> what is known of the image.
            score_threshold: least score of the boxes in confusions.

        Raises:
            DatasetError: nothing was paired.
        """
        self._tell_unpaired()
        return self._evaluator.findings(frames, score_threshold=score_threshold)

    def _tell_unpaired(self) -> None:
        for join in self._joins.values():
            join.finish()


def frame_key(camera: str, stamp: int) -> str:
    """Which image: its camera and its header stamp in nanoseconds."""
    return f"{camera} {stamp}"


@dataclass(frozen=True, slots=True)
class _Half:
    """A message that waits for its counterpart, and what to call it; ``index`` counts its topic's messages.

    ``msg`` is None once it only waits to be read ``again``.
    """

    side: Side
    msg: Message | None
    what: str
    index: int
    again: Callable[[], Message] | None

    def message(self) -> Message:
        return self.msg if self.again is None or self.msg is not None else self.again()


class _Join:
    """Pairs predictions and annotation of one camera and task by stamp."""

    def __init__(self, problems: Problems) -> None:
        self._problems = problems
        # By Side.truth and stamp, in the order of arrival: in memory, and to be read again.
        self._waiting: dict[bool, dict[int, _Half]] = {True: {}, False: {}}
        self._put_by: dict[bool, dict[int, _Half]] = {True: {}, False: {}}
        self._counts = {True: 0, False: 0}
        self._newest_paired = -1  # index of annotation

    def add(
        self, side: Side, msg: Message, what: str, again: Callable[[], Message] | None
    ) -> tuple[Message, Message] | None:
        """(prediction, annotation) once both are there, else None."""
        stamp = stamp_ns(msg.header)
        half = _Half(side, msg, what, self._counts[side.truth], again)
        self._counts[side.truth] += 1
        counterpart = self._waiting[not side.truth].pop(stamp, None) or self._put_by[not side.truth].pop(stamp, None)
        if counterpart is not None:
            prediction, truth = (counterpart, half) if side.truth else (half, counterpart)
            self._newest_paired = max(self._newest_paired, truth.index)
            return prediction.message(), truth.message()
        waiting, put_by = self._waiting[side.truth], self._put_by[side.truth]
        if stamp in waiting or stamp in put_by:
            self._problems.add(
                side.topic, what, "its header stamp occurs twice, so it cannot be paired; stamp each image"
            )
            return None
        waiting[stamp] = half
        if len(waiting) > PENDING:
            oldest = next(iter(waiting))
            half = waiting.pop(oldest)
            if half.again is None:
                self._give_up(half)
            else:
                put_by[oldest] = replace(half, msg=None)
        return None

    @property
    def in_flight(self) -> int:
        halves = (*self._put_by[True].values(), *self._waiting[True].values())
        return sum(half.index > self._newest_paired for half in halves)

    def finish(self) -> None:
        """Tell of all annotation that no prediction came for."""
        for half in (*self._put_by[True].values(), *self._waiting[True].values()):
            self._give_up(half)

    def _give_up(self, half: _Half) -> None:
        if half.side.truth:
            self._problems.add(half.side.topic, half.what, "it has no prediction with its stamp and is left out")


def _values(vocabulary: Vocabulary, prediction: Message, annotation: Message) -> tuple[Predictions, Truth]:
    """One task's halves of an image as the evaluator takes them. Raises as the readers of ``messages`` do."""
    if vocabulary.task == "detection":
        # Boxes alone do not say how large their image is, and the evaluation of boxes does not ask.
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
