"""Whether a path is a bag, or may become one; without a look inside, so that it takes no library."""

from pathlib import Path
from typing import Final

from lvad_perception.errors import BagError

_STORAGE_SUFFIXES: Final = (".mcap", ".db3")


def check_output(path: Path, *, overwrite: bool) -> None:
    """Raise BagError unless a bag may be created at ``path``; for checks before long work."""
    if not path.exists():
        return
    if not overwrite:
        raise BagError(f"{path} exists already; choose another name or replace it with --overwrite")
    if not path.is_dir() or not (_is_bag(path) or not any(path.iterdir())):
        raise BagError(f"{path} exists and is no bag folder, so it is not replaced; choose another name")


def _is_bag(path: Path) -> bool:
    return (path / "metadata.yaml").is_file() or any(file.suffix in _STORAGE_SUFFIXES for file in path.iterdir())


def check_path(path: Path) -> None:
    """Raise BagError unless a path looks like a bag."""
    if not path.exists():
        raise BagError(f"{path} does not exist; name a bag folder or a .mcap or .db3 file")
    if path.is_file():
        if path.suffix == ".bag":
            raise BagError(f"{path} is a ROS 1 bag; convert it with: rosbags-convert --src {path} --dst {path.stem}")
        if path.suffix not in _STORAGE_SUFFIXES:
            raise BagError(f"{path} is no bag; name a bag folder or a .mcap or .db3 file")
        return
    if not (path / "metadata.yaml").is_file():
        files = sorted(file for file in path.iterdir() if file.suffix in _STORAGE_SUFFIXES)
        if files:
            raise BagError(f"{path} has no metadata.yaml; name the storage file itself: {files[0]}")
        raise BagError(f"{path} is no bag: it has neither metadata.yaml nor a .mcap or .db3 file; name a bag folder")
