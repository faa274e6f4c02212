"""Evaluation results and selected frames as a file, so that a report needs no model and no data set.

The file is a compressed ``.npz`` without pickles: one JSON text, and an array for each curve, confusion matrix, mask,
set of boxes and encoded image. Frames are reduced to the width of a report.
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
"""Name of the file in the folder of a run, beside ``metrics.json``."""
WIDEST_PX: Final = 960
"""Maximum width of kept frames, which fill most of a laptop's screen when enlarged."""
WORST, EVEN = 12, 4
"""Number of frames kept: the worst, and evenly spaced ones, which are the same for every run on the data."""

_FORMAT: Final = 1
_WEBP_QUALITY: Final = 80
Arrays = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True, slots=True, eq=False)
class KeptFrame:
    """A frame for the report, at its reduced size.

    Attributes:
        name: as in ``FrameFindings``.
        image: uint8 [H, W, 3], RGB.
        truth: its annotation.
        predictions: the model's.
    """

    name: str
    image: UInt8
    truth: Truth
    predictions: Predictions


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """All results of one evaluation that a report shows.

    Attributes:
        findings: metrics, curves, confusions, frames and slices.
        kept: selected frames with images.
        metadata: name -> value, such as the data set and the split.
    """

    findings: Findings
    kept: tuple[KeptFrame, ...]
    metadata: dict[str, str]


def keep_frame(name: str, image: UInt8, truth: Truth, predictions: Predictions) -> KeptFrame:
    """Reduce a frame, its annotation and its predictions to the report's width.

    Args:
        name: as in ``FrameFindings``.
        image: uint8 [H, W, 3], RGB.
        truth: its annotation, in pixels of ``image``.
        predictions: the model's, in pixels of ``image``.
    """
    height, width = image.shape[:2]
    factor = min(1.0, WIDEST_PX / width)
    size_hw = (max(1, round(height * factor)), max(1, round(width * factor)))
    scale = np.array([size_hw[1] / width, size_hw[0] / height] * 2, np.float32)

    def mask(source: UInt8 | None) -> UInt8 | None:
        if source is None or source.shape == size_hw:
            return source
        return np.asarray(cv2.resize(source, size_hw[::-1], interpolation=cv2.INTER_NEAREST_EXACT), np.uint8)

    boxes, detections = truth.boxes, predictions.detections
    return KeptFrame(
        name,
        np.asarray(cv2.resize(image, size_hw[::-1], interpolation=cv2.INTER_AREA), np.uint8) if factor < 1 else image,
        Truth(
            size_hw,
            None if boxes is None else TruthBoxes(boxes.boxes_xyxy * scale, boxes.labels, boxes.crowd),
            mask(truth.semantic),
            mask(truth.drivable),
        ),
        Predictions(
            size_hw,
            None
            if detections is None
            else Detections(detections.boxes_xyxy * scale, detections.scores, detections.labels),
            mask(predictions.semantic),
            mask(predictions.drivable),
        ),
    )


def frames_to_keep(findings: Findings, worst: int = WORST) -> list[str]:
    """Names of the frames to keep: the worst, and evenly spaced ones."""
    bad = [excess.frame.name for excess in worst_first(findings.frames)[:worst]]
    even = [findings.frames[index].name for index in evenly_spaced(len(findings.frames))]
    return list(dict.fromkeys([*bad, *even]))


def evenly_spaced(count: int, most: int = EVEN) -> list[int]:
    """Up to ``most`` indices, evenly spaced over ``range(count)``."""
    return sorted(set(np.linspace(0, count - 1, min(most, count)).round().astype(int).tolist()))


def encode_webp(image: UInt8) -> bytes:
    """Encode an RGB image as WebP. Raises ImageError unless it is uint8 [H, W, 3]."""
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
        raise ImageError(
            f"a picture of shape {image.shape} and type {image.dtype} is not uint8 RGB; convert it before reporting"
        )
    options = [cv2.IMWRITE_WEBP_QUALITY, _WEBP_QUALITY]
    return bytes(cv2.imencode(".webp", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)[1].tobytes())


