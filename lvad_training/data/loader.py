"""The data loader: worker processes that make batches, their transport in shared memory, and their errors.

The training process owns the loader, its worker processes and every batch that it receives. A worker process owns a
pickled copy of the data set and the batch that it makes, until it has packed the batch into one piece of shared memory;
then the training process owns that memory, and it is freed with the batch's last tensor.

torch would let a thread of each worker pickle its batches, with a piece of shared memory and an open file per tensor.
An error in that thread is only printed, the batch is lost, and the training waits for it forever. Here the worker packs
the batch itself before torch sees it; an error takes the batch's place and ends the training.
"""

import errno
import io
import multiprocessing
import os
import pickle
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any, Final, Literal

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from lvad_perception.errors import LoaderError, LvadError
from lvad_perception.machine import usable_cores

START_METHOD: Final = "forkserver"
"""How worker processes start, whatever Python's default is (fork up to 3.13, forkserver from 3.14 on).

Forking the training process would copy its locks without the threads that hold them (pools of OpenMP and OpenCV, the
progress bar's monitor, CUDA's), which can deadlock; Python warns of it from 3.12 on. A spawned process imports torch
anew, at every evaluation again, and needs 395 MB of its own. The fork server is one process without such threads that
imports ``PRELOADED`` once, in some seconds, and then forks workers in milliseconds; they need 25 MB of their own, as
forks of the training process do.
"""
MAX_AUTO_WORKERS: Final = 8
"""Upper limit of "auto": enough for a GPU, and every process needs its own memory."""
SHARED_MEMORY: Final = Path("/dev/shm")

PRELOADED: Final = "lvad_training.data.batches"
"""Module that the fork server imports: it imports all that a worker process needs."""
_ALIGNMENT: Final = 64
_FEWER: Final = "lower data.workers or train.batch_size, or set data.workers to 0"
_REMEDIES: Final = {
    errno.ENOSPC: f"give more, in a container with --shm-size 16g or --ipc host, {_FEWER}",
    errno.ENOMEM: f"give more memory, {_FEWER}",
    errno.EMFILE: f"raise the limit before the start with ulimit -n 4096, {_FEWER}",
    errno.EAGAIN: f"raise the limit of processes with ulimit -u, {_FEWER}",
}
_ERROR_TEXTS: Final = {  # in errors of torch and Python that have no errno
    "Too many open files": errno.EMFILE,
    "received 0 items of ancdata": errno.EMFILE,
    "No space left on device": errno.ENOSPC,
    "Cannot allocate memory": errno.ENOMEM,
}


def guarded_loader(
    dataset: Dataset[Any], workers: int | Literal["auto"], merge: Callable[[list[Any]], Any], **options: Any
) -> "Batches":
    """A data loader that raises the LvadErrors of its worker processes, and a LoaderError when a resource runs out.

    Worker processes start by ``START_METHOD`` and import the main script, which therefore needs
    ``if __name__ == "__main__":`` around its work.

    Args:
        dataset: raises an LvadError for a bad file. Every worker process gets a pickled copy, so large arrays should be
            memory-mapped and opened again.
        workers: number of worker processes; 0 loads in this process; "auto": see ``worker_count``.
        merge: samples -> batch; pickled as well.
        options: further arguments of torch's DataLoader.
    """
    context = multiprocessing.get_context(START_METHOD)
    context.set_forkserver_preload([PRELOADED])
    workers = worker_count(workers)
    loader = DataLoader(
        Guarded(dataset),
        num_workers=workers,
        multiprocessing_context=context if workers else None,
        prefetch_factor=4 if workers else None,
        collate_fn=partial(merge_and_pack, merge),
        worker_init_fn=partial(_start_worker, Path.cwd()),
        generator=torch.Generator(),  # its draws must not disturb the global generator, which a resumed run restores
        **options,
    )
    return Batches(loader)


def worker_count(workers: int | Literal["auto"]) -> int:
    """Number of worker processes; "auto" is one fewer than this training process's share of the cores, from 1 to 8."""
    if workers != "auto":
        return workers
    share = usable_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # of the training processes on this machine
    return max(1, min(MAX_AUTO_WORKERS, share - 1))


def _start_worker(folder: Path, _: int) -> None:
    """Set up a worker process: working folder, threads, and its end with the training process.

    The fork server may have started in another folder than ``folder``, to which relative paths refer. OpenCV's threads
    are switched off, since the workers use all cores already. torch ends a worker with its parent, but that is the fork
    server, which outlives a training process that is killed; so a thread waits for the training process.
    """
    os.chdir(folder)
    cv2.setNumThreads(0)
    threading.Thread(target=_exit_with, args=(multiprocessing.parent_process(),), daemon=True).start()


def _exit_with(parent: BaseProcess | None) -> None:
    if parent is not None:
        parent.join()
        os._exit(1)


class Guarded(Dataset[Any]):
    """A data set whose errors are returned as samples, so that the training process can raise them unchanged."""

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
            return _shortage(err)


