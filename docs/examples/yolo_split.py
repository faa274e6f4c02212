"""Reads YOLO's text files of boxes as a split for training, or converts them to BDD100K's layout."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from lvad_perception.datasets.split import Split, clip_boxes
from lvad_perception.errors import DatasetError, LabelError
from lvad_perception.media.images import image_files, read_image
from lvad_perception.types import Bool, Detections, Float32, Int32, Size, Truth, TruthBoxes, UInt8
from lvad_perception.vocabulary import DETECTION
from lvad_training.data.annotation import Annotation
from lvad_training.data.check_frames import Counts, check_frames
from lvad_training.data.check_problems import Problem
from lvad_training.data.loader import guarded_loader
from lvad_training.data.sampling import TrainingStream
from lvad_training.data.torch_datasets import TrainingSet
from lvad_training.data.transforms import TrainingTransform
from lvad_training.pseudo.folder import detection_entry
from lvad_training.recipe.schema import Recipe
from lvad_training.samples import Batch, collate


# --8<-- [start:split]
class YoloSplit:
    """Images in ``images/SPLIT``, boxes in ``labels/SPLIT/NAME.txt``: lines of class, centre x and y, width, height.

    Coordinates are fractions of the image. An image without a text file is not annotated; one with an empty file is
    annotated and empty. Implements ``lvad_perception.datasets.split.Split``.

    Args:
        root: folder of the data set.
        name: of the split.
        classes: for each class number of the data set, the class name in ``vocabulary.DETECTION``; objects of other
            names are dropped. Note that persons are "pedestrian" there.

    Raises:
        DatasetError: there are no images.
    """

    def __init__(self, root: Path, name: str, *, classes: Sequence[str]) -> None:
        self.root = root
        self.name = name
        self.ids = [DETECTION.names.index(each) if each in DETECTION.names else -1 for each in classes]
        self.images = image_files(root / "images" / name)
        if not self.images:
            raise DatasetError(f"{root}/images/{name} holds no .jpg or .png image; name another split")
        self.has_boxes = np.array([self._labels(i).is_file() for i in range(len(self.images))])

    def __len__(self) -> int:
        return len(self.images)

    def name_of(self, i: int) -> str:
        """The image's name without suffix."""
        return self.images[i].stem

    def image_path(self, i: int) -> Path:
        """The image's file."""
        return self.images[i]

    def attributes(self, i: int) -> dict[str, str]:
        """No attributes in this format."""
        return {}

    def annotated(self, i: int) -> frozenset[str]:
        """The tasks that the image is annotated for."""
        return frozenset(["detection"] if self.has_boxes[i] else [])

    def annotated_for(self, task: str) -> Bool:
        """bool [F]: which images are annotated for a task."""
        return self.has_boxes if task == "detection" else np.zeros(len(self), np.bool_)

    def mask_path(self, i: int, task: str) -> Path | None:
        """None: the format has no masks."""
        return None

    def annotation_files(self, task: str) -> list[Path]:
        """The text files of boxes."""
        return [self._labels(int(i)) for i in np.flatnonzero(self.annotated_for(task))]

    def raw_boxes(self, i: int) -> tuple[Float32, Int32, Bool] | None:
        """As annotated, not clipped: float32 [N, 4] xyxy, labels int32 [N], crowd bool [N]. Raises LabelError."""
        if not self.has_boxes[i]:
            return None
        with Image.open(self.images[i]) as image:  # reads the header alone
            width, height = image.size
        rows = self._read(i)
        labels = np.array([self.ids[int(row[0])] for row in rows], np.int32)
        x, y, w, h = rows[:, 1:].T
        boxes = np.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], axis=1) * [width, height, width, height]
        known = labels >= 0
        return boxes[known].astype(np.float32), labels[known], np.zeros(known.sum(), np.bool_)

    def boxes(self, i: int, size_hw: Size) -> TruthBoxes | None:
        """Clipped to an image of that size; None when not annotated. Raises LabelError."""
        raw = self.raw_boxes(i)
        return None if raw is None else clip_boxes(*raw, size_hw)

    def semantic(self, i: int, size_hw: Size) -> UInt8 | None:
        """None: not annotated."""
        return None

    def drivable(self, i: int, size_hw: Size) -> UInt8 | None:
        """None: not annotated."""
        return None

    def truth(self, i: int, size_hw: Size) -> Truth:
        """All annotation. Raises LabelError."""
        return Truth(size_hw, self.boxes(i, size_hw), None, None)

    def _labels(self, i: int) -> Path:
        return self.root / "labels" / self.name / f"{self.images[i].stem}.txt"

    def _read(self, i: int) -> np.ndarray:
        path = self._labels(i)
        try:
            rows = [[float(word) for word in line.split()] for line in path.read_text(encoding="utf-8").splitlines()]
            array = np.array(rows, np.float64).reshape(len(rows), 5)
        except (OSError, ValueError) as err:
            raise LabelError(f"{path} is not lines of five numbers ({err}); correct or remove it") from err
        if len(array) and not (array[:, 0].min() >= 0 and array[:, 0].max() < len(self.ids)):
            raise LabelError(f"{path} names a class beyond the {len(self.ids)} that there are; correct classes")
        return array


# --8<-- [end:split]


# --8<-- [start:check]
def check(split: Split) -> tuple[Counts, list[Problem]]:
    """Read every frame as training does, count its annotation and collect problems, as ``data check`` does."""
    return check_frames(split, range(len(split)))


# --8<-- [end:check]


# --8<-- [start:batches]
def batches(split: Split, recipe: Recipe) -> Iterable[Batch]:
    """Training batches of the recipe's size: the split's images, augmented and shuffled."""
    augment, settings = recipe.data.augment, recipe.train
    samples = TrainingSet(
        Annotation(split, tasks=recipe.model.tasks),
        TrainingTransform(
            network_hw=recipe.model.network_hw,
            flip=augment.flip,
            scale=augment.scale,
            crop=augment.crop,
            color=augment.color,
        ),
        seed=settings.seed,
    )
    stream = TrainingStream(
        count=len(samples), batch_size=settings.batch_size, seed=settings.seed, first=0, last=settings.steps
    )
    return guarded_loader(samples, recipe.data.workers, collate, batch_sampler=stream)


# --8<-- [end:batches]


# --8<-- [start:convert]
def write_bdd100k(split: Split, root: Path) -> None:
    """Write a split's boxes in BDD100K's layout, which every command reads; images are linked, not copied."""
    images = root / "images" / "100k" / split.name
    images.mkdir(parents=True)
    entries = []
    for i in range(len(split)):
        path = split.image_path(i)
        (images / path.name).symlink_to(path.resolve())
        truth = split.boxes(i, read_image(path).shape[:2])
        if truth is not None:
            scores = np.ones(len(truth), np.float32)
            boxes, ignored = (
                Detections(truth.boxes_xyxy[part], scores[part], truth.labels[part])
                for part in (~truth.crowd, truth.crowd)
            )
            entries.append(detection_entry(path.name, boxes, ignored))
    labels = root / "labels" / "det_20"
    labels.mkdir(parents=True, exist_ok=True)
    (labels / f"det_{split.name}.json").write_bytes(b"[" + b",\n".join(entries) + b"]")


# --8<-- [end:convert]
