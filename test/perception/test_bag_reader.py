"""Reading of bags with the files and metadata of many tools, and the counts that they state; replacing of bags."""

import re
import sqlite3
import struct
import subprocess
import sys

import pytest
import yaml

from lvad_perception.bags import writer as bag_writer
from lvad_perception.bags.compression import zstd_module
from lvad_perception.bags.error_log import ErrorLog
from lvad_perception.bags.paths import storage_files
from lvad_perception.bags.reader import open_bag
from lvad_perception.bags.writer import create_bag
from lvad_perception.errors import BagError
from lvad_perception.messages import rosbags_types, rosbags_typestore
from lvad_perception.topics import IMAGE

from .mcap_files import (
    START,
    STEP,
    TOPIC,
    channel,
    chunk,
    image,
    index,
    message,
    record,
    schema,
    statistics,
    write_mcap,
)

zstd = zstd_module()
TYPES = rosbags_types()
RELIABLE = "- history: 1\n  depth: 5\n  reliability: 1\n  durability: 2"
BEST_EFFORT = "- history: 1\n  depth: 5\n  reliability: 2\n  durability: 2"


@pytest.fixture
def reported():
    return []


def read(bag, reported=None):
    """(topic, place in time) of every message, in the order in which they come."""
    problems = ErrorLog(print if reported is None else reported.append)
    with open_bag(bag) as reader:
        found = [
            (connection.topic, (stamp - START) // STEP)
            for connection, stamp, raw in reader.messages(reader.connections, errors=problems)
            if reader.deserialize(raw, connection) is not None
        ]
    assert reported is not None or problems.total == 0
    return found


def places(bag, reported=None):
    return [place for _, place in read(bag, reported)]


def a_bag(path, count=6, *, kind="mcap", topics=(TOPIC,)):
    """A folder with one storage file and metadata, as we write it."""
    with create_bag(path, storage=kind) as bag:
        for place in range(count):
            for topic in topics:
                msg = rosbags_typestore().deserialize_cdr(image(place), IMAGE)
                bag.write(topic, msg, START + place * STEP)
    return path


def edit(bag, **changes):
    """Change facts of metadata.yaml; a function gets what it was."""
    path = bag / "metadata.yaml"
    content = yaml.safe_load(path.read_text())
    metadata = content["rosbag2_bagfile_information"]
    for name, value in changes.items():
        metadata[name] = value(metadata[name]) if callable(value) else value
    path.write_text(yaml.safe_dump(content))
    return bag


def split_bag(path, *groups):
    """A bag of several files: each group has the places of its messages."""
    a_bag(path, sum(map(len, groups)))
    (path / f"{path.name}.mcap").unlink()
    names = [f"{path.name}_{place}.mcap" for place in range(len(groups))]
    for name, group in zip(names, groups, strict=True):
        messages = [message(place) for place in group]
        inside = chunk(*messages, start=START + group[0] * STEP)
        write_mcap(path / name, schema(), channel(), inside, index(1, len(group)), statistics(c1=len(group)))
    return edit(path, relative_file_paths=names)


def _laughs():
    """A few lines that expand to 10 to the power of 30 words."""
    lines = ["  a0: &a0 [ha, ha, ha, ha, ha, ha, ha, ha, ha, ha]"]
    lines += [f"  a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 30)]
    lines += ["  version: 9", "  relative_file_paths: *a29", "  topics_with_message_count: []"]
    return "rosbag2_bagfile_information:\n" + "\n".join(lines)


class TestChannels:
    """Several channels of one topic are one topic: ``mcap merge``, and publishers whose QoS differ."""

    def two_channels(self, path):
        first, second = (chunk(*(message(place, key=key) for place in range(key, 10, 2))) for key in (1, 2))
        return write_mcap(
            path,
            *(schema(), channel(1, qos=RELIABLE), channel(2, qos=BEST_EFFORT)),
            *(first, index(1, 5), second, index(2, 4), statistics(c1=5, c2=4)),
        )

    def test_of_a_file(self, tmp_path):
        assert places(self.two_channels(tmp_path / "merged.mcap")) == list(range(1, 10))

    @pytest.mark.parametrize("entries", [1, 2])
    def test_of_a_folder_whose_metadata_lists_the_topic_once_or_twice(self, tmp_path, entries):
        bag = a_bag(tmp_path / "bag", 9)
        self.two_channels(bag / "bag.mcap")
        if entries == 2:
            edit(bag, topics_with_message_count=lambda topics: [{**topics[0], "message_count": n} for n in (5, 4)])
        with open_bag(bag) as reader:
            assert [(each.topic, each.msgcount) for each in reader.connections] == [(TOPIC, 9)]
        assert places(bag) == list(range(1, 10))

    @pytest.mark.parametrize("kind", ["mcap", "sqlite3"])
    @pytest.mark.parametrize("profiles", [BEST_EFFORT, "nonsense: [", 7, [{"reliability": "reliable"}], "x" * 100_000])
    def test_qos_that_were_edited_in_the_metadata(self, tmp_path, kind, profiles):
        bag = a_bag(tmp_path / "bag", topics=("/front/image_raw", "/rear/image_raw"), kind=kind)

        def edited(topics):
            topics[1]["topic_metadata"]["offered_qos_profiles"] = profiles
            return topics

        edit(bag, topics_with_message_count=edited)
        assert len(read(bag)) == 12

    def test_a_type_hash_that_differs(self, tmp_path):
        bag = a_bag(tmp_path / "bag")

        def edited(topics):
            topics[0]["topic_metadata"]["type_description_hash"] = "RIHS01_" + "1" * 64
            return topics

        assert places(edit(bag, topics_with_message_count=edited)) == list(range(6))


class TestCounts:
    @pytest.mark.parametrize("kind", ["mcap", "sqlite3"])
    def test_metadata_counts_more_than_the_file_holds(self, tmp_path, reported, kind):
        bag = a_bag(tmp_path / "bag", kind=kind)

        def edited(topics):
            topics[0]["message_count"] = 9
            return topics

        edit(bag, topics_with_message_count=edited)
        assert places(bag, reported) == list(range(6))
        assert reported == [
            f"{TOPIC} 3 of 9 messages: {bag} lists them, but its files do not contain them or are damaged there; "
            "copy it again"
        ]

    def test_a_topic_that_only_the_metadata_lists(self, tmp_path, reported):
        bag = a_bag(tmp_path / "bag", topics=("/front/image_raw", "/rear/image_raw"))
        write_mcap(bag / "bag.mcap", schema(), channel(1, "/front/image_raw"), *map(message, range(6)))
        assert len(read(bag, reported)) == 6
        assert [line.split(":")[0] for line in reported] == ["/rear/image_raw 6 of 6 messages"]

    def test_statistics_count_more_than_the_file_holds(self, tmp_path, reported):
        path = write_mcap(tmp_path / "x.mcap", schema(), channel(), chunk(message(0), message(1)), statistics(c1=5))
        assert places(path, reported) == [0, 1]
        assert reported[0].startswith(f"{TOPIC} 3 of 5 messages: ")

    def test_a_damaged_chunk_costs_what_is_in_it(self, tmp_path, reported):
        good, bad = chunk(message(0), message(1)), chunk(message(2), message(3), message(4))
        bad = bad[:-1] + bytes([bad[-1] ^ 1])
        path = write_mcap(tmp_path / "x.mcap", schema(), channel(), bad, good, statistics(c1=5))
        assert places(path, reported) == [0, 1]
        assert re.fullmatch(
            rf"{path} chunk at byte \d+: its checksum does not fit; what is in it is left out", reported[0]
        )
        assert reported[1].startswith(f"{TOPIC} 3 of 5 messages: ")

    def test_an_index_that_forgets_a_channel(self, tmp_path, reported):
        path = write_mcap(
            tmp_path / "x.mcap",
            *(schema(), channel(1), channel(2, "/other")),
            *(chunk(message(0), message(1, key=2)), index(1, 1), statistics(c1=1, c2=1)),
        )
        with open_bag(path) as reader:
            (other,) = [each for each in reader.connections if each.topic == "/other"]
            assert list(reader.messages([other], errors=ErrorLog(reported.append))) == []
        assert reported[0].startswith("/other 1 of 1 messages: ")

    def test_an_index_that_names_the_wrong_channel(self, tmp_path, reported):
        first = chunk(message(0)), index(2, 1)
        path = write_mcap(tmp_path / "x.mcap", schema(), channel(1), channel(2, "/other"), *first, statistics(c1=1))
        assert read(path, reported) == [(TOPIC, 0)]
        assert [line.split(":")[0] for line in reported] == ["/other 1 of 1 messages"]

    def test_a_stamp_that_no_storage_can_hold(self, tmp_path, reported):
        late = record(5, struct.pack("<HIQQ", 1, 0, 1 << 63, 0) + image(0))
        assert places(write_mcap(tmp_path / "x.mcap", schema(), channel(), message(0), late), reported) == [0]
        assert reported == [f"{TOPIC} message 1: its time stamp 9223372036854775808 ns is impossible"]

    def test_topics_that_are_not_read_are_not_lost(self, tmp_path, reported):
        bag = a_bag(tmp_path / "bag", topics=("/front/image_raw", "/rear/image_raw"))
        with open_bag(bag) as reader:
            assert len(list(reader.messages(reader.connections[:1], errors=ErrorLog(reported.append)))) == 6
            assert list(reader.messages([], errors=ErrorLog(reported.append))) == []
        assert reported == []


class TestSplits:
    @pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (2, 1, 0)])
    def test_in_any_order(self, tmp_path, order):
        bag = split_bag(tmp_path / "bag", [0, 1, 2], [3, 4], [5, 6])
        assert places(edit(bag, relative_file_paths=lambda names: [names[place] for place in order])) == list(range(7))

    def test_that_overlap(self, tmp_path):
        assert places(split_bag(tmp_path / "bag", [0, 2, 4], [1, 3, 5])) == list(range(6))

    def test_listed_twice_is_read_once(self, tmp_path):
        bag = split_bag(tmp_path / "bag", [0, 1], [2, 3])
        assert places(edit(bag, relative_file_paths=lambda names: [*names, names[0]])) == list(range(4))

    def test_a_missing_one_is_named(self, tmp_path):
        bag = split_bag(tmp_path / "bag", [0, 1], [2, 3])
        (bag / "bag_1.mcap").unlink()
        with pytest.raises(BagError, match=r"its files are missing: bag_1.mcap; copy them into it, or rebuild"):
            read(bag)

    def test_one_that_metadata_does_not_list_is_reported(self, tmp_path, reported):
        bag = split_bag(tmp_path / "bag", [0, 1], [2, 3])
        edit(bag, relative_file_paths=["bag_0.mcap"], topics_with_message_count=[])
        assert places(bag, reported) == [0, 1]
        assert reported == [f"{bag} bag_1.mcap: metadata.yaml does not list it, so it is not read; move it away"]

    def test_without_metadata(self, tmp_path):
        bag = split_bag(tmp_path / "bag", [0, 1], [2, 3])
        (bag / "metadata.yaml").unlink()
        with pytest.raises(
            BagError, match=r"has 2 storage files and no metadata.yaml .* make it with: ros2 bag reindex"
        ):
            read(bag)
        assert places(bag / "bag_1.mcap") == [2, 3]

    def test_a_truncated_one_is_named(self, tmp_path):
        bag = split_bag(tmp_path / "bag", [0, 1], [2, 3])
        file = bag / "bag_1.mcap"
        file.write_bytes(file.read_bytes()[:-40])
        with pytest.raises(BagError, match=r"bag_1\.mcap cannot be read as a bag \(it is truncated.*mcap recover"):
            read(bag)

    def test_files_are_those_of_the_folder(self, tmp_path):
        bag = split_bag(tmp_path / "bag", [0, 1], [2, 3])
        write_mcap(tmp_path / "secret.mcap", schema(), channel(), message(9))
        edit(bag, relative_file_paths=["../secret.mcap", "bag/bag_1.mcap"])
        with pytest.raises(BagError, match=r"its files are missing: secret\.mcap"):
            read(bag)


