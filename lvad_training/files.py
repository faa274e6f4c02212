"""Files that are there whole or not at all, whatever ends the process or fills the disk."""

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from lvad_perception.errors import LvadError


@contextlib.contextmanager
def replacing(path: Path, *, partial: Path) -> Iterator[BinaryIO]:
    """A file to write to that becomes ``path`` when the block ends: a kill leaves the old content or the new.

    Args:
        path: what is replaced; its folder is made.
        partial: where it is written meanwhile, in the same folder. Writers that may meet need names of their own; with
            a fixed name, what a kill leaves is overwritten the next time.

    Raises:
        OSError: it cannot be written; like every exception of the block this leaves ``path`` as it was, and no partial.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())  # or a power cut could leave the name without the content
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file whole or not at all, as ``replacing`` does; several processes may write the same one.

    Args:
        path: the file; its folder is made.
        content: text, which is written in UTF-8, or bytes.

    Raises:
        OSError: it cannot be written; ``path`` is as it was.
    """
    with replacing(path, partial=path.with_name(f".{path.name}.{os.getpid()}.partial")) as file:
        file.write(content.encode() if isinstance(content, str) else content)


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
