"""Predictions against annotation: of a replayed or recorded bag, or of a data set's files directly.

Both ways hand the same numbers to the same ``metrics.Evaluator``.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tqdm import tqdm

from lvad_perception.bags.problems import Problems, message_text, tell_stderr
from lvad_perception.bags.storage import BagReader, open_bag
from lvad_perception.bags.topics import Side, listing, side_of
from lvad_perception.bdd100k import Split, open_split, read_image
from lvad_perception.errors import (
    BagError,
    DatasetError,
    EngineError,
    ImageError,
    LabelError,
    MessageError,
    VocabularyMismatchError,
)
from lvad_perception.messages import (
    Message,
    check_label_info,
    detections_from_message,
    mask_from_message,
    stamp_ns,
    truth_boxes_from_message,
)
from lvad_perception.metrics import Evaluator, Metrics
from lvad_perception.perceiver import Perceiver
from lvad_perception.types import Predictions, Size, Truth, UInt8
from lvad_perception.vocabulary import TASKS

PENDING: Final = 64
"""So many images of a topic may wait for their counterpart; the oldest gives way. At 30 Hz that is two seconds."""


def evaluate_bag(bag: Path, *, tell: Callable[[str], None] = tell_stderr, progress: bool = False) -> Metrics:
    """Metrics of all cameras of a bag that holds predictions and annotation.

    Predictions and annotation are paired by task, camera and header stamp. Annotation without a prediction (a corrupt
    or dropped image) is told and left out; predictions without annotation are passed over.

    Args:
        bag: what ``replay`` wrote, or a recording of the node with annotation.
        tell: is handed one line for each message that is left out.
        progress: show a bar on standard error.

    Raises:
        BagError: the bag is unreadable, or lacks predictions or annotation, or none of them fit together.
        VocabularyMismatchError: the bag lists other classes.
    """
    bag = Path(bag)
    problems = Problems(tell)
    evaluator = Evaluator()
    with open_bag(bag) as reader:
        sides = _sides(reader)
        joins: dict[tuple[str, str], _Join] = {}
        indices: Counter[str] = Counter()
        connections = [connection for connection in reader.connections if connection.topic in sides]
        total = sum(connection.msgcount for connection in connections)
        for connection, bag_stamp_ns, raw in tqdm(
            reader.messages(connections),
            desc="evaluate",
            total=total,
            unit="message",
            disable=None if progress else True,
        ):
            side = sides[connection.topic]
            what = message_text(indices[connection.topic], bag_stamp_ns)
            indices[connection.topic] += 1
            try:
                msg = reader.deserialize(raw, connection)
                if side.label_info:
                    check_label_info(msg, TASKS[side.task], source="label info")
                    continue
                pair = joins.setdefault((side.camera, side.task), _Join(problems)).add(side, msg, what)
                if pair is not None:
                    evaluator.add(*_values(side.task, *pair))
            except VocabularyMismatchError as err:
                raise VocabularyMismatchError(f"{bag}: {connection.topic} {what}: {err}") from err
            except (BagError, MessageError, DatasetError, EngineError) as err:
                problems.add(connection.topic, what, err)
        for join in joins.values():
            join.finish()
    try:
        return evaluator.compute()
    except DatasetError as err:
        raise BagError(
            f"no prediction in {bag} has the stamp of an annotated image; replay the annotated bag itself"
        ) from err


def evaluate_dataset(
    perceiver: Perceiver,
    root: Path,
    split: str,
    *,
    limit: int | None = None,
    cache_dir: Path | None = None,
    tell: Callable[[str], None] = tell_stderr,
    progress: bool = False,
) -> Metrics:
    """Metrics of a model on the annotated images of a split in BDD100K's layout, without a bag.

    Args:
        perceiver: with a score threshold of 0.
        root: folder with ``images`` and ``labels``.
        split: name of the split.
        limit: look at only so many images, the first by name.
        cache_dir: where parsed labels are kept; the user's cache folder when None.
        tell: is handed one line for each image or annotation that is left out.
        progress: show a bar on standard error.

    Raises:
        DatasetError: no such folder or split, or no annotation for any of the model's tasks.
        LabelError: a label file cannot be read at all.
        EngineError: the engine failed.
    """
    data = open_split(Path(root), split, cache_dir=cache_dir)
    problems = Problems(tell)
    evaluator = Evaluator(perceiver.manifest.classes)
    images: list[UInt8] = []
    truths: list[Truth] = []

    def flush() -> None:
        for predictions, truth in zip(perceiver(images), truths, strict=True):
            evaluator.add(predictions, truth)
        images.clear()
        truths.clear()

    count = len(data) if limit is None else min(limit, len(data))
    for index in tqdm(range(count), desc="evaluate", unit="image", disable=None if progress else True):
        if not data.annotated(index) & perceiver.manifest.classes.keys():
            continue
        try:
            image = read_image(data.image_path(index))
        except ImageError as err:
            problems.add(f"{data.name} images", data.name_of(index), err)
            continue
        images.append(image)
        truths.append(_truth(data, index, (image.shape[0], image.shape[1]), problems))
        if len(images) == perceiver.manifest.batch_size:
            flush()
    flush()
    return evaluator.compute()


@dataclass(frozen=True, slots=True)
class _Half:
    """A message that waits for its counterpart, and what to call it."""

    side: Side
    msg: Message
    what: str


class _Join:
    """Pairs predictions and annotation of one camera and task by stamp, in bounded memory."""

    def __init__(self, problems: Problems) -> None:
        self._problems = problems
        self._waiting: dict[bool, dict[int, _Half]] = {True: {}, False: {}}  # by Side.truth, in the order of arrival

    def add(self, side: Side, msg: Message, what: str) -> tuple[Message, Message] | None:
        """(prediction, annotation) once both are there, else None."""
        stamp = stamp_ns(msg.header)
        counterpart = self._waiting[not side.truth].pop(stamp, None)
        if counterpart is not None:
            return (counterpart.msg, msg) if side.truth else (msg, counterpart.msg)
        waiting = self._waiting[side.truth]
        if stamp in waiting:
            self._problems.add(
                side.topic, what, "its header stamp occurs twice, so it cannot be paired; stamp each image"
            )
            return None
        waiting[stamp] = _Half(side, msg, what)
        if len(waiting) > PENDING:
            self._give_up(waiting.pop(next(iter(waiting))))
        return None

    def finish(self) -> None:
        """Tell of all annotation that no prediction came for."""
        for half in self._waiting[True].values():
            self._give_up(half)

    def _give_up(self, half: _Half) -> None:
        if half.side.truth:
            self._problems.add(half.side.topic, half.what, "it has no prediction with its stamp and is left out")


def _sides(reader: BagReader) -> dict[str, Side]:
    """Topic -> what it holds, for tasks with both predictions and annotation. Raises BagError when there is none."""
    sides = {
        connection.topic: side
        for connection in reader.connections
        if connection.msgcount and (side := side_of(connection.topic, connection.msgtype)) is not None
    }
    halves = {truth: {(s.camera, s.task) for s in sides.values() if s.truth is truth} for truth in (True, False)}
    found = listing(connection.topic for connection in reader.connections)
    if not halves[True]:
        raise BagError(
            f"{reader.path} has no annotation, only {found}; "
            "make an annotated bag with: lvad-perception bag from-bdd100k"
        )
    if not halves[False]:
        raise BagError(f"{reader.path} has no predictions, only {found}; run lvad-perception replay on it first")
    both = halves[True] & halves[False]
    if not both:
        raise BagError(
            f"{reader.path} has no task with both predictions and annotation, only {found}; "
            "annotate a task that the model has"
        )
    return {topic: side for topic, side in sides.items() if (side.camera, side.task) in both}


def _values(task: str, prediction: Message, annotation: Message) -> tuple[Predictions, Truth]:
    """One task's halves of an image as the evaluator takes them. Raises as the readers of ``messages`` do."""
    if task == "detection":
        # Boxes alone do not say how large their image is, and the evaluation of boxes does not ask.
        unknown: Size = (0, 0)
        boxes = truth_boxes_from_message(annotation)
        return (
            Predictions(unknown, detections_from_message(prediction), None, None),
            Truth(unknown, boxes, None, None),
        )
    mask, truth = mask_from_message(prediction), mask_from_message(annotation)
    masks = {"semantic": (mask, None), "drivable": (None, mask)}[task]
    truths = {"semantic": (truth, None), "drivable": (None, truth)}[task]
    return Predictions(_size(mask), None, *masks), Truth(_size(truth), None, *truths)


def _size(mask: UInt8) -> Size:
    return (mask.shape[0], mask.shape[1])


def _truth(data: Split, index: int, size_hw: Size, problems: Problems) -> Truth:
    """An image's annotation; a task whose annotation is broken is told and None."""
    readers = {"detection": data.boxes, "semantic": data.semantic, "drivable": data.drivable}
    found: dict[str, Any] = {}
    for task, read in readers.items():
        try:
            found[task] = read(index, size_hw)
        except LabelError as err:
            problems.add(f"{data.name} {task} labels", data.name_of(index), err)
    return Truth(size_hw, found.get("detection"), found.get("semantic"), found.get("drivable"))
