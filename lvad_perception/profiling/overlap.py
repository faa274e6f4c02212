"""Throughput with overlapping stages, as in the node: decoding, inference and publishing in parallel."""

import time
from collections.abc import Iterator
from functools import partial
from itertools import islice
from typing import Final

from lvad_perception.node.pacing import Pace
from lvad_perception.node.pipeline_stage import PipelineStage
from lvad_perception.perceiver import PendingPredictions, Perceiver
from lvad_perception.profiling.frames import Decode
from lvad_perception.profiling.messages import publish

_FEWEST_BATCHES: Final = 8
"""The first and the last batch overlap with no other."""


def overlapped_fps(perceiver: Perceiver, frames: Iterator[Decode], *, count: int) -> float:
    """Frames per second of the node's pipeline when a new frame is always waiting.

    Args:
        perceiver: the model to time.
        frames: encoded frames, endless.
        count: frames to run; at least eight batches are run.

    Raises:
        EngineError: the engine failed.
    """
    batch_size = perceiver.manifest.batch_size
    batches = max(count // batch_size, _FEWEST_BATCHES)
    publishing, pace, frames_run = PipelineStage("bench publisher"), Pace(), 0
    began_s = time.monotonic()
    try:
        for _ in range(batches):
            taken_s = time.monotonic()
            images = [decode() for decode in islice(frames, batch_size)]
            pending = perceiver.begin(images)
            pace.began(taken_s=taken_s)
            publishing.put(partial(_finish, pending, pace))
            frames_run += len(images)
            pace.wait()
    finally:
        publishing.close()
    return frames_run / (time.monotonic() - began_s)


def _finish(pending: PendingPredictions, pace: Pace) -> None:
    """Publish a batch; runs in the publishing thread."""
    try:
        pending.wait()
    finally:
        pace.ended()
    for index, predictions in enumerate(pending.result()):
        publish(predictions, index)