def to_bytes(evaluation: Evaluation) -> bytes:
    """The content of an evaluation file; the inverse of ``read_evaluation``."""
    findings = evaluation.findings
    metadata = {
        "format": _FORMAT,
        "metrics": findings.metrics.to_dict(),
        "classes": findings.classes,
        "score_threshold": findings.score_threshold,
        "slices": {
            attribute: {value: asdict(scores) for value, scores in values.items()}
            for attribute, values in findings.slices.items()
        },
        "frames": [asdict(frame) for frame in findings.frames],
        "kept": [frame.name for frame in evaluation.kept],
        "facts": evaluation.metadata,
    }
    arrays: Arrays = {"facts": np.frombuffer(json.dumps(metadata).encode(), np.uint8)}
    arrays |= {f"precision/{name}": curve for name, curve in findings.precision.items()}
    arrays |= {f"confusion/{task}": counts for task, counts in findings.confusions.items()}
    for index, frame in enumerate(evaluation.kept):
        arrays |= {f"kept/{index}/{name}": value for name, value in _frame_arrays(frame).items()}
    stream = io.BytesIO()
    np.savez_compressed(stream, allow_pickle=False, **arrays)
    return stream.getvalue()


def read_evaluation(path: Path, *, remedy: str) -> Evaluation | None:
    """Read an evaluation file; None where it does not exist.

    Args:
        path: the file.
        remedy: for the message where it cannot be read.

    Raises:
        DatasetError: it is damaged or was written by another version of the package.
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
            _frame_from(name, {part: arrays[key] for key, part in _below(f"kept/{index}/", arrays)})
            for index, name in enumerate(metadata["kept"])
        )
        return Evaluation(findings, kept, dict(metadata["facts"]))
    except FileNotFoundError:
        return None
    except (OSError, EOFError, ValueError, KeyError, TypeError, ImageError, zipfile.BadZipFile) as err:
        raise DatasetError(
            f"{path} is damaged or of another version of the package ({type(err).__name__}: {err}); {remedy}"
        ) from err


def _below(prefix: str, arrays: Mapping[str, object]) -> Sequence[tuple[str, str]]:
    """(key, key without the prefix) of all arrays whose key has the prefix."""
    return [(key, key.removeprefix(prefix)) for key in arrays if key.startswith(prefix)]


def _frame_arrays(frame: KeptFrame) -> Arrays:
    truth, predictions = frame.truth, frame.predictions
    arrays: Mapping[str, npt.NDArray[Any] | None] = {
        "image": np.frombuffer(encode_webp(frame.image), np.uint8),
        "truth_semantic": truth.semantic,
        "truth_drivable": truth.drivable,
        "semantic": predictions.semantic,
        "drivable": predictions.drivable,
    }
    if truth.boxes is not None:
        arrays = {
            **arrays,
            "truth_boxes": truth.boxes.boxes_xyxy,
            "truth_labels": truth.boxes.labels,
            "truth_crowd": truth.boxes.crowd,
        }
    if predictions.detections is not None:
        boxes = predictions.detections
        arrays = {**arrays, "boxes": boxes.boxes_xyxy, "scores": boxes.scores, "labels": boxes.labels}
    return {name: value for name, value in arrays.items() if value is not None}


def _frame_from(name: str, arrays: Mapping[str, npt.NDArray[Any]]) -> KeptFrame:
    image = decode_image(arrays["image"].tobytes(), source=f"the picture of {name}")
    size_hw: Size = (image.shape[0], image.shape[1])

    def boxes(key: str) -> Float32:
        return np.asarray(arrays[key], np.float32).reshape(-1, 4)

    truth_boxes = detections = None
    if "truth_boxes" in arrays:
        truth_boxes = TruthBoxes(boxes("truth_boxes"), arrays["truth_labels"], arrays["truth_crowd"])
    if "boxes" in arrays:
        detections = Detections(boxes("boxes"), arrays["scores"], arrays["labels"])
    return KeptFrame(
        name,
        image,
        Truth(size_hw, truth_boxes, arrays.get("truth_semantic"), arrays.get("truth_drivable")),
        Predictions(size_hw, detections, arrays.get("semantic"), arrays.get("drivable")),
    )
