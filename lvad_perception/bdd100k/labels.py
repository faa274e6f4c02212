"""BDD100K and Scalabel label JSON, of 2018 and 2020 -> typed frames, one at a time, by a compiled decoder.

What a file may be: a list of frames (det_20, the one-file JSON of 2018, Scalabel), an object ``{"frames": […]}``
(Scalabel's Dataset), or the oldest form, one file per image with ``frames[0].objects``. Frames are located first and
decoded one by one, so that a file of several hundred MB never becomes Python objects at once.
"""

import mmap
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from lvad_perception.bdd100k.cache import address, map_source
from lvad_perception.errors import LabelError

_NULL: Final = msgspec.Raw(b"null")


class Box2d(msgspec.Struct, gc=False):
    """Scalabel's rectangle: inclusive pixel coordinates, so that the width is x2 - x1 + 1."""

    x1: float
    y1: float
    x2: float
    y2: float


class LabelAttributes(msgspec.Struct, gc=False):
    """The attributes of a label that matter here; exports disagree on capitals and on the type of flags."""

    crowd: Any = False
    crowd_capitalised: Any = msgspec.field(name="Crowd", default=False)
    areaType: Any = None


class Label(msgspec.Struct):
    """One annotated thing. ``poly2d`` and ``rle`` stay undecoded: most readers never need them."""

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
        """Whether the attributes say so, as bool, number or text."""
        if not isinstance(self.attributes, LabelAttributes):
            return False
        values = (self.attributes.crowd, self.attributes.crowd_capitalised)
        return any(value is True or value == 1 or value in ("true", "True") for value in values)


class _Objects(msgspec.Struct):
    timestamp: Any = None
    objects: list[Label] | None = None


class Frame(msgspec.Struct):
    """One image's entry. ``frames`` is the oldest form, where the labels are ``frames[0].objects``."""

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
    def things(self) -> list[Label]:
        """All labels, whichever form the file has."""
        things = self.labels or []
        for inner in self.frames or ():
            things = things + (inner.objects or [])
        return things

    @property
    def timestamp_ms(self) -> int | None:
        """Milliseconds since the video's start, None when not stated."""
        value = self.timestamp
        if value is None and self.frames:
            value = self.frames[0].timestamp
        return round(value) if isinstance(value, int | float) else None

    def attribute_texts(self) -> dict[str, str]:
        """Attributes ("weather", "scene", "timeofday", …), keys in lower case; what is unset is left out."""
        if not isinstance(self.attributes, dict):
            return {}
        return {str(key).lower(): str(value) for key, value in self.attributes.items() if value not in (None, "")}


@dataclass(frozen=True, slots=True)
class FrameBytes:
    """Where a frame's JSON lies in its file, and the frame."""

    file: Path
    offset: int
    length: int
    frame: Frame


class _Dataset(msgspec.Struct):
    frames: list[msgspec.Raw] | None = None
    name: str | None = None


class _HasObjects(msgspec.Struct):
    objects: msgspec.Raw = _NULL


_decode_list: Final = msgspec.json.Decoder(list[msgspec.Raw])
_decode_dataset: Final = msgspec.json.Decoder(_Dataset)
_decode_has_objects: Final = msgspec.json.Decoder(_HasObjects)
_decode_frame: Final = msgspec.json.Decoder(Frame)


def frames_of(source: Path) -> Iterator[FrameBytes]:
    """Every frame of a label file, or of a folder with one file per frame.

    Raises:
        LabelError: a file is missing, empty, not JSON or of another kind, or an entry has no name or a value of the
            wrong type; the message names file and entry.
    """
    for file in sorted(source.glob("*.json")) if source.is_dir() else [source]:
        yield from _frames_of_file(file)


def decode_frame(data: bytes, *, source: str) -> Frame:
    """Decode one frame's JSON.

    Raises:
        LabelError: the bytes are not a frame.
    """
    try:
        return _decode_frame.decode(data)
    except msgspec.MsgspecError as err:
        raise LabelError(f"{source} is not a BDD100K frame ({err}); repair or remove it") from err


def _frames_of_file(file: Path) -> Iterator[FrameBytes]:
    data = map_source(file)
    base = address(data)
    for index, raw in enumerate(_locate_frames(file, data)):
        frame = decode_frame(raw, source=f"{file}: entry {index}")
        if not frame.stem:
            raise LabelError(f"{file}: entry {index} has no name, so its image is unknown; add one or remove the entry")
        yield FrameBytes(file, address(raw) - base, len(raw), frame)


def _locate_frames(file: Path, data: mmap.mmap) -> list[msgspec.Raw]:
    """The bytes of each frame, as views of the mapped file."""
    kind = data[: 1 << 12].lstrip(b"\xef\xbb\xbf \t\r\n")[:1]
    try:
        if kind == b"[":
            return _decode_list.decode(data)
        if kind == b"{":
            dataset = _decode_dataset.decode(data)
            frames = dataset.frames
            # The oldest form names the image outside and lists its objects inside; one frame alone is a Scalabel item.
            if dataset.name and (frames is None or all(_is_objects(frame) for frame in frames)):
                return [msgspec.json.decode(data, type=msgspec.Raw)]
            if frames is not None:
                return frames
    except msgspec.ValidationError as err:
        raise LabelError(f"{file} is not a BDD100K label file ({err}); pass a list of frames") from err
    except msgspec.DecodeError as err:
        raise LabelError(f"{file} is not valid JSON ({err}); download or export it again") from err
    raise LabelError(f"{file} is not a BDD100K label file: neither a list of frames nor an object with 'frames'")


def _is_objects(raw: msgspec.Raw) -> bool:
    return bytes(_decode_has_objects.decode(raw).objects) != bytes(_NULL)
