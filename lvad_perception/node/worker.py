"""The pipeline from the mailbox to the published results: decode, inference and publishing overlap.

While the engine computes one batch, the previous one is published and the next is decoded and copied to the device. No
frame gets older by that: it is taken from the mailbox just in time (``Pace``), so that the engine becomes free when the
frame is decoded. With an engine that computes synchronously it is taken after the computation.

Threads:

* *worker* (one): takes frames, decodes them, begins inferences. Owns ``_publishing``, the future of the latest batch.
* *decoder* (one per image of a batch): decode a batch's images in parallel while the worker waits for them.
* *publisher* (one): waits for the inference of a batch and publishes it, batch after batch in order.

The executor's thread creates the worker and stops it. There is no lock here: ``Mailbox``, ``Pace``, ``CameraHealth``
and ``CameraOutputs`` have their own, and a batch is handed from worker to publisher by ``submit``. The worker waits
for the previous batch before each ``submit``, so at most two batches are under way.
"""

import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

from lvad_perception.engines.failures import device_failure
from lvad_perception.errors import ImageError, LvadError
from lvad_perception.media.image_header import MOST_PIXELS
from lvad_perception.messages import Message, stamp_ns
from lvad_perception.node.decoding import decode
from lvad_perception.node.health import CameraHealth
from lvad_perception.node.inputs import CameraInput
from lvad_perception.node.mailbox import Frame, Mailbox
from lvad_perception.node.outputs import CameraOutputs
from lvad_perception.node.pacing import Pace
from lvad_perception.perceiver import PendingPredictions, Perceiver
from lvad_perception.types import Predictions, UInt8


@dataclass(frozen=True, slots=True)
class ActiveCamera:
    """The parts of one camera while the node is active."""

    source: CameraInput
    outputs: CameraOutputs
    health: CameraHealth
    most_pixels: int = MOST_PIXELS


@dataclass(frozen=True, slots=True)
class _Decoded:
    frame: Frame[Message]
    image: UInt8
    wait_ms: float
    decode_ms: float


