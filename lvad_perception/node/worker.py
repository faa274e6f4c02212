"""The thread that decodes and begins inferences, and its helpers: images of several cameras are decoded side by side,
and the thread that waits for results publishes them.

While an engine computes one batch, the previous one is published and the next is decoded and copied to the device,
where the engine goes on by itself. No frame gets older by that: it is taken from the mailbox only when the device will
be free as soon as it is decoded (``Pace``), and of an engine that computes in line, when that has ended.
"""

import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
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
from lvad_perception.node.pipeline_stage import PipelineStage
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
    """Takes frames from the mailbox until that is closed, one batch of the model after the other.

    A frame that cannot be processed is counted, logged now and then, and costs no other frame of its camera; one that
    cannot even be decoded costs no other camera's either.

    Args:
        mailbox: where the frames come from.
        perceiver: the model; nobody else uses it meanwhile.
        cameras: camera -> where its results go.
        now_ns: the node's clock, which the stamps are compared with.
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
        # A batch's images are decoded at the same time: OpenCV lets other threads run meanwhile.
        self._decoders = ThreadPoolExecutor(self._batch_size, thread_name_prefix="perception decoder")
        self._publishing = PipelineStage("perception publisher")
        self._pace = Pace()
        self._thread = threading.Thread(target=self._work, name="perception worker")
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Whether it works or waits for work."""
        return self._thread.is_alive()

    def stop(self) -> None:
        """Close the mailbox and wait until the batch that is in work is published."""
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
            self._mailbox.close()  # whoever waits for room in it would wait for ever
            self._decoders.shutdown()
            self._publishing.close()

    def _decode(self, frame: Frame[Message]) -> _Decoded | None:
        """None for a frame that cannot be decoded or is of a size that the model does not take: counted and logged."""
        began_s = time.monotonic()
        try:
            image = decode(frame.message, most_pixels=self._cameras[frame.camera].most_pixels)
        except Exception as err:
            self._skip(frame, err, corrupt=True)
            return None
        try:
            self._perceiver.check_image(image)
        except ImageError as err:  # here, where it costs the other cameras of the batch nothing
            self._skip(frame, err)
            return None
        return _Decoded(frame, image, 1000 * (began_s - frame.received_s), 1000 * (time.monotonic() - began_s))

    def _process(self, batch: list[_Decoded], taken_s: float) -> None:
        """Begin and hand over; a failure that lasts shows in the log and the diagnostics, and the cameras go on.

        The handover waits until the batch before is published. So at most this one and the next are in the engine.
        """
        began_s = time.monotonic()
        asked = [self._cameras[item.frame.camera].outputs.wanted_tasks for item in batch]
        if not any(asked):  # somebody wants the CameraInfo only
            nothing = [Predictions((item.image.shape[0], item.image.shape[1]), None, None, None) for item in batch]
            self._publishing.put(partial(self._publish_all, batch, nothing, {}, began_s))
            return
        try:
            pending = self._perceiver.submit([item.image for item in batch], tasks=asked)
        except Exception as err:
            self._skip_all(batch, err)
            return
        self._pace.began(taken_s=taken_s)
        self._publishing.put(partial(self._finish, batch, pending, began_s))

    def _finish(self, batch: list[_Decoded], pending: PendingPredictions, began_s: float) -> None:
        """In the publishing thread: wait for the engine, and publish what it says."""
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
        """In the publishing thread. The first camera's time to publish includes what the previous batch still took, of
        an engine that computes in line; of others that shows in the engine's time."""
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
        if skipped:
            stamp = frame.message.header.stamp
            self._logger.error(
                f"{camera.source.topic}: frame stamped {stamp.sec}.{stamp.nanosec:09d} skipped ({skipped} so far): "
                f"{sentence}"
            )
