"""The perceiver: letterbox, engine and inverse letterbox, from images to predictions, without ROS."""

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from types import TracebackType

import numpy as np

from lvad_perception.engines.base import SLOTS, Engine, Pending
from lvad_perception.errors import ConfigError, ImageError
from lvad_perception.manifest import OUTPUT_NAMES, Manifest
from lvad_perception.postprocess import to_predictions
from lvad_perception.preprocess import fit_letterbox, letterbox_image
from lvad_perception.types import Float32, Letterbox, Predictions, RawOutputs, UInt8


@dataclass(frozen=True, slots=True)
class Timings:
    """Time of each stage of one batch, in nanoseconds.

    Attributes:
        preprocess_ns: the letterbox.
        engine_ns: from the submission until the outputs were seen on the host. Nobody looks before the result is
            fetched, so that it includes the delay of a thread that fetches late.
        postprocess_ns: the inverse letterbox.
    """

    preprocess_ns: int
    engine_ns: int
    postprocess_ns: int


class PendingPredictions:
    """The predictions of a submitted batch. Exactly one thread, which may be any, fetches the result."""

    def __init__(
        self,
        pending: Pending[RawOutputs],
        *,
        predict: Callable[[RawOutputs], list[Predictions]],
        clock: Callable[[], int],
        began_ns: int,
        prepared_ns: int,
    ) -> None:
        self._pending = pending
        self._predict = predict
        self._clock = clock
        self._began_ns, self._prepared_ns = began_ns, prepared_ns
        self._raw: RawOutputs | None = None
        self._timings: Timings | None = None
        self._inferred_ns = clock() if pending.done else None

    @property
    def timings(self) -> Timings:
        """Time of each stage; available after ``result``."""
        assert self._timings is not None
        return self._timings

    def wait(self) -> None:
        """Wait for the engine only; ``result`` waits too.

        Raises:
            EngineError: the runtime failed.
        """
        if self._raw is None:
            self._raw = self._pending.wait()
            self._inferred_ns = self._inferred_ns or self._clock()

    def result(self) -> list[Predictions]:
        """Wait for the engine and bring its outputs to source pixels; only then are the engine's buffers released.

        Returns:
            One entry per image, in order; the arrays belong to the caller.

        Raises:
            EngineError: the runtime failed.
        """
        self.wait()
        assert self._raw is not None
        assert self._inferred_ns is not None
        fetched_ns = self._clock()
        try:
            predictions = self._predict(self._raw)
        finally:
            self._pending.release()
        self._timings = Timings(
            self._prepared_ns - self._began_ns,
            self._inferred_ns - self._prepared_ns,
            self._clock() - fetched_ns,
        )
        return predictions


