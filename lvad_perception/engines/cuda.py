"""CUDA through torch: pinned buffers, three streams with events between them, and CUDA graphs.

A GPU copies to the device, computes and copies back at the same time if these run in different streams. Here each has
its own stream, and events keep the three steps of one inference in order; see ``Pipeline``.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from lvad_perception.engines.base import SLOTS, Pending
from lvad_perception.engines.failures import engine_failure
from lvad_perception.errors import EngineError, MissingDependencyError
from lvad_perception.types import UInt8

_WARM_UPS: Final = 2
"""Runs before a network is recorded: libraries allocate memory in the first run, which a recording forbids."""

Network = Callable[[], Sequence[Any]]
"""Queues one run in the current stream. It reads the same device tensor in each run, and returns device tensors that
hold the outputs until the next run."""


@dataclass(frozen=True, slots=True, eq=False)
class Buffer:
    """A tensor on the device and its copy in pinned host memory, so that copies between them are asynchronous.

    Attributes:
        host: the pinned memory as an array.
        pinned: the pinned memory as a tensor.
        device: the tensor on the device.
    """

    host: npt.NDArray[Any]
    pinned: Any
    device: Any

    def upload(self) -> None:
        """Queue the copy from host to device in the current stream."""
        self.device.copy_(self.pinned, non_blocking=True)

    def download(self) -> None:
        """Queue the copy from device to host in the current stream."""
        self.pinned.copy_(self.device, non_blocking=True)


class Cuda:
    """The first CUDA device and three streams on it.

    Attributes:
        name: of the device, such as "Orin with 16 multiprocessors".
        capability: its compute capability, such as "8.7".
        upload: stream of the copies from the host.
        compute: stream of the network, in which inferences that share memory are serialised.
        download: stream of the copies to the host.
    """

    def __init__(self, torch: Any = None) -> None:
        """Open the device.

        Args:
            torch: the library; None imports it.

        Raises:
            MissingDependencyError: torch is not installed.
            EngineError: torch sees no CUDA device, or the device fails.
        """
        torch = torch or _import()
        if not torch.cuda.is_available():
            built = f"for CUDA {torch.version.cuda}" if torch.version.cuda else "without CUDA"
            raise EngineError(
                f"torch {torch.__version__}, built {built}, sees no CUDA GPU; check nvidia-smi and that torch is built "
                "for this driver, or use the .onnx model file"
            )
        self._torch = torch
        self._device = torch.device("cuda", 0)
        try:
            self.upload, self.compute, self.download = (torch.cuda.Stream(self._device) for _ in range(3))
            properties = torch.cuda.get_device_properties(self._device)
        except RuntimeError as err:
            raise engine_failure("CUDA", err, remedy="check nvidia-smi") from err
        # Jetson modules of one generation share a name and differ in their number of multiprocessors.
        self.name = f"{properties.name} with {properties.multi_processor_count} multiprocessors"
        self.capability = f"{properties.major}.{properties.minor}"

    def tensor(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Any:
        """A zeroed tensor on the device."""
        tensor = self._torch.zeros(shape, dtype=self._kind(dtype), device=self._device)
        # It is zeroed in the default stream, for which the three streams do not wait.
        self._torch.cuda.current_stream(self._device).synchronize()
        return tensor

    def buffer(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Buffer:
        """A zeroed buffer."""
        pinned = self._torch.zeros(shape, dtype=self._kind(dtype), pin_memory=True)
        return Buffer(pinned.numpy(), pinned, self.tensor(shape, dtype))

    def event(self) -> Any:
        """An event; a host thread that waits for it sleeps instead of spinning, so that the core can decode images."""
        return self._torch.cuda.Event(blocking=True)

    def queue_in(self, stream: Any) -> Any:
        """A context in which ``stream`` is the current stream."""
        return self._torch.cuda.stream(stream)

    def record(self, network: Network) -> tuple[Network, str]:
        """Record a network as a CUDA graph, which takes one launch instead of one per kernel.

        A network that waits for the device cannot be recorded, for instance to get a number of boxes.

        Returns:
            The recorded network and "CUDA graph", or the network itself and "no CUDA graph".

        Raises:
            RuntimeError: the network fails without recording, too.
        """
        with self.queue_in(self.compute):
            for _ in range(_WARM_UPS):
                network()
        self.compute.synchronize()
        graph = self._torch.cuda.CUDAGraph()
        try:
            # "thread_local": other threads, such as another engine's, may use the device during the recording.
            with self._torch.cuda.graph(graph, stream=self.compute, capture_error_mode="thread_local"):
                outputs = network()
        except RuntimeError:
            return network, "no CUDA graph"

        def replay() -> Sequence[Any]:
            graph.replay()
            return outputs

        return replay, "CUDA graph"

    def _kind(self, dtype: npt.DTypeLike) -> Any:
        """Torch's equivalent of a numpy type."""
        return self._torch.from_numpy(np.zeros(0, dtype)).dtype


