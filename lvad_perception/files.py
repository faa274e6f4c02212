"""The one way to write a file or folder: it is there whole or not at all, whatever ends the process or fills the disk.

What is written becomes a *draft* beside its place first, a hidden file that is renamed at the end. Symbolic links are
followed: what they lead to is replaced, and they stay. Devices, pipes and the file that standard output goes to are
never replaced; a finished draft is written into them.
"""

import contextlib
import functools
import hashlib
import os
import platform
import re
import shutil
import stat
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, Final

from lvad_perception.errors import LvadError

_DRAFT: Final = re.compile(r"\..+\.(?P<place>[0-9a-f]{8})-(?P<process>\d+)-[0-9a-f]{8}\.partial(?:\..*)?")
_LONGEST_STEM: Final = 100
"""Bytes of a file's own name in that of its draft, so that a long name does not become too long."""
_STALE_AFTER_S: Final = 24 * 3600


@contextlib.contextmanager
def draft(path: Path, *, scratch: Path | None = None, durable: bool = True) -> Iterator[Path]:
    """A name to write a file or a folder to, which takes the place of ``path`` when the block ends.

    A kill leaves the old content or the new, and so does a power cut where it is a file. Writers of the same file may
    meet: each has a draft of its own, and the last one wins, whole. What a killed process left is removed by the next
    one that writes into the folder.

    Args:
        path: what is replaced; its folder is made. A folder is replaced only if it is empty. What was there keeps its
            permissions.
        scratch: folder for the draft, of the same file system; that of the file itself when None.
        durable: wait until a file's content is on the disk. Who writes many waits for all of them with ``sync``.

    Yields:
        The draft's path; nothing is there yet. A block that leaves it so leaves ``path`` as it was.

    Raises:
        OSError: it cannot be written; like every exception of the block this leaves ``path`` as it was, and no draft.
    """
    flows = _takes_what_comes(path)
    target = Path(os.path.realpath(path))
    folder = Path(tempfile.gettempdir()) if flows else scratch or target.parent
    if not flows:
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(folder)
    stem = os.fsdecode(os.fsencode(path.stem)[:_LONGEST_STEM])
    own = folder / f".{stem}.{_place()}-{os.getpid()}-{uuid.uuid4().hex[:8]}.partial{path.suffix}"
    try:
        yield own
        if own.is_dir():
            own.rename(target)
        elif own.exists():
            if flows:
                _pour(own, path)
            else:
                _replace(target, own, durable=durable)
    finally:
        _remove(own)


@contextlib.contextmanager
def replacing(path: Path, *, scratch: Path | None = None, durable: bool = True) -> Iterator[BinaryIO]:
    """A file to write to that becomes ``path`` when the block ends; arguments and errors are those of ``draft``."""
    with draft(path, scratch=scratch, durable=durable) as own, own.open("wb") as file:
        yield file


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file; text in UTF-8. Arguments and errors are those of ``draft``."""
    with replacing(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def sync(paths: Iterable[Path]) -> None:
    """Return once the content of files, and the names in folders, would survive a power cut. Raises OSError."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def withdrawn(path: Path, *, unless: Callable[[], bool]) -> Iterator[None]:
    """A block that begins by writing ``path``, to say what its folder is for; refused input leaves no trace of it.

    When the block raises ``LvadError``, the file goes, and with it the folders that were made for it and are empty now.
    A file that was there before stays.

    Args:
        path: the file.
        unless: whether the block made something by then that the file is needed for.
    """
    was_there = path.exists()
    made = [folder for folder in path.parents if not folder.exists()]
    try:
        yield
    except LvadError:
        if not was_there and not unless():
            with contextlib.suppress(OSError):  # up to the first folder that holds something
                path.unlink(missing_ok=True)
                for folder in made:
                    folder.rmdir()
        raise


def _takes_what_comes(path: Path) -> bool:
    """Whether a path leads to a device, a pipe or a socket, or to what this process has as standard output or error."""
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return not (stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)) or _standard(path) is not None


def _standard(path: Path) -> int | None:
    """The descriptor of standard output or error that a path leads to, as /dev/stdout does; None of any other."""
    for descriptor in (1, 2):
        with contextlib.suppress(OSError):  # closed
            if os.path.samestat(path.stat(), os.fstat(descriptor)):
                return descriptor
    return None


def _pour(own: Path, path: Path) -> None:
    """Write a finished draft into a device or pipe; behind what was printed where that goes to the same."""
    for printed in (sys.stdout, sys.stderr):
        if printed is not None:
            printed.flush()
    standard = _standard(path)
    with own.open("rb") as source, path.open("wb") if standard is None else os.fdopen(os.dup(standard), "wb") as sink:
        shutil.copyfileobj(source, sink)


def _replace(target: Path, own: Path, *, durable: bool) -> None:
    if durable:  # or a power cut could leave the name without the content
        sync([own])
    with contextlib.suppress(FileNotFoundError):
        before = target.stat()
        with contextlib.suppress(PermissionError):
            os.chown(own, before.st_uid, before.st_gid)
        own.chmod(stat.S_IMODE(before.st_mode))
    own.replace(target)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):  # the reason why it came to this is told instead
            path.unlink()


@functools.cache  # once in a process: a folder may have a hundred thousand files
def _remove_abandoned(folder: Path) -> None:
    """Remove drafts of processes that are no more, and those of other machines that nobody has touched for a day."""
    with contextlib.suppress(OSError):
        for entry in os.scandir(folder):
            name = _DRAFT.fullmatch(entry.name)
            if name is None:
                continue
            here = name["place"] == _place()
            if (here and not _is_running(int(name["process"]))) or time.time() - entry.stat().st_mtime > _STALE_AFTER_S:
                _remove(Path(entry.path))


@functools.cache
def _place() -> str:
    """Of this boot of this machine and of this container: where a number means one process."""
    facts = [platform.node()]
    with contextlib.suppress(OSError):  # not Linux
        facts += [Path("/proc/sys/kernel/random/boot_id").read_text(), str(Path("/proc/self/ns/pid").readlink())]
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:8]


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):  # somebody else's
        pass
    return True
