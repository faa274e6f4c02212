"""JSON tables of nuImages -> typed rows, decoded one at a time by msgspec.

A table is a list of objects and may have hundreds of MB. Rows are located first and decoded one by one; masks stay
undecoded and are referred to by their position in the file. Unused fields are skipped.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Final, Generic, NamedTuple, TypeVar

import msgspec

from lvad_perception.datasets.cache import address, map_source
from lvad_perception.datasets.formats import JSON_ERRORS, wrong_bytes
from lvad_perception.errors import LabelError

_LENGTH_OF_NULL: Final = 4
_LONGEST_TOKEN: Final = 128
"""Tokens have 32 characters. Stored ones are padded to the longest, so a huge one would exhaust the memory."""


class Row(msgspec.Struct, gc=False):
    """Base of all rows: ``token`` is unique in its table."""

    token: str


class SampleData(Row, gc=False):
    """One image or lidar sweep; key frames are the annotated samples."""

    sample_token: str
    calibrated_sensor_token: str
    filename: str
    is_key_frame: bool
    width: int | None = None
    height: int | None = None


class Sample(Row, gc=False):
    """One annotated moment of a log."""

    log_token: str


class Log(Row, gc=False):
    """One drive."""

    location: str = ""


class CalibratedSensor(Row, gc=False):
    """One sensor of one vehicle."""

    sensor_token: str


class Sensor(Row, gc=False):
    """One kind of sensor; ``channel`` is "CAM_FRONT", ``modality`` "camera" or "lidar"."""

    channel: str
    modality: str


class Category(Row, gc=False):
    """One node of the taxonomy."""

    name: str


class SurfaceAnn(Row):
    """One surface of an image; ``mask`` is null where nothing of it is visible."""

    sample_data_token: str
    category_token: str
    mask: msgspec.Raw


class ObjectAnn(SurfaceAnn):
    """One object of an image: (xmin, ymin, xmax, ymax) in pixels including hidden parts, and its visible mask."""

    bbox: tuple[float, float, float, float]


TABLES: Final[dict[str, type[Row]]] = {
    "sample_data": SampleData,
    "sample": Sample,
    "log": Log,
    "calibrated_sensor": CalibratedSensor,
    "sensor": Sensor,
    "category": Category,
    "object_ann": ObjectAnn,
    "surface_ann": SurfaceAnn,
}
"""The tables that are read; ``attribute`` and ``ego_pose`` are not."""

AnyRow = TypeVar("AnyRow", bound=Row)
_decode_list: Final = msgspec.json.Decoder(list[msgspec.Raw])


class ByteRange(NamedTuple):
    """A range of bytes in a file."""

    offset: int
    length: int


class Table(Generic[AnyRow]):
    """The rows of one table's file.

    Args:
        folder: of the version, ``v1.0-train``.
        name: of the table.
        kind: type of its rows.
    """

    def __init__(self, folder: Path, name: str, kind: type[AnyRow]) -> None:
        self.file = table_file(folder, name)
        self._decoder = msgspec.json.Decoder(kind)
        self._base = 0

    def __iter__(self) -> Iterator[AnyRow]:
        """The rows in the order of the file.

        Raises:
            LabelError: the file is missing, empty or not a JSON list, or a row is not of the schema.
        """
        data = map_source(self.file)
        self._base = address(data)
        if (fault := wrong_bytes(data[: 1 << 12])) is not None:
            raise LabelError(f"{self.file} is {fault}")
        try:
            raws = _decode_list.decode(memoryview(data)[3 if data[:3] == b"\xef\xbb\xbf" else 0 :])
        except JSON_ERRORS as err:
            raise LabelError(f"{self.file} is not a JSON list ({err}); unpack nuImages' metadata again") from err
        for index, raw in enumerate(raws):
            try:
                row = self._decoder.decode(raw)
                if len(row.token) > _LONGEST_TOKEN:
                    raise msgspec.ValidationError(f"a token of {len(row.token)} characters")
            except JSON_ERRORS as err:
                raise LabelError(
                    f"{self.file}: row {index} is not of nuImages' schema v1.0 ({err}); unpack its metadata again"
                ) from err
            yield row

    def locate(self, mask: msgspec.Raw) -> ByteRange:
        """Position in the file of a mask of the row that was yielded last; length 0 for null."""
        if len(mask) <= _LENGTH_OF_NULL:
            return ByteRange(0, 0)
        return ByteRange(address(mask) - self._base, len(mask))


def table_file(folder: Path, name: str) -> Path:
    """The file of a table."""
    return folder / f"{name}.json"
