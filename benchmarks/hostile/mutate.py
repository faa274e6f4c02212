"""Mutations of bytes and text, as by damaged disks, broken writers and attackers."""

import re
import struct
import zlib
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

Random = np.random.Generator

INTEGERS: Final = (
    0,
    1,
    2,
    3,
    7,
    0x7F,
    0x80,
    0xFF,
    0x7FFF,
    0xFFFF,
    0x7FFFFFFF,
    0x80000000,
    0xFFFFFFFF,
    65_500,
    2**62,
    2**63,
)
TOKENS: Final = (
    *(
        "null",
        "true",
        "-1",
        "0",
        "1e400",
        "NaN",
        "-Infinity",
        "1e-320",
        "9" * 40,
        "[]",
        "{}",
        '""',
        '"\\u0000"',
        '"\\ud800"',
    ),
    *('"../../../../etc/passwd"', '"/etc/passwd"', '"C:\\\\x"', '"<script>alert(1)</script>"', '"a|b\\nc"', '"~/x"'),
    *(
        "!!python/object/apply:os.system ['true']",
        "&a [*a, *a]",
        "*missing",
        "<<: {}",
        "---",
        "[" * 2_000,
        '{"a":' * 2_000,
    ),
)
_TOKEN: Final = re.compile(r'"(?:[^"\\]|\\.)*"|[-+.\w]+|[{}\[\],:#]')
_SCALAR: Final = re.compile(r'"(?:[^"\\]|\\.)*"|[-+.\w/]+')
MOST_STEPS: Final = 4


def mutate_bytes(data: bytes, random: Random, others: Sequence[bytes] = ()) -> bytes:
    """Change one to four places of ``data``, most often one; in half of the cases its length stays the same.

    Args:
        data: a valid file or message.
        random: the random numbers.
        others: files to splice pieces from.
    """
    steps = _IN_PLACE if random.random() < 0.5 else _STEPS
    for _ in range(_count(random)):
        data = steps[int(random.integers(len(steps)))](data, random, others) if data else random.bytes(8)
    return data


def mutate_text(text: bytes, random: Random, others: Sequence[bytes] = ()) -> bytes:
    """Change JSON or YAML: most often only values, otherwise any token, the encoding, or bytes."""
    choice = random.random()
    if choice < 0.15:
        return mutate_bytes(text, random, others)
    decoded, pattern = text.decode(), _TOKEN if choice < 0.4 else _SCALAR
    for _ in range(_count(random)):
        tokens = list(pattern.finditer(decoded))
        if not tokens:
            break
        one, two = (tokens[int(i)] for i in random.integers(len(tokens), size=2))
        new = ["", one[0] * 2, two[0], *[TOKENS[int(random.integers(len(TOKENS)))]] * 3][int(random.integers(6))]
        decoded = decoded[: one.start()] + new + decoded[one.end() :]
    if choice > 0.95:
        return decoded.encode(str(random.choice(["utf-16", "utf-8-sig", "utf-32-le", "latin-1"])), errors="replace")
    return decoded.encode()


def _count(random: Random) -> int:
    return min(MOST_STEPS, int(random.geometric(0.6)))


def _flip_bit(data: bytes, random: Random, _others: Sequence[bytes]) -> bytes:
    place = int(random.integers(len(data)))
    return data[:place] + bytes([data[place] ^ (1 << int(random.integers(8)))]) + data[place + 1 :]


def _set_integer(data: bytes, random: Random, _others: Sequence[bytes]) -> bytes:
    value, (width, code) = INTEGERS[int(random.integers(len(INTEGERS)))], _WIDTHS[int(random.integers(4))]
    place = int(random.integers(len(data)))
    written = struct.pack(("<" if random.random() < 0.5 else ">") + code, value & (1 << 8 * width) - 1)
    return (data[:place] + written + data[place + width :])[: max(len(data), 1)]