class Worker:
    """Takes frames from the mailbox, a batch of the model at a time, until the mailbox is closed.

    A frame that cannot be processed is counted, logged at most every ``LOG_PERIOD_S``, and costs no other frame of its
    camera. One that cannot even be decoded costs no frame of another camera either.

    Args:
        mailbox: source of the frames.
        perceiver: the model; nothing else runs it until ``stop`` returns.
        cameras: camera name -> its parts.
        now_ns: the node's clock, for the age of frames by their stamps.
        logger: the node's.
    """

    def __init__(
        self,
        *,
        mailbox: Mailbox[Message],
        perceiver: Perceiver,
        cameras: Mapping[str, ActiveCamera],
        now_ns: Callable[[], int],
        logger: Any,
    ) -> None:
        self._mailbox = mailbox
        self._perceiver = perceiver
        self._cameras = cameras
        self._now_ns = now_ns
        self._logger = logger
        self._batch_size = perceiver.manifest.batch_size
        # OpenCV releases the GIL while it decodes.
        self._decoders = ThreadPoolExecutor(self._batch_size, thread_name_prefix="perception decoder")
        self._publisher = ThreadPoolExecutor(1, thread_name_prefix="perception publisher")
        self._publishing: Future[None] | None = None
        self._pace = Pace()
        self._thread = threading.Thread(target=self._work, name="perception worker")
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Whether the worker's thread runs; it ends by ``stop`` or an unexpected error."""
        return self._thread.is_alive()

    def stop(self) -> None:
        """Close the mailbox and wait until the batches under way are published; calling it again does nothing."""
        self._mailbox.close()
        self._thread.join()

    def _work(self) -> None:
        try:
            while frames := self._mailbox.take(self._batch_size):
                taken_s = time.monotonic()
                decoded = self._decoders.map(self._decode, frames) if len(frames) > 1 else map(self._decode, frames)
                batch = [item for item in decoded if item is not None]
                if batch:
                    self._process(batch, taken_s)
                    self._pace.wait()
        finally:
            self._mailbox.close()  # or a ``put`` that waits for room would wait for ever
            self._decoders.shutdown()
            self._publisher.shutdown()
            self._wait_for_publisher()

    def _decode(self, frame: Frame[Message]) -> _Decoded | None:
        """Decode a frame in a decoder's thread; None, counted and logged, where that or its size is impossible."""
        began_s = time.monotonic()
        try:
            image = decode(frame.message, most_pixels=self._cameras[frame.camera].most_pixels)
        except Exception as err:
            self._skip(frame, err, corrupt=True)
            return None
        try:
            self._perceiver.check_image(image)
        except ImageError as err:  # checked here, before the frame could fail its whole batch
            self._skip(frame, err)
            return None
        return _Decoded(frame, image, 1000 * (began_s - frame.received_s), 1000 * (time.monotonic() - began_s))

    def _process(self, batch: list[_Decoded], taken_s: float) -> None:
        """Begin the inference of a batch and leave the rest to the publisher; a failure skips its frames only."""
        began_s = time.monotonic()
        wanted = [self._cameras[item.frame.camera].outputs.wanted_tasks for item in batch]
        if not any(wanted):  # only CameraInfo has subscribers
            nothing = [Predictions((item.image.shape[0], item.image.shape[1]), None, None, None) for item in batch]
            self._submit(partial(self._publish_all, batch, nothing, {}, began_s))
            return
        try:
            pending = self._perceiver.submit([item.image for item in batch], tasks=wanted)
        except Exception as err:
            self._skip_all(batch, err)
            return
        self._pace.began(taken_s=taken_s)
        self._submit(partial(self._finish, batch, pending, began_s))

    def _submit(self, work: Callable[[], None]) -> None:
        """Give the publisher its next batch once the previous one is published."""
        self._wait_for_publisher()
        self._publishing = self._publisher.submit(work)

    def _wait_for_publisher(self) -> None:
        """Wait until the latest batch is published. Raises what publishing raised."""
        publishing, self._publishing = self._publishing, None
        if publishing is not None:
            publishing.result()

    def _finish(self, batch: list[_Decoded], pending: PendingPredictions, began_s: float) -> None:
        """In the publisher's thread: wait for the inference and publish its results."""
        try:
            try:
                pending.wait()
            finally:
                self._pace.ended()
            results = pending.result()
        except Exception as err:
            self._skip_all(batch, err)
            return
        spent_ns = pending.timings
        spent_ms = {
            "preprocess": spent_ns.preprocess_ns / 1e6,
            "engine": spent_ns.engine_ns / 1e6,
            "postprocess": spent_ns.postprocess_ns / 1e6,
        }
        self._publish_all(batch, results, spent_ms, began_s + sum(spent_ms.values()) / 1e3)

    def _publish_all(
        self, batch: list[_Decoded], results: list[Predictions], spent_ms: dict[str, float], began_s: float
    ) -> None:
        """In the publisher's thread: publish a batch, camera after camera.

        ``began_s`` is when the inference ended. With a synchronous engine the first camera's time to publish therefore
        includes the wait for the previous batch; with an asynchronous one that wait is part of the engine's time.
        """
        for item, predictions in zip(batch, results, strict=True):
            try:
                self._publish(item, predictions, spent_ms, began_s)
            except Exception as err:
                self._skip(item.frame, err)
            began_s = time.monotonic()

    def _publish(self, item: _Decoded, predictions: Predictions, spent_ms: dict[str, float], began_s: float) -> None:
        header, camera = item.frame.message.header, self._cameras[item.frame.camera]
        camera.outputs.publish(item.image, predictions, header, camera.source.camera_info)
        parts_ms = {
            "wait": item.wait_ms,
            "decode": item.decode_ms,
            **spent_ms,
            "publish": 1000 * (time.monotonic() - began_s),
        }
        age_s = (self._now_ns() - stamp_ns(header)) / 1e9
        camera.health.count_published(received_s=item.frame.received_s, age_s=age_s, parts_ms=parts_ms)

    def _skip_all(self, batch: list[_Decoded], err: Exception) -> None:
        for item in batch:
            self._skip(item.frame, err)

    def _skip(self, frame: Frame[Message], err: Exception, *, corrupt: bool = False) -> None:
        known = err if isinstance(err, LvadError) else device_failure(err)
        sentence = f"unexpected {type(err).__name__}: {err}" if known is None else str(known)
        camera = self._cameras[frame.camera]
        skipped = camera.health.count_skipped(sentence, corrupt=corrupt)
        if skipped:  # it is time to log again
            stamp = frame.message.header.stamp
            self._logger.error(
                f"{camera.source.topic}: frame stamped {stamp.sec}.{stamp.nanosec:09d} skipped ({skipped} so far): "
                f"{sentence}"
            )
