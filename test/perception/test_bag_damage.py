"""Damaged and hostile bags: refused in one sentence and in bounded memory."""

import random
import re
import struct
import tracemalloc

import lz4.frame
import pytest

from lvad_perception.bags import compression, storage
from lvad_perception.bags.compression import LARGEST, zstd_module
from lvad_perception.bags.error_log import ErrorLog
from lvad_perception.bags.reader import open_bag
from lvad_perception.bags.writer import create_bag
from lvad_perception.errors import BagError
from lvad_perception.messages import rosbags_typestore
from lvad_perception.topics import IMAGE

from .mcap_files import (
    MAGIC,
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
    string,
    write_mcap,
)

zstd = zstd_module()
PACK = {"zstd": zstd.compress, "lz4": lz4.frame.compress}


def read(bag, reported):
    with open_bag(bag) as reader:
        return [
            (stamp - START) // STEP
            for _, stamp, _ in reader.messages(reader.connections, errors=ErrorLog(reported.append))
        ]


@pytest.fixture(scope="module")
def gigabyte():
    """A gigabyte of zeros, as zstd and as LZ4 pack it."""
    packer = zstd.ZstdCompressor()
    block = bytes(1 << 24)
    small = b"".join(packer.compress(block) for _ in range(64)) + packer.flush()
    assert len(small) < 100_000
    with_lz4 = lz4.frame.LZ4FrameCompressor()
    pieces = [with_lz4.begin(), *(with_lz4.compress(block) for _ in range(64)), with_lz4.flush()]
    return {"zstd": small, "lz4": b"".join(pieces)}


@pytest.fixture
def bounded():
    """Fails the test when more than 64 MiB were allocated at a time."""
    tracemalloc.start()
    yield
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64 << 20


class TestBombs:
    @pytest.mark.parametrize("kind", PACK)
    def test_a_chunk_that_expands_to_more_than_it_states(self, tmp_path, gigabyte, bounded, kind):
        reported = []
        bomb = chunk(compression=kind, packed=gigabyte[kind], size=4096, crc=False)
        path = write_mcap(
            *(tmp_path / "x.mcap", schema(), channel(), chunk(message(0), start=START)),
            *(bomb, index(1, 3), statistics(c1=4)),
        )
        assert read(path, reported) == [0]
        assert re.search(
            r"chunk at byte \d+: (it expands to more than the allowed 4,096|its [\d,]+ compressed .* for the 4,096)",
            reported[0],
        )
        assert reported[1].startswith(f"{TOPIC} 3 of 4 messages: ")

    @pytest.mark.parametrize("kind", ["", *PACK])
    @pytest.mark.parametrize("size", [LARGEST + 1, 1 << 31, (1 << 64) - 1])
    def test_a_chunk_that_states_too_much(self, tmp_path, bounded, kind, size):
        path = write_mcap(tmp_path / "x.mcap", schema(), channel(), chunk(message(0), compression=kind, size=size))
        with pytest.raises(BagError, match=rf"states a size of {size:,} bytes, and more than {LARGEST:,} are refused"):
            read(path, [])

    @pytest.mark.parametrize("kind", PACK)
    def test_a_chunk_with_less_than_it_states(self, tmp_path, bounded, kind):
        """It states a quarter of a gigabyte, and has a few bytes."""
        packed = PACK[kind](message(0))
        reported = []
        path = write_mcap(
            *(
                tmp_path / "x.mcap",
                schema(),
                channel(),
                chunk(compression=kind, packed=packed, size=LARGEST, crc=False),
            ),
            statistics(c1=1),
        )
        assert read(path, reported) == []
        assert re.search(r"it has [\d,]+ bytes instead of|to which [\d,]+ of LZ4 cannot", reported[0])

    def test_a_message(self, tmp_path, gigabyte, monkeypatch, bounded):
        reported = []
        monkeypatch.setattr(compression, "LARGEST", 1 << 20)
        path = write_mcap(tmp_path / "x.mcap", schema(), channel(), message(0), message(1, data=gigabyte["zstd"]))
        assert read(path, reported) == [0]
        assert reported == [
            f"{TOPIC} message 1 at 1600000000.100000000: it expands to more than the allowed 1,048,576 bytes"
        ]

    def test_a_file(self, tmp_path, gigabyte, monkeypatch, bounded):
        monkeypatch.setattr(compression, "LARGEST", 1 << 20)
        (tmp_path / "x.mcap.zstd").write_bytes(gigabyte["zstd"])
        with pytest.raises(
            BagError, match=r"x\.mcap\.zstd expands to more than 1000 times its size, which no recording does"
        ):
            read(tmp_path / "x.mcap.zstd", [])

    def test_a_file_that_does_not_fit_on_the_disk(self, tmp_path, gigabyte, monkeypatch):
        monkeypatch.setattr(compression, "_LEAST_FREE", 1 << 62)
        (tmp_path / "x.mcap.zstd").write_bytes(gigabyte["zstd"])
        with pytest.raises(BagError, match=r"does not fit into .* when it is decompressed\); set TMPDIR to a folder"):
            read(tmp_path / "x.mcap.zstd", [])

    def test_a_file_in_a_file(self, tmp_path):
        (tmp_path / "x.mcap.zstd").write_bytes(zstd.compress(zstd.compress(MAGIC)))
        with pytest.raises(BagError, match="it is compressed twice"):
            read(tmp_path / "x.mcap.zstd", [])

    def test_chunks_that_all_overlap(self, tmp_path, monkeypatch):
        monkeypatch.setattr(storage, "_BUDGET", 1000)
        chunks = [chunk(message(place), message(place + 9), start=START) for place in range(9)]
        path = write_mcap(tmp_path / "x.mcap", schema(), channel(), *chunks, statistics(c1=18))
        with pytest.raises(
            BagError, match=r"chunks overlap in time, more than 1,000 bytes of them; bring .*: mcap sort"
        ):
            read(path, [])

    def test_a_large_chunk_is_no_bomb(self, tmp_path):
        zeros = message(0, data=bytes(20 << 20))
        assert read(write_mcap(tmp_path / "x.mcap", schema(), channel(), chunk(zeros, message(1))), []) == [0, 1]
        packed = chunk(compression="zstd", packed=zstd.compress(zeros), size=len(zeros), crc=False)
        assert read(write_mcap(tmp_path / "y.mcap", schema(), channel(), packed), []) == [0]


