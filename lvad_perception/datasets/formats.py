"""Label files of other tools and data sets, told by keys that BDD100K's and Scalabel's do not have."""

import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from lvad_perception.errors import LabelError

JSON_ERRORS: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What msgspec raises for text that is no JSON or of another kind, is not UTF-8, or is nested too deeply."""

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
"""Format -> keys of its object, or of the first object of its list, all of which are there."""

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
    """A file is sound, but no label file of BDD100K.

    Attributes:
        what: what it is, as "COCO's format".
    """

    def __init__(self, file: object, what: str) -> None:
        super().__init__(
            f"{file} is not a BDD100K label file but {what}: neither a list of frames nor an object with 'frames'; "
            "convert it, or move it elsewhere"
        )
        self.what = what


def format_of_object(keys: Mapping[str, Any]) -> str | None:
    """Whose format a file is whose JSON is one object of these keys and without "frames"; None when unknown."""
    if found := _first(_OBJECTS, keys):
        return found
    values = list(keys.values())[:1]
    inner = _keys_of(values[0]) if values else {}
    return "VGG Image Annotator's format" if {"filename", "regions"} <= inner.keys() else None


def format_of_list(entry: bytes) -> str | None:
    """Whose format a file is whose JSON is a list that begins with this entry; None when it may be BDD100K's."""
    keys = _keys_of(entry)
    return None if "labels" in keys else _first(_LISTS, keys)


def wrong_bytes(start: bytes) -> str | None:
    """What a file is whose first bytes cannot be UTF-8 JSON, with the remedy; None when they can."""
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
    """Whose format a file of XML is, None when it is no XML."""
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n")
    if not text.startswith(b"<"):
        return None
    if re.search(rb"<annotations[\s>]", text):
        return "CVAT's XML"
    return "Pascal VOC's XML" if re.search(rb"<annotation[\s>]", text) else "XML"


def constant_at(data: memoryview, place: int) -> str | None:
    """The word that JSON does not have (NaN, -Infinity) at a place of a file or behind its sign; None for others."""
    start = max(0, place - 1)
    match = _CONSTANT.match(bytes(data[start : start + 16])) or _CONSTANT.match(bytes(data[place : place + 16]))
    return match[0].decode() if match else None


def without_constants(data: memoryview) -> bytes:
    """A copy of the file, as long as it, with 0 in the place of each NaN and Infinity, to find out whose they are."""
    pattern = rb"(?<=[\s:\[,])-?(?:NaN|Infinity|nan|inf(?:inity)?)(?=\s*[,\]}])"
    return re.sub(pattern, lambda match: b"0".ljust(len(match[0])), bytes(data))


def _keys_of(entry: Any) -> dict[str, Any]:
    try:
        return msgspec.json.decode(entry, type=dict[str, msgspec.Raw])
    except JSON_ERRORS:
        return {}


def _first(formats: tuple[tuple[str, frozenset[str]], ...], keys: Mapping[str, Any]) -> str | None:
    return next((name for name, wanted in formats if wanted <= keys.keys()), None)
