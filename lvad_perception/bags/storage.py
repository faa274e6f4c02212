"""Opening and creating rosbag2 bags: what cannot be read or written is a BagError; a bag is whole or not there."""

import shutil
import sqlite3
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, Literal

from lvad_perception.bags import mcap, sqlite
from lvad_perception.bags.compression import ZSTD_MAGIC, DamagedError, expand, expand_file
from lvad_perception.bags.metadata import NAME as METADATA
from lvad_perception.bags.metadata import Metadata, PromisedTopic, read_metadata
from lvad_perception.bags.paths import check_output, check_path, exchange, ros1_bag, storage_files
from lvad_perception.bags.problems import Problems, message_text
from lvad_perception.bags.recorded import Budget, Item, Part, Recorded, StorageFile, in_time_order
from lvad_perception.errors import BagError
from lvad_perception.messages import Message, rosbags_typestore
from lvad_perception.topics import listing, message_type

Storage = Literal["mcap", "sqlite3"]
STORAGES: Final = ("mcap", "sqlite3")

# Version of metadata.yaml. Humble reads a topic's QoS profiles as text with numbers, which is what 8 writes and later
# distributions still read; from 9 on they are a YAML list with names, and Humble refuses the bag.
_BAG_VERSION: Final = 8
_LONGEST_QOS: Final = 1 << 16
_STAMPS_NS: Final = range(1 << 63)  # that all storages can hold
_NO_ADDRESS: Final = frozenset("%?#")
_RECOVER_MCAP: Final = "recover it with 'mcap recover', or copy it again"
_RECOVER_SQLITE: Final = "recover it with 'sqlite3 FILE .recover', or copy it again"