class Batches:
    """A torch loader that unpacks batches, and raises the errors of worker processes without their tracebacks."""

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
            lost = isinstance(err, (ConnectionError, EOFError))  # a worker may have died, its exit code may come later
            problem = _worker_failure(processes, wait_s=2.0 if lost else 0.0) or _shortage(err)
            if problem is None:
                raise
            raise problem from err


def merge_and_pack(merge: Callable[[list[Any]], Any], samples: list[Any]) -> Any:
    """The loader's ``collate_fn``: the first error among the samples, or the batch, packed if in a worker process."""
    failed = next((sample for sample in samples if isinstance(sample, LvadError)), None)
    if failed is not None:
        return failed
    batch = merge(samples)
    if get_worker_info() is None:
        return batch
    try:
        return _pack(batch)
    except (OSError, RuntimeError, MemoryError) as err:
        problem = _shortage(err)
        if problem is None:
            raise
        return problem


@dataclass(frozen=True, slots=True)
class _Packed:
    """A batch in transport: pickled, its arrays in one piece of shared memory.

    Attributes:
        content: pickle of the batch without its arrays.
        spans: first byte and length of each array.
        memory: pickle of the uint8 tensor that holds the arrays; the receiver opens it by its file descriptor.
    """

    content: bytes
    spans: list[tuple[int, int]]
    memory: bytes


class _Pickler(pickle.Pickler):
    """Pickles tensors as numpy arrays, whose data pickle's protocol 5 keeps apart."""

    def reducer_override(self, thing: Any) -> Any:
        if type(thing) is not Tensor or thing.dtype is torch.bfloat16:
            return NotImplemented
        return torch.from_numpy, (thing.numpy(),)


def _pack(batch: Any) -> _Packed:
    content, buffers = io.BytesIO(), list[pickle.PickleBuffer]()
    _Pickler(content, protocol=5, buffer_callback=buffers.append).dump(batch)
    arrays = [np.frombuffer(buffer.raw(), np.uint8) for buffer in buffers]
    spans, end = [], 0
    for array in arrays:
        spans.append((end, len(array)))
        end += -(-len(array) // _ALIGNMENT) * _ALIGNMENT
    shared: torch.Tensor = torch.empty(end, dtype=torch.uint8).share_memory_()  # type: ignore[no-untyped-call]
    memory = shared.numpy()
    for (start, length), array in zip(spans, arrays, strict=True):
        memory[start : start + length] = array
    return _Packed(content.getvalue(), spans, bytes(ForkingPickler.dumps(shared)))


def _unpack(packed: _Packed) -> Any:
    memory = memoryview(pickle.loads(packed.memory).numpy())  # noqa: S301, of this program's own process
    buffers = [memory[start : start + length] for start, length in packed.spans]
    return pickle.loads(packed.content, buffers=buffers)  # noqa: S301


def _worker_failure(processes: Sequence[Any], *, wait_s: float = 0.0) -> LoaderError | None:
    """The error for a worker process that died, now or within ``wait_s``; None if none did."""
    until = time.monotonic() + wait_s
    while (code := next((process.exitcode for process in processes if process.exitcode), None)) is None:
        if not processes or time.monotonic() >= until:
            return None
        time.sleep(0.02)
    if code == -signal.SIGBUS:
        return _shortage(OSError(errno.ENOSPC, ""))
    if code == -signal.SIGKILL:
        return LoaderError(
            "a process that loads images was killed, which is what the system does when memory runs out; "
            + _REMEDIES[errno.ENOMEM]
        )
    how = f"by signal {signal.Signals(-code).name}" if code < 0 else f"with status {code}"
    return LoaderError(f"a process that loads images ended {how}; set data.workers to 0 to see where")


def _shortage(err: Exception) -> LoaderError | None:
    """The error for a resource that ran out (memory, files, processes), as ``err`` shows; None for other errors."""
    number = err.errno if isinstance(err, OSError) else errno.ENOMEM if isinstance(err, MemoryError) else None
    if isinstance(err, EOFError):  # the other process could not open the file descriptor of the shared memory
        number = errno.EMFILE
    if number not in _REMEDIES:
        number = next((code for text, code in _ERROR_TEXTS.items() if text in str(err)), None)
    if number is None:
        return None
    return LoaderError(f"processes that load images cannot go on: {_describe(number)}; {_REMEDIES[number]}")


def _describe(number: int) -> str:
    if number == errno.ENOSPC and SHARED_MEMORY.is_dir():
        usage = shutil.disk_usage(SHARED_MEMORY)
        return f"shared memory is full ({SHARED_MEMORY} has {usage.free / 1e6:.0f} of {usage.total / 1e6:.0f} MB free)"
    if number == errno.EMFILE:
        import resource

        return f"too many files are open ({resource.getrlimit(resource.RLIMIT_NOFILE)[0]} may be)"
    if number == errno.EAGAIN:
        return "no more processes may be started"
    return "memory is full"
