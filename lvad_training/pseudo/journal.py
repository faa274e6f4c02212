"""Append-only journals of finished frames, one JSON-lines file per process, from which interrupted work resumes.

A frame's line is written only after its files are on disk. Syncing takes milliseconds, so lines are written in batches,
about once a second: a kill or a power cut loses at most that second.
"""

import errno
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, Generic, TypeVar

import msgspec

from lvad_perception.datasets.formats import JSON_ERRORS
from lvad_perception.errors import DatasetError
from lvad_perception.files import sync

WRITE_EVERY_S: Final = 1.0


class Record(msgspec.Struct, frozen=True):
    """The entry of one finished frame; subclasses add fields."""

    frame: str


AnyRecord = TypeVar("AnyRecord", bound=Record)


class Journal(Generic[AnyRecord]):
    """The finished frames of one task. Each process appends to its own file; reading merges the files of all.

    A torn last line, left by a kill, is ignored when reading and truncated by the next writer.

    Args:
        folder: folder of the files; the first writer creates it.
        name: of the task, first part of the file names.
        kind: the type of a record.
        sync_files: called before lines are written; flushes the files of all records so far to disk.
    """

    def __init__(
        self, folder: Path, name: str, kind: type[AnyRecord], *, sync_files: Callable[[], None] = lambda: None
    ) -> None:
        self._folder = folder
        self._name = name
        self._sync_files = sync_files
        self._decoder = msgspec.json.Decoder(kind)

    def read(self) -> dict[str, AnyRecord]:
        """All records by frame. No process may write meanwhile.

        Raises:
            DatasetError: a complete line is not a record.
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
        """Open the file of one process for appending."""
        return JournalWriter(self._folder / f"{self._name}.{process}.jsonl", self._sync_files)


class JournalWriter:
    """Appends records to one file, in batches; closing writes the rest."""

    def __init__(self, path: Path, sync_files: Callable[[], None]) -> None:
        self._path = path
        self._sync_files = sync_files
        self._lines: list[bytes] = []
        self._written = time.monotonic()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        os.truncate(path, path.read_bytes().rfind(b"\n") + 1)  # a torn last line
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
            self._sync_files()
            if self._file.write(lines) != len(lines):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(self._file.fileno())
        except OSError as err:
            raise DatasetError(f"{self._path} cannot be written ({err.strerror}); free space, then go on") from err
        self._written = time.monotonic()

    def __enter__(self) -> "JournalWriter":
        return self

    def __exit__(self, *_: object) -> None:
        try:
            if self._lines:
                self._write()
        finally:
            self._file.close()