class BagReader:
    """An open bag; made by ``open_bag``.

    Attributes:
        path: the bag as the user named it.
        connections: rosbags' connections: topic, msgtype, msgcount, one for each topic and type, however many channels
            of however many files it has. ``msgcount`` is what the bag promises: by its metadata or its files, whatever
            is more.
        custom_data: facts that the bag's writer left in its metadata.
    """

    def __init__(self, path: Path, files: Mapping[Path, StorageFile], metadata: Metadata | None) -> None:
        self.path = path
        self.custom_data: dict[str, str] = {} if metadata is None else metadata.custom
        self._files = files
        self._store = rosbags_typestore()
        self._channels: list[dict[int, int]] = []  # of each file: channel -> place in ``connections``
        self.connections: list[Any] = []
        self._connect(() if metadata is None else metadata.topics)
        self._not_listed = () if metadata is None else _not_listed(path, metadata.files)

    def messages(
        self, connections: Iterable[Any], *, problems: Problems | None = None
    ) -> Iterator[tuple[Any, int, bytes]]:
        """Connection, bag time stamp in nanoseconds and CDR bytes of the messages, in the order of time.

        Args:
            connections: of which topics; none for no messages.
            problems: is told what cannot be read, and after the last message how many of those that the bag promises
                did not come. None where another reading of the bag has told of it.

        Raises:
            BagError: the storage is damaged.
        """
        for connection, stamp, raw, _ in self.placed_messages(connections, problems=problems):
            yield connection, stamp, raw

    def placed_messages(
        self, connections: Iterable[Any], *, problems: Problems | None = None
    ) -> Iterator[tuple[Any, int, bytes, tuple[int, ...]]]:
        """As ``messages``, each with its place in the bag, by which ``read`` finds it again."""
        wanted = {connection.id: connection for connection in connections}
        problems = Problems(lambda line: None) if problems is None else problems
        for name in self._not_listed:
            problems.add(str(self.path), name, f"{METADATA} does not list it, so it is not read; move it away")
        came: Counter[int] = Counter()
        parts: list[Part] = []
        with self._told():
            for place, (channels, (path, file)) in enumerate(zip(self._channels, self._files.items(), strict=True)):
                asked = frozenset(channel for channel, connection in channels.items() if connection in wanted)
                if asked:
                    parts += _placed(file.parts(asked, partial(problems.add, str(path))), channels, place)
            for stamp, key, place_of_it, raw in in_time_order(parts):
                connection = wanted[key]
                came[key] += 1
                if stamp not in _STAMPS_NS:
                    problems.add(
                        connection.topic, f"message {came[key] - 1}", f"its time stamp {stamp} ns is impossible"
                    )
                    continue
                if raw.startswith(ZSTD_MAGIC):  # no message begins so
                    try:
                        raw = expand(raw, "zstd")
                    except DamagedError as err:
                        problems.add(connection.topic, message_text(came[key] - 1, stamp), err)
                        continue
                yield connection, stamp, raw, place_of_it
        for key, connection in wanted.items():
            lost = connection.msgcount - came[key]
            if lost > 0:
                problems.add(
                    connection.topic,
                    f"{lost} of {connection.msgcount} messages",
                    f"{self.path} promises them, but its files do not hold them or cannot be read there; copy it again",
                    count=lost,
                )

    def read(self, place: tuple[int, ...]) -> bytes:
        """The CDR bytes of a message once more, by its place. Raises BagError."""
        with self._told():
            raw = list(self._files.values())[place[0]].read(place[1:])
            return expand(raw, "zstd") if raw.startswith(ZSTD_MAGIC) else raw

    def deserialize(self, raw: bytes, connection: Any) -> Message:
        """A message of a common type. Raises BagError when the bytes are not one."""
        try:
            return self._store.deserialize_cdr(raw, message_type(connection.msgtype))
        except Exception as err:  # KeyError, struct.error, SerdeError, UnicodeDecodeError ...
            raise BagError(
                f"its {len(raw)} bytes are no {connection.msgtype} ({type(err).__name__}); record it again"
            ) from err

    def _connect(self, promised: Iterable[PromisedTopic]) -> None:
        """Make one connection of all channels of a topic, whatever QoS each was offered with."""
        from rosbags.interfaces import Connection, ConnectionExtRosbag2, MessageDefinition, MessageDefinitionFormat

        formats = {"ros2msg": MessageDefinitionFormat.MSG, "ros2idl": MessageDefinitionFormat.IDL}
        metadata: dict[tuple[str, str], list[Recorded]] = {}
        places: dict[tuple[str, str], int] = {}
        for file in self._files.values():
            self._channels.append({})
            for recorded in file.recorded:
                key = recorded.topic, message_type(recorded.msgtype)
                metadata.setdefault(key, []).append(recorded)
                self._channels[-1][recorded.channel] = places.setdefault(key, len(places))
        counts: Counter[tuple[str, str]] = Counter()
        profiles: dict[tuple[str, str], Any] = {}
        for topic in promised:
            key = topic.topic, message_type(topic.msgtype)
            places.setdefault(key, len(places))
            counts[key] += topic.count
            profiles.setdefault(key, topic.qos)
        for key, place in places.items():
            found = metadata.get(key, [])
            language, text = next((each.definition for each in found if each.definition[1]), ("", ""))
            self.connections.append(
                Connection(
                    place,
                    key[0],
                    key[1],
                    MessageDefinition(formats.get(language, MessageDefinitionFormat.NONE), text),
                    next((each.digest for each in found if each.digest), ""),
                    max(counts[key], sum(each.count for each in found)),
                    ConnectionExtRosbag2("cdr", _qos(profiles.get(key) or next((e.qos for e in found if e.qos), ""))),
                    None,
                )
            )

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except (DamagedError, OSError) as err:
            remedy = _remedy(err, next(iter(self._files), self.path))
            raise BagError(f"{self.path}: its storage is damaged ({_sentence(err)}); {remedy}") from err


@contextmanager
def open_bag(path: Path) -> Iterator[BagReader]:
    """Open a bag folder, or a bare ``.mcap`` or ``.db3`` file, compressed by rosbag2 or not.

    What a storage file is, its first bytes say, whatever metadata.yaml calls it.

    Raises:
        BagError: missing, damaged, of ROS 1, without storage or metadata, or without messages.
        MissingDependencyError: rosbags is not installed.
    """
    rosbags_typestore()  # says what to install
    path = Path(path)
    check_path(path)
    metadata = read_metadata(path) if path.is_dir() else None
    names = [path] if metadata is None else [path / name for name in metadata.files]
    missing = [name.name for name in names if not name.is_file()]
    if missing:
        raise BagError(
            f"{path} cannot be read as a bag: its files are missing: {listing(missing)}; copy them beside {METADATA}, "
            f"or make it anew for those that are there with: ros2 bag reindex {path}"
        )
    with ExitStack() as stack:
        budget, files = Budget(), {}
        for name in names:
            try:
                files[name] = stack.enter_context(closing(_open_file(name, budget, stack)))
            except (DamagedError, OSError) as err:
                raise BagError(f"{name} cannot be read as a bag ({_sentence(err)}); {_remedy(err, name)}") from err
        reader = BagReader(path, files, metadata)
        if not any(connection.msgcount for connection in reader.connections):
            raise BagError(f"{path} holds no messages; record it again")
        yield reader


