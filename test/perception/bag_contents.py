"""Reads the messages and QoS profiles of a bag."""

import sqlite3

import yaml

from lvad_perception.bags.reader import open_bag

# Policies of a profile that Humble's rosbag2 reads as numbers.
POLICIES = ("history", "reliability", "durability", "liveliness")


def contents(bag):
    """Topic -> [(bag stamp, raw bytes, message)]."""
    found = {}
    with open_bag(bag) as reader:
        for connection, stamp, raw in reader.messages(reader.connections):
            found.setdefault(connection.topic, []).append((stamp, bytes(raw), reader.deserialize(raw, connection)))
    return found


def profiles_as_humble_reads_them(bag):
    """Topic -> [QoS profile] as Humble's rosbag2 parses them; fails the test where Humble would throw.

    From version 4 on its ``MetadataIo`` reads the profiles of metadata.yaml as a string; its player prefers those of
    the storage, as YAML whose policies are numbers.
    """
    metadata = yaml.safe_load((bag / "metadata.yaml").read_text())["rosbag2_bagfile_information"]
    assert metadata["version"] == 8
    texts = {
        t["topic_metadata"]["name"]: t["topic_metadata"]["offered_qos_profiles"]
        for t in metadata["topics_with_message_count"]
    }
    assert {type(text) for text in texts.values()} == {str}
    (file,) = metadata["relative_file_paths"]
    if metadata["storage_identifier"] == "sqlite3":
        with sqlite3.connect(bag / file) as storage:
            assert dict(storage.execute("SELECT name, offered_qos_profiles FROM topics")) == texts
    else:  # the summary at the end of the file repeats every channel, uncompressed
        summary = (bag / file).read_bytes()
        for topic, text in texts.items():
            assert _mcap_channel(topic, text) in summary
    found = {topic: yaml.safe_load(text) if text else [] for topic, text in texts.items()}
    for profile in (profile for profiles in found.values() for profile in profiles):
        assert all(type(profile[policy]) is int for policy in (*POLICIES, "depth"))
        for time in ("deadline", "lifespan", "liveliness_lease_duration"):
            assert all(type(profile[time][part]) is int and profile[time][part] >= 0 for part in ("sec", "nsec"))
        assert type(profile["avoid_ros_namespace_conventions"]) is bool
    return found


def _mcap_channel(topic, profiles):
    """The bytes of a channel record from its topic on: topic, message encoding, and QoS profiles as metadata."""

    def string(text):
        return len(text.encode()).to_bytes(4, "little") + text.encode()

    metadata = string("offered_qos_profiles") + string(profiles)
    return string(topic) + string("cdr") + len(metadata).to_bytes(4, "little") + metadata
