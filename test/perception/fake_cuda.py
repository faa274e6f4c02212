"""A fake of torch's CUDA for machines without a GPU: it queues work and runs it later, in a random valid order.

Only what orders work on a GPU orders it here: earlier work in the same stream, events that the stream waits for, and
the host's waiting for an event or a stream. Each copy or computation runs in two steps, between which other streams can
run, so that a data race reads half-written memory. A random generator picks the next stream: each seed is one possible
history of a device.

``forget`` disables a kind of synchronisation, to check that the tests detect it.
"""

import random
from collections import deque
from contextlib import contextmanager
from types import SimpleNamespace
from weakref import WeakValueDictionary

import numpy as np

from lvad_perception.engines.cuda import Cuda

STREAMS = WeakValueDictionary()
"""Handle -> stream."""


class FakeTorch:
    """The part of torch that ``engines.cuda`` and the engines use, with one device.

    Args:
        seed: random seed of the execution order.
        name: name of the device.
        records: whether networks can be recorded as CUDA graphs.
        forget: kinds of synchronisation to disable: "upload", "compute" or "download" for that stream's waiting for
            events, "host" for the host's.
    """

    __version__ = "2.9"
    version = SimpleNamespace(cuda="13.0")
    float16, float32, bfloat16 = "float16", "float32", "bfloat16"

    def __init__(self, seed=0, *, name="Fake", records=True, forget=()):
        self.chance = random.Random(seed)
        self._speed = self.chance.choice((1, 2, 4))
        self.records, self.forget = records, frozenset(forget)
        self.streams, self.replays, self.broken = [], 0, ""
        self._current, self._capturing = Stream(self, "default"), None
        metadata = SimpleNamespace(name=name, multi_processor_count=2, major=8, minor=7)
        names = iter(("upload", "compute", "download"))
        self.cuda = SimpleNamespace(
            is_available=lambda: True,
            get_device_properties=lambda device: metadata,
            memory_reserved=lambda: 0,
            current_stream=lambda device=None: self._current,
            Stream=lambda device: Stream(self, next(names)),
            Event=lambda *, blocking: Event(self),
            CUDAGraph=lambda: Graph(self),
            stream=self._in_stream,
            graph=self._recording,
            synchronize=self.drain,
        )
        self.device = lambda kind, index=0: SimpleNamespace(type=kind)
        self.compile = lambda module, **options: module

    def zeros(self, shape, *, dtype, device=None, pin_memory=False):
        assert (device is None) == pin_memory
        return Tensor(self, np.zeros(shape, dtype))

    def from_numpy(self, array):
        return Tensor(self, array)

    @contextmanager
    def no_grad(self):
        yield

    @contextmanager
    def autocast(self, kind, dtype, *, enabled, cache_enabled):
        yield

    def check(self):
        """Raise if the device has failed; on a GPU every later call fails then, even a query."""
        if self.broken:
            raise RuntimeError(self.broken)

    def queue(self, *steps):
        """Queue steps in the current stream, or record them in the graph that is being captured."""
        self.check()
        if self._capturing is not None:
            self._capturing.steps += steps
        else:
            self._current.work.extend(steps)
            self.advance()

    def advance(self):
        """Run a random number of steps, as a device does while the host queues the next work."""
        for _ in range(self.chance.randrange(self._speed)):
            self.step()

    def step(self):
        """Run one step of a random stream that is ready; False if none is."""
        ready = [stream for stream in self.streams if stream.work and stream.work[0].ready()]
        if ready:
            self.chance.choice(ready).work.popleft()()
        return bool(ready)

    def run_until(self, condition):
        """Block the host until the condition holds."""
        if self._capturing is not None:
            raise RuntimeError("operation not permitted when stream is capturing")
        self.check()
        while "host" not in self.forget and not condition():
            assert self.step(), "deadlock: no stream is ready"
        self.advance()

    def drain(self):
        self.run_until(lambda: not any(stream.work for stream in self.streams))

    @contextmanager
    def _in_stream(self, stream):
        before, self._current = self._current, stream
        try:
            yield
        finally:
            self._current = before

    @contextmanager
    def _recording(self, graph, *, stream, capture_error_mode):
        assert capture_error_mode == "thread_local"
        self.drain()
        with self._in_stream(stream):
            self._capturing = graph
            try:
                yield
            finally:
                self._capturing = None
            if not self.records:
                raise RuntimeError("operation not permitted when stream is capturing")


class FakeCuda(Cuda):
    """``Cuda`` on the device of a ``FakeTorch``, its attribute ``fake``; takes the same arguments."""

    def __init__(self, seed=0, **options):
        self.fake = FakeTorch(seed, **options)
        super().__init__(self.fake)


class Step:
    """One atomic step of a stream, runnable once ``ready()`` holds."""

    def __init__(self, do, ready=lambda: True):
        self.ready, self._do = ready, do

    def __call__(self):
        self._do()


class Stream:
    def __init__(self, torch, name):
        self.name, self.work, self._torch = name, deque(), torch
        self.cuda_stream = id(self)
        torch.streams.append(self)
        STREAMS[self.cuda_stream] = self

    def queue(self, *steps):
        """Queue steps as a library does that got the stream's handle."""
        assert self is self._torch._current, "work in another stream is not part of a recording"
        self._torch.queue(*steps)

    def wait_event(self, event):
        mark = event.mark
        if self.name not in self._torch.forget:
            self.work.append(Step(lambda: None, ready=lambda: mark.passed))

    def synchronize(self):
        self._torch.run_until(lambda: not self.work)


class Event:
    def __init__(self, torch):
        self.mark, self._torch = (
            SimpleNamespace(passed=True),
            torch,
        )  # waiting for an event that was never recorded returns at once

    def record(self, stream):
        assert self._torch._capturing is None
        mark = self.mark = SimpleNamespace(passed=False)
        stream.work.append(Step(lambda: setattr(mark, "passed", True)))
        self._torch.advance()

    def query(self):
        self._torch.check()
        return self.mark.passed

    def synchronize(self):
        mark = self.mark
        self._torch.run_until(lambda: mark.passed)


class Graph:
    def __init__(self, torch):
        self.steps, self._torch = [], torch

    def replay(self):
        self._torch.replays += 1
        self._torch.queue(*self.steps)


class Tensor:
    """Host or device memory; accessible only through queued work and ``numpy()``."""

    def __init__(self, torch, array):
        self.array, self._torch = array, torch
        self.dtype, self.shape = array.dtype, array.shape

    def numpy(self):
        return self.array

    def data_ptr(self):
        return self.array.ctypes.data

    def to(self, device):
        return self

    def copy_(self, other, *, non_blocking):
        assert non_blocking
        target, source = self.array.reshape(-1), other.array.reshape(-1)
        half = len(target) // 2
        self._torch.queue(
            Step(lambda: np.copyto(target[:half], source[:half])), Step(lambda: np.copyto(target[half:], source[half:]))
        )


class FakeNetwork:
    """A network on the fake device with a single scratch buffer, as a workspace is on a GPU.

    Args:
        torch: the device.
        compute: arrays [N, H, W, 3] -> list of outputs.
    """

    def __init__(self, torch, compute):
        self._torch, self._compute, self._scratch = torch, compute, None

    def __call__(self, images):
        outputs = [Tensor(self._torch, np.zeros_like(array)) for array in self._compute(images.array)]

        def read():
            self._scratch = images.array.copy()

        def write():
            for tensor, array in zip(outputs, self._compute(self._scratch), strict=True):
                tensor.array[...] = array

        self._torch.queue(Step(read), Step(write))
        return outputs