def _cut_end(data: bytes, random: Random, _others: Sequence[bytes]) -> bytes:
    return data[: int(random.integers(len(data)))]


def _range(data: bytes, random: Random) -> tuple[int, int]:
    begin = int(random.integers(len(data)))
    return begin, min(len(data), begin + 1 + int(random.geometric(0.05)))


def _drop(data: bytes, random: Random, _others: Sequence[bytes]) -> bytes:
    begin, end = _range(data, random)
    return data[:begin] + data[end:]


def _repeat(data: bytes, random: Random, _others: Sequence[bytes]) -> bytes:
    begin, end = _range(data, random)
    return data[:end] + data[begin:end] * int(random.integers(1, 9)) + data[end:]


def _blank(data: bytes, random: Random, _others: Sequence[bytes]) -> bytes:
    begin, end = _range(data, random)
    return data[:begin] + bytes([int(random.choice([0, 0xFF]))]) * (end - begin) + data[end:]


def _insert(data: bytes, random: Random, _others: Sequence[bytes]) -> bytes:
    place = int(random.integers(len(data) + 1))
    return data[:place] + random.bytes(int(random.integers(1, 17))) + data[place:]


def _splice(data: bytes, random: Random, others: Sequence[bytes]) -> bytes:
    if not others:
        return _insert(data, random, others)
    other = others[int(random.integers(len(others)))]
    return data[: int(random.integers(len(data)))] + other[int(random.integers(len(other))) :]


_WIDTHS: Final = ((1, "B"), (2, "H"), (4, "I"), (8, "Q"))
_IN_PLACE: Final[tuple[Callable[[bytes, Random, Sequence[bytes]], bytes], ...]] = (_flip_bit, _set_integer, _blank)
_STEPS: Final[tuple[Callable[[bytes, Random, Sequence[bytes]], bytes], ...]] = (
    *(_flip_bit, _flip_bit, _set_integer, _set_integer, _cut_end, _drop, _repeat, _blank, _insert, _splice),
)


def mutate_png(data: bytes, random: Random, others: Sequence[bytes] = ()) -> bytes:
    """Change a PNG: its bytes, its chunks with corrected checksums, or its rows before compression."""
    choice = random.random()
    if choice < 0.2:
        return mutate_bytes(data, random, others)
    if choice < 0.6:
        return _mend_png(mutate_bytes(data, random, others))
    chunks = _png_chunks(data)
    rows = mutate_bytes(zlib.decompress(b"".join(content for name, content in chunks if name == b"IDAT")), random)
    header = bytearray(chunks[0][1])
    if random.random() < 0.3:  # another size, depth or colour type
        header[int(random.integers(13))] = int(random.choice([0, 1, 2, 3, 4, 6, 8, 16, 255]))
    kept = [(name, content) for name, content in chunks[1:-1] if name != b"IDAT"]
    written = [(b"IHDR", bytes(header)), *kept, (b"IDAT", zlib.compress(rows)), chunks[-1]]
    parts = (struct.pack(">I", len(content)) + name + content + bytes(4) for name, content in written)
    return _mend_png(data[:8] + b"".join(parts))


def _png_chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    """Name and content of the chunks of a valid PNG."""
    chunks, place = [], 8
    while place < len(data):
        (length,) = struct.unpack_from(">I", data, place)
        chunks.append((data[place + 4 : place + 8], data[place + 8 : place + 8 + length]))
        place += 12 + length
    return chunks


def _mend_png(data: bytes) -> bytes:
    """Correct the checksum of every chunk of a PNG, so that a decoder reads the changes."""
    mended, place = bytearray(data), 8
    while place + 12 <= len(mended):
        (length,) = struct.unpack_from(">I", mended, place)
        end = place + 8 + length
        if end + 4 > len(mended):
            break
        struct.pack_into(">I", mended, end, zlib.crc32(bytes(mended[place + 4 : end])))
        place = end + 4
    return bytes(mended)
