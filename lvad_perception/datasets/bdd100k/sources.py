"""Chooses among several label files of a split, and notes every one that is skipped."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lvad_perception.datasets.bdd100k.index import LabelTable
from lvad_perception.datasets.bdd100k.tree import is_copy, is_published
from lvad_perception.datasets.formats import OtherFormatError


@dataclass(frozen=True, slots=True)
class Note:
    """A file that was skipped, in whole or in part, when a split was opened.

    Attributes:
        file: the file or folder.
        message: the part that is not used, and why.
    """

    file: Path
    message: str


def choose_tables(
    paths: Sequence[Path], split: str, open_table: Callable[[Path], LabelTable]
) -> tuple[list[LabelTable], list[Note]]:
    """Choose the label tables of one task.

    Copies of a file with the published name are skipped: files that are named as copies ("det_val-orig", "det_val
    (1)"), and files that share most of their frames with it. Other files add their frames. A file of another format is
    skipped, unless it has the published name.

    Args:
        paths: label files and folders of one file per frame, best first.
        split: name of the split.
        open_table: opens one; raises LabelError where it cannot be read.

    Returns:
        (tables, best first; notes on what is not used).

    Raises:
        LabelError: a file that is used cannot be read.
    """
    used: list[LabelTable] = []
    notes: list[Note] = []
    for path in paths:
        published = path.is_dir() or is_published(path, split)
        sibling = next((each for each in paths if each.parent == path.parent and is_published(each, split)), None)
        if not published and sibling is not None and is_copy(path, split):
            notes.append(Note(path, f"a copy by its name; {sibling.name} counts, so it is not used"))
            continue
        table = open_table(path)
        foreign = table.problems.other_formats
        if foreign and not path.is_dir():
            (format_name,) = foreign.values()
            if published:
                raise OtherFormatError(path, format_name)
            notes.append(Note(path, f"{format_name}, no label file of BDD100K; not used"))
            continue
        notes += [
            Note(path, f"{count} of its files are {format_name}, no label files of BDD100K; not used")
            for format_name, count in Counter(foreign.values()).items()
        ]
        shared = {other: int((other.rows_of(table.names) >= 0).sum()) for other in used if len(table)}
        shared = {
            other: count
            for other, count in shared.items()
            # Releases in folders of their own list the same frames, and their order is documented.
            if count and not (published and other.source.parent != table.source.parent and _published(other, split))
        }
        if not published and any(_is_copy_of(other, table, count, split) for other, count in shared.items()):
            other, count = max(shared.items(), key=lambda item: item[1])
            message = f"{count} of its {len(table)} frames are in {other.source.name} as well, which counts; not used"
            notes.append(Note(path, message))
            continue
        notes += [
            Note(path, f"{count} of its {len(table)} frames are in {other.source} as well, whose entries count")
            for other, count in shared.items()
        ]
        used.append(table)
    return used, notes


def _published(table: LabelTable, split: str) -> bool:
    return table.source.is_dir() or is_published(table.source, split)


def _is_copy_of(other: LabelTable, table: LabelTable, shared: int, split: str) -> bool:
    """Whether ``other`` is a published table of the same folder and has at least half of the frames of ``table``."""
    return _published(other, split) and other.source.parent == table.source.parent and 2 * shared >= len(table)
