"""The one protocol that every engine meets, and the inferences that it has under way."""

from typing import Final, Generic, Protocol, TypeVar

from lvad_perception.errors import EngineError
from lvad_perception.manifest import Manifest
from lvad_perception.types import RawOutputs, UInt8

SLOTS: Final = 2
"""Inferences that an engine has under way at most: one that computes, and one whose copies run meanwhile."""


T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Pending(Protocol[T_co]):
    """Something that has begun and has a result. Whoever begins it fetches that, once, in whatever thread."""

    @property
    def done(self) -> bool:
        """Whether ``result`` does not wait; so it is where it has failed, as ``result`` will say."""
        ...

    def result(self) -> T_co:
        """Wait until it is over.

        Raises:
            EngineError: the runtime failed.
        """
        ...


class Engine(Protocol):
    """A loaded model. One thread at a time begins inferences; their results may be fetched in another meanwhile."""

    @property
    def manifest(self) -> Manifest:
        """What the model file says of itself."""
        ...

    @property
    def description(self) -> str:
        """Runtime, version, device and precision, for diagnostics and benchmark tables."""
        ...

    @property
    def precision(self) -> str:
        """What it computes in: "fp32", "fp16", "bf16" or "int8"."""
        ...

    @property
    def device_memory_bytes(self) -> int | None:
        """Memory that it holds on a device of its own; None where it works in the memory of the process."""
        ...

    def begin(self, images: UInt8) -> Pending[RawOutputs]:
        """Have the model run, and go on; a runtime that cannot do that returns when it has run.

        Args:
            images: uint8 [N, H, W, 3], RGB, N and H x W as the manifest's ``input_hw``, C-contiguous. They stay as they
                are until the result has been fetched: a runtime may read them where they lie.

        Returns:
            Gives the outputs, in pixels of the manifest's ``output_hw``, when they are on the host. Their arrays are
            valid until the second ``begin`` after this. ``SLOTS`` may be under way; the older is fetched first.

        Raises:
            EngineError: the runtime failed, or the result of the inference before the last was never fetched.
        """
        ...

    def infer(self, images: UInt8) -> RawOutputs:
        """``begin`` and its ``result`` in one, with the arguments and errors of both."""
        ...

    def close(self) -> None:
        """Finish what is under way, then free the model's memory; calling it again does nothing."""
        ...


class Finished(Generic[T]):
    """What was over when it began, in a runtime that returns when it has run; meets ``Pending``."""

    done: Final = True

    def __init__(self, result: T) -> None:
        self._result = result

    def result(self) -> T:
        """What it was made of."""
        return self._result


class SlotRing:
    """Hands out the ``SLOTS`` sets of buffers in turn, each again only after its user released it.

    One thread at a time calls ``free_slot`` and ``acquire``; any thread may call ``release``.
    """

    def __init__(self) -> None:
        self._users: list[int | None] = [None] * SLOTS
        self._acquired = 0

    def free_slot(self) -> int:
        """The index of the slot that ``acquire`` gives out next.

        Raises:
            EngineError: its last user has not released it.
        """
        slot = self._acquired % SLOTS
        if self._users[slot] is not None:
            raise EngineError(
                f"{SLOTS} inferences are under way, and no more can be; fetch the result of the older one before "
                "another begins"
            )
        return slot

    def acquire(self) -> int:
        """Acquire the free slot; returns the user's number, which ``release`` takes."""
        user = self._acquired
        self._users[user % SLOTS] = user
        self._acquired += 1
        return user

    def release(self, user: int) -> None:
        """Release the user's slot; a second call does nothing."""
        if self._users[user % SLOTS] == user:
            self._users[user % SLOTS] = None
