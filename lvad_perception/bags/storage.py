"""Opening and creating rosbag2 bags: what cannot be read or written is a BagError; a bag is whole or not there."""

import shutil
import sqlite3
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Literal

from lvad_perception.bags.paths import check_output, check_path
from lvad_perception.errors import BagError
from lvad_perception.messages import Message, rosbags_typestore
from lvad_perception.topics import message_type

Storage = Literal["mcap", "sqlite3"]
STORAGES: Final = ("mcap", "sqlite3")

# Version of metadata.yaml. Humble reads a topic's QoS profiles as text with numbers, which is what 8 writes and later
# distributions still read; from 9 on they are a YAML list with names, and Humble refuses the bag.
_BAG_VERSION: Final = 8


class BagReader:
    """An open bag; made by ``open_bag``.

    Attributes:
        path: the bag as the user named it.
        connections: rosbags' connections: topic, msgtype, msgcount.
        custom_data: facts that the bag's writer left in its metadata.
    """

    def __init__(self, path: Path, reader: Any) -> None:
        self.path = path
        self.connections: list[Any] = list(reader.connections)
        self.custom_data: dict[str, str] = dict(getattr(reader.storage.metadata, "custom", None) or {})
        self._reader = reader
        self._store = rosbags_typestore()

    @property
    def duration_ns(self) -> int:
        """Nanoseconds from the first to the last message."""
        return max(0, int(self._reader.end_time) - 1 - int(self._reader.start_time))

    def messages(self, connections: Iterable[Any]) -> Iterator[tuple[Any, int, bytes]]:
        """Connection, bag time stamp in nanoseconds and CDR bytes of the messages, in the order of time.

        Raises:
            BagError: the storage is damaged.
        """
        wanted = list(connections)
        if not wanted:
            return
        try:
            yield from self._reader.messages(connections=wanted)
        except Exception as err:  # what damaged storage makes sqlite3, zstd and struct raise has no common base
            raise BagError(
                f"{self.path}: its storage is damaged ({err}); recover it with 'mcap recover' or copy the bag again"
            ) from err

    def deserialize(self, raw: bytes, connection: Any) -> Message:
        """A message of a common type. Raises BagError when the bytes are not one."""
        try:
            return self._store.deserialize_cdr(raw, message_type(connection.msgtype))
        except Exception as err:  # KeyError, struct.error, SerdeError, UnicodeDecodeError ...
            raise BagError(
                f"its {len(raw)} bytes are no {connection.msgtype} ({type(err).__name__}); record it again"
            ) from err


@contextmanager
def open_bag(path: Path) -> Iterator[BagReader]:
    """Open a bag folder, or a bare ``.mcap`` or ``.db3`` file.

    Raises:
        BagError: missing, damaged, of ROS 1, without storage or metadata, or without messages.
        MissingDependencyError: rosbags is not installed.
    """
    rosbags_typestore()  # says what to install
    from rosbags.rosbag2 import Reader

    path = Path(path)
    check_path(path)
    reader = None
    try:
        reader = Reader(path)
        reader.open()
        count = reader.message_count
    except Exception as err:  # as above: sqlite3.Error, struct.error, YAMLError ...
        raise BagError(
            f"{path} cannot be read as a bag ({_sentence(err)}); copy it again, or recover it with "
            "'ros2 bag reindex' (sqlite3) or 'mcap recover'"
        ) from err
    try:
        if count == 0:
            raise BagError(f"{path} holds no messages; record it again")
        yield BagReader(path, reader)
    finally:
        reader.close()


class BagWriter:
    """A bag being written; made by ``create_bag``. A topic is added with its first message."""

    def __init__(self, writer: Any) -> None:
        self._writer = writer
        self._store = rosbags_typestore()
        self._connections: dict[str, Any] = {}

    def write(self, topic: str, msg: Message, stamp_ns: int, *, latched: bool = False) -> None:
        """Write a message of rosbags' classes at a bag time stamp; ``latched`` as transient-local publishers do."""
        connection = self._connections.get(topic)
        if connection is None:
            profiles = [_latched_qos()] if latched else []
            connection = self._add(topic, msg.__msgtype__, profiles)
        self._writer.write(connection, stamp_ns, self._store.serialize_cdr(msg, msg.__msgtype__))

    def copy(self, source: Any, stamp_ns: int, raw: bytes) -> None:
        """Write a message of another bag's connection byte for byte."""
        connection = self._connections.get(source.topic)
        if connection is None:
            connection = self._add(source.topic, message_type(source.msgtype), source.ext.offered_qos_profiles, source)
        self._writer.write(connection, stamp_ns, raw)

    def _add(self, topic: str, msgtype: str, profiles: Any, source: Any = None) -> Any:
        if source is not None and msgtype not in self._store.fielddefs:
            definition = {"msgdef": source.msgdef.data, "rihs01": source.digest or "RIHS01_" + "0" * 64}
        else:
            definition = {"typestore": self._store}
        connection = self._writer.add_connection(topic, msgtype, offered_qos_profiles=profiles, **definition)
        self._connections[topic] = connection
        return connection


@contextmanager
def create_bag(
    path: Path, *, storage: Storage = "mcap", overwrite: bool = False, custom_data: dict[str, str] | None = None
) -> Iterator[BagWriter]:
    """Create a bag folder. It appears under its name when the block ends without an exception, else not at all.

    Until then it is in a hidden folder beside it, ``.NAME.….partial``, which goes at the end unless the process is
    killed.

    MCAP chunks are compressed with zstd, which shrinks masks a hundredfold; sqlite3 bags are not compressed.

    Args:
        path: the bag folder.
        storage: storage plugin.
        overwrite: replace an older bag of that name.
        custom_data: facts for the bag's metadata.

    Raises:
        BagError: the folder exists, or cannot be written.
        MissingDependencyError: rosbags is not installed.
    """
    rosbags_typestore()
    from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer, WriterError

    path = Path(path)
    check_output(path, overwrite=overwrite)
    if storage not in STORAGES:
        raise BagError(f"bag storage {storage!r} is unknown; choose from {', '.join(STORAGES)}")
    replaced = None
    # Named before it is made, so that a Ctrl-C at any moment finds it.
    workplace = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        workplace.mkdir(mode=0o700)
        writer = Writer(workplace / path.name, version=_BAG_VERSION, storage_plugin=StoragePlugin[storage.upper()])
        if storage == "mcap":
            writer.set_compression(CompressionMode.STORAGE, CompressionFormat.ZSTD)
        for key, value in (custom_data or {}).items():
            writer.set_custom_data(key, value)
        with writer:
            yield BagWriter(writer)
        if path.exists():  # the older bag goes only now that the new one is complete
            replaced = workplace / "replaced"
            path.rename(replaced)
        (workplace / path.name).rename(path)
    except (OSError, sqlite3.Error, WriterError) as err:
        raise BagError(
            f"{path} cannot be written ({_sentence(err)}); choose a folder with space and permission"
        ) from err
    finally:
        if replaced is not None and replaced.exists() and not path.exists():
            replaced.rename(path)  # something came between the two renames
        shutil.rmtree(workplace, ignore_errors=True)


def _sentence(err: Exception) -> str:
    """An exception's text without its final stop, so that it fits into a sentence."""
    return (str(err) or type(err).__name__).splitlines()[0].rstrip(". ")


def _latched_qos() -> Any:
    """One message is kept for late subscribers, as ``ros2 bag play`` then offers it too."""
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
