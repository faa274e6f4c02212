"""Clocks: latency of a call, throughput of calls back to back, and the device's own peak of matrix products."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.gpu.job import Cells

Call = Callable[[], Any]


def synchronise(device: str) -> None:
    """Wait until the device has done everything; nothing on a CPU."""
    if device == "cuda":
        torch.cuda.synchronize()


@dataclass(frozen=True, slots=True)
class Stopwatch:
    """Times calls.

    Attributes:
        events: between two CUDA events on the current stream, from the first kernel's launch to the last one's end,
            gaps in which the GPU waits for the host included; otherwise by the host's clock, for calls that return
            when they are done.
        quick: two calls instead of many, where only the code is tried.
    """

    events: bool
    quick: bool

    def speed(self, call: Call, *, batch: int, seconds: float) -> Cells:
        """Latency and throughput as cells of a table; half of ``seconds`` for each."""
        times = self.latency_ms(call, seconds=seconds / 2)
        p50 = float(np.percentile(times, 50))
        calls = 2 if self.quick else max(5, min(1000, round(1e3 * seconds / 2 / p50)))
        throughput = batch * calls / self._back_to_back_s(call, calls)
        return {"p50 ms": p50, "p99 ms": float(np.percentile(times, 99)), "images/s": throughput, "calls": len(times)}

    def latency_ms(self, call: Call, *, seconds: float) -> npt.NDArray[np.float64]:
        """Times of single calls, the device idle before each, float64 [calls].

        As many as fit into ``seconds``, at least 20 and at most 500, after 10 that are not counted.
        """
        warm_up, fewest, most = (1, 2, 2) if self.quick else (10, 20, 500)
        for _ in range(warm_up):
            call()
        self._wait()
        times: list[float] = []
        until = time.perf_counter() + seconds
        while len(times) < fewest or (len(times) < most and time.perf_counter() < until):
            times.append(self._one_call_ms(call))
        return np.array(times)

    def _back_to_back_s(self, call: Call, calls: int) -> float:
        """Seconds for calls that are queued without waiting for one another."""
        self._wait()
        began = time.perf_counter()
        for _ in range(calls):
            call()
        self._wait()
        return time.perf_counter() - began

    def _one_call_ms(self, call: Call) -> float:
        if self.events:
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            call()
            end.record()
            end.synchronize()
            return start.elapsed_time(end)
        began = time.perf_counter()
        call()
        return 1e3 * (time.perf_counter() - began)

    def _wait(self) -> None:
        if self.events:
            torch.cuda.synchronize()


def matmul_tflops(dtype: torch.dtype, device: str, *, seconds: float = 0.5) -> float:
    """TFLOP/s of a large square matrix product, 2 per multiply-add: what the device can really do, not its data sheet.

    float32 follows ``torch.set_float32_matmul_precision``. The best of two sizes on CUDA, a small one on a CPU.
    """
    on_cuda = device == "cuda"
    best = 0.0
    for side in (4096, 8192) if on_cuda else (256,):
        a = torch.randn(side, side, device=device).to(dtype)
        b = torch.randn(side, side, device=device).to(dtype)
        out = torch.empty_like(a)
        times = Stopwatch(events=on_cuda, quick=not on_cuda).latency_ms(
            lambda a=a, b=b, out=out: torch.mm(a, b, out=out), seconds=seconds / 2
        )
        best = max(best, 2 * side**3 / float(np.median(times)) / 1e9)
    return best