class TestCompressed:
    @pytest.mark.parametrize("kind", ["mcap", "sqlite3"])
    def test_files(self, tmp_path, kind):
        bag = a_bag(tmp_path / "bag", kind=kind)
        (file,) = storage_files(bag)
        packed = file.with_name(f"{file.name}.zstd")
        packed.write_bytes(zstd.compress(file.read_bytes()))
        file.unlink()
        edit(bag, relative_file_paths=[packed.name], compression_mode="FILE", compression_format="zstd")
        assert places(bag) == list(range(6))
        assert places(packed) == list(range(6))
        packed.write_bytes(packed.read_bytes()[:-9])
        with pytest.raises(BagError, match=rf"{packed.name} is a damaged zstd file: "):
            read(bag)

    @pytest.mark.parametrize("mode", ["MESSAGE", ""])
    def test_messages_even_when_the_metadata_does_not_mention_it(self, tmp_path, mode):
        bag = a_bag(tmp_path / "bag")
        packed = [message(place, data=zstd.compress(image(place))) for place in range(6)]
        write_mcap(bag / "bag.mcap", schema(), channel(), *packed)
        assert places(edit(bag, compression_mode=mode, compression_format="zstd" if mode else "")) == list(range(6))

    def test_a_damaged_message_costs_itself(self, tmp_path, reported):
        whole = zstd.compress(image(1))
        path = write_mcap(tmp_path / "x.mcap", schema(), channel(), message(0), message(1, data=whole[:-9]))
        assert places(path, reported) == [0]
        assert reported == [f"{TOPIC} message 1 at 1600000000.100000000: its compressed data ends too early"]

    def test_another_compression(self, tmp_path):
        bag = edit(a_bag(tmp_path / "bag"), compression_mode="FILE", compression_format="bz2")
        with pytest.raises(BagError, match="is compressed by bz2, and only zstd is read; decompress it with: ros2 bag"):
            read(bag)