class Pipeline:
    """Runs a network asynchronously, with ``SLOTS`` inferences in flight.

    Each slot owns a host and a device buffer for its input and each output. ``submit`` queues an inference in three
    streams and returns::

        upload    host -> the slot's input
        compute   after that: the slot's input -> the network's input, the network, its outputs -> the slot's outputs
        download  after that: the slot's outputs -> host

    One slot is copied while the other is computed. The network, its graph, its input and outputs and its scratch memory
    exist once; ``compute`` serialises their use, at the price of two copies within the device, which take microseconds.
    No other wait is needed: the engine reuses a slot only after its result was fetched, and by then all work that was
    queued for it is done.
    """

    def __init__(
        self, cuda: Cuda, source: Any, network: Network, shapes: Sequence[tuple[tuple[int, ...], npt.DTypeLike]]
    ) -> None:
        """Allocate the buffers.

        Args:
            cuda: the device.
            source: the device tensor that the network reads, uint8 [N, H, W, 3].
            network: recorded or not.
            shapes: shape and type of each output.
        """
        self._cuda = cuda
        self._source = source
        self._network: Network | None = network
        self._slots = [
            _Slot(
                cuda.buffer(tuple(source.shape), np.uint8),
                [cuda.buffer(shape, dtype) for shape, dtype in shapes],
                uploaded=cuda.event(),
                computed=cuda.event(),
                downloaded=cuda.event(),
            )
            for _ in range(SLOTS)
        ]

    @property
    def buffer_bytes(self) -> int:
        """Device memory of all slots."""
        return sum(buffer.host.nbytes for slot in self._slots for buffer in (slot.source, *slot.results))

    def submit(self, slot: int, images: UInt8) -> Pending[list[npt.NDArray[Any]]]:
        """Queue an inference and return.

        Args:
            slot: in [0, ``SLOTS``); the result of its previous inference has been fetched.
            images: of ``source``'s shape, on the host; the caller may change them when this returns.

        Raises:
            RuntimeError: of torch or of the network; nothing of this slot is in flight then.
        """
        assert self._network is not None
        cuda, buffers = self._cuda, self._slots[slot]
        np.copyto(buffers.source.host, images)
        try:
            with cuda.queue_in(cuda.upload):
                buffers.source.upload()
                buffers.uploaded.record(cuda.upload)
            with cuda.queue_in(cuda.compute):
                cuda.compute.wait_event(buffers.uploaded)
                self._source.copy_(buffers.source.device, non_blocking=True)
                for result, tensor in zip(buffers.results, self._network(), strict=True):
                    result.device.copy_(tensor, non_blocking=True)
                buffers.computed.record(cuda.compute)
            with cuda.queue_in(cuda.download):
                cuda.download.wait_event(buffers.computed)
                for result in buffers.results:
                    result.download()
                buffers.downloaded.record(cuda.download)
        except BaseException:
            with suppress(RuntimeError):  # a consequence of the error that is raised
                self._synchronize()
            raise
        return _download(buffers.downloaded, [result.host for result in buffers.results])

    def close(self) -> None:
        """Wait for inferences in flight and free the network and the device buffers; results can still be fetched."""
        with suppress(RuntimeError):  # ``result`` raises it
            self._synchronize()
        self._network = None
        self._slots = []
        self._source = None

    def _synchronize(self) -> None:
        for stream in (self._cuda.upload, self._cuda.compute, self._cuda.download):
            stream.synchronize()


@dataclass(frozen=True, slots=True, eq=False)
class _Slot:
    """Buffers of one inference, and the events after its three steps."""

    source: Buffer
    results: list[Buffer]
    uploaded: Any
    computed: Any
    downloaded: Any


def _download(downloaded: Any, arrays: list[npt.NDArray[Any]]) -> Pending[list[npt.NDArray[Any]]]:
    """The arrays on the host, pending until the event after their copies."""

    def fetch() -> list[npt.NDArray[Any]]:
        try:
            downloaded.synchronize()
        except RuntimeError as err:
            raise engine_failure("CUDA", err, remedy="restart the process") from err
        return arrays

    return Pending(fetch, done=downloaded.query)


def _import() -> Any:
    try:
        import torch
    except ImportError as err:
        raise MissingDependencyError(
            "torch, which allocates the memory of TensorRT engines, is not installed; install torch with CUDA: "
            "docs/deploy.md says which"
        ) from err
    return torch
