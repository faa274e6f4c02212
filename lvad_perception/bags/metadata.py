"""Reading of metadata.yaml: a bag's storage files, topics and message counts."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path, PurePath
from typing import Any, Final

from lvad_perception.errors import BagError

NAME: Final = "metadata.yaml"
_NEWEST_VERSION: Final = 9
_LARGEST: Final = 4 << 20
_DEEPEST: Final = 100


@dataclass(frozen=True, slots=True)
class TopicMetadata:
    """A topic in metadata.yaml; the first three attributes are those of rosbags' connections.

    Attributes:
        topic: its name.
        msgtype: type of its messages.
        msgcount: number of messages according to metadata.yaml.
        qos: profiles that its publishers offered, as YAML text or already parsed.
    """

    topic: str
    msgtype: str
    msgcount: int
    qos: Any


@dataclass(frozen=True, slots=True)
class Metadata:
    """The content of a bag's metadata.yaml.

    Attributes:
        files: names of the storage files, all in the bag's folder.
        topics: one or more entries for each topic.
        custom: the writer's custom data.
    """

    files: tuple[str, ...]
    topics: tuple[TopicMetadata, ...]
    custom: dict[str, str]


def read_metadata(bag: Path) -> Metadata:
    """Read the metadata of a bag folder.

    Raises:
        BagError: metadata.yaml is damaged, of a newer rosbag2, or names a compression other than zstd.
    """
    with _information(bag) as information:
        # Only the file name counts: older versions wrote the folder too, and a path must not lead out of the bag.
        files = tuple(dict.fromkeys(PurePath(_text(path)).name for path in information["relative_file_paths"]))
        if int(information["version"]) > _NEWEST_VERSION:
            raise BagError(
                f"{bag} was written by a newer rosbag2 (version {information['version']} of {NAME}, {_NEWEST_VERSION} "
                f"is the newest known one); update lvad_perception, or name a storage file itself: "
                f"{', '.join(str(bag / name) for name in files)}"
            )
        mode, compression = (_text(information.get(f"compression_{key}")) for key in ("mode", "format"))
        if mode.lower() not in ("", "none") and compression != "zstd":
            raise BagError(
                f"{bag} is compressed by {compression or 'an unnamed program'}, and only zstd is read; "
                "decompress it with: ros2 bag convert"
            )
        custom = information.get("custom_data")
        custom = {_text(name): _text(value) for name, value in custom.items()} if isinstance(custom, Mapping) else {}
        return Metadata(files, tuple(_topics(information)), custom)


def read_topics(bag: Path) -> list[TopicMetadata]:
    """Topics with messages of a bag folder of any version, one for each name and type. Raises BagError."""
    merged: dict[tuple[str, str], TopicMetadata] = {}
    with _information(bag) as information:
        for topic in _topics(information):  # a topic has several entries if its publishers' QoS differ
            earlier = merged.get((topic.topic, topic.msgtype))
            count = topic.msgcount + (0 if earlier is None else earlier.msgcount)
            merged[topic.topic, topic.msgtype] = replace(topic, msgcount=count)
    return [topic for topic in merged.values() if topic.msgcount]


def _topics(information: Mapping[str, Any]) -> Iterator[TopicMetadata]:
    for entry in information["topics_with_message_count"] or ():
        metadata = entry["topic_metadata"]
        yield TopicMetadata(
            _text(metadata["name"]),
            _text(metadata["type"]),
            max(0, int(entry["message_count"])),
            metadata.get("offered_qos_profiles") or "",
        )


def _text(value: Any) -> str:
    """A scalar as text. Anything else is refused, since the text of nested YAML aliases could grow without end."""
    if isinstance(value, (list, dict, set)):
        raise TypeError(f"a {type(value).__name__} stands where a text belongs")
    return "" if value is None else str(value)


@contextmanager
def _information(bag: Path) -> Iterator[Mapping[str, Any]]:
    """The content of metadata.yaml; missing entries and wrong types that the block meets are damage of the file."""
    import yaml  # not rosbags' ruamel.yaml, which the Python of ``ros2 launch`` may not have

    path = bag / NAME
    try:
        if path.stat().st_size > _LARGEST:
            raise _damaged(bag, f"it has more than {_LARGEST:,} bytes")
        text = path.read_text(encoding="utf-8-sig")
        # The parser is slow on deeply nested brackets.
        if max(accumulate(1 if mark in "[{" else -1 for mark in re.findall(r"[][{}]", text)), default=0) > _DEEPEST:
            raise _damaged(bag, f"its lists are nested more than {_DEEPEST} deep")
        information = yaml.safe_load(text)["rosbag2_bagfile_information"]
    except OSError as err:
        raise BagError(f"{path} cannot be read ({err.strerror}); check its permissions") from err
    except BagError:
        raise
    except Exception as err:  # YAMLError, and other errors of its constructors: ValueError, RecursionError ...
        raise _damaged(bag, (str(err) or type(err).__name__).splitlines()[0]) from err
    if not isinstance(information, Mapping):
        raise _damaged(bag, "it does not describe a bag")
    try:
        yield information
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as err:
        raise _damaged(bag, f"{type(err).__name__}: {err}") from err


def _damaged(bag: Path, reason: str) -> BagError:
    return BagError(
        f"{bag} cannot be read as a bag: its {NAME} is damaged ({reason}); rebuild it with: ros2 bag reindex {bag}"
    )
