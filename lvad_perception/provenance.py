"""What a result depends on, as digests by name; work is skipped, continued or taken from a cache where all are equal.

``optimize`` keys its cache with them; ``lvad_training.training.provenance`` lists the inputs of trainings,
stages and tables.
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
"""Name of what a result depends on -> its digest; names are those that a person knows it by, such as recipe keys."""

ABSENT: Final = "absent"
"""In the place of the digest of a file that is not there."""
_DIGITS: Final = 16
_FORMAT_VERSION: Final = 1


def digest(value: Any) -> str:
    """Of bytes, text or plain values that JSON has; 16 hexadecimal digits of SHA-256."""
    data = value if isinstance(value, bytes) else json.dumps(value, sort_keys=True).encode("utf-8", "surrogateescape")
    return hashlib.sha256(data).hexdigest()[:_DIGITS]


def file_digest(path: Path) -> str:
    """Of a file's content; ``ABSENT`` where it is not there. Raises LabelError when it cannot be read."""
    return content_digest([path], root=path) if path.is_file() else ABSENT


def content_digest(files: Iterable[Path], *, root: Path, cache_dir: Path | None = None) -> str:
    """Of the content and names of files, wherever their folder is.

    The content of files that have the path, size and modification time that they had when it was last read is not read
    again; what it came to is in the cache, see ``machine.cache_folders``.

    Args:
        files: in any order.
        root: folder that names are relative to; of a file elsewhere the whole path is its name.
        cache_dir: as for ``cache_folders``.

    Raises:
        LabelError: a file is not there or cannot be read.
        DatasetError: no cache directory can be written.
    """
    chosen = sorted(files)
    stats = stat_files(chosen)
    whole = hashlib.sha256()

    def read() -> tuple[dict[str, Any], dict[str, str]]:
        for path in chosen:
            whole.update(os.fsencode(f"{_name(path, root)}\0{_sha256(path)}\n"))
        return {}, {"digest": whole.hexdigest()[:_DIGITS]}

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
    """Names, sorted, whose digests differ or that only one of the two has."""
    return sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))


def _name(path: Path, root: Path) -> str:
    return str(path.relative_to(root) if path.is_relative_to(root) else path)


def _sha256(path: Path) -> str:
    found = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                found.update(block)
    except OSError as err:
        raise LabelError(f"{path} cannot be read ({err.strerror}); check the path and its permissions") from err
    return found.hexdigest()
