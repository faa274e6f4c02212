"""The thread that decodes and infers, and its helpers: images of several cameras are decoded side by side, and results
are published while the next ones are computed.

Publishing copies megabytes of masks through rclpy and the middleware, as long as a small engine takes on a GPU. To
do that beside the next inference makes no frame older. Decoding stays in line: an image that is decoded ahead of its
inference would be an older one.
"""

import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

from lvad_perception.errors import ImageError, LvadError
from lvad_perception.messages import Message, stamp_ns
from lvad_perception.node.decoding import decode
from lvad_perception.node.handover import Handover
from lvad_perception.node.health import CameraHealth
from lvad_perception.node.inputs import CameraInput
from lvad_perception.node.mailbox import Frame, Mailbox
from lvad_perception.node.outputs import CameraOutputs
from lvad_perception.perceiver import Perceiver
from lvad_perception.types import Predictions, UInt8


@dataclass(frozen=True, slots=True)
class ActiveCamera:
    """The parts of one camera while the node is active."""

    source: CameraInput
    outputs: CameraOutputs
    health: CameraHealth


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
        self._publishing = Handover("perception publisher")
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
                decoded = self._decoders.map(self._decode, frames) if len(frames) > 1 else map(self._decode, frames)
                batch = [item for item in decoded if item is not None]
                if batch:
                    self._process(batch)
        finally:
            self._mailbox.close()  # whoever waits for room in it would wait for ever
            self._decoders.shutdown()
            self._publishing.close()

    def _decode(self, frame: Frame[Message]) -> _Decoded | None:
        """None for a frame that cannot be decoded or is of a size that the model does not take: counted and logged."""
        began_s = time.monotonic()
        try:
            image = decode(frame.message)
        except Exception as err:
            self._skip(frame, err, corrupt=True)
            return None
        try:
            self._perceiver.check_image(image)
        except ImageError as err:  # here, where it costs the other cameras of the batch nothing
            self._skip(frame, err)
            return None
        return _Decoded(frame, image, 1000 * (began_s - frame.received_s), 1000 * (time.monotonic() - began_s))

    def _process(self, batch: list[_Decoded]) -> None:
        """Infer and hand over; a failure that lasts shows in the log and the diagnostics, and the cameras go on."""
        try:
            results, spent_ms = self._perceive(batch)
        except Exception as err:
            for item in batch:
                self._skip(item.frame, err)
            return
        self._publishing.put(partial(self._publish_all, batch, results, spent_ms, time.monotonic()))

    def _perceive(self, batch: list[_Decoded]) -> tuple[list[Predictions], dict[str, float]]:
        """One entry a frame, and where the time went in milliseconds."""
        asked = [self._cameras[item.frame.camera].outputs.wanted_tasks for item in batch]
        if not any(asked):  # somebody wants the CameraInfo only
            return [Predictions((item.image.shape[0], item.image.shape[1]), None, None, None) for item in batch], {}
        results = self._perceiver([item.image for item in batch], tasks=asked)
        timings = self._perceiver.last_timings
        assert timings is not None
        return results, {
            "preprocess": timings.preprocess_ns / 1e6,
            "engine": timings.engine_ns / 1e6,
            "postprocess": timings.postprocess_ns / 1e6,
        }

    def _publish_all(
        self, batch: list[_Decoded], results: list[Predictions], spent_ms: dict[str, float], inferred_s: float
    ) -> None:
        """In the publishing thread. The first camera's time to publish includes what the previous batch still took."""
        began_s = inferred_s
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

    def _skip(self, frame: Frame[Message], err: Exception, *, corrupt: bool = False) -> None:
        sentence = str(err) if isinstance(err, LvadError) else f"unexpected {type(err).__name__}: {err}"
        camera = self._cameras[frame.camera]
        skipped = camera.health.count_skipped(sentence, corrupt=corrupt)
        if skipped:
            stamp = frame.message.header.stamp
            self._logger.error(
                f"{camera.source.topic}: frame stamped {stamp.sec}.{stamp.nanosec:09d} skipped ({skipped} so far): "
                f"{sentence}"
            )
