"""Checks of BDD100K's folders and label files: masks or labels without image, unused files, skipped labels."""

import itertools
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from lvad_perception.datasets.bdd100k import Bdd100kSplit
from lvad_perception.datasets.bdd100k.index import LabelTable
from lvad_perception.datasets.bdd100k.tree import find_sources, unread_files, unused_labels
from lvad_perception.vocabulary import TASKS
from lvad_training.data.check_problems import Problem, listed, not_evaluated, plural, repeated_names


def has_labels(root: Path, splits: Sequence[Bdd100kSplit]) -> bool:
    """Whether the data set has any label file or mask, even without an image for it."""
    matched = any(split.tables or split.notes or any(find_sources(root, split.name).masks.values()) for split in splits)
    return matched or bool(unused_labels(root))


def bdd100k_problems(root: Path, splits: Sequence[Bdd100kSplit]) -> Iterator[Problem]:
    """Problems that are found without opening an image or a mask; training tolerates all of them."""
    for path in unused_labels(root):
        message = "not used: its name fits no split of the images; rename it or the image folder"
        yield Problem("warning", str(path), message)
    for note in sorted({note for split in splits for note in split.notes}, key=lambda note: (note.file, note.message)):
        yield Problem("warning", str(note.file), note.message)
    unread = {folder: names for split in splits for folder, names in unread_files(root, split.name).items()}
    for folder, names in unread.items():
        message = f"{plural(len(names), 'file')} of an ending that is not read here: {listed(names)}; not used"
        yield Problem("warning", folder, message)
    for split in splits:
        yield from _unmatched_files(root, split)
    yield from repeated_names(splits)
    for table in {table.source: table for split in splits for table in split.tables}.values():
        yield from _label_problems(table)


def _unmatched_files(root: Path, split: Bdd100kSplit) -> Iterator[Problem]:
    """Masks and label entries without image, and images without any annotation."""
    sources = find_sources(root, split.name)
    images = {name for folder in sources.images for name in folder.files}
    composed = {unicodedata.normalize("NFC", name) for name in images}
    for masks in sources.masks.values():
        for folder in masks:
            yield from _without_image(folder.path, folder.names - images, composed, "mask", "masks")
        for one, other in itertools.combinations(masks, 2):
            if one.path == other.path and (both := sorted(one.names & other.names)):
                message = f"masks of both {one.ending} and {other.ending}: {listed(both)}; {one.ending} counts"
                yield Problem("warning", one.path, message)
    for table in split.tables:
        entries = {bytes(name).decode() for name in table.names}
        yield from _without_image(str(table.source), entries - images, composed, "entry", "entries")
    for image_folder in sources.images:
        if image_folder.shadowed:
            message = f"several images of one name: {listed(sorted(image_folder.shadowed))} not used"
            yield Problem("warning", image_folder.path, message)
    bare = ~np.any([split.annotated_for(task) for task in TASKS], axis=0)
    if bare.any():
        names = [split.name_of(int(i)) for i in np.flatnonzero(bare)]
        message = f"{plural(len(names), 'image')} without annotation: {listed(names)}; not trained on"
        yield Problem("warning", sources.images[0].path, message + (not_evaluated(split.name) if bare.all() else ""))


def _without_image(file: str, names: set[str] | frozenset[str], composed: set[str], *words: str) -> Iterator[Problem]:
    """Names of masks or entries without image; those whose image has another Unicode form are listed separately.

    Args:
        file: where the names come from.
        names: without an image of the same bytes.
        composed: names of all images in NFC.
        words: singular and plural of what has the names.
    """
    other = sorted(name for name in names if unicodedata.normalize("NFC", name) in composed)
    if missing := sorted(names.difference(other)):
        yield Problem("warning", file, f"{plural(len(missing), *words)} without image: {listed(missing)}; not used")
    if other:
        message = (
            f"{plural(len(other), *words)} in another Unicode form (NFC or NFD) than the image's file name: "
            f"{listed(other)}; not used: bring names to one form, as convmv -r -f utf8 -t utf8 --nfc --notest does"
        )
        yield Problem("warning", file, message)


def _label_problems(table: LabelTable) -> Iterator[Problem]:
    file, problems = str(table.source), table.problems
    for category, count in sorted(problems.unknown_categories.items()):
        yield Problem("warning", file, f"unknown category '{category}' of {plural(count, 'label')}; skipped")
    if problems.shapeless:
        yield Problem("warning", file, f"{plural(problems.shapeless, 'label')} without box or shape; skipped")
    for name, count in problems.degenerate_boxes:
        yield Problem("warning", file, f"entry {name}: {count} without area among its boxes; skipped")
    if problems.duplicates:
        names = sorted(set(problems.duplicates))
        yield Problem("warning", file, f"listed more than once: {listed(names)}; the first entry counts")
