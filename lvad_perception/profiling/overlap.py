"""Throughput with overlapping stages, as in the node: decoding, inference and publishing in parallel."""

import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Final

from lvad_perception.node.pacing import Pace
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
    pace, frames_run = Pace(), 0
    published: Future[None] | None = None
    began_s = time.monotonic()
    with ThreadPoolExecutor(1, thread_name_prefix="bench publisher") as publisher:
        for _ in range(batches):
            taken_s = time.monotonic()
            images = [decode() for decode in islice(frames, batch_size)]
            pending = perceiver.submit(images)
            pace.began(taken_s=taken_s)
            if published is not None:
                published.result()  # as in node/worker.py: two batches at most are under way
            published = publisher.submit(_finish, pending, pace)
            frames_run += len(images)
            pace.wait()
        if published is not None:
            published.result()
    return frames_run / (time.monotonic() - began_s)


def _finish(pending: PendingPredictions, pace: Pace) -> None:
    """Publish a batch; runs in the publishing thread."""
    try:
        pending.wait()
    finally:
        pace.ended()
    for index, predictions in enumerate(pending.result()):
        publish(predictions, index)
