"""The base class of all engines, the pending results that it returns, and its ring of buffers."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Final, Generic, TypeVar

import numpy as np

from lvad_perception.engines.graph import OUTPUT_TYPES
from lvad_perception.errors import DeviceError, EngineError
from lvad_perception.manifest import Manifest
from lvad_perception.types import RawOutputs, UInt8

SLOTS: Final = 2
"""Maximum number of inferences in flight: one is computed while the input or the outputs of the other are copied."""

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Pending(Generic[T_co]):
    """The result of a submitted inference, much like a ``concurrent.futures.Future``.

    The device or the runtime's own threads compute it; no thread of this package does. ``result`` waits for them, in
    whichever thread calls it, and releases the buffers that the result lies in. Exactly one thread fetches it.
    """

    def __init__(
        self,
        fetch: Callable[[], T_co],
        *,
        done: Callable[[], bool] = lambda: True,
        release: Callable[[], None] = lambda: None,
    ) -> None:
        """Store the callbacks of the runtime.

        Args:
            fetch: waits for the result and returns it; raises EngineError where the inference failed.
            done: whether ``fetch`` would return, or raise, without waiting.
            release: marks the buffers of this inference as free; a second call does nothing.
        """
        self._fetch, self._done = fetch, done
        self.release = release

    @staticmethod
    def finished(result: T) -> "Pending[T]":
        """The result of a synchronous runtime, which computes in ``submit``."""
        return Pending(lambda: result)

    @property
    def done(self) -> bool:
        """Whether ``result`` returns, or raises, without waiting."""
        try:
            return bool(self._done())
        except Exception:  # the inference failed; ``result`` raises the cause
            return True

    def wait(self) -> T_co:
        """Wait for the result and return it. Its buffers stay in use until ``release``, unless this raises.

        Raises:
            EngineError: the inference failed.
        """
        try:
            return self._fetch()
        except BaseException:
            self.release()
            raise

    def result(self) -> T_co:
        """Wait for the result, release its buffers and return it.

        Raises:
            EngineError: the inference failed.
        """
        try:
            return self._fetch()
        finally:
            self.release()


class SlotRing:
    """Hands out ``SLOTS`` sets of buffers ("slots") in turn, each again only after it was released.

    The submitting thread calls ``next_slot`` and ``acquire``; any thread may call ``release``. No lock is needed: an
    entry is set only while it is None, and reset only by the holder of its ticket.
    """

    def __init__(self) -> None:
        self._tickets: list[int | None] = [None] * SLOTS
        self._acquired = 0

    def next_slot(self) -> int:
        """Index of the slot that ``acquire`` takes next.

        Raises:
            EngineError: it has not been released.
        """
        slot = self._acquired % SLOTS
        if self._tickets[slot] is not None:
            raise EngineError(
                f"{SLOTS} inferences are in flight, the most that an engine takes; fetch the result of the older one "
                "before another begins"
            )
        return slot

    def acquire(self) -> int:
        """Take the next slot; returns the ticket that releases it."""
        ticket = self._acquired
        self._tickets[ticket % SLOTS] = ticket
        self._acquired += 1
        return ticket

    def release(self, ticket: int) -> None:
        """Release a slot; a second call with the same ticket does nothing."""
        if self._tickets[ticket % SLOTS] == ticket:
            self._tickets[ticket % SLOTS] = None


def on_cpu(threads: int) -> str:
    """The device in an engine's description: "CPU, 1 thread", "CPU, 2 threads"."""
    return f"CPU, {threads} thread{'s'[: threads != 1]}"


class Engine(ABC):
    """A loaded model.

    A runtime derives from this class, loads the file in its constructor, calls this constructor last, and implements
    ``_submit`` and ``_close``. One thread at a time submits inferences; their results may be fetched in another thread.

    Attributes:
        manifest: the model file's manifest.
        description: runtime, version, device and precision, for diagnostics and benchmark tables.
        precision: "fp32", "fp16", "bf16" or "int8": the precision of its convolutions and matrix products.
        device_memory_bytes: memory that it holds on a device; None where it works in the memory of the process.
    """

    def __init__(
        self, *, manifest: Manifest, description: str, precision: str, device_memory_bytes: int | None = None
    ) -> None:
        """Store the metadata; see the attributes."""
        self.manifest = manifest
        self.description = description
        self.precision = precision
        self.device_memory_bytes = device_memory_bytes
        self._shape = (manifest.batch_size, *manifest.input_hw, 3)
        self._slots = SlotRing()
        self._closed = False
        self._failure: DeviceError | None = None

    def next_slot(self) -> int:
        """Index of the buffers that the next inference uses, in [0, ``SLOTS``).

        Raises:
            EngineError: the result of the inference before the last was never fetched.
        """
        return self._slots.next_slot()

    def submit(self, images: UInt8) -> Pending[RawOutputs]:
        """Start an inference and return; a synchronous runtime returns when it has computed the result.

        Args:
            images: uint8 [N, H, W, 3], RGB, N and H x W as the manifest's ``input_hw``, C-contiguous. The caller must
                not change them before the result was fetched: a runtime may read them without a copy.

        Returns:
            The pending outputs, in pixels of the manifest's ``output_hw``. Their arrays belong to the engine and are
            valid until the second ``submit`` after this one. At most ``SLOTS`` inferences are in flight, and their
            results are fetched in the order of submission.

        Raises:
            EngineError: the runtime failed, the images have another shape or type, the engine is closed, or the result
                of the inference before the last was never fetched.
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
        slot = self._slots.next_slot()
        with self._first_device_failure():
            pending = self._submit(slot, images)

        def fetch() -> RawOutputs:
            with self._first_device_failure():
                arrays = pending.result()
            outputs = zip(self.manifest.output_names, arrays, strict=True)
            return RawOutputs(**dict.fromkeys(OUTPUT_TYPES) | dict(outputs))

        release = partial(self._slots.release, self._slots.acquire())
        return Pending(fetch, done=lambda: pending.done, release=release)

    def infer(self, images: UInt8) -> RawOutputs:
        """Submit an inference and wait for its result; arguments and errors are those of ``submit``."""
        return self.submit(images).result()

    def close(self) -> None:
        """Wait for inferences in flight, then free the model's memory; a second call does nothing."""
        if not self._closed:
            self._closed = True
            self._close()

    @contextmanager
    def _first_device_failure(self) -> Iterator[None]:
        """Raise the first failure of the device instead of later ones, which are its consequences."""
        try:
            yield
        except DeviceError as err:
            self._failure = self._failure or err
            raise DeviceError(str(self._failure)) from err

    @abstractmethod
    def _submit(self, slot: int, images: UInt8) -> Pending[Sequence[Any]]:
        """Run the model with the buffers of a slot; the arrays of that slot's previous inference are no longer needed.

        Args:
            slot: in [0, ``SLOTS``).
            images: uint8 [N, H, W, 3] as the manifest says, unchanged until the result was fetched.

        Returns:
            Arrays in the order of the manifest's ``output_names``, valid until the slot is used again.

        Raises:
            EngineError: the runtime failed; nothing of this slot is in flight.
            DeviceError: likewise, and the device can no longer be used by this process.
        """

    @abstractmethod
    def _close(self) -> None:
        """Wait for inferences in flight and free the model's memory; called once."""
