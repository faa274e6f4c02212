"""Recognises label files of other tools and data sets by keys that BDD100K's files do not have."""

import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from lvad_perception.errors import LabelError

JSON_ERRORS: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""Raised by msgspec for text that is not JSON, is not UTF-8, has another type or is nested too deeply."""

_OBJECTS: Final[tuple[tuple[str, frozenset[str]], ...]] = (
    ("COCO's format", frozenset({"images", "annotations"})),
    ("COCO's format", frozenset({"images", "categories"})),
    ("Datumaro's format, as CVAT exports it", frozenset({"items", "categories"})),
    ("labelme's format", frozenset({"shapes", "imagePath"})),
    ("Cityscapes' format", frozenset({"imgHeight", "imgWidth", "objects"})),
    ("Supervisely's format", frozenset({"size", "objects"})),
    ("Mapillary's format", frozenset({"width", "height", "objects"})),
    ("OpenLABEL's format", frozenset({"openlabel"})),
    ("OpenLABEL's format", frozenset({"vcd"})),
    ("GeoJSON", frozenset({"type", "features"})),
    ("SuperAnnotate's format", frozenset({"metadata", "instances"})),
    ("V7's format", frozenset({"item", "annotations"})),
    ("V7's format", frozenset({"image", "annotations"})),
    ("VGG Image Annotator's format", frozenset({"_via_img_metadata"})),
    ("Open Images' or another hierarchy of classes", frozenset({"LabelName", "Subcategory"})),
)
_LISTS: Final[tuple[tuple[str, frozenset[str]], ...]] = (
    ("COCO's format of results", frozenset({"image_id", "category_id"})),
    ("COCO's format of results", frozenset({"image_id", "bbox"})),
    ("COCO's list of images", frozenset({"file_name", "id"})),
    ("a table of nuScenes or nuImages", frozenset({"token"})),
    ("Label Studio's format", frozenset({"data", "annotations"})),
    ("Label Studio's format", frozenset({"annotation_id", "annotator"})),
    ("CreateML's format", frozenset({"image", "annotations"})),
    ("CreateML's format", frozenset({"imagefilename", "annotation"})),
    ("CVAT's task backup", frozenset({"shapes", "tracks"})),
    ("Labelbox's format", frozenset({"data_row"})),
    ("Labelbox's format", frozenset({"Labeled Data"})),
    ("Scale's format", frozenset({"task_id", "response"})),
)
"""(format, keys): files of the format have all of these keys in their object, or in the first object of their list."""

_STARTS: Final = (
    (b"\x1f\x8b", "gzip data; unpack it with gunzip"),
    (b"PK\x03\x04", "a zip archive; unpack it"),
    (b"BZh", "bzip2 data; unpack it with bunzip2"),
    (b"\xfd7zXZ", "xz data; unpack it with unxz"),
    (b"\x28\xb5\x2f\xfd", "zstd data; unpack it with unzstd"),
    (b"7z\xbc\xaf", "a 7z archive; unpack it"),
    (b"version https://git-lfs", "Git LFS's pointer to the file; fetch it with git lfs pull"),
)
_ENCODINGS: Final = (  # the longer marks first: UTF-32's begins as UTF-16's
    (rb"\xff\xfe\x00\x00|[^\x00]\x00{3}", "UTF-32LE"),
    (rb"\x00\x00\xfe\xff|\x00{3}[^\x00]", "UTF-32BE"),
    (rb"\xff\xfe|[^\x00]\x00", "UTF-16LE"),
    (rb"\xfe\xff|\x00[^\x00]", "UTF-16BE"),
)
_CONSTANT: Final = re.compile(rb"-?(?:NaN|Infinity)\b|-?(?:nan|inf(?:inity)?)\b")


class OtherFormatError(LabelError):
    """A file is valid, but of another format than BDD100K's label files.

    Attributes:
        format_name: the file's format, as "COCO's format".
    """

    def __init__(self, file: object, format_name: str) -> None:
        super().__init__(
            f"{file} is not a BDD100K label file but {format_name}: neither a list of frames nor an object with "
            "'frames'; convert it, or move it elsewhere"
        )
        self.format_name = format_name


def format_of_object(keys: Mapping[str, Any]) -> str | None:
    """Format of a JSON file that is one object with these keys and without "frames"; None when unknown."""
    if name := _first(_OBJECTS, keys):
        return name
    values = list(keys.values())[:1]
    inner = _keys_of(values[0]) if values else {}
    return "VGG Image Annotator's format" if {"filename", "regions"} <= inner.keys() else None


def format_of_list(entry: bytes) -> str | None:
    """Format of a JSON file that is a list beginning with this entry; None when it may be BDD100K's."""
    keys = _keys_of(entry)
    return None if "labels" in keys else _first(_LISTS, keys)


def wrong_bytes(start: bytes) -> str | None:
    """Kind of a file whose first bytes cannot be UTF-8 JSON, and the remedy; None when they can."""
    if not start.strip():
        return "empty; download it again"
    for magic, what in _STARTS:
        if start.startswith(magic):
            return what
    for pattern, encoding in _ENCODINGS:
        if re.match(pattern, start, re.DOTALL):
            return f"{encoding} text; save it as UTF-8 (iconv -f {encoding} -t UTF-8)"
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype html", b"<html")):
        return "a web page; the download went wrong, fetch the file itself"
    return None


def format_of_xml(start: bytes) -> str | None:
    """Format of an XML file; None when it is not XML."""
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n")
    if not text.startswith(b"<"):
        return None
    if re.search(rb"<annotations[\s>]", text):
        return "CVAT's XML"
    return "Pascal VOC's XML" if re.search(rb"<annotation[\s>]", text) else "XML"


def constant_at(data: memoryview, offset: int) -> str | None:
    """The constant that JSON lacks (NaN, -Infinity) at an offset, or whose sign is right before it; None for others."""
    start = max(0, offset - 1)
    match = _CONSTANT.match(bytes(data[start : start + 16])) or _CONSTANT.match(bytes(data[offset : offset + 16]))
    return match[0].decode() if match else None


def without_constants(data: memoryview) -> bytes:
    """A copy of the file with 0 for each NaN and Infinity, at unchanged offsets, so that their entry can be located."""
    pattern = rb"(?<=[\s:\[,])-?(?:NaN|Infinity|nan|inf(?:inity)?)(?=\s*[,\]}])"
    return re.sub(pattern, lambda match: b"0".ljust(len(match[0])), bytes(data))


def _keys_of(entry: Any) -> dict[str, Any]:
    try:
        return msgspec.json.decode(entry, type=dict[str, msgspec.Raw])
    except JSON_ERRORS:
        return {}


def _first(formats: tuple[tuple[str, frozenset[str]], ...], keys: Mapping[str, Any]) -> str | None:
    return next((name for name, required in formats if required <= keys.keys()), None)