@pytest.mark.parametrize("length", [1 << 20, 1 << 40, (1 << 64) - 1])
@pytest.mark.parametrize(
    "make",
    [
        lambda length: [record(3, b"", length=length)],
        lambda length: [schema(), record(4, struct.pack("<HHI", 1, 1, min(length, (1 << 32) - 1)))],
        lambda length: [schema(), channel(), record(5, bytes(22), length=length)],
        lambda length: [schema(), channel(), record(6, bytes(40), length=length)],
        lambda length: [schema(), channel(), record(6, bytes(28) + string("") + struct.pack("<Q", length))],
        lambda length: [record(99, b"", length=length)],
    ],
    ids=["schema", "topic", "message", "chunk", "chunk's data", "unknown"],
)
def test_wrong_lengths(tmp_path, bounded, make, length):
    path = write_mcap(tmp_path / "x.mcap", *make(length))
    with pytest.raises(BagError, match=r"x\.mcap cannot be read as a bag \(.*recover"):
        read(path, [])


@pytest.mark.parametrize("cut", range(1, 12))
def test_a_truncated_mcap_is_refused_wherever_it_ends(tmp_path, cut):
    whole = write_mcap(tmp_path / "x.mcap", schema(), channel(), chunk(message(0), message(1)), statistics(c1=2))
    data = whole.read_bytes()
    whole.write_bytes(data[: len(data) * cut // 12])
    with pytest.raises(BagError, match=r"x\.mcap cannot be read as a bag \(it is truncated: .*recover"):
        read(whole, [])


@pytest.mark.parametrize("name", ["x.mcap", "x.db3"])
def test_an_empty_file(tmp_path, name):
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(BagError, match=r"cannot be read as a bag \(it is empty\); record it again, or"):
        read(tmp_path / name, [])


def test_a_view_is_no_table(tmp_path):
    """A query may compute for ever."""
    import sqlite3

    with sqlite3.connect(tmp_path / "x.db3") as base:
        base.execute("CREATE TABLE topics (id, name, type, serialization_format)")
        base.execute(
            "CREATE VIEW messages AS WITH RECURSIVE n(id) AS (SELECT 1 UNION ALL SELECT id + 1 FROM n) SELECT * FROM n"
        )
    base.close()
    with pytest.raises(BagError, match=r"it has no table messages, so it is no bag of ROS 2.; name a bag"):
        read(tmp_path / "x.db3", [])


def _whole(path, kind):
    if kind == "records":
        chunks = [chunk(*map(message, group)) for group in (range(3), range(3, 6))]
        return write_mcap(path, schema(), channel(), chunks[0], index(1, 3), chunks[1], index(1, 3), statistics(c1=6))
    with create_bag(path, storage=kind) as bag:
        for place in range(6):
            bag.write(TOPIC, rosbags_typestore().deserialize_cdr(image(place), IMAGE), START + place * STEP)
    return next(file for file in path.iterdir() if file.suffix in (".mcap", ".db3"))


@pytest.mark.parametrize("kind", ["records", "mcap", "sqlite3"])
def test_random_damage_ends_in_messages_or_a_sentence(tmp_path, bounded, kind):
    """And with checksums no message comes changed."""
    file = _whole(tmp_path / ("x.mcap" if kind == "records" else "bag"), kind)
    whole, source = file.read_bytes(), random.Random(0)
    originals = {image(place) for place in range(6)}
    refused = broken = lossless = 0
    for _ in range(250):
        data = bytearray(whole)
        for _ in range(source.choice([1, 1, 4])):
            place = source.randrange(len(data))
            data[place : place + source.choice([1, 4, 8])] = source.randbytes(source.choice([1, 4, 8]))
        file.write_bytes(data)
        reported = []
        try:
            with open_bag(file) as reader:
                found = [raw for _, _, raw in reader.messages(reader.connections, errors=ErrorLog(reported.append))]
        except BagError as err:
            refused += len(str(err).splitlines()) == 1
            broken += len(str(err).splitlines()) != 1
            continue
        if kind == "records":
            assert set(found) <= originals
            assert len(found) == 6 or reported
        lossless += not reported
    assert broken == 0
    assert refused
    assert lossless
