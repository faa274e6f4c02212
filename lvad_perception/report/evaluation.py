"""An evaluation as a file: what was found, and the frames worth a look, so that a report needs no model run.

The file is a compressed ``.npz`` without pickles: one JSON text, and an array for each curve, confusion matrix, mask,
set of boxes and encoded image. Its frames are shrunk to the width that a report shows.
"""

import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
import numpy.typing as npt

from lvad_perception.errors import DatasetError, ImageError
from lvad_perception.media.images import decode_image
from lvad_perception.metrics import Findings, FrameFindings, Metrics, SliceScores, worst_first
from lvad_perception.types import Detections, Float32, Predictions, Size, Truth, TruthBoxes, UInt8

FILE: Final = "evaluation.npz"
"""Its name in the folder of a run, beside ``metrics.json``."""
WIDEST_PX: Final = 960
"""Kept frames are shrunk to this width; enlarged, one fills most of a laptop's screen."""
WORST, SPREAD = 12, 4
"""So many frames are kept: the worst, and some evenly spread over the data, the same ones for every run on it."""

_FORMAT: Final = 1
_WEBP_QUALITY: Final = 80
Arrays = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True, slots=True, eq=False)
class KeptFrame:
    """A frame to be shown, at the report's size.

    Attributes:
        name: as in ``FrameFindings``.
        image: uint8 [H, W, 3], RGB.
        truth: its annotation.
        predictions: what the model says.
    """

    name: str
    image: UInt8
    truth: Truth
    predictions: Predictions


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """Everything that a report shows of one evaluation.

    Attributes:
        findings: metrics, curves, confusions, frames and slices.
        kept: frames with pictures.
        metadata: name -> value, such as the data set and the split.
    """

    findings: Findings
    kept: tuple[KeptFrame, ...]
    metadata: dict[str, str]


def keep_frame(name: str, image: UInt8, truth: Truth, predictions: Predictions) -> KeptFrame:
    """A frame shrunk to the report's width, with everything that is drawn on it.

    Args:
        name: as in ``FrameFindings``.
        image: uint8 [H, W, 3], RGB.
        truth: its annotation, in its pixels.
        predictions: what the model says, in its pixels.
    """
    height, width = image.shape[:2]
    factor = min(1.0, WIDEST_PX / width)
    size_hw = (max(1, round(height * factor)), max(1, round(width * factor)))
    scale = np.array([size_hw[1] / width, size_hw[0] / height] * 2, np.float32)

    def mask(source: UInt8 | None) -> UInt8 | None:
        if source is None or source.shape == size_hw:
            return source
        return np.asarray(cv2.resize(source, size_hw[::-1], interpolation=cv2.INTER_NEAREST_EXACT), np.uint8)

    known, found = truth.boxes, predictions.detections
    return KeptFrame(
        name,
        np.asarray(cv2.resize(image, size_hw[::-1], interpolation=cv2.INTER_AREA), np.uint8) if factor < 1 else image,
        Truth(
            size_hw,
            None if known is None else TruthBoxes(known.boxes_xyxy * scale, known.labels, known.crowd),
            mask(truth.semantic),
            mask(truth.drivable),
        ),
        Predictions(
            size_hw,
            None if found is None else Detections(found.boxes_xyxy * scale, found.scores, found.labels),
            mask(predictions.semantic),
            mask(predictions.drivable),
        ),
    )


def chosen(findings: Findings, worst: int = WORST) -> list[str]:
    """Names of the frames to keep: the worst, and some evenly spread."""
    bad = [excess.frame.name for excess in worst_first(findings.frames)[:worst]]
    even = [findings.frames[place].name for place in spread(len(findings.frames))]
    return list(dict.fromkeys([*bad, *even]))


def spread(count: int, wanted: int = SPREAD) -> list[int]:
    """Places of ``wanted`` frames, evenly spread over ``count``; fewer when there are fewer."""
    return sorted(set(np.linspace(0, count - 1, min(wanted, count)).round().astype(int).tolist()))


def encoded(picture: UInt8) -> bytes:
    """An RGB picture as WebP. Raises ImageError when it is none."""
    if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8 or picture.size == 0:
        raise ImageError(
            f"a picture of shape {picture.shape} and type {picture.dtype} is not uint8 RGB; convert it before reporting"
        )
    options = [cv2.IMWRITE_WEBP_QUALITY, _WEBP_QUALITY]
    return bytes(cv2.imencode(".webp", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), options)[1].tobytes())