class TestFormats:
    @pytest.mark.parametrize("kind", ["mcap", "sqlite3"])
    @pytest.mark.parametrize("identifier", ["", "sqlite3", "mcap", None])
    def test_a_file_says_itself_what_it_is(self, tmp_path, kind, identifier):
        """Humble's reindex leaves an empty identifier."""
        assert places(edit(a_bag(tmp_path / "bag", kind=kind), storage_identifier=identifier)) == list(range(6))

    def test_a_newer_version_names_its_remedies(self, tmp_path):
        bag = edit(a_bag(tmp_path / "bag"), version=10, topics_with_message_count=[])
        with pytest.raises(BagError) as caught:
            read(bag)
        assert str(caught.value) == (
            f"{bag} was written by a newer rosbag2 (version 10 of metadata.yaml, 9 is the newest known one); "
            f"update lvad_perception, or name a storage file itself: {bag / 'bag.mcap'}"
        )
        assert places(bag / "bag.mcap") == list(range(6))

    @pytest.mark.parametrize(
        "content",
        [
            *("", "{", "- 1", "a: 1", "rosbag2_bagfile_information: 3", "rosbag2_bagfile_information: {version: 9}"),
            *(
                "[" * 5000,
                _laughs(),
                "\0",
                "a: &a [*a]",
                "!!python/object/apply:os.system ['touch x']",
                "é".encode("latin-1"),
            ),
        ],
        ids=range(12),
    )
    def test_damaged_metadata_is_one_sentence(self, tmp_path, content):
        bag = a_bag(tmp_path / "bag")
        (bag / "metadata.yaml").write_bytes(content if isinstance(content, bytes) else content.encode())
        with pytest.raises(BagError, match=r"its metadata\.yaml is damaged \(.*\); rebuild it with: ros2 bag reindex"):
            read(bag)

    @pytest.mark.parametrize("count", [float("inf"), float("nan"), "many", None])
    def test_a_message_count_that_is_no_number_is_damage(self, tmp_path, count):
        bag = a_bag(tmp_path / "bag")
        edit(bag, topics_with_message_count=lambda topics: [{**topics[0], "message_count": count}])
        with pytest.raises(BagError, match=r"its metadata\.yaml is damaged \(.*\); rebuild it with: ros2 bag reindex"):
            read(bag)

    @pytest.mark.parametrize("profile", ["ros1", ""])
    def test_ros_1_in_mcap(self, tmp_path, profile):
        path = write_mcap(
            *(tmp_path / "old.mcap", schema(name="sensor_msgs/Image", language="ros1msg"), channel(encoding="ros1")),
            message(0),
            profile=profile,
        )
        with pytest.raises(
            BagError, match=r"old\.mcap is a recording of ROS 1 in MCAP; convert the \.bag file .* with: ros"
        ):
            read(path)

    def test_a_ros_1_bag_under_another_name(self, tmp_path):
        (tmp_path / "x.mcap").write_bytes(b"#ROSBAG V2.0\n" + bytes(50))
        with pytest.raises(BagError, match="is a ROS 1 bag; convert it with: rosbags-convert"):
            read(tmp_path / "x.mcap")

    def test_no_profile_is_read_where_messages_are_those_of_ros_2(self, tmp_path):
        assert places(write_mcap(tmp_path / "x.mcap", schema(), channel(), message(0), message(1), profile="")) == [
            0,
            1,
        ]

    def test_messages_of_another_encoding(self, tmp_path):
        path = write_mcap(tmp_path / "x.mcap", schema(language="jsonschema"), channel(encoding="json"), message(0))
        with pytest.raises(
            BagError, match="has no message of ROS 2, only messages encoded as json; record it with ros2 bag"
        ):
            read(path)

    def test_no_index_and_no_statistics(self, tmp_path):
        """Descriptions are in the chunks then; a chunk's stamps need not rise, nor those outside of chunks."""
        inside = chunk(schema(), channel(), message(3), message(1))
        assert places(write_mcap(tmp_path / "x.mcap", inside, message(4), message(2), message(0))) == list(range(5))

    @pytest.mark.parametrize("counted", [{}, {"c1": 1}])
    def test_statistics_that_do_not_count_by_topic(self, tmp_path, counted):
        """They need not; a camera whose messages nobody counted is a camera."""
        path = write_mcap(
            tmp_path / "x.mcap", schema(), channel(), chunk(message(0), message(1)), statistics(**counted)
        )
        content = bytearray(path.read_bytes())
        at = content.rindex(statistics(**counted)) + 9
        content[at : at + 8] = (2).to_bytes(8, "little")
        path.write_bytes(content)
        with open_bag(path) as reader:
            assert [each.msgcount for each in reader.connections] == [2]

    @pytest.mark.parametrize("name", ["50% #1", "what?", "ä b"])
    def test_names_with_special_characters_of_uris(self, tmp_path, name):
        a_bag(tmp_path / "bag", kind="sqlite3").rename(tmp_path / name)
        assert places(tmp_path / name) == list(range(6))
        if name != "ä b":
            with pytest.raises(BagError, match=r"a sqlite3 bag cannot be written to .*; rename it, or write MCAP"):
                a_bag(tmp_path / name / "new", kind="sqlite3")
        assert len(list((tmp_path / name).iterdir())) == 2
        assert places(a_bag(tmp_path / name / "new")) == list(range(6))

    def test_what_a_killed_recorder_left_in_the_journal_is_read(self, tmp_path):
        bag = a_bag(tmp_path / "bag", kind="sqlite3")
        code = (
            "import os, sqlite3, sys\n"
            "base = sqlite3.connect(sys.argv[1]); base.execute('PRAGMA journal_mode = WAL')\n"
            "base.execute('INSERT INTO messages (topic_id, timestamp, data) "
            "SELECT topic_id, timestamp + 600000000, data FROM messages'); base.commit(); os._exit(0)"
        )
        subprocess.run([sys.executable, "-c", code, str(bag / "bag.db3")], check=True, timeout=60)
        assert (bag / "bag.db3-wal").stat().st_size
        assert places(bag) == list(range(12))

    @pytest.mark.parametrize("kind", ["mcap", "sqlite3"])
    def test_a_message_can_be_read_again(self, tmp_path, kind):
        with open_bag(a_bag(tmp_path / "bag", kind=kind)) as reader:
            found = list(reader.located_messages(reader.connections))
            assert [bytes(reader.read(place)) for *_, place in found] == [image(place) for place in range(6)]

    def test_rows_of_other_types_are_reported(self, tmp_path, reported):
        bag = a_bag(tmp_path / "bag", kind="sqlite3")
        with sqlite3.connect(bag / "bag.db3") as base:
            base.execute("UPDATE messages SET data = 'text' WHERE id = 2")
        base.close()
        assert len(read(bag, reported)) == 5
        assert [line.split(":")[0] for line in reported] == [f"{bag / 'bag.db3'} message 2", f"{TOPIC} 1 of 6 messages"]


