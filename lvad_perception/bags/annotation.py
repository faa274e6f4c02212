"""Annotation of an image of a data set; broken labels of a task are reported and left out."""

from typing import Any

from lvad_perception.bags.error_log import ErrorLog
from lvad_perception.datasets.split import Split
from lvad_perception.errors import LabelError
from lvad_perception.types import Size, Truth


def read_truth(data: Split, index: int, size_hw: Size, errors: ErrorLog) -> Truth:
    """The annotation of an image; None for a task whose labels are broken, and where there are none."""
    readers = {"detection": data.boxes, "semantic": data.semantic, "drivable": data.drivable}
    truth: dict[str, Any] = {}
    for task, read in readers.items():
        try:
            truth[task] = read(index, size_hw)
        except LabelError as err:
            errors.add(f"{data.name} {task} labels", data.name_of(index), err)
    return Truth(size_hw, truth.get("detection"), truth.get("semantic"), truth.get("drivable"))
