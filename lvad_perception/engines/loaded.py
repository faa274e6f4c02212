"""What is the same of every loaded model, whatever runs it."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np

from lvad_perception.engines.base import Pending, SlotRing
from lvad_perception.engines.graph import OUTPUT_TYPES
from lvad_perception.errors import DeviceError, EngineError
from lvad_perception.manifest import Manifest
from lvad_perception.types import RawOutputs, UInt8


class LoadedEngine(ABC):
    """Its facts, the check of its images, what is under way, and that it ends once; meets ``base.Engine``.

    A runtime derives from it, loads the file, calls this constructor last, and adds ``_begin`` and ``_release``.
    """

    def __init__(
        self, *, manifest: Manifest, description: str, precision: str, device_memory_bytes: int | None = None
    ) -> None:
        """Keep the facts; what they mean is said in ``base.Engine``."""
        self._manifest = manifest
        self._description = description
        self._precision = precision
        self._device_memory_bytes = device_memory_bytes
        self._shape = (manifest.batch_size, *manifest.input_hw, 3)
        self._slots = SlotRing()
        self._closed = False
        self._failure: DeviceError | None = None

    @property
    def manifest(self) -> Manifest:
        """What the model file says of itself."""
        return self._manifest

    @property
    def description(self) -> str:
        """Runtime, version, device and precision, for diagnostics and benchmark tables."""
        return self._description

    @property
    def precision(self) -> str:
        """What it computes in: "fp32", "fp16", "bf16" or "int8"."""
        return self._precision

    @property
    def device_memory_bytes(self) -> int | None:
        """Memory that it holds on a device of its own; None where it works in the memory of the process."""
        return self._device_memory_bytes

    def begin(self, images: UInt8) -> Pending[RawOutputs]:
        """Have the model run on uint8 [N, H, W, 3], RGB, of the manifest's shape; see ``base.Engine``.

        Raises:
            EngineError: the runtime failed, the images are of another shape or type, the engine is closed, or two
                results are still to be fetched.
            DeviceError: the device failed, now or before.
        """
        if self._closed:
            raise EngineError("the engine is closed; open the model file again")
        if self._failure is not None:
            raise DeviceError(str(self._failure)) from self._failure
        if images.shape != self._shape or images.dtype != np.uint8:
            raise EngineError(
                f"images of shape {images.shape} and type {images.dtype} do not fit this engine, whose input is uint8 "
                f"{self._shape}; give as many images as the model's batch size, at its input size"
            )
        with self._keep_failure():
            arrays = self._begin(self._slots.free_slot(), images)
        return _Inference(arrays, self._manifest.output_names, self._slots, self._slots.acquire(), self._keep_failure)

    def infer(self, images: UInt8) -> RawOutputs:
        """``begin`` and its result; see ``base.Engine``."""
        return self.begin(images).result()

    def close(self) -> None:
        """Finish what is under way, then free the model's memory; calling it again does nothing."""
        if not self._closed:
            self._closed = True
            self._release()

    @contextmanager
    def _keep_failure(self) -> Iterator[None]:
        """Once the device has failed, all that follows is a consequence: the first failure is what is told."""
        try:
            yield
        except DeviceError as err:
            self._failure = self._failure or err
            raise DeviceError(str(self._failure)) from err

    @abstractmethod
    def _begin(self, slot: int, images: UInt8) -> Pending[Sequence[Any]]:
        """Run the model with the buffers of a slot, 0 or 1; the arrays of its former run are no longer needed.

        Returns:
            Gives arrays in the order of the manifest's ``output_names``, valid until the slot runs again.

        Raises:
            EngineError: the runtime failed, and nothing of this slot is under way.
            DeviceError: likewise, and the device does nothing more.
        """

    @abstractmethod
    def _release(self) -> None:
        """Wait for what is under way and let go of everything that holds the model's memory; called once."""


class _Inference:
    """One that has begun; meets ``base.Pending``."""

    def __init__(
        self,
        arrays: Pending[Sequence[Any]],
        names: Sequence[str],
        slots: SlotRing,
        number: int,
        keep_failure: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self._arrays, self._names, self._slots, self._number = arrays, names, slots, number
        self._keep_failure = keep_failure

    @property
    def done(self) -> bool:
        """See ``base.Pending``."""
        return self._arrays.done

    def result(self) -> RawOutputs:
        """See ``base.Pending``."""
        try:
            with self._keep_failure():
                arrays = self._arrays.result()
        finally:
            self._slots.release(self._number)
        return RawOutputs(**dict.fromkeys(OUTPUT_TYPES) | dict(zip(self._names, arrays, strict=True)))
