"""What is done, frame by frame, so that work goes on after a kill or a power cut: files of JSON lines that only grow,
one per process.

What has a line is on the disk. Waiting for a disk takes milliseconds, so lines are written together, about once a
second, after all that they stand for: a kill or a power cut costs that second.
"""

import errno
import os
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Final, Generic, TypeVar

import msgspec

from lvad_perception.datasets.formats import JSON_ERRORS
from lvad_perception.errors import DatasetError
from lvad_perception.files import sync

WRITE_EVERY_S: Final = 1.0


class Record(msgspec.Struct, frozen=True):
    """What is remembered of one finished frame; subclasses add to it."""

    frame: str


AnyRecord = TypeVar("AnyRecord", bound=Record)


class Journal(Generic[AnyRecord]):
    """The finished frames of one piece of work. Every process appends to a file of its own; anyone may read them all.

    A line counts once it is whole: what a kill cut off is ignored when reading, and cut away by the next writer.

    Args:
        folder: where the files are; made by the first writer.
        name: of the work, first part of the file names.
        kind: the type of a record.
        keep: returns once all that the records so far stand for is on the disk.
    """

    def __init__(
        self, folder: Path, name: str, kind: type[AnyRecord], *, keep: Callable[[], None] = lambda: None
    ) -> None:
        self._folder = folder
        self._name = name
        self._keep = keep
        self._decoder = msgspec.json.Decoder(kind)

    def read(self) -> dict[str, AnyRecord]:
        """All records by frame. No process may be writing meanwhile.

        Raises:
            DatasetError: a file holds a whole line that is no record.
        """
        found: dict[str, AnyRecord] = {}
        for path in sorted(self._folder.glob(f"{self._name}.*.jsonl")):
            lines = path.read_bytes().split(b"\n")
            for number, line in enumerate(lines[:-1], start=1):  # the last is empty, or torn
                try:
                    record = self._decoder.decode(line)
                except JSON_ERRORS as err:
                    raise DatasetError(
                        f"{path}: line {number} is damaged ({err}); delete the file to make its labels again"
                    ) from err
                found[record.frame] = record
        return found

    def writer(self, process: int) -> "JournalWriter":
        """The file of one process, to be appended to."""
        return JournalWriter(self._folder / f"{self._name}.{process}.jsonl", self._keep)


class JournalWriter:
    """Appends records to one file, at the latest when it is closed."""

    def __init__(self, path: Path, keep: Callable[[], None]) -> None:
        self._path = path
        self._keep = keep
        self._lines: list[bytes] = []
        self._written = time.monotonic()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        whole = path.read_bytes().rfind(b"\n") + 1
        os.truncate(path, whole)
        sync([path.parent])
        self._file = path.open("ab", buffering=0)

    def append(self, record: Record) -> None:
        """Add one record. Raises DatasetError when records cannot be written."""
        self._lines.append(msgspec.json.encode(record) + b"\n")
        if time.monotonic() - self._written >= WRITE_EVERY_S:
            self._write()

    def _write(self) -> None:
        lines, self._lines = b"".join(self._lines), []
        try:
            self._keep()
            if self._file.write(lines) != len(lines):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(self._file.fileno())
        except OSError as err:
            raise DatasetError(f"{self._path} cannot be written ({err.strerror}); free space, then go on") from err
        self._written = time.monotonic()

    def __enter__(self) -> "JournalWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._lines:
                self._write()
        finally:
            self._file.close()
