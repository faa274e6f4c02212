"""How a loader's processes hand their batches over, and what is said when they cannot.

torch lets a thread of each process pickle its batches, with a piece of shared memory and an open file for every tensor.
What fails in that thread is printed, the batch is lost, and the training waits for it for good. Here a process packs
each batch itself, into one piece of shared memory; what it lacks for that takes the batch's place and ends training.
"""

import errno
import io
import pickle
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from lvad_perception.errors import LoaderError, LvadError

SHARED: Final = Path("/dev/shm")
_ALIGNMENT: Final = 64
_FEWER: Final = "lower data.workers or train.batch_size, or set data.workers to 0"
_REMEDIES: Final = {
    errno.ENOSPC: f"give more, in a container with --shm-size 16g or --ipc host, {_FEWER}",
    errno.ENOMEM: f"give more memory, {_FEWER}",
    errno.EMFILE: f"raise the limit before the start with ulimit -n 4096, {_FEWER}",
    errno.EAGAIN: f"raise the limit of processes with ulimit -u, {_FEWER}",
}
_WORDS: Final = {  # of torch and Python, where the number of the error is not given
    "Too many open files": errno.EMFILE,
    "received 0 items of ancdata": errno.EMFILE,
    "No space left on device": errno.ENOSPC,
    "Cannot allocate memory": errno.ENOMEM,
}


class Guarded(Dataset[Any]):
    """Gives a bad file's error as the sample, so that it reaches the main process whole."""

    def __init__(self, samples: Dataset[Any]) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)  # type: ignore[arg-type]

    def __getitem__(self, key: Any) -> Any:
        try:
            return self.samples[key]
        except LvadError as err:
            return err
        except MemoryError as err:
            return _lacking(err)


class Batches:
    """A loader that raises what went wrong in its processes as it was raised there, without their traceback."""

    def __init__(self, loader: DataLoader[Any]) -> None:
        self.loader = loader

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        processes: Sequence[Any] = ()
        try:
            batches = iter(self.loader)
            processes = getattr(batches, "_workers", ())
            for batch in batches:
                if isinstance(batch, LvadError):
                    raise batch
                yield _unpack(batch) if isinstance(batch, _Packed) else batch
        except (OSError, RuntimeError, EOFError, MemoryError) as err:
            lost = isinstance(err, (ConnectionError, EOFError))  # the other end may be dead, and that not known yet
            problem = _end_of(processes, wait_s=2.0 if lost else 0.0) or _lacking(err)
            if problem is None:
                raise
            raise problem from err


def merge_and_pack(merge: Callable[[list[Any]], Any], samples: list[Any]) -> Any:
    """What the loader calls for a batch: the first error among its samples, or the batch, packed in another process."""
    failed = next((sample for sample in samples if isinstance(sample, LvadError)), None)
    if failed is not None:
        return failed
    batch = merge(samples)
    if get_worker_info() is None:
        return batch
    try:
        return _pack(batch)
    except (OSError, RuntimeError, MemoryError) as err:
        problem = _lacking(err)
        if problem is None:
            raise
        return problem


@dataclass(frozen=True, slots=True)
class _Packed:
    """A batch on its way: pickled, its arrays as one piece of shared memory.

    Attributes:
        content: pickle of the batch without its arrays.
        places: first byte and length of each array.
        memory: pickle of the uint8 tensor that holds them, which whoever reads it opens by its descriptor.
    """

    content: bytes
    places: list[tuple[int, int]]
    memory: bytes


class _Pickler(pickle.Pickler):
    """Pickles tensors as numpy arrays, whose content may travel apart."""

    def reducer_override(self, thing: Any) -> Any:
        if type(thing) is not Tensor or thing.dtype is torch.bfloat16:
            return NotImplemented
        return torch.from_numpy, (thing.numpy(),)


def _pack(batch: Any) -> _Packed:
    content, buffers = io.BytesIO(), list[pickle.PickleBuffer]()
    _Pickler(content, protocol=5, buffer_callback=buffers.append).dump(batch)
    arrays = [np.frombuffer(buffer.raw(), np.uint8) for buffer in buffers]
    places, end = [], 0
    for array in arrays:
        places.append((end, len(array)))
        end += -(-len(array) // _ALIGNMENT) * _ALIGNMENT
    whole: torch.Tensor = torch.empty(end, dtype=torch.uint8).share_memory_()  # type: ignore[no-untyped-call]
    memory = whole.numpy()
    for (start, length), array in zip(places, arrays, strict=True):
        memory[start : start + length] = array
    return _Packed(content.getvalue(), places, bytes(ForkingPickler.dumps(whole)))


def _unpack(packed: _Packed) -> Any:
    memory = memoryview(pickle.loads(packed.memory).numpy())  # noqa: S301, of this program's own process
    buffers = [memory[start : start + length] for start, length in packed.places]
    return pickle.loads(packed.content, buffers=buffers)  # noqa: S301


def _end_of(processes: Sequence[Any], *, wait_s: float = 0.0) -> LoaderError | None:
    """What ended one of the loader's processes, at once or so much later; None when none ended on its own."""
    until = time.monotonic() + wait_s
    while (code := next((process.exitcode for process in processes if process.exitcode), None)) is None:
        if not processes or time.monotonic() >= until:
            return None
        time.sleep(0.02)
    if code == -signal.SIGBUS:
        return _lacking(OSError(errno.ENOSPC, ""))
    if code == -signal.SIGKILL:
        return LoaderError(
            "a process that loads images was killed, which is what the system does when memory runs out; "
            + _REMEDIES[errno.ENOMEM]
        )
    how = f"by signal {signal.Signals(-code).name}" if code < 0 else f"with status {code}"
    return LoaderError(f"a process that loads images ended {how}; set data.workers to 0 to see where")


def _lacking(err: Exception) -> LoaderError | None:
    """What a process lacks, by the error that says so; None when it is another error."""
    number = err.errno if isinstance(err, OSError) else errno.ENOMEM if isinstance(err, MemoryError) else None
    if isinstance(err, EOFError):  # the other process could not open what it was to hand over
        number = errno.EMFILE
    if number not in _REMEDIES:
        number = next((found for words, found in _WORDS.items() if words in str(err)), None)
    if number is None:
        return None
    return LoaderError(f"processes that load images cannot go on: {_state(number)}; {_REMEDIES[number]}")


def _state(number: int) -> str:
    if number == errno.ENOSPC and SHARED.is_dir():
        usage = shutil.disk_usage(SHARED)
        return f"shared memory is full ({SHARED} has {usage.free / 1e6:.0f} of {usage.total / 1e6:.0f} MB free)"
    if number == errno.EMFILE:
        import resource

        return f"too many files are open ({resource.getrlimit(resource.RLIMIT_NOFILE)[0]} may be)"
    if number == errno.EAGAIN:
        return "no more processes may be started"
    return "memory is full"
