"""Checks that a path is a bag or may become one, and swaps two bags. No bag is opened, so no library is needed."""

import ctypes
import os
import sys
from pathlib import Path
from typing import Final

from lvad_perception.errors import BagError

_STORAGE_SUFFIXES: Final = (".mcap", ".db3")
_COMPRESSED_SUFFIXES: Final = (".zstd", ".zst")


_AT_FDCWD: Final = -100
_RENAME_EXCHANGE: Final = 2


def exchange(first: Path, second: Path) -> bool:
    """Let two existing paths of one file system change their names in one step, so that neither is ever gone.

    Returns:
        Whether they did; False, and nothing has changed, where the system or the file system cannot (``renameat2`` is
        Linux's).
    """
    if sys.platform != "linux":
        return False
    try:
        rename = ctypes.CDLL(None).renameat2
    except AttributeError:  # glibc before 2.28
        return False
    return bool(rename(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE) == 0)


def check_output(path: Path, *, overwrite: bool) -> None:
    """Raise BagError unless a bag may be created at ``path``; for checks before long work."""
    if not path.exists():
        return
    if not overwrite:
        raise BagError(f"{path} exists already; choose another name or replace it with --overwrite")
    if not path.is_dir() or not (_is_bag(path) or not any(path.iterdir())):
        raise BagError(f"{path} exists and is no bag folder, so it is not replaced; choose another name")


def _is_bag(path: Path) -> bool:
    return (path / "metadata.yaml").is_file() or bool(storage_files(path))


def storage_files(folder: Path) -> list[Path]:
    """The storage files in a folder, by their names, compressed or not, in the order of their names."""
    return sorted(file for file in folder.iterdir() if _is_storage(file))


def _is_storage(file: Path) -> bool:
    inner = file.with_suffix("") if file.suffix in _COMPRESSED_SUFFIXES else file
    return inner.suffix in _STORAGE_SUFFIXES


def ros1_bag(path: Path) -> BagError:
    """What to say of a bag of ROS 1."""
    return BagError(f"{path} is a ROS 1 bag; convert it with: rosbags-convert --src {path} --dst {path.stem}")


def check_path(path: Path) -> None:
    """Raise BagError unless a path looks like a bag."""
    if not path.exists():
        raise BagError(f"{path} does not exist; name a bag folder or a .mcap or .db3 file")
    if path.is_file():
        if path.suffix == ".bag":
            raise ros1_bag(path)
        if not _is_storage(path):
            raise BagError(f"{path} is no bag; name a bag folder or a .mcap or .db3 file")
        return
    if not path.is_dir():
        raise BagError(f"{path} is neither a file nor a folder; name a bag folder or a .mcap or .db3 file")
    if not (path / "metadata.yaml").is_file():
        files = storage_files(path)
        if len(files) > 1:
            raise BagError(
                f"{path} has {len(files)} storage files and no metadata.yaml that says how they belong together; "
                f"make it with: ros2 bag reindex {path}"
            )
        if files:
            raise BagError(f"{path} has no metadata.yaml; name the storage file itself: {files[0]}")
        raise BagError(f"{path} is no bag: it has neither metadata.yaml nor a .mcap or .db3 file; name a bag folder")