def _open_file(path: Path, budget: Budget, stack: ExitStack) -> StorageFile:
    """A storage file by its first bytes. Raises BagError, DamagedError or OSError."""
    with path.open("rb") as file:
        start = file.read(len(sqlite.MAGIC))
    if not start:
        raise DamagedError("it is empty", remedy="record it again, or copy it from its origin")
    if start.startswith(ZSTD_MAGIC):
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="lvad-bag-")))
        whole = expand_file(path, folder)
        with whole.open("rb") as file:
            if file.read(len(ZSTD_MAGIC)) == ZSTD_MAGIC:
                raise DamagedError("it is compressed twice", remedy="decompress it with: zstd -d")
        return _open_file(whole, budget, stack)
    if start.startswith(mcap.MAGIC[:5]):
        return mcap.McapFile(path, budget)
    if start == sqlite.MAGIC:
        return sqlite.SqliteFile(path)
    if start.startswith(b"#ROSBAG"):
        raise ros1_bag(path)
    raise DamagedError("its beginning is neither that of MCAP nor of sqlite3", remedy="copy it again from its origin")


def _remedy(err: Exception, file: Path) -> str:
    """What helps: against this damage, or against damage of such a file in general."""
    if isinstance(err, PermissionError):
        return "check its permissions"
    own = err.remedy if isinstance(err, DamagedError) else ""
    return own or (_RECOVER_SQLITE if ".db3" in file.suffixes else _RECOVER_MCAP)


def _placed(parts: Iterable[Part], channels: Mapping[int, int], place: int) -> Iterator[Part]:
    """The parts of a file with connections instead of channels, and the file in the places of messages."""

    def items(read: Callable[[], Iterator[Item]]) -> Iterator[Item]:
        for stamp, channel, inside, raw in read():
            yield stamp, channels[channel], (place, *inside), raw

    for start, read in parts:
        yield start, partial(items, read)


def _not_listed(bag: Path, files: Iterable[str]) -> tuple[str, ...]:
    """Storage files in the folder of a bag that its metadata know nothing of."""
    return tuple(sorted({file.name for file in storage_files(bag)} - set(files)))


def _qos(profiles: Any) -> Any:
    """Offered profiles for rosbags; none where nobody understands them, for they decide nothing about what is read."""
    from rosbags.rosbag2.metadata import parse_qos

    if isinstance(profiles, str) and len(profiles) > _LONGEST_QOS:
        return []
    try:
        found = parse_qos(profiles)
        numbers = [
            n for qos in found for n in (qos.depth, *qos.deadline, *qos.lifespan, *qos.liveliness_lease_duration)
        ]
        return found if all(isinstance(number, int) for number in numbers) else []
    except Exception:  # YAML of any kind, of any content
        return []


class BagWriter:
    """A bag being written; made by ``create_bag``. A topic is added with its first message."""

    def __init__(self, writer: Any) -> None:
        self._writer = writer
        self._store = rosbags_typestore()
        self._connections: dict[tuple[str, str], Any] = {}

    def write(self, topic: str, msg: Message, stamp_ns: int, *, latched: bool = False) -> None:
        """Write a message of rosbags' classes at a bag time stamp; ``latched`` as transient-local publishers do."""
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
    """Create a bag folder. It appears under its name when the block ends without an exception, else not at all.

    Until then it is in a hidden folder beside it, ``.NAME.….partial``, which goes at the end unless the process is
    killed. An older bag and the new one change names in one step, so that at every moment one of them, whole, is there;
    where the file system cannot do that, in two, and between them the older bag is in the hidden folder. A link to a
    folder stays a link.

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
    path = path.resolve() if path.is_symlink() else path
    if storage not in STORAGES:
        raise BagError(f"bag storage {storage!r} is unknown; choose from {', '.join(STORAGES)}")
    if storage == "sqlite3" and not _NO_ADDRESS.isdisjoint(str(path)):
        # rosbags hands its path to sqlite3 as an address, in which they mean something.
        raise BagError(f"a sqlite3 bag cannot be written to {path}, a path with %, ? or #; rename it, or write MCAP")
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
        # The older bag goes only now that the new one is complete.
        if not path.exists():
            (workplace / path.name).rename(path)
        elif not exchange(workplace / path.name, path):
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
