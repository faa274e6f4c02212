"""Evaluation of a bag with predictions and annotation, or of a model on a data set without a bag.

Both give the same metrics for the same images.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Final

from tqdm import tqdm

from lvad_perception.bags.annotation import read_truth
from lvad_perception.bags.error_log import ErrorLog, message_text, report_to_stderr
from lvad_perception.bags.pairing import Pairing, frame_key
from lvad_perception.bags.reader import BagReader, open_bag
from lvad_perception.bags.storage import Location
from lvad_perception.datasets.layout import open_split, vocabulary_name
from lvad_perception.errors import BagError, DatasetError, ImageError, VocabularyMismatchError
from lvad_perception.media.images import read_image
from lvad_perception.messages import Message, check_label_info, stamp_ns
from lvad_perception.metrics import Evaluator, Metrics
from lvad_perception.perceiver import Perceiver
from lvad_perception.topics import Side, listing, side_of
from lvad_perception.types import Truth, UInt8
from lvad_perception.vocabulary import VOCABULARIES, Vocabulary

_OWNERS: Final = {"bdd100k": "BDD100K's", "nuimages": "nuImages'"}


def evaluate_bag(bag: Path, *, report: Callable[[str], None] = report_to_stderr, progress: bool = False) -> Metrics:
    """Metrics of all cameras of a bag with predictions and annotation.

    Predictions and annotation are paired by task, camera and header stamp, however far apart they are in the bag.
    Annotation without a prediction (of a corrupt or dropped image) is reported and left out; predictions without
    annotation are ignored. The classes are those that the annotation lists: BDD100K's or nuImages'.

    Args:
        bag: the output of ``replay``, or a recording of the node with annotation.
        report: called with one line for each message that is left out.
        progress: show a progress bar on standard error.

    Raises:
        BagError: the bag is unreadable, lacks predictions or annotation, or no two of them can be paired.
        VocabularyMismatchError: the bag lists other classes.
    """
    bag = Path(bag)
    with open_bag(bag) as reader, unpaired_is_bag_error(bag):
        return pair_bag(reader, report=report, progress=progress).finish()


def pair_bag(
    reader: BagReader,
    *,
    report: Callable[[str], None] = report_to_stderr,
    progress: bool = False,
    stamps: dict[str, int] | None = None,
) -> Pairing:
    """Pair the predictions and annotation of a bag as ``evaluate_bag`` does.

    Args:
        reader: the bag.
        report: called with one line for each message that is left out.
        progress: show a progress bar on standard error.
        stamps: filled with ``frame_key`` -> bag time stamp of each annotated image; the result then has findings of
            each image. None for metrics only, in bounded memory.

    Raises:
        BagError: the bag lacks predictions or annotation.
        VocabularyMismatchError: the bag lists other classes.
    """
    errors = ErrorLog(report)
    sides = _sides(reader)
    pairing = Pairing(errors, by_frame=stamps is not None, vocabularies=_vocabularies(reader, sides))
    indices: Counter[str] = Counter()
    connections = [connection for connection in reader.connections if connection.topic in sides]
    total = sum(connection.msgcount for connection in connections)

    def read_again(connection: Any, location: Location) -> Message:
        return reader.deserialize(reader.read(location), connection)

    for connection, bag_stamp_ns, raw, location in tqdm(
        reader.located_messages(connections, errors=errors),
        desc="evaluate",
        total=total,
        unit="message",
        disable=None if progress else True,
    ):
        side, name = sides[connection.topic], message_text(indices[connection.topic], bag_stamp_ns)
        indices[connection.topic] += 1
        try:
            msg = reader.deserialize(raw, connection)
            pairing.add(side, msg, name, read_again=partial(read_again, connection, location))
            if stamps is not None and side.truth and not side.label_info:
                stamps[frame_key(side.camera, stamp_ns(msg.header))] = bag_stamp_ns
        except VocabularyMismatchError as err:
            raise VocabularyMismatchError(f"{reader.path}: {err}") from err
        except BagError as err:
            errors.add(connection.topic, name, err)
    return pairing


@contextmanager
def unpaired_is_bag_error(bag: Path) -> Iterator[None]:
    """Translate ``Pairing``'s DatasetError, nothing was paired, to a BagError that names the bag."""
    try:
        yield
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
    report: Callable[[str], None] = report_to_stderr,
    progress: bool = False,
) -> Metrics:
    """Metrics of a model on the annotated images of a split of BDD100K or nuImages, without a bag.

    Args:
        perceiver: the model, with a score threshold of 0.
        root: folder of the data set, of a layout that ``datasets.layout`` recognizes.
        split: name of the split.
        limit: evaluate only the first images by name; None for all.
        cache_dir: folder of parsed labels; the user's cache folder when None.
        report: called with one line for each image or annotation that is left out.
        progress: show a progress bar on standard error.

    Raises:
        DatasetError: no such folder or split, or no annotation for any of the model's tasks.
        LabelError: a label file cannot be read at all.
        VocabularyMismatchError: the model has other classes than the data set.
        EngineError: the engine failed.
    """
    root = Path(root)
    dataset = vocabulary_name(root)
    data = open_split(root, split, cache_dir=cache_dir)
    vocabularies = VOCABULARIES[dataset]
    owner = _OWNERS.get(dataset, f"{dataset}'s")
    perceiver.manifest.require(vocabularies, by=f"an evaluation on {owner} annotation in {root}")
    errors = ErrorLog(report)
    evaluator = Evaluator(perceiver.manifest.classes, vocabularies=vocabularies)
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
            errors.add(f"{data.name} images", data.name_of(index), err)
            continue
        images.append(image)
        truths.append(read_truth(data, index, (image.shape[0], image.shape[1]), errors))
        if len(images) == perceiver.manifest.batch_size:
            flush()
    flush()
    return evaluator.compute()


def _sides(reader: BagReader) -> dict[str, Side]:
    """Topic -> its role, for tasks with both predictions and annotation. Raises BagError when there is none."""
    sides = {
        connection.topic: side
        for connection in reader.connections
        if connection.msgcount and (side := side_of(connection.topic, connection.msgtype)) is not None
    }
    halves = {truth: {(s.camera, s.task) for s in sides.values() if s.truth is truth} for truth in (True, False)}
    topics = listing(connection.topic for connection in reader.connections)
    if not halves[True]:
        raise BagError(
            f"{reader.path} has no annotation, only {topics}; "
            "make an annotated bag with: lvad-perception bag from-dataset"
        )
    if not halves[False]:
        raise BagError(f"{reader.path} has no predictions, only {topics}; run lvad-perception replay on it first")
    both = halves[True] & halves[False]
    if not both:
        raise BagError(
            f"{reader.path} has no task with both predictions and annotation, only {topics}; "
            "annotate a task that the model has"
        )
    return {topic: side for topic, side in sides.items() if (side.camera, side.task) in both}


def _vocabularies(reader: BagReader, sides: Mapping[str, Side]) -> dict[str, Vocabulary]:
    """Task -> the known vocabulary that the annotation's ``LabelInfo`` lists; tasks without one are absent."""
    vocabularies = {}
    lists = [
        connection
        for connection in reader.connections
        if (side := sides.get(connection.topic)) is not None and side.truth and side.label_info
    ]
    for connection, _, raw in reader.messages(lists):
        task = sides[connection.topic].task
        for known in VOCABULARIES.values():
            with suppress(BagError, VocabularyMismatchError, KeyError):  # the evaluation itself reports it
                check_label_info(reader.deserialize(raw, connection), known[task], source=connection.topic)
                vocabularies[task] = known[task]
    return vocabularies
