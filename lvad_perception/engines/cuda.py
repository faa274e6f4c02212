"""What an engine needs of a CUDA device, through torch: lasting buffers, three streams, a CUDA graph.

A copy to the device, a network and copies back are three things that a GPU does at the same time, of different images:
each has a stream of its own here, and events keep those of one image in order. See ``Pipeline``.
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
"""Runs before recording: libraries allocate in the first, which a recording forbids."""

Network = Callable[[], Sequence[Any]]
"""Queues one run in the current stream, from a device tensor that always is the same one, and returns the tensors on
the device that will hold the outputs until the next run."""


@dataclass(frozen=True, slots=True, eq=False)
class Buffer:
    """One tensor twice: in page-locked memory of the host, which the device copies from and to by itself, and there.

    Attributes:
        host: the host's side as an array; what is written to it reaches the device by ``upload``.
        pinned: the same memory as a tensor.
        device: the device's side.
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
        compute: stream of the network; work on one and the same memory is in order for being in here.
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
            facts = torch.cuda.get_device_properties(self._device)
        except RuntimeError as err:
            raise engine_failure("CUDA", err, remedy="check nvidia-smi") from err
        # Jetson modules of one generation share a name and differ in their number of multiprocessors.
        self.name = f"{facts.name} with {facts.multi_processor_count} multiprocessors"
        self.capability = f"{facts.major}.{facts.minor}"

    def tensor(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Any:
        """A zeroed tensor on the device."""
        tensor = self._torch.zeros(shape, dtype=self._kind(dtype), device=self._device)
        # Zeroed in the default stream, which the own ones do not wait for.
        self._torch.cuda.current_stream(self._device).synchronize()
        return tensor

    def buffer(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Buffer:
        """A zeroed tensor on both sides."""
        pinned = self._torch.zeros(shape, dtype=self._kind(dtype), pin_memory=True)
        return Buffer(pinned.numpy(), pinned, self.tensor(shape, dtype))

    def event(self) -> Any:
        """An event; whoever waits for it on the host sleeps meanwhile, so that the core can decode the next image."""
        return self._torch.cuda.Event(blocking=True)

    def queue_in(self, stream: Any) -> Any:
        """A context in which ``stream`` is the current one."""
        return self._torch.cuda.stream(stream)

    def record(self, network: Network) -> tuple[Network, str]:
        """Record a network as a CUDA graph, one launch instead of one per kernel, where it can be recorded.

        A network that waits for the device in between, as for a number of boxes that depends on the image, cannot.

        Returns:
            The recorded network, or the same where it cannot be; and which: "CUDA graph" or "no CUDA graph".

        Raises:
            RuntimeError: it does not even run.
        """
        with self.queue_in(self.compute):
            for _ in range(_WARM_UPS):
                network()
        self.compute.synchronize()
        graph = self._torch.cuda.CUDAGraph()
        try:
            # Other threads of a process, such as another engine's, may go on using the device meanwhile.
            with self._torch.cuda.graph(graph, stream=self.compute, capture_error_mode="thread_local"):
                outputs = network()
        except RuntimeError:
            return network, "no CUDA graph"

        def replay() -> Sequence[Any]:
            graph.replay()
            return outputs

        return replay, "CUDA graph"

    def _kind(self, dtype: npt.DTypeLike) -> Any:
        """Torch's type for numpy's."""
        return self._torch.from_numpy(np.zeros(0, dtype)).dtype


class Pipeline:
    """A network with its copies, of ``SLOTS`` inferences at a time.

    Each slot has its own buffers on both sides. An inference is queued in three streams::

        upload    host -> the slot's input
        compute   ... waits for that; the slot's input -> the network's, the network, its outputs -> the slot's
        download  ... waits for that; the slot's outputs -> host

    so that one slot is copied while the other computes. The two copies within the device, which take microseconds, let
    both share one network, one graph and one scratch memory: what runs in ``compute`` never overlaps. Nothing else has
    to be waited for, since a slot begins again only after its result was fetched: by then all that was queued for it is
    done, its buffers are free, and so is the host's side of its input.
    """

    def __init__(
        self, cuda: Cuda, source: Any, network: Network, shapes: Sequence[tuple[tuple[int, ...], npt.DTypeLike]]
    ) -> None:
        """Allocate the buffers.

        Args:
            cuda: the device.
            source: the device tensor that the network reads, uint8 [N, H, W, 3].
            network: what runs, recorded or not.
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
        """Queue an inference on images of ``source``'s shape, which may change when this returns.

        Args:
            slot: its number; what was begun in it before has been fetched.
            images: on the host.

        Raises:
            RuntimeError: of torch or of the network; nothing of this slot is under way then.
        """
        assert self._network is not None
        cuda, mine = self._cuda, self._slots[slot]
        np.copyto(mine.source.host, images)
        try:
            with cuda.queue_in(cuda.upload):
                mine.source.upload()
                mine.uploaded.record(cuda.upload)
            with cuda.queue_in(cuda.compute):
                cuda.compute.wait_event(mine.uploaded)
                self._source.copy_(mine.source.device, non_blocking=True)
                for result, tensor in zip(mine.results, self._network(), strict=True):
                    result.device.copy_(tensor, non_blocking=True)
                mine.computed.record(cuda.compute)
            with cuda.queue_in(cuda.download):
                cuda.download.wait_event(mine.computed)
                for result in mine.results:
                    result.download()
                mine.downloaded.record(cuda.download)
        except BaseException:
            with suppress(RuntimeError):  # a consequence of what is raised
                self._synchronize()
            raise
        return _download(mine.downloaded, [result.host for result in mine.results])

    def close(self) -> None:
        """Wait for what is under way and let go of the network; fetched and unfetched results stay."""
        with suppress(RuntimeError):  # that is for whoever fetches the result
            self._synchronize()
        self._network = None
        self._slots = []
        self._source = None

    def _synchronize(self) -> None:
        for stream in (self._cuda.upload, self._cuda.compute, self._cuda.download):
            stream.synchronize()


@dataclass(frozen=True, slots=True, eq=False)
class _Slot:
    """Buffers of one inference, and the events that end its parts."""

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
            "torch, which holds the memory of TensorRT engines, is not installed; install torch with CUDA: "
            "docs/deploy.md says which"
        ) from err
    return torch
