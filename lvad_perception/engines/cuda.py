"""What an engine needs of a CUDA device, through torch: lasting buffers, a stream, a CUDA graph."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from lvad_perception.errors import EngineError, MissingDependencyError

_WARM_UPS: Final = 2
"""Runs before recording: libraries allocate in the first, which a recording forbids."""


@dataclass(frozen=True, slots=True, eq=False)
class Buffer:
    """One tensor twice: in page-locked memory of the host, which the device copies from and to by itself, and there.

    Attributes:
        host: the host's side as an array; what is written to it reaches the device by ``upload``.
        address: of the device's side.
    """

    host: npt.NDArray[Any]
    address: int
    pinned: Any
    device: Any

    def upload(self) -> None:
        """Queue the copy from host to device in the current stream."""
        self.device.copy_(self.pinned, non_blocking=True)

    def download(self) -> None:
        """Queue the copy from device to host in the current stream."""
        self.pinned.copy_(self.device, non_blocking=True)


class Cuda:
    """The first CUDA device and one stream on it.

    Attributes:
        name: of the device, such as "Orin with 16 multiprocessors".
        capability: its compute capability, such as "8.7".
    """

    def __init__(self) -> None:
        """Open the device.

        Raises:
            MissingDependencyError: torch is not installed.
            EngineError: torch sees no CUDA device.
        """
        try:
            import torch
        except ImportError as err:
            raise MissingDependencyError(
                "torch, which holds the memory of TensorRT engines, is not installed; install torch with CUDA: "
                "docs/deploy.md says which"
            ) from err
        if not torch.cuda.is_available():
            built = f"for CUDA {torch.version.cuda}" if torch.version.cuda else "without CUDA"
            raise EngineError(
                f"torch {torch.__version__}, built {built}, sees no CUDA GPU; check nvidia-smi and that torch is built "
                "for this driver, or use the .onnx model file"
            )
        self._torch = torch
        self._device = torch.device("cuda", 0)
        self._stream: Any = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        facts = torch.cuda.get_device_properties(self._device)
        # Jetson modules of one generation share a name and differ in their number of multiprocessors.
        self.name = f"{facts.name} with {facts.multi_processor_count} multiprocessors"
        self.capability = f"{facts.major}.{facts.minor}"

    @property
    def stream(self) -> int:
        """Handle of the stream."""
        return int(self._stream.cuda_stream)

    def buffer(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Buffer:
        """A zeroed tensor on both sides."""
        kind = self._torch.from_numpy(np.zeros(0, dtype)).dtype
        pinned = self._torch.zeros(shape, dtype=kind, pin_memory=True)
        device = self._torch.zeros(shape, dtype=kind, device=self._device)
        # Zeroed in the default stream, which the own one does not wait for.
        self._torch.cuda.current_stream(self._device).synchronize()
        return Buffer(pinned.numpy(), device.data_ptr(), pinned, device)

    def run(self, work: Callable[[], None]) -> None:
        """Queue work in the stream and wait until it is done."""
        with self._torch.cuda.stream(self._stream):
            work()
        self._stream.synchronize()

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        """Record work as a CUDA graph: one launch instead of one per kernel and copy.

        Returns:
            Queues the recorded work in the stream and waits until it is done.

        Raises:
            RuntimeError: something in the work cannot be recorded.
        """
        for _ in range(_WARM_UPS):
            self.run(work)
        graph = self._torch.cuda.CUDAGraph()
        # Other threads of a process, such as another engine's, may go on using the device meanwhile.
        with self._torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
            work()
        return lambda: self.run(graph.replay)
