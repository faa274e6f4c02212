"""A sqlite3 file of rosbag2 as storage of a bag, of every version of its tables since 2019."""

import sqlite3
import sys
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, Final

from lvad_perception.bags.compression import LARGEST, DamagedError
from lvad_perception.bags.storage import Item, Location, Part, ReportDamage, StoredTopic

MAGIC: Final = b"SQLite format 3\0"
_JOURNALS: Final = ("-wal", "-journal")


class SqliteFile:
    """An open sqlite3 file, with the journal that a killed recorder left beside it.

    The location of a message is (id,).

    Attributes:
        topics: its topics.

    Raises:
        DamagedError: it is damaged, or no recording.
    """

    def __init__(self, path: Path) -> None:
        complete = not any(_size(path.with_name(path.name + suffix)) for suffix in _JOURNALS)
        # Without "immutable", sqlite3 reads the journal, and may write beside the file.
        options = "mode=ro&immutable=1" if complete else "mode=ro"
        self._database: Any = None
        try:
            # Another thread than the one that opened the bag may decode frames, but only one at a time.
            self._database = sqlite3.connect(
                f"{path.resolve().as_uri()}?{options}", uri=True, check_same_thread=False, isolation_level=None
            )
            self._database.execute("PRAGMA trusted_schema = OFF")
            self._database.execute("PRAGMA cell_size_check = ON")
            if sys.version_info >= (3, 11):
                self._database.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, LARGEST)
            self.topics = self._topics()
        except (sqlite3.Error, sqlite3.Warning, ValueError, TypeError) as err:
            self.close()
            beside = "" if complete else ", and what its recorder left in the journal beside it cannot be read either"
            raise DamagedError(f"{err}{beside}") from err
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the file."""
        if self._database is not None:
            self._database.close()

    def parts(self, channels: Collection[int], report_damage: ReportDamage) -> Iterator[Part]:
        """All messages of the channels as one part; see ``storage.Part``."""
        marks = ",".join("?" * len(channels))
        (start,) = self._row(f"SELECT MIN(timestamp) FROM messages WHERE topic_id IN ({marks})", tuple(channels))

        def items() -> Iterator[Item]:
            rows = self._rows(
                f"SELECT id, topic_id, timestamp, data FROM messages WHERE topic_id IN ({marks}) "
                "ORDER BY timestamp, id",
                tuple(channels),
            )
            for key, channel, stamp, data in rows:
                if isinstance(stamp, int) and isinstance(data, bytes):
                    yield stamp, channel, (key,), data
                else:
                    report_damage(f"message {key}", "its time stamp or its data are of another type than a message's")

        if start is not None:
            yield start if isinstance(start, int) else 0, items

    def read(self, location: Location) -> bytes:
        """Read a message again."""
        (data,) = self._row("SELECT data FROM messages WHERE id = ?", location)
        return bytes(data)

    def _topics(self) -> list[StoredTopic]:
        tables = "SELECT name FROM sqlite_master WHERE type = 'table' AND sql NOT LIKE '%VIRTUAL%'"
        missing = {"topics", "messages"} - {name for (name,) in self._rows(tables)}
        if missing:
            raise DamagedError(
                f"it has no table {' and no table '.join(sorted(missing))}, so it is no bag of ROS 2",
                remedy="name a bag",
            )
        columns = {name for _, name, *_ in self._rows("PRAGMA table_info(topics)")}
        qos, digest = (
            column if column in columns else "''" for column in ("offered_qos_profiles", "type_description_hash")
        )
        definitions: dict[str, tuple[str, str]] = {}
        if any(True for _ in self._rows("PRAGMA table_info(message_definitions)")):
            query = "SELECT topic_type, encoding, encoded_message_definition FROM message_definitions ORDER BY id DESC"
            definitions = {str(name): (str(language), str(text)) for name, language, text in self._rows(query)}
        counts = dict(self._rows("SELECT topic_id, COUNT(*) FROM messages GROUP BY topic_id"))
        topics = []
        encodings = set()
        for key, topic, msgtype, encoding, profiles, type_hash in self._rows(
            f"SELECT id, name, type, serialization_format, {qos}, {digest} FROM topics ORDER BY id"
        ):
            encodings.add(str(encoding))
            if encoding == "cdr":
                definition = definitions.get(msgtype, ("", ""))
                count = int(counts.get(key, 0))
                topics.append(
                    StoredTopic(int(key), str(topic), str(msgtype), count, str(profiles), definition, str(type_hash))
                )
        if encodings and not topics:
            raise DamagedError(
                f"its messages are encoded as {', '.join(sorted(encodings))} and not as CDR",
                remedy="record them as CDR",
            )
        return topics

    def _rows(self, query: str, values: tuple[Any, ...] = ()) -> Iterator[Any]:
        """The rows of a query. Raises DamagedError."""
        try:
            yield from self._database.execute(query, values)
        except (sqlite3.Error, sqlite3.Warning, OverflowError, UnicodeDecodeError, MemoryError) as err:
            raise DamagedError(str(err) or type(err).__name__) from err

    def _row(self, query: str, values: tuple[Any, ...] = ()) -> Any:
        """The first row of a query. Raises DamagedError."""
        row = next(self._rows(query, values), None)
        if row is None:
            raise DamagedError("a message is gone")
        return row


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0
