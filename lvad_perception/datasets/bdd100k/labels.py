"""Label JSON of BDD100K and Scalabel, of 2018 and 2020 -> typed frames, decoded one at a time by msgspec.

A file is a list of frames (det_20, the one-file JSON of 2018, Scalabel), an object ``{"frames": […]}`` (Scalabel's
Dataset), or the oldest form, one file per image with ``frames[0].objects``. Frames are located first and decoded one by
one, so that a file of several hundred MB is never in memory as Python objects.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from lvad_perception.datasets.cache import address, map_source
from lvad_perception.datasets.formats import (
    JSON_ERRORS,
    OtherFormatError,
    constant_at,
    format_of_list,
    format_of_object,
    format_of_xml,
    without_constants,
    wrong_bytes,
)
from lvad_perception.errors import LabelError

_NULL: Final = msgspec.Raw(b"null")
_BOM: Final = b"\xef\xbb\xbf"
_LONGEST_NAME: Final = 255
"""Maximum length of a file name in bytes on Linux, macOS and Windows, hence of an image's name."""
_LATEST_MS: Final = 2**53


class Box2d(msgspec.Struct, gc=False):
    """Scalabel's rectangle: inclusive pixel coordinates, so that the width is x2 - x1 + 1."""

    x1: float
    y1: float
    x2: float
    y2: float


class LabelAttributes(msgspec.Struct, gc=False):
    """The attributes of a label that are used here; exports differ in capitals and in the type of flags."""

    crowd: Any = False
    crowd_capitalised: Any = msgspec.field(name="Crowd", default=False)
    areaType: Any = None


class Label(msgspec.Struct):
    """One label. ``poly2d`` and ``rle`` stay undecoded, since most readers never need them."""

    category: str | None = None
    attributes: LabelAttributes | list[Any] | None = None  # some exports write [] for none
    box2d: Box2d | None = None
    poly2d: msgspec.Raw = _NULL
    rle: msgspec.Raw = _NULL

    @property
    def has_shape(self) -> bool:
        """Whether the label has a polygon or run lengths."""
        return len(self.poly2d) > 4 or len(self.rle) > 4  # more than "null" or "[]"

    @property
    def area_type(self) -> object:
        """The type of a "drivable area" of 2018: "direct" or "alternative"; None when not stated."""
        return self.attributes.areaType if isinstance(self.attributes, LabelAttributes) else None

    @property
    def is_crowd(self) -> bool:
        """Whether the object is a crowd. The attribute may be a bool, a number or a text."""
        if not isinstance(self.attributes, LabelAttributes):
            return False
        values = (self.attributes.crowd, self.attributes.crowd_capitalised)
        return any(value is True or value == 1 or value in ("true", "True") for value in values)


class _Objects(msgspec.Struct):
    timestamp: Any = None
    objects: list[Label] | None = None


class Frame(msgspec.Struct):
    """One image's entry. ``frames`` belongs to the oldest form, whose labels are ``frames[0].objects``."""

    name: str | None = None
    url: str | None = None
    attributes: Any = None
    timestamp: Any = None
    labels: list[Label] | None = None
    frames: list[_Objects] | None = None

    @property
    def stem(self) -> str:
        """The frame's name without folders, URL and image suffix; empty when the entry has no name."""
        name = (self.name or self.url or "").split("?")[0].replace("\\", "/").rsplit("/", 1)[-1]
        return re.sub(r"\.(jpe?g|png)$", "", name, flags=re.IGNORECASE)

    @property
    def all_labels(self) -> list[Label]:
        """All labels, in any form of the file."""
        labels = self.labels or []
        for inner in self.frames or ():
            labels = labels + (inner.objects or [])
        return labels

    @property
    def timestamp_ms(self) -> int | None:
        """Milliseconds since the start of the video; None when not stated."""
        value = self.timestamp
        if value is None and self.frames:
            value = self.frames[0].timestamp
        return round(value) if isinstance(value, int | float) and abs(value) < _LATEST_MS else None

    def attribute_texts(self) -> dict[str, str]:
        """Attributes that are set ("weather", "scene", "timeofday", …), keys in lower case."""
        if not isinstance(self.attributes, dict):
            return {}
        return {str(key).lower(): str(value) for key, value in self.attributes.items() if value not in (None, "")}


@dataclass(frozen=True, slots=True)
class FrameBytes:
    """A frame and the position of its JSON in the file, in bytes."""

    file: Path
    offset: int
    length: int
    frame: Frame


class _Dataset(msgspec.Struct):
    frames: list[msgspec.Raw] | None = None
    name: str | None = None


class _Named(msgspec.Struct):
    name: str | None = None
    url: str | None = None


class _HasObjects(msgspec.Struct):
    objects: msgspec.Raw = _NULL


_decode_list: Final = msgspec.json.Decoder(list[msgspec.Raw])
_decode_dataset: Final = msgspec.json.Decoder(_Dataset)
_decode_object: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
_decode_has_objects: Final = msgspec.json.Decoder(_HasObjects)
_decode_frame: Final = msgspec.json.Decoder(Frame)


def frames_of(source: Path) -> Iterator[FrameBytes]:
    """Every frame of a label file, or of a folder with one file per frame. A UTF-8 byte order mark is skipped.

    Raises:
        OtherFormatError: a file is valid, but of another format.
        LabelError: a file is missing, empty or not JSON, or an entry has no name or a value of the wrong type; the
            message names file and entry.
    """
    for file in files_of(source):
        yield from _frames_of_file(file)


