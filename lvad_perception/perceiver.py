"""Images -> Predictions: letterbox, engine, and the way back to source pixels. Knows no ROS."""

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from types import TracebackType

import numpy as np

from lvad_perception.engines.base import Engine
from lvad_perception.errors import ConfigError, ImageError
from lvad_perception.manifest import OUTPUT_NAMES, Manifest
from lvad_perception.postprocess import to_predictions
from lvad_perception.preprocess import fit_letterbox, letterbox_image
from lvad_perception.types import Float32, Letterbox, Predictions, RawOutputs, UInt8


@dataclass(frozen=True, slots=True)
class Timings:
    """Where the time of one call went, in nanoseconds summed over its images."""

    preprocess_ns: int
    engine_ns: int
    postprocess_ns: int


class Perceiver:
    """Runs an engine on images of any size, or of the one camera size that its model file was made for.

    Not thread-safe, but for ``set_thresholds`` and ``check_image``: one thread at a time.

    Attributes:
        score_threshold: boxes with a lower confidence are left out, in [0, 1]; classes may have their own.
        last_timings: where the time of the last call went; None before the first.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        score_threshold: float | None = None,
        class_thresholds: Mapping[int, float] | None = None,
        clock: Callable[[], int] = time.perf_counter_ns,
    ) -> None:
        """Take over an engine; ``close`` closes it.

        Args:
            engine: a loaded model.
            score_threshold: in [0, 1]; None takes the manifest's. Evaluation wants 0.
            class_thresholds: class id -> threshold in [0, 1] for the classes that have their own.
            clock: nanoseconds, for ``last_timings``.

        Raises:
            ConfigError: a threshold is outside [0, 1].
        """
        self.last_timings: Timings | None = None
        self._engine = engine
        self._clock = clock
        self.set_thresholds(score_threshold, class_thresholds)
        # Slots that a short batch leaves over keep an older image; what the model says of it is dropped.
        self._input = np.zeros((engine.manifest.batch_size, *engine.manifest.input_hw, 3), np.uint8)

    @property
    def manifest(self) -> Manifest:
        """What the model file says of itself."""
        return self._engine.manifest

    @property
    def description(self) -> str:
        """Runtime, version, device and precision of the engine."""
        return self._engine.description

    @property
    def precision(self) -> str:
        """What the engine computes in: "fp32", "fp16", "bf16" or "int8"."""
        return self._engine.precision

    @property
    def device_memory_bytes(self) -> int | None:
        """Memory that the engine holds on a device of its own; None where it works in the memory of the process."""
        return self._engine.device_memory_bytes

    def set_thresholds(
        self, score_threshold: float | None, class_thresholds: Mapping[int, float] | None = None
    ) -> None:
        """Change the thresholds; from any thread, for images from the next batch on.

        Args:
            score_threshold: in [0, 1]; None takes the manifest's.
            class_thresholds: class id -> threshold in [0, 1] for the classes that have their own.

        Raises:
            ConfigError: a threshold is outside [0, 1]; the former ones stay.
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
        """Whether the model takes such an image; from any thread.

        Raises:
            ImageError: its model file was made for images of another size.
        """
        camera_hw = self.manifest.camera_hw
        if camera_hw is not None and image.shape[:2] != camera_hw:
            found, wanted = (f"{size[1]}x{size[0]}" for size in (image.shape, camera_hw))
            raise ImageError(
                f"an image of {found} does not fit this model file, which was made for cameras of {wanted}; export the "
                f"model again with --camera-size {found}, or without that option for images of any size"
            )

    def __call__(self, images: Sequence[UInt8], *, tasks: Sequence[Collection[str]] | None = None) -> list[Predictions]:
        """Predict for any number of images, as many at a time as the model file's batch size.

        Args:
            images: uint8 [H, W, 3] each, RGB; sizes may differ.
            tasks: for each image the tasks that are asked for, so that nothing else is brought to its size; None asks
                for all.

        Returns:
            One entry an image, in order, in source pixels; the arrays belong to the caller.

        Raises:
            ImageError: an image is not uint8 [H, W, 3], or the model file was made for images of another size.
            EngineError: the runtime failed.
        """
        predictions: list[Predictions] = []
        preprocess_ns = engine_ns = postprocess_ns = 0
        for start in range(0, len(images), len(self._input)):
            chunk = images[start : start + len(self._input)]
            asked = tasks[start : start + len(self._input)] if tasks is not None else [OUTPUT_NAMES] * len(chunk)
            thresholds = self._thresholds
            began = self._clock()
            batch, placements = self._place(chunk)
            prepared = self._clock()
            raw = self._engine.infer(batch)
            inferred = self._clock()
            for index, placement in enumerate(placements):
                limits: Float32 | float = 0.0 if raw.labels is None else thresholds[raw.labels[index]]
                wanted = _only(raw, asked[index])
                predictions.append(to_predictions(wanted, index, placement, score_threshold=limits))
            preprocess_ns += prepared - began
            engine_ns += inferred - prepared
            postprocess_ns += self._clock() - inferred
        self.last_timings = Timings(preprocess_ns, engine_ns, postprocess_ns)
        return predictions

    def _place(self, images: Sequence[UInt8]) -> tuple[UInt8, list[Letterbox]]:
        """The engine's input for as many images as it takes, or fewer, and where each of them lies in it."""
        input_hw = self.manifest.input_hw
        if len(self._input) == 1 and images[0].shape == (*input_hw, 3):
            (image,) = images
            if image.dtype == np.uint8 and image.flags.c_contiguous:  # it is the input as it stands: nothing is copied
                return image[None], [fit_letterbox(input_hw, input_hw)]
        for image in images:
            self.check_image(image)
        slots = zip(images, self._input, strict=False)
        return self._input, [letterbox_image(image, input_hw, out=slot)[1] for image, slot in slots]

    def close(self) -> None:
        """Close the engine; calling it again does nothing."""
        self._engine.close()

    def __enter__(self) -> "Perceiver":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _only(raw: RawOutputs, tasks: Collection[str]) -> RawOutputs:
    """The outputs of these tasks, the others as if the model did not have them."""
    others = {name: None for task, names in OUTPUT_NAMES.items() if task not in tasks for name in names}
    return replace(raw, **others) if others else raw