def to_bytes(evaluation: Evaluation) -> bytes:
    """The file's content; ``read_evaluation`` reads it back."""
    found = evaluation.findings
    metadata = {
        "format": _FORMAT,
        "metrics": found.metrics.to_dict(),
        "classes": found.classes,
        "score_threshold": found.score_threshold,
        "slices": {
            attribute: {value: asdict(scores) for value, scores in values.items()}
            for attribute, values in found.slices.items()
        },
        "frames": [asdict(frame) for frame in found.frames],
        "kept": [frame.name for frame in evaluation.kept],
        "facts": evaluation.metadata,
    }
    arrays: Arrays = {"facts": np.frombuffer(json.dumps(metadata).encode(), np.uint8)}
    arrays |= {f"precision/{name}": curve for name, curve in found.precision.items()}
    arrays |= {f"confusion/{task}": counts for task, counts in found.confusions.items()}
    for place, frame in enumerate(evaluation.kept):
        arrays |= {f"kept/{place}/{name}": value for name, value in _frame_arrays(frame).items()}
    stream = io.BytesIO()
    np.savez_compressed(stream, allow_pickle=False, **arrays)
    return stream.getvalue()


def read_evaluation(path: Path, *, remedy: str) -> Evaluation | None:
    """An evaluation's file; None where there is none.

    Args:
        path: the file.
        remedy: what to do when it cannot be read, for the message.

    Raises:
        DatasetError: it is damaged or of another version of the package.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays: Arrays = {name: file[name] for name in file.files}
        metadata = json.loads(arrays["facts"].tobytes())
        if metadata["format"] != _FORMAT:
            raise ValueError(f"format {metadata['format']}, not {_FORMAT}")
        findings = Findings(
            Metrics.from_dict(metadata["metrics"]),
            {task: tuple(names) for task, names in metadata["classes"].items()},
            {name: arrays[key] for key, name in _below("precision/", arrays)},
            {name: arrays[key] for key, name in _below("confusion/", arrays)},
            float(metadata["score_threshold"]),
            {
                attribute: {value: SliceScores(**scores) for value, scores in values.items()}
                for attribute, values in metadata["slices"].items()
            },
            tuple(FrameFindings(**frame) for frame in metadata["frames"]),
        )
        kept = tuple(
            _frame_from(name, {part: arrays[key] for key, part in _below(f"kept/{place}/", arrays)})
            for place, name in enumerate(metadata["kept"])
        )
        return Evaluation(findings, kept, dict(metadata["facts"]))
    except FileNotFoundError:
        return None
    except (OSError, EOFError, ValueError, KeyError, TypeError, ImageError, zipfile.BadZipFile) as err:
        raise DatasetError(
            f"{path} is damaged or of another version of the package ({type(err).__name__}: {err}); {remedy}"
        ) from err


def _below(start: str, arrays: Mapping[str, object]) -> Sequence[tuple[str, str]]:
    """(key, what follows ``start``) of the arrays whose key starts so."""
    return [(key, key.removeprefix(start)) for key in arrays if key.startswith(start)]


def _frame_arrays(frame: KeptFrame) -> Arrays:
    truth, found = frame.truth, frame.predictions
    arrays: Mapping[str, npt.NDArray[Any] | None] = {
        "image": np.frombuffer(encoded(frame.image), np.uint8),
        "truth_semantic": truth.semantic,
        "truth_drivable": truth.drivable,
        "semantic": found.semantic,
        "drivable": found.drivable,
    }
    if truth.boxes is not None:
        arrays = {
            **arrays,
            "truth_boxes": truth.boxes.boxes_xyxy,
            "truth_labels": truth.boxes.labels,
            "truth_crowd": truth.boxes.crowd,
        }
    if found.detections is not None:
        boxes = found.detections
        arrays = {**arrays, "boxes": boxes.boxes_xyxy, "scores": boxes.scores, "labels": boxes.labels}
    return {name: value for name, value in arrays.items() if value is not None}


def _frame_from(name: str, arrays: Mapping[str, npt.NDArray[Any]]) -> KeptFrame:
    image = decode_image(arrays["image"].tobytes(), source=f"the picture of {name}")
    size_hw: Size = (image.shape[0], image.shape[1])

    def boxes(key: str) -> Float32:
        return np.asarray(arrays[key], np.float32).reshape(-1, 4)

    known = found = None
    if "truth_boxes" in arrays:
        known = TruthBoxes(boxes("truth_boxes"), arrays["truth_labels"], arrays["truth_crowd"])
    if "boxes" in arrays:
        found = Detections(boxes("boxes"), arrays["scores"], arrays["labels"])
    return KeptFrame(
        name,
        image,
        Truth(size_hw, known, arrays.get("truth_semantic"), arrays.get("truth_drivable")),
        Predictions(size_hw, found, arrays.get("semantic"), arrays.get("drivable")),
    )
