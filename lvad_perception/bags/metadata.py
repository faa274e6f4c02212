"""metadata.yaml: what a bag promises of its files, topics and messages."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path, PurePath
from typing import Any, Final

from lvad_perception.errors import BagError

NAME: Final = "metadata.yaml"
_NEWEST_VERSION: Final = 9
_LARGEST: Final = 4 << 20
_DEEPEST: Final = 100


@dataclass(frozen=True, slots=True)
class PromisedTopic:
    """A topic as metadata.yaml has it: ``qos`` are the offered profiles, as YAML or already parsed."""

    topic: str
    msgtype: str
    count: int
    qos: Any
    digest: str


@dataclass(frozen=True, slots=True)
class Metadata:
    """The content of a bag's metadata.yaml.

    Attributes:
        files: names of the storage files, all in the bag's folder.
        topics: with the number of messages of each.
        custom: facts that the bag's writer left.
    """

    files: tuple[str, ...]
    topics: tuple[PromisedTopic, ...]
    custom: dict[str, str]


def read_metadata(bag: Path) -> Metadata:
    """Read the metadata of a bag folder.

    Raises:
        BagError: they are damaged, of a newer version of rosbag2, or name a compression that is not zstd.
    """
    facts = _information(bag)
    try:
        # Of a path only the name counts: older versions wrote the folder too, and nothing outside of it is a bag's.
        files = tuple(dict.fromkeys(PurePath(_text(path)).name for path in facts["relative_file_paths"]))
        if int(facts["version"]) > _NEWEST_VERSION:
            raise BagError(
                f"{bag} was written by a newer rosbag2 (version {facts['version']} of {NAME}, {_NEWEST_VERSION} is the "
                f"newest that is known here); update lvad_perception, or name a storage file itself: "
                f"{', '.join(str(bag / name) for name in files)}"
            )
        mode, compression = _text(facts.get("compression_mode")), _text(facts.get("compression_format"))
        if mode.lower() not in ("", "none") and compression != "zstd":
            raise BagError(
                f"{bag} is compressed by {compression or 'an unnamed program'}, and only zstd is read; "
                "decompress it with: ros2 bag convert"
            )
        topics = tuple(_topic(entry) for entry in facts["topics_with_message_count"] or ())
        custom = facts.get("custom_data")
        custom = {_text(name): _text(value) for name, value in custom.items()} if isinstance(custom, Mapping) else {}
        return Metadata(files, topics, custom)
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as err:
        raise _damaged(bag, f"{type(err).__name__}: {err}") from err


def _topic(entry: Any) -> PromisedTopic:
    facts = entry["topic_metadata"]
    return PromisedTopic(
        _text(facts["name"]),
        _text(facts["type"]),
        max(0, int(entry["message_count"])),
        facts.get("offered_qos_profiles") or "",
        _text(facts.get("type_description_hash")),
    )


def _text(value: Any) -> str:
    """A scalar as text. Lists that hold themselves many times over in a few lines would grow without end."""
    if isinstance(value, (list, dict, set)):
        raise TypeError(f"a {type(value).__name__} stands where a text belongs")
    return "" if value is None else str(value)


def _information(bag: Path) -> Mapping[str, Any]:
    from ruamel.yaml import YAML

    path = bag / NAME
    try:
        if path.stat().st_size > _LARGEST:
            raise _damaged(bag, f"it has more than {_LARGEST:,} bytes")
        text = path.read_text(encoding="utf-8-sig")
        # The parser takes its time over brackets in brackets.
        if max(accumulate(1 if mark in "[{" else -1 for mark in re.findall(r"[][{}]", text)), default=0) > _DEEPEST:
            raise _damaged(bag, f"its lists are nested more than {_DEEPEST} deep")
        loaded: Any = YAML(typ="safe").load(text)
        facts = loaded["rosbag2_bagfile_information"]
    except OSError as err:
        raise BagError(f"{path} cannot be read ({err.strerror}); check its permissions") from err
    except BagError:
        raise
    except (
        Exception
    ) as err:  # YAMLError, and what its constructors raise of odd scalars: ValueError, RecursionError ...
        raise _damaged(bag, (str(err) or type(err).__name__).splitlines()[0]) from err
    if not isinstance(facts, Mapping):
        raise _damaged(bag, "it says nothing of a bag")
    return facts


def _damaged(bag: Path, reason: str) -> BagError:
    return BagError(
        f"{bag} cannot be read as a bag: its {NAME} is damaged ({reason}); make it anew with: ros2 bag reindex {bag}"
    )
