"""Digests of the inputs of a result, by which work is skipped, resumed or taken from a cache when none has changed.

``optimize`` uses them as keys of its cache; ``lvad_training.training.provenance`` lists the inputs of trainings, stages
and tables.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from lvad_perception.datasets.cache import load_arrays, open_cached, stat_files
from lvad_perception.errors import LabelError

Inputs = dict[str, str]
"""Name of an input, as users know it, such as a recipe's key -> its digest."""

ABSENT: Final = "absent"
"""Digest of a file that does not exist."""
_DIGITS: Final = 16
_FORMAT_VERSION: Final = 1


def digest(value: Any) -> str:
    """Digest of bytes, text or values that JSON can represent: 16 hexadecimal digits of SHA-256."""
    data = value if isinstance(value, bytes) else json.dumps(value, sort_keys=True).encode("utf-8", "surrogateescape")
    return hashlib.sha256(data).hexdigest()[:_DIGITS]


def file_digest(path: Path) -> str:
    """Digest of a file's content, or ``ABSENT`` if it does not exist. Raises LabelError if it cannot be read."""
    return content_digest([path], root=path) if path.is_file() else ABSENT


def content_digest(files: Iterable[Path], *, root: Path, cache_dir: Path | None = None) -> str:
    """Digest of the names and contents of files, independent of where their folder is.

    It is cached (see ``machine.cache_folders``), so that files whose path, size and modification time are unchanged are
    not read again.

    Args:
        files: in any order.
        root: folder that names are relative to; the name of a file elsewhere is its whole path.
        cache_dir: as for ``cache_folders``.

    Raises:
        LabelError: a file does not exist or cannot be read.
        DatasetError: no cache directory can be written.
    """
    paths = sorted(files)
    stats = stat_files(paths)

    def read() -> tuple[dict[str, Any], dict[str, str]]:
        total = hashlib.sha256()
        for path in paths:
            total.update(os.fsencode(f"{_name(path, root)}\0{_sha256(path)}\n"))
        return {}, {"digest": total.hexdigest()[:_DIGITS]}

    return open_cached(
        "digests",
        root,
        [(str(root), 0, 0), *stats],
        version=_FORMAT_VERSION,
        cache_dir=cache_dir,
        open_folder=lambda folder: str(load_arrays(folder, ())[1]["digest"]),
        read=read,
    )


def changed(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    """Sorted names whose digests differ or that only one side has."""
    return sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))


def _name(path: Path, root: Path) -> str:
    return str(path.relative_to(root) if path.is_relative_to(root) else path)


def _sha256(path: Path) -> str:
    content = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                content.update(block)
    except OSError as err:
        raise LabelError(f"{path} cannot be read ({err.strerror}); check the path and its permissions") from err
    return content.hexdigest()
