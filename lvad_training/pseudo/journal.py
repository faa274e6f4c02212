"""What is done, frame by frame, so that work goes on after a kill: append-only files of JSON lines, one per process."""

import errno
import os
from pathlib import Path
from types import TracebackType
from typing import Generic, TypeVar

import msgspec

from lvad_perception.errors import DatasetError


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
    """

    def __init__(self, folder: Path, name: str, kind: type[AnyRecord]) -> None:
        self._folder = folder
        self._name = name
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
                except msgspec.MsgspecError as err:
                    raise DatasetError(
                        f"{path}: line {number} is damaged ({err}); delete the file to make its labels again"
                    ) from err
                found[record.frame] = record
        return found

    def writer(self, process: int) -> "JournalWriter":
        """The file of one process, to be appended to."""
        return JournalWriter(self._folder / f"{self._name}.{process}.jsonl")


class JournalWriter:
    """Appends records to one file; each is with the operating system, whole, when ``append`` returns."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        whole = path.read_bytes().rfind(b"\n") + 1
        os.truncate(path, whole)
        self._file = path.open("ab", buffering=0)

    def append(self, record: Record) -> None:
        """Add one record. Raises DatasetError when it cannot be written."""
        line = msgspec.json.encode(record) + b"\n"
        try:
            if self._file.write(line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as err:
            raise DatasetError(f"{self._path} cannot be written ({err.strerror}); free space, then go on") from err

    def __enter__(self) -> "JournalWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
