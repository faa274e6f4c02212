"""Checks of paths of bags, without opening one and without rosbags."""

from pathlib import Path
from typing import Final

from lvad_perception.errors import BagError

_STORAGE_SUFFIXES: Final = (".mcap", ".db3")
_COMPRESSED_SUFFIXES: Final = (".zstd", ".zst")


def check_output(path: Path, *, overwrite: bool) -> None:
    """Raise BagError unless a bag may be created at ``path``; a check before long work."""
    if not path.exists():
        return
    if not overwrite:
        raise BagError(f"{path} exists already; choose another name or replace it with --overwrite")
    if not path.is_dir() or not (_is_bag(path) or not any(path.iterdir())):
        raise BagError(f"{path} exists and is no bag folder, so it is not replaced; choose another name")


def _is_bag(path: Path) -> bool:
    return (path / "metadata.yaml").is_file() or bool(storage_files(path))


def storage_files(folder: Path) -> list[Path]:
    """The storage files in a folder, compressed or not, by suffix and sorted by name."""
    return sorted(file for file in folder.iterdir() if _is_storage(file))


def _is_storage(file: Path) -> bool:
    inner = file.with_suffix("") if file.suffix in _COMPRESSED_SUFFIXES else file
    return inner.suffix in _STORAGE_SUFFIXES


def ros1_bag(path: Path) -> BagError:
    """The error for a bag of ROS 1."""
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
                f"{path} has {len(files)} storage files and no metadata.yaml that lists them; "
                f"make it with: ros2 bag reindex {path}"
            )
        if files:
            raise BagError(f"{path} has no metadata.yaml; name the storage file itself: {files[0]}")
        raise BagError(f"{path} is no bag: it has neither metadata.yaml nor a .mcap or .db3 file; name a bag folder")
