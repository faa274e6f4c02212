"""Reading of rosbag2 bags of any age and tool; damage is reported and the rest is read."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from lvad_perception.bags import sqlite
from lvad_perception.bags.compression import ZSTD_MAGIC, DamagedError, expand, expand_file
from lvad_perception.bags.error_log import ErrorLog, message_text
from lvad_perception.bags.mcap import McapFile
from lvad_perception.bags.mcap_records import MAGIC as MCAP_MAGIC
from lvad_perception.bags.metadata import NAME as METADATA
from lvad_perception.bags.metadata import Metadata, TopicMetadata, read_metadata
from lvad_perception.bags.paths import check_path, ros1_bag, storage_files
from lvad_perception.bags.storage import Item, Location, MemoryBudget, Part, StorageFile, StoredTopic, in_time_order
from lvad_perception.errors import BagError
from lvad_perception.messages import Message, rosbags_typestore
from lvad_perception.topics import listing, message_type

_LONGEST_QOS: Final = 1 << 16
_STAMPS_NS: Final = range(1 << 63)  # of both storages
_RECOVER_MCAP: Final = "recover it with 'mcap recover', or copy it again"
_RECOVER_SQLITE: Final = "recover it with 'sqlite3 FILE .recover', or copy it again"


class BagReader:
    """An open bag; made by ``open_bag``.

    Attributes:
        path: the bag as the user named it.
        connections: rosbags' connections (topic, msgtype, msgcount): one for each topic and type, with all channels of
            all files. ``msgcount`` is the larger of the numbers that metadata.yaml and the files state.
        custom_data: the writer's custom data in the metadata.
    """

    def __init__(self, path: Path, files: Mapping[Path, StorageFile], metadata: Metadata | None) -> None:
        self.path = path
        self.custom_data: dict[str, str] = {} if metadata is None else metadata.custom
        self._files = files
        self._store = rosbags_typestore()
        self._channels: list[dict[int, int]] = []  # of each file: channel -> index in ``connections``
        self.connections: list[Any] = []
        self._connect(() if metadata is None else metadata.topics)
        self._not_listed = () if metadata is None else _not_listed(path, metadata.files)

    def messages(
        self, connections: Iterable[Any], *, errors: ErrorLog | None = None
    ) -> Iterator[tuple[Any, int, bytes]]:
        """Connection, bag time stamp in nanoseconds and CDR bytes of the messages, in the order of time.

        Args:
            connections: of the topics to read.
            errors: log of what cannot be read, and of messages that the bag counts but does not hold. None where an
                earlier pass over the bag has reported them.

        Raises:
            BagError: the storage is damaged.
        """
        for connection, stamp, raw, _ in self.located_messages(connections, errors=errors):
            yield connection, stamp, raw

    def located_messages(
        self, connections: Iterable[Any], *, errors: ErrorLog | None = None
    ) -> Iterator[tuple[Any, int, bytes, Location]]:
        """As ``messages``, each with its location, by which ``read`` reads it again."""
        selected = {connection.id: connection for connection in connections}
        errors = ErrorLog(lambda line: None) if errors is None else errors
        for name in self._not_listed:
            errors.add(str(self.path), name, f"{METADATA} does not list it, so it is not read; move it away")
        read: Counter[int] = Counter()
        parts: list[Part] = []
        with self._damage_named():
            for index, (channels, (path, file)) in enumerate(zip(self._channels, self._files.items(), strict=True)):
                own = frozenset(channel for channel, connection in channels.items() if connection in selected)
                if own:
                    parts += _of_bag(file.parts(own, partial(errors.add, str(path))), channels, index)
            for stamp, key, location, raw in in_time_order(parts):
                connection = selected[key]
                read[key] += 1
                if stamp not in _STAMPS_NS:
                    errors.add(connection.topic, f"message {read[key] - 1}", f"its time stamp {stamp} ns is impossible")
                    continue
                if raw.startswith(ZSTD_MAGIC):  # no CDR message begins with these bytes
                    try:
                        raw = expand(raw, "zstd")
                    except DamagedError as err:
                        errors.add(connection.topic, message_text(read[key] - 1, stamp), err)
                        continue
                yield connection, stamp, raw, location
        for key, connection in selected.items():
            lost = connection.msgcount - read[key]
            if lost > 0:
                errors.add(
                    connection.topic,
                    f"{lost} of {connection.msgcount} messages",
                    f"{self.path} lists them, but its files do not contain them or are damaged there; copy it again",
                    count=lost,
                )

    def read(self, location: Location) -> bytes:
        """Read the CDR bytes of a message again. Raises BagError."""
        with self._damage_named():
            raw = list(self._files.values())[location[0]].read(location[1:])
            return expand(raw, "zstd") if raw.startswith(ZSTD_MAGIC) else raw

    def deserialize(self, raw: bytes, connection: Any) -> Message:
        """Deserialize a message of a common type. Raises BagError when the bytes are malformed."""
        try:
            return self._store.deserialize_cdr(raw, message_type(connection.msgtype))
        except Exception as err:  # KeyError, struct.error, SerdeError, UnicodeDecodeError ...
            raise BagError(
                f"its {len(raw)} bytes are no {connection.msgtype} ({type(err).__name__}); record it again"
            ) from err

    def _connect(self, topics: Iterable[TopicMetadata]) -> None:
        """Make one connection of all channels of a topic, even if their QoS differ."""
        from rosbags.interfaces import Connection, ConnectionExtRosbag2, MessageDefinition, MessageDefinitionFormat

        formats = {"ros2msg": MessageDefinitionFormat.MSG, "ros2idl": MessageDefinitionFormat.IDL}
        stored: dict[tuple[str, str], list[StoredTopic]] = {}
        indices: dict[tuple[str, str], int] = {}
        for file in self._files.values():
            self._channels.append({})
            for in_file in file.topics:
                key = in_file.topic, message_type(in_file.msgtype)
                stored.setdefault(key, []).append(in_file)
                self._channels[-1][in_file.channel] = indices.setdefault(key, len(indices))
        counts: Counter[tuple[str, str]] = Counter()
        profiles: dict[tuple[str, str], Any] = {}
        for topic in topics:
            key = topic.topic, message_type(topic.msgtype)
            indices.setdefault(key, len(indices))
            counts[key] += topic.msgcount
            profiles.setdefault(key, topic.qos)
        for key, index in indices.items():
            channels = stored.get(key, [])
            qos = profiles.get(key) or next((each.qos for each in channels if each.qos), "")
            language, text = next((each.definition for each in channels if each.definition[1]), ("", ""))
            self.connections.append(
                Connection(
                    index,
                    key[0],
                    key[1],
                    MessageDefinition(formats.get(language, MessageDefinitionFormat.NONE), text),
                    next((each.digest for each in channels if each.digest), ""),
                    max(counts[key], sum(each.count for each in channels)),
                    ConnectionExtRosbag2("cdr", _parsed_qos(qos)),
                    None,
                )
            )

    @contextmanager
    def _damage_named(self) -> Iterator[None]:
        """Raise damage in the block as a BagError of this bag."""
        try:
            yield
        except (DamagedError, OSError) as err:
            remedy = _remedy(err, next(iter(self._files), self.path))
            raise BagError(f"{self.path}: its storage is damaged ({_sentence(err)}); {remedy}") from err


@contextmanager
def open_bag(path: Path) -> Iterator[BagReader]:
    """Open a bag folder, or a bare ``.mcap`` or ``.db3`` file, compressed by rosbag2 or not.

    The first bytes of a storage file tell its format, not metadata.yaml.

    Raises:
        BagError: missing, damaged, of ROS 1, without storage or metadata, or without messages.
        MissingDependencyError: rosbags is not installed.
    """
    rosbags_typestore()  # raises MissingDependencyError
    path = Path(path)
    check_path(path)
    metadata = read_metadata(path) if path.is_dir() else None
    names = [path] if metadata is None else [path / name for name in metadata.files]
    missing = [name.name for name in names if not name.is_file()]
    if missing:
        raise BagError(
            f"{path} cannot be read as a bag: its files are missing: {listing(missing)}; copy them into it, "
            f"or rebuild {METADATA} for the other files with: ros2 bag reindex {path}"
        )
    with ExitStack() as stack:
        budget, files = MemoryBudget(), {}
        for name in names:
            try:
                files[name] = stack.enter_context(closing(_open_file(name, budget, stack)))
            except (DamagedError, OSError) as err:
                raise BagError(f"{name} cannot be read as a bag ({_sentence(err)}); {_remedy(err, name)}") from err
        reader = BagReader(path, files, metadata)
        if not any(connection.msgcount for connection in reader.connections):
            raise BagError(f"{path} holds no messages; record it again")
        yield reader


def _open_file(path: Path, budget: MemoryBudget, stack: ExitStack) -> StorageFile:
    """Open a storage file of any format. Raises BagError, DamagedError or OSError."""
    with path.open("rb") as file:
        start = file.read(len(sqlite.MAGIC))
    if not start:
        raise DamagedError("it is empty", remedy="record it again, or copy it from its origin")
    if start.startswith(ZSTD_MAGIC):
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="lvad-bag-")))
        expanded = expand_file(path, folder)
        with expanded.open("rb") as file:
            if file.read(len(ZSTD_MAGIC)) == ZSTD_MAGIC:
                raise DamagedError("it is compressed twice", remedy="decompress it with: zstd -d")
        return _open_file(expanded, budget, stack)
    if start.startswith(MCAP_MAGIC[:5]):
        return McapFile(path, budget)
    if start == sqlite.MAGIC:
        return sqlite.SqliteFile(path)
    if start.startswith(b"#ROSBAG"):
        raise ros1_bag(path)
    raise DamagedError("its beginning is neither that of MCAP nor of sqlite3", remedy="copy it again from its origin")


def _remedy(err: Exception, file: Path) -> str:
    """The remedy against this damage, or against damage of such a file in general."""
    if isinstance(err, PermissionError):
        return "check its permissions"
    own = err.remedy if isinstance(err, DamagedError) else ""
    return own or (_RECOVER_SQLITE if ".db3" in file.suffixes else _RECOVER_MCAP)


def _of_bag(parts: Iterable[Part], channels: Mapping[int, int], file_index: int) -> Iterator[Part]:
    """The parts of a file with connections instead of channels, and locations that begin with the file's index."""

    def items(read: Callable[[], Iterator[Item]]) -> Iterator[Item]:
        for stamp, channel, location, raw in read():
            yield stamp, channels[channel], (file_index, *location), raw

    for start, read in parts:
        yield start, partial(items, read)


def _not_listed(bag: Path, files: Iterable[str]) -> tuple[str, ...]:
    """Storage files in the folder of a bag that its metadata does not list."""
    return tuple(sorted({file.name for file in storage_files(bag)} - set(files)))


def _parsed_qos(profiles: Any) -> Any:
    """QoS profiles for rosbags; none where they are malformed, since reading does not need them."""
    from rosbags.rosbag2.metadata import parse_qos

    if isinstance(profiles, str) and len(profiles) > _LONGEST_QOS:
        return []
    try:
        parsed = parse_qos(profiles)
        numbers = [
            n for qos in parsed for n in (qos.depth, *qos.deadline, *qos.lifespan, *qos.liveliness_lease_duration)
        ]
        return parsed if all(isinstance(number, int) for number in numbers) else []
    except Exception:  # any error of YAML and of unexpected content
        return []


def _sentence(err: Exception) -> str:
    """The first line of an exception's text without its full stop, to be part of a sentence."""
    return (str(err) or type(err).__name__).splitlines()[0].rstrip(". ")
