"""The one protocol that every engine meets."""

from typing import Protocol

from lvad_perception.manifest import Manifest
from lvad_perception.types import RawOutputs, UInt8


class Engine(Protocol):
    """A loaded model. Not thread-safe: one thread at a time."""

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

    def infer(self, images: UInt8) -> RawOutputs:
        """Run the model.

        Args:
            images: uint8 [N, H, W, 3], RGB, N and H x W as the manifest's ``input_hw``, C-contiguous.

        Returns:
            The outputs in pixels of the manifest's ``output_hw``; arrays are valid until the next call.

        Raises:
            EngineError: the runtime failed.
        """
        ...

    def close(self) -> None:
        """Free the model's memory; calling it again does nothing."""
        ...
