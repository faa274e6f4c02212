"""Writing of rosbag2 bags: a bag appears under its name only when it is complete."""

import ctypes
import os
import shutil
import sqlite3
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Literal

from lvad_perception.bags.paths import check_output
from lvad_perception.errors import BagError
from lvad_perception.messages import Message, rosbags_typestore

Storage = Literal["mcap", "sqlite3"]
STORAGES: Final = ("mcap", "sqlite3")

# Version of metadata.yaml. Humble reads a topic's QoS profiles as text with numbers, which is what 8 writes and later
# distributions still read; from 9 on they are a YAML list with names, and Humble refuses the bag.
_BAG_VERSION: Final = 8
_SPECIAL_IN_URIS: Final = frozenset("%?#")
_AT_FDCWD: Final = -100
_RENAME_EXCHANGE: Final = 2


class BagWriter:
    """A bag being written; made by ``create_bag``. A topic is added with its first message."""

    def __init__(self, writer: Any) -> None:
        self._writer = writer
        self._store = rosbags_typestore()
        self._connections: dict[tuple[str, str], Any] = {}

    def write(self, topic: str, msg: Message, stamp_ns: int, *, latched: bool = False) -> None:
        """Write a message of rosbags' classes at a bag time stamp; ``latched`` topics get transient-local QoS."""
        connection = self._connections.get((topic, msg.__msgtype__))
        if connection is None:
            profiles = [_latched_qos()] if latched else []
            connection = self._add(topic, msg.__msgtype__, profiles)
        self._writer.write(connection, stamp_ns, self._store.serialize_cdr(msg, msg.__msgtype__))

    def copy(self, source: Any, stamp_ns: int, raw: bytes) -> None:
        """Write a message of another bag's connection byte for byte."""
        connection = self._connections.get((source.topic, source.msgtype))
        if connection is None:
            connection = self._add(source.topic, source.msgtype, source.ext.offered_qos_profiles, source)
        self._writer.write(connection, stamp_ns, raw)

    def _add(self, topic: str, msgtype: str, profiles: Any, source: Any = None) -> Any:
        if source is not None and msgtype not in self._store.fielddefs:
            definition = {"msgdef": source.msgdef.data, "rihs01": source.digest or "RIHS01_" + "0" * 64}
        else:
            definition = {"typestore": self._store}
        connection = self._writer.add_connection(topic, msgtype, offered_qos_profiles=profiles, **definition)
        self._connections[topic, msgtype] = connection
        return connection


@contextmanager
def create_bag(
    path: Path, *, storage: Storage = "mcap", overwrite: bool = False, custom_data: dict[str, str] | None = None
) -> Iterator[BagWriter]:
    """Create a bag folder, which appears under its name when the block ends without an exception.

    Until then it is in a hidden folder beside it, ``.NAME.….partial``, which is removed at the end unless the process
    is killed. An older bag is exchanged with the new one in one step, so that at every moment one complete bag is
    there; where the file system cannot do that, in two, and between them the older bag is in the hidden folder. That is
    why this is no draft of ``files``: those are removed by the next writer. A link to a folder stays a link.

    MCAP chunks are compressed with zstd, which shrinks masks a hundredfold; sqlite3 bags are not compressed.

    Args:
        path: the bag folder.
        storage: storage plugin.
        overwrite: replace an older bag of that name.
        custom_data: custom data for the bag's metadata.

    Raises:
        BagError: the folder exists, or cannot be written.
        MissingDependencyError: rosbags is not installed.
    """
    rosbags_typestore()
    from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer, WriterError

    path = Path(path)
    check_output(path, overwrite=overwrite)
    path = path.resolve() if path.is_symlink() else path
    if storage not in STORAGES:
        raise BagError(f"bag storage {storage!r} is unknown; choose from {', '.join(STORAGES)}")
    if storage == "sqlite3" and not _SPECIAL_IN_URIS.isdisjoint(str(path)):
        # rosbags passes its path to sqlite3 as a URI without escaping it.
        raise BagError(f"a sqlite3 bag cannot be written to {path}, a path with %, ? or #; rename it, or write MCAP")
    # Named before it is made, so that ``finally`` removes it after a Ctrl-C at any moment.
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.partial")
    new = partial / path.name
    replaced: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.mkdir(mode=0o700)
        writer = Writer(new, version=_BAG_VERSION, storage_plugin=StoragePlugin[storage.upper()])
        if storage == "mcap":
            writer.set_compression(CompressionMode.STORAGE, CompressionFormat.ZSTD)
        for key, value in (custom_data or {}).items():
            writer.set_custom_data(key, value)
        with writer:
            yield BagWriter(writer)
        # The new bag is complete: only now the older one may go.
        if not path.exists():
            new.rename(path)
        elif not exchange(new, path):
            replaced = partial / "replaced"
            path.rename(replaced)
            new.rename(path)
    except (OSError, sqlite3.Error, WriterError) as err:
        reason = (str(err) or type(err).__name__).splitlines()[0].rstrip(". ")
        raise BagError(f"{path} cannot be written ({reason}); choose a folder with space and permission") from err
    finally:
        if replaced is not None and replaced.exists() and not path.exists():  # interrupted between the two renames
            replaced.rename(path)
        shutil.rmtree(partial, ignore_errors=True)


def exchange(first: Path, second: Path) -> bool:
    """Exchange two existing paths of one file system atomically.

    Returns:
        False, with nothing changed, where the system or the file system cannot (``renameat2`` is Linux's).
    """
    if sys.platform != "linux":
        return False
    try:
        rename = ctypes.CDLL(None).renameat2
    except AttributeError:  # glibc before 2.28
        return False
    return bool(rename(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE) == 0)


def _latched_qos() -> Any:
    """Keep the last message for late subscribers, so that ``ros2 bag play`` publishes it latched too."""
    from rosbags.interfaces import Qos, QosDurability, QosHistory, QosLiveliness, QosReliability, QosTime

    forever = QosTime(9223372036, 854775807)
    return Qos(
        QosHistory.KEEP_LAST,
        1,
        QosReliability.RELIABLE,
        QosDurability.TRANSIENT_LOCAL,
        forever,
        forever,
        QosLiveliness.AUTOMATIC,
        forever,
        False,
    )