class Perceiver:
    """Runs an engine on images of any size, or of the one camera size that its model file was exported for.

    One thread at a time submits images, and owns the input buffers; results may be fetched in another thread.
    ``set_thresholds`` and ``check_image`` may be called from any thread.

    Attributes:
        score_threshold: boxes with a lower confidence are left out, in [0, 1]; classes may have their own.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        score_threshold: float | None = None,
        class_thresholds: Mapping[int, float] | None = None,
        clock: Callable[[], int] = time.perf_counter_ns,
    ) -> None:
        """Take ownership of an engine; ``close`` closes it.

        Args:
            engine: a loaded model.
            score_threshold: in [0, 1]; None takes the manifest's. Evaluation needs 0.
            class_thresholds: class id -> threshold in [0, 1] for the classes that have their own.
            clock: nanoseconds, for ``Timings``.

        Raises:
            ConfigError: a threshold is outside [0, 1].
        """
        self._engine = engine
        self._clock = clock
        self.set_thresholds(score_threshold, class_thresholds)
        self._batch_size = engine.manifest.batch_size
        # One input per slot of the engine, which may read it until the result is fetched. Images of an earlier batch
        # that a shorter one leaves in it run again, and their outputs are dropped.
        self._inputs = np.zeros((SLOTS, self._batch_size, *engine.manifest.input_hw, 3), np.uint8)

    @property
    def manifest(self) -> Manifest:
        """The model file's manifest."""
        return self._engine.manifest

    @property
    def description(self) -> str:
        """Runtime, version, device and precision of the engine."""
        return self._engine.description

    @property
    def precision(self) -> str:
        """Precision of the engine: "fp32", "fp16", "bf16" or "int8"."""
        return self._engine.precision

    @property
    def device_memory_bytes(self) -> int | None:
        """Memory that the engine holds on a device; None where it works in the memory of the process."""
        return self._engine.device_memory_bytes

    def set_thresholds(
        self, score_threshold: float | None, class_thresholds: Mapping[int, float] | None = None
    ) -> None:
        """Change the thresholds; from any thread, for images from the next batch on.

        Args:
            score_threshold: in [0, 1]; None takes the manifest's.
            class_thresholds: class id -> threshold in [0, 1] for the classes that have their own.

        Raises:
            ConfigError: a threshold is outside [0, 1]; the previous thresholds stay.
        """
        if score_threshold is None:
            score_threshold = self.manifest.score_threshold
        class_thresholds = class_thresholds or {}
        for threshold in (score_threshold, *class_thresholds.values()):
            if not 0.0 <= threshold <= 1.0:
                raise ConfigError(f"score threshold {threshold} is outside [0, 1]; give a confidence such as 0.3")
        thresholds: Float32 = np.full(len(self.manifest.classes.get("detection", ())), score_threshold, np.float32)
        for label, threshold in class_thresholds.items():
            thresholds[label] = threshold
        self.score_threshold, self._thresholds = score_threshold, thresholds

    def check_image(self, image: UInt8) -> None:
        """Check that the model takes images of this size; from any thread.

        Raises:
            ImageError: the model file was exported for images of another size.
        """
        camera_hw = self.manifest.camera_hw
        if camera_hw is not None and image.shape[:2] != camera_hw:
            given, expected = (f"{size[1]}x{size[0]}" for size in (image.shape, camera_hw))
            raise ImageError(
                f"an image of {given} does not fit this model file, which was made for cameras of {expected}; export "
                f"the model again with --camera-size {given}, or without that option for images of any size"
            )

    def __call__(self, images: Sequence[UInt8], *, tasks: Sequence[Collection[str]] | None = None) -> list[Predictions]:
        """Predict for any number of images, in batches of the model file's batch size.

        Args:
            images: uint8 [H, W, 3] each, RGB; sizes may differ.
            tasks: the requested tasks of each image; outputs of others are not brought to source pixels. None requests
                all tasks of all images.

        Returns:
            One entry per image, in order, in source pixels; the arrays belong to the caller.

        Raises:
            ImageError: an image is not uint8 [H, W, 3], or the model file was exported for images of another size.
            EngineError: the runtime failed.
        """
        predictions: list[Predictions] = []
        for start in range(0, len(images), self._batch_size):
            chunk = slice(start, start + self._batch_size)
            predictions += self.submit(images[chunk], tasks=None if tasks is None else tasks[chunk]).result()
        return predictions

    def submit(self, images: Sequence[UInt8], *, tasks: Sequence[Collection[str]] | None = None) -> PendingPredictions:
        """Start one batch and return while an asynchronous engine computes it.

        Args:
            images: as in ``__call__``, from 1 to the model file's batch size. The caller must not change them before
                the result was fetched.
            tasks: as in ``__call__``.

        Returns:
            The pending predictions, to be fetched in the order of submission. ``SLOTS`` batches may be in flight.

        Raises:
            ConfigError: no images, or more than a batch.
            ImageError: as in ``__call__``.
            EngineError: the runtime failed, or the result of the batch before the last was never fetched.
        """
        if not 1 <= len(images) <= self._batch_size:
            raise ConfigError(
                f"{len(images)} images do not fit a batch of this model file; give 1 to {self._batch_size} at a time"
            )
        requested = tasks if tasks is not None else [OUTPUT_NAMES] * len(images)
        thresholds = self._thresholds
        began_ns = self._clock()
        batch, placements = self._letterbox(images, self._inputs[self._engine.next_slot()])
        prepared_ns = self._clock()

        def predict(raw: RawOutputs) -> list[Predictions]:
            limits = [0.0 if raw.labels is None else thresholds[raw.labels[index]] for index in range(len(images))]
            return [
                to_predictions(_select_tasks(raw, requested[index]), index, placement, score_threshold=limits[index])
                for index, placement in enumerate(placements)
            ]

        pending = self._engine.submit(batch)
        return PendingPredictions(
            pending, predict=predict, clock=self._clock, began_ns=began_ns, prepared_ns=prepared_ns
        )

    def _letterbox(self, images: Sequence[UInt8], inputs: UInt8) -> tuple[UInt8, list[Letterbox]]:
        """The engine's input, uint8 [N, H, W, 3], and the placement of each of up to N images in it."""
        input_hw = self.manifest.input_hw
        if len(inputs) == 1 and images[0].shape == (*input_hw, 3):
            (image,) = images
            if image.dtype == np.uint8 and image.flags.c_contiguous:  # already the input: no copy
                return image[None], [fit_letterbox(input_hw, input_hw)]
        for image in images:
            self.check_image(image)
        pairs = zip(images, inputs, strict=False)
        return inputs, [letterbox_image(image, input_hw, out=out)[1] for image, out in pairs]

    def close(self) -> None:
        """Close the engine; calling it again does nothing."""
        self._engine.close()

    def __enter__(self) -> "Perceiver":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _select_tasks(raw: RawOutputs, tasks: Collection[str]) -> RawOutputs:
    """The outputs of these tasks; those of other tasks become None."""
    others = {name: None for task, names in OUTPUT_NAMES.items() if task not in tasks for name in names}
    return replace(raw, **others) if others else raw
