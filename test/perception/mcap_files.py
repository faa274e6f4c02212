"""Writes MCAP files record by record, including invalid ones that no recorder writes."""

import struct
from binascii import crc32

import numpy as np

from lvad_perception.messages import image_to_message, make_header, rosbags_types, rosbags_typestore

MAGIC = b"\x89MCAP0\r\n"
START = 1_600_000_000_000_000_000
STEP = 100_000_000
TOPIC = "/camera/image_raw"
IMAGE = "sensor_msgs/msg/Image"


def string(text):
    data = text if isinstance(text, bytes) else text.encode()
    return struct.pack("<I", len(data)) + data


def record(operation, content, *, length=None):
    return struct.pack("<BQ", operation, len(content) if length is None else length) + content


def schema(key=1, name=IMAGE, language="ros2msg"):
    return record(3, struct.pack("<H", key) + string(name) + string(language) + string(""))


def channel(key=1, topic=TOPIC, *, of=1, encoding="cdr", qos=""):
    metadata = string("offered_qos_profiles") + string(qos)
    return record(4, struct.pack("<HH", key, of) + string(topic) + string(encoding) + string(metadata))


def message(number, *, key=1, data=None):
    """The message of the image with that number, by default ``image(number)``."""
    data = image(number) if data is None else data
    stamp = START + number * STEP
    return record(5, struct.pack("<HIQQ", key, 0, stamp, stamp) + data)


def image(number):
    header = make_header(START + number * STEP, "camera", types=rosbags_types())
    msg = image_to_message(np.full((8, 8, 3), number, np.uint8), header, types=rosbags_types())
    return bytes(rosbags_typestore().serialize_cdr(msg, IMAGE))


def chunk(*records, compression="", packed=None, size=None, start=START, crc=True):
    """A chunk; ``packed`` are its compressed bytes, ``size`` its declared uncompressed size."""
    raw = b"".join(records)
    packed = raw if packed is None else packed
    size = len(raw) if size is None else size
    head = struct.pack("<QQQI", start, start + 10 * STEP, size, crc32(raw) if crc else 0)
    return record(6, head + string(compression) + struct.pack("<Q", len(packed)) + packed)


def index(key, count):
    return record(7, struct.pack("<H", key) + string(bytes(16 * count)))


def statistics(**counts):
    """Statistics that declare the message counts of channels; ``c1=3``: three messages of channel 1."""
    counted = b"".join(struct.pack("<HQ", int(name[1:]), count) for name, count in counts.items())
    head = struct.pack("<QHIIIIQQ", sum(counts.values()), 1, len(counts), 0, 0, 1, 0, 0)
    return record(11, head + string(counted))


def write_mcap(path, *records, profile="ros2", footer=True):
    head = MAGIC + record(1, string(profile) + string("a test"))
    path.parent.mkdir(parents=True, exist_ok=True)
    end = record(2, bytes(20)) + MAGIC if footer else b""
    path.write_bytes(head + b"".join(records) + end)
    return path