class TestReplacing:
    """An older bag and the new one: at every moment one of them is there, whole."""

    @pytest.fixture(params=["before", "after"])
    def moment(self, request):
        return request.param

    def test_an_interrupt(self, tmp_path, monkeypatch, moment):
        bag = a_bag(tmp_path / "bag", 2)
        exchange = bag_writer.exchange

        def interrupted(first, second):
            assert moment == "before" or exchange(first, second)
            raise KeyboardInterrupt

        monkeypatch.setattr(bag_writer, "exchange", interrupted)
        with pytest.raises(KeyboardInterrupt), create_bag(bag, overwrite=True) as writer:
            writer.write("/chatter", TYPES.String(data="new"), START)
        assert len(read(bag)) == {"before": 2, "after": 1}[moment]
        assert [path.name for path in tmp_path.iterdir()] == ["bag"]

    def test_a_kill(self, tmp_path, moment):
        bag = a_bag(tmp_path / "bag", 2)
        code = (
            "import os, signal, sys\n"
            "from pathlib import Path\n"
            "from lvad_perception.bags import writer as bag_writer\n"
            "from lvad_perception.messages import rosbags_types\n"
            "exchange = bag_writer.exchange\n"
            "def killed(first, second):\n"
            "    assert sys.argv[2] == 'before' or exchange(first, second)\n"
            "    os.kill(os.getpid(), signal.SIGKILL)\n"
            "bag_writer.exchange = killed\n"
            "with bag_writer.create_bag(Path(sys.argv[1]), overwrite=True) as bag:\n"
            "    bag.write('/chatter', rosbags_types().String(data='new'), 1600000000000000000)\n"
        )
        assert subprocess.run([sys.executable, "-c", code, str(bag), moment], check=False, timeout=60).returncode == -9
        assert len(read(bag)) == {"before": 2, "after": 1}[moment]

    @pytest.mark.parametrize("which", [0, 1])
    def test_an_interrupt_where_names_change_one_by_one(self, tmp_path, monkeypatch, which):
        bag = a_bag(tmp_path / "bag", 2)
        rename, calls = type(bag).rename, []

        def interrupted(path, target):
            calls.append(target)
            if len(calls) == which + 1:
                raise KeyboardInterrupt
            return rename(path, target)

        monkeypatch.setattr(bag_writer, "exchange", lambda first, second: False)
        monkeypatch.setattr(type(bag), "rename", interrupted)
        with pytest.raises(KeyboardInterrupt), create_bag(bag, overwrite=True) as writer:
            writer.write("/chatter", TYPES.String(data="new"), START)
        assert len(read(bag)) == 2
        assert [path.name for path in tmp_path.iterdir()] == ["bag"]

    def test_a_link_to_a_bag_stays_a_link(self, tmp_path):
        bag = a_bag(tmp_path / "disk" / "bag", 2)
        (tmp_path / "bag").symlink_to(bag)
        with create_bag(tmp_path / "bag", overwrite=True) as writer:
            writer.write("/chatter", TYPES.String(data="new"), START)
        assert (tmp_path / "bag").is_symlink()
        assert len(read(bag)) == 1
