"""Atomic writing: a file or folder appears complete or not at all, even after a crash.

Content is first written to a *draft*, a hidden file beside its target, which is renamed at the end; a full disk or a
killed process leaves the target as it was. Symbolic links are followed, so that their target is replaced. Devices,
pipes and the file behind standard output are never replaced; the complete draft is copied into them.
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

_DRAFT: Final = re.compile(r"\..+\.(?P<host>[0-9a-f]{8})-(?P<process>\d+)-[0-9a-f]{8}\.partial(?:\..*)?")
_LONGEST_STEM: Final = 100
"""Bytes of the file's stem in the name of its draft, so that a long name does not exceed the system's limit."""
_STALE_AFTER_S: Final = 24 * 3600


@contextlib.contextmanager
def draft(path: Path, *, scratch: Path | None = None, durable: bool = True) -> Iterator[Path]:
    """A temporary path to write a file or folder to, which replaces ``path`` when the block ends.

    A killed process leaves the old content or the new one, and so does a power cut for a file. Concurrent writers have
    a draft each, and the last one to finish wins. Drafts of killed processes are removed by the next process that
    writes into the folder.

    Args:
        path: file or folder to replace; its parent folder is created. A folder is replaced only if it is empty. A
            replaced file keeps its owner and permissions.
        scratch: folder for the draft, on the same file system; the parent folder of ``path`` when None.
        durable: wait until a file's content is on the disk. To write many files, pass False and ``sync`` them together.

    Yields:
        Path of the draft, which does not exist yet. If the block does not create it, ``path`` stays as it was.

    Raises:
        OSError: ``path`` cannot be written. After this or any exception of the block, ``path`` is as it was and the
            draft is removed.
    """
    is_stream = _is_stream(path)
    target = Path(os.path.realpath(path))
    folder = Path(tempfile.gettempdir()) if is_stream else scratch or target.parent
    if not is_stream:
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(folder)
    stem = os.fsdecode(os.fsencode(path.stem)[:_LONGEST_STEM])
    temporary = folder / f".{stem}.{_host_id()}-{os.getpid()}-{uuid.uuid4().hex[:8]}.partial{path.suffix}"
    try:
        yield temporary
        if temporary.is_dir():
            temporary.rename(target)
        elif temporary.exists():
            if is_stream:
                _copy_into_stream(temporary, path)
            else:
                _replace(target, temporary, durable=durable)
    finally:
        _remove(temporary)


@contextlib.contextmanager
def replacing(path: Path, *, scratch: Path | None = None, durable: bool = True) -> Iterator[BinaryIO]:
    """A binary file that replaces ``path`` when the block ends; arguments and errors as in ``draft``."""
    with draft(path, scratch=scratch, durable=durable) as temporary, temporary.open("wb") as file:
        yield file


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file atomically, text as UTF-8; errors as in ``draft``."""
    with replacing(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def sync(paths: Iterable[Path]) -> None:
    """Flush files, or the names in folders, to the disk, so that they survive a power cut. Raises OSError."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def removed_on_error(path: Path, *, unless: Callable[[], bool]) -> Iterator[None]:
    """A block that writes ``path`` first, to record the purpose of its folder, and leaves no trace where it fails.

    When the block raises ``LvadError``, the file is removed, and so are the folders that were created for it and are
    empty. A file that existed before stays.

    Args:
        path: the file.
        unless: called on the error; whether the block has produced results that need the file.
    """
    existed = path.exists()
    created = [folder for folder in path.parents if not folder.exists()]
    try:
        yield
    except LvadError:
        if not existed and not unless():
            with contextlib.suppress(OSError):  # up to the first folder that is not empty
                path.unlink(missing_ok=True)
                for folder in created:
                    folder.rmdir()
        raise


def _is_stream(path: Path) -> bool:
    """Whether a path is a device, a pipe or a socket, or this process's standard output or error."""
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)) or _standard_stream(path) is not None


def _standard_stream(path: Path) -> int | None:
    """The descriptor of standard output or error that a path refers to, as /dev/stdout does; None for other paths."""
    for descriptor in (1, 2):
        with contextlib.suppress(OSError):  # closed
            if os.path.samestat(path.stat(), os.fstat(descriptor)):
                return descriptor
    return None


def _copy_into_stream(draft: Path, path: Path) -> None:
    """Write a complete draft into a device or pipe, after text that was printed to the same stream."""
    for printed in (sys.stdout, sys.stderr):
        if printed is not None:
            printed.flush()
    standard = _standard_stream(path)
    with draft.open("rb") as source, path.open("wb") if standard is None else os.fdopen(os.dup(standard), "wb") as sink:
        shutil.copyfileobj(source, sink)


def _replace(target: Path, draft: Path, *, durable: bool) -> None:
    if durable:  # otherwise a power cut could leave the name without the content
        sync([draft])
    with contextlib.suppress(FileNotFoundError):
        before = target.stat()
        with contextlib.suppress(PermissionError):
            os.chown(draft, before.st_uid, before.st_gid)
        draft.chmod(stat.S_IMODE(before.st_mode))
    draft.replace(target)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):  # the error that led here is the one to report
            path.unlink()


@functools.cache  # once per process and folder, which may have a hundred thousand files
def _remove_abandoned(folder: Path) -> None:
    """Remove drafts of processes that ended, and drafts of other machines that were not modified for a day."""
    with contextlib.suppress(OSError):
        for entry in os.scandir(folder):
            name = _DRAFT.fullmatch(entry.name)
            if name is None:
                continue
            here = name["host"] == _host_id()
            if (here and not _is_running(int(name["process"]))) or time.time() - entry.stat().st_mtime > _STALE_AFTER_S:
                _remove(Path(entry.path))


@functools.cache
def _host_id() -> str:
    """Identifies the machine, its boot and the container, within which a process id is unique."""
    parts = [platform.node()]
    with contextlib.suppress(OSError):  # not Linux
        parts += [Path("/proc/sys/kernel/random/boot_id").read_text(), str(Path("/proc/self/ns/pid").readlink())]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:8]


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):  # another user's
        pass
    return True
