"""Fake teachers that read their predictions from painted images, and pseudo labels written with them."""

import threading

import numpy as np

from lvad_perception.media.images import read_image
from lvad_perception.types import Detections
from lvad_perception.vocabulary import TASKS
from lvad_training.pseudo import Teacher, write_pseudo_labels
from lvad_training.recipe.schema import PseudoConfig
from lvad_training.samples import ConfidentPredictions

FRAMES = 12
CONFIG = PseudoConfig(
    box_score=0.4,
    box_scores={"truck": 0.8},
    ignored_score=0.2,
    mask_confidence=0.4,
    mask_confidences={"direct": 0.7},
)
ALL = tuple(range(FRAMES))


def predict(split, frame, tasks=tuple(TASKS)):
    """Predictions read from a painted image: red is the semantic class, green the drivable one, blue the confidence."""
    image = read_image(split.image_path(frame))
    height, width = size_hw = image.shape[:2]
    red, green, blue = np.moveaxis(image, 2, 0)
    scores = blue.reshape(2, height // 2, 2, width // 2).mean(axis=(1, 3)).ravel().astype(np.float32) / 255
    order = np.argsort(-scores, kind="stable")
    x, y = np.array([0, 1, 0, 1]) * width / 2, np.array([0, 0, 1, 1]) * height / 2
    boxes = np.stack([x, y, x + width / 2, y + height / 2], axis=1).astype(np.float32)
    masks = "semantic" in tasks, "drivable" in tasks
    return ConfidentPredictions(
        split.name_of(frame),
        size_hw,
        Detections(boxes[order], scores[order], order.astype(np.int32)) if "detection" in tasks else None,
        np.minimum(red // 13, 18) if masks[0] else None,
        blue.copy() if masks[0] else None,
        np.minimum(green // 86, 2) if masks[1] else None,
        blue.copy() if masks[1] else None,
    )


class Stop(Exception):
    """Stands for an interruption from outside."""


def make_teachers(split, *, frames=ALL, tasks=tuple(TASKS), stop_after=None, stop=None, asked=None):
    """Teachers of all tasks; ``stop`` is called after ``stop_after`` predictions of them together.

    ``asked``: a list that collects the indices of predicted frames.
    """
    count = 0

    def predict_frames(indices):
        nonlocal count
        for index in indices:
            if count == stop_after:
                stop()
            count += 1
            if asked is not None:
                asked.append(index)
            yield predict(split, index)

    trained_on = [i for i in range(len(split)) if "detection" in split.annotated(i)]
    return [
        Teacher(task=task, identity="fake", predict=predict_frames, frames=frames, trained_on=trained_on)
        for task in tasks
    ]


def write(split, folder, *, config=CONFIG, teachers=None, progress=False, **options):
    teachers = make_teachers(split) if teachers is None else teachers
    return write_pseudo_labels(
        split=split, folder=folder, teachers=teachers, config=config, progress=progress, **options
    )


def content(folder):
    """Relative path -> bytes of every file of a folder, without the source's images."""
    files = (path for path in folder.rglob("*") if path.is_file() and "images" not in path.parts)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def run_processes(split, folder, count, **options):
    """Write pseudo labels with ``count`` threads in place of processes; returns their reports."""
    barrier = threading.Barrier(count, timeout=60)
    reports = [None] * count

    def work(index):
        reports[index] = write(split, folder, process=index, processes=count, wait=barrier.wait, **options)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return reports