def files_of(source: Path) -> list[Path]:
    """The file itself, or the sorted JSON files of a folder with one file per frame."""
    if not source.is_dir():
        return [source]
    return sorted(path for path in source.iterdir() if path.suffix.lower() == ".json" and path.name[0] != ".")


def decode_frame(data: bytes, *, source: str) -> Frame:
    """Decode one frame's JSON.

    Raises:
        LabelError: the bytes are not a frame.
    """
    try:
        return _decode_frame.decode(data)
    except UnicodeDecodeError as err:
        raise LabelError(f"{source} is not UTF-8 ({err.reason}); save the file as UTF-8") from err
    except (msgspec.MsgspecError, RecursionError) as err:
        raise LabelError(f"{source} is not a BDD100K frame ({err}); repair or remove it") from err


def _frames_of_file(file: Path) -> Iterator[FrameBytes]:
    mapped = map_source(file)
    base = address(mapped)
    for index, raw in enumerate(_locate_frames(file, memoryview(mapped))):
        source = f"{file}: entry {index}"
        frame = decode_frame(raw, source=source)
        name = frame.stem
        if not name:
            raise LabelError(f"{source} has no name, so its image is unknown; add one or remove the entry")
        if "\0" in name or len(name.encode(errors="replace")) > _LONGEST_NAME:
            fault = "holds a NUL" if "\0" in name else f"is longer than {_LONGEST_NAME} bytes"
            raise LabelError(f"{source}: its name {fault}, which no image's name can; repair or remove the entry")
        yield FrameBytes(file, address(raw) - base, len(raw), frame)


def _locate_frames(file: Path, data: memoryview) -> list[msgspec.Raw]:
    """The bytes of each frame, as views of the mapped file."""
    start = bytes(data[: 1 << 12])
    if (wrong := wrong_bytes(start)) is not None:
        raise LabelError(f"{file} is {wrong}")
    if (xml := format_of_xml(start)) is not None:
        raise OtherFormatError(file, xml)
    if start.startswith(_BOM):
        data = data[len(_BOM) :]
    try:
        return _split_frames(file, data)
    except msgspec.ValidationError as err:
        raise LabelError(f"{file} is not a BDD100K label file ({err}); pass a list of frames") from err
    except JSON_ERRORS as err:
        raise LabelError(f"{file} {_why_malformed(data, err)}") from err


def _split_frames(file: Path, data: Any) -> list[msgspec.Raw]:
    """The bytes of each frame. Raises OtherFormatError, or msgspec's errors."""
    kind = bytes(data[: 1 << 12]).lstrip(b" \t\r\n")[:1]
    if kind == b"[":
        frames = _decode_list.decode(data)
        if frames and (other := format_of_list(bytes(frames[0]))) is not None:
            raise OtherFormatError(file, other)
        return frames
    if kind == b"{":
        dataset = _decode_dataset.decode(data)
        if dataset.frames is None and (other := format_of_object(_decode_object.decode(data))) is not None:
            raise OtherFormatError(file, other)
        # One image per file: the oldest form, with the objects inside ``frames``, or a single Scalabel frame.
        if dataset.name and (dataset.frames is None or all(_is_objects(frame) for frame in dataset.frames)):
            return [msgspec.json.decode(data, type=msgspec.Raw)]
        if dataset.frames is not None:
            return dataset.frames
    raise OtherFormatError(file, "JSON of another kind")


def _is_objects(raw: msgspec.Raw) -> bool:
    return bytes(_decode_has_objects.decode(raw).objects) != bytes(_NULL)


def _why_malformed(data: memoryview, err: Exception) -> str:
    """The fault of JSON that cannot be decoded, and the remedy, as a predicate of the file."""
    if isinstance(err, UnicodeDecodeError):
        return f"is not UTF-8 ({err.reason}); save it as UTF-8"
    if isinstance(err, RecursionError):
        return "is not valid JSON of labels (nested too deeply); download or export it again"
    offset = re.search(r"\(byte (\d+)\)", str(err))
    constant = constant_at(data, int(offset[1])) if offset else None
    if offset is None or constant is None:
        if offset and _is_json_lines(data):
            return "is not one JSON but one object a line; make a list of them, as with jq -s ."
        return f"is not valid JSON ({err}); download or export it again"
    remedy = "write null or a number in its place, or remove the label"
    return f"holds {constant}{_entry_at(data, int(offset[1]))}, which JSON does not have; {remedy}"


def _entry_at(data: memoryview, offset: int) -> str:
    """ " in entry 3 (its name)": the frame at an offset of a file that contains NaN or Infinity; empty when unknown."""
    valid = without_constants(data)
    try:
        frames = _split_frames(Path(), valid)
        base = address(valid)
        index = next(i for i, raw in enumerate(frames) if 0 <= offset - (address(raw) - base) <= len(raw))
        named = msgspec.json.decode(frames[index], type=_Named)
        return f" in entry {index} ({Frame(named.name, named.url).stem})"
    except (StopIteration, LabelError, *JSON_ERRORS):
        return ""


def _is_json_lines(data: memoryview) -> bool:
    line, _, rest = bytes(data[: 1 << 16]).partition(b"\n")
    try:
        msgspec.json.decode(line, type=dict[str, msgspec.Raw])
    except JSON_ERRORS:
        return False
    return rest.lstrip()[:1] == b"{"
