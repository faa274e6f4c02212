"""The model file's graph in torch, images already on the device: eager, compiled, and replayed as a CUDA graph.

A CUDA graph takes the host out: what remains is the time that the kernels need. The deployed graph makes no constants
and reads nothing back, so that it can be recorded as it stands, compiled or not; a failure says so in its line.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.gpu.differences import difference, to_arrays
from benchmarks.gpu.job import Cells, Job, Recorder, Unavailable
from benchmarks.gpu.subjects import DTYPES, Deployed, preset_net, preset_recipe, road_images
from benchmarks.gpu.timing import Call, Stopwatch, matmul_tflops

BATCHES = (1, 2, 4, 8)
RECORDED = (1, 8)
"""Batches of eager CUDA graphs."""
SECONDS = 0.5
"""Of measuring per line, beside warm-up."""
COMPILED = (("fp16", 1), ("bf16", 1), ("fp16", 8), ("fp32", 1), ("bf16", 8))
"""Precision and batch of the compiled programs, the most telling first: the compiler takes most of the time."""
COMPILER_NEEDS_S = 18.0
"""With less time left it is not started."""

Graph = Callable[[Tensor], tuple[Tensor, ...]]


@dataclass(frozen=True, slots=True)
class Case:
    """What one line of the table is about."""

    preset: str
    precision: str
    batch: int


def run(recorder: Recorder) -> None:
    """Every preset eager, then compiled in the order of ``COMPILED``, then what eager CUDA graphs give."""
    job = recorder.job
    torch.set_grad_enabled(False)
    torch.set_float32_matmul_precision("high")
    precisions = [name for name in DTYPES if not (job.small and name == "fp16")]
    peaks = {name: matmul_tflops(DTYPES[name], job.device, seconds=0.4) for name in precisions}
    recorder.note(
        "fp32 is in TF32. `peak %` is the graph's GFLOP (2 per multiply-add, torch.utils.flop_counter) at the measured "
        "throughput, as a share of the peak of matrix products measured in the same precision: "
        + ", ".join(f"{name} {peak:.4g} TFLOP/s" for name, peak in peaks.items())
        + ". Copies from and to the host are not in the times. Differences are to eager in the same precision."
    )
    gflop = {preset: _count_gflop(recorder, preset) for preset in job.presets}
    watch = Stopwatch(events=job.device == "cuda", quick=job.small)

    def measure(case: Case, mode: str, make: Callable[[], Call], needs_s: float = 2.0) -> None:
        def cells() -> Cells:
            call = make()
            apart = {} if mode == "eager" else _from_eager(recorder, case, call)
            measured = watch.speed(call, batch=case.batch, seconds=SECONDS)
            tflops = gflop[case.preset] * measured["images/s"] / 1e3
            return {**measured, "peak %": 100 * tflops / peaks[case.precision], **apart}

        facts = {"preset": case.preset, "mode": mode, "precision": case.precision, "batch": case.batch}
        recorder.measure("Inference in torch", facts, cells, needs_s=needs_s)

    for preset in job.presets:
        for precision in precisions:
            for batch in BATCHES[:2] if job.small else BATCHES:
                case = Case(preset, precision, batch)
                measure(case, "eager", lambda case=case: _eager(recorder, case))
    for precision, batch in [("bf16", 1)] if job.small else COMPILED:
        for preset in job.presets:
            case = Case(preset, precision, batch)
            needs_s = 2.0 if job.small else COMPILER_NEEDS_S
            program = _Program(recorder, case)
            measure(case, "compiled", program.compiled, needs_s)
            measure(case, "compiled, CUDA graph", program.recorded)
    for batch in RECORDED[: 1 if job.small else None]:  # last: a recording that fails may leave CUDA unable to record
        for preset in job.presets:
            case = Case(preset, precisions[-1], batch)
            measure(case, "eager, CUDA graph", lambda case=case: record(*_deployed(recorder, case)))


def record(graph: Graph, images: Tensor) -> Call:
    """The graph's kernels as one CUDA graph; the call replays them on the same images and gives the outputs.

    Raises:
        Unavailable: there is no CUDA.
        RuntimeError: something in the graph cannot be recorded.
    """
    if images.device.type != "cuda":
        raise Unavailable("CUDA graphs need CUDA")
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # libraries choose algorithms and allocate in their first calls
        for _ in range(3):
            graph(images)
    torch.cuda.current_stream().wait_stream(side)
    torch.cuda.synchronize()
    cuda_graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(cuda_graph):
        outputs = graph(images)

    def replay() -> tuple[Tensor, ...]:
        cuda_graph.replay()
        return outputs  # held here, so that their memory stays theirs

    return replay


class _Program:
    """One compiled program, measured as it is and recorded; its images are kept as long as it is."""

    def __init__(self, recorder: Recorder, case: Case) -> None:
        self._recorder, self._case = recorder, case
        self._ready: tuple[Graph, Tensor] | None = None

    def compiled(self) -> Call:
        """Compile and run once."""
        graph, images = _deployed(self._recorder, self._case)
        torch._dynamo.reset()  # or a second network would count as a recompilation of the first
        backend = "aot_eager" if self._recorder.job.small else "inductor"  # the latter's C++ takes a CPU minutes
        program: Graph = torch.compile(graph, backend=backend, dynamic=False)
        program(images)
        self._ready = program, images
        return lambda: program(images)

    def recorded(self) -> Call:
        """The program as a CUDA graph."""
        if self._ready is None:
            raise Unavailable("the program was not compiled")
        return record(*self._ready)


def _eager(recorder: Recorder, case: Case) -> Call:
    graph, images = _deployed(recorder, case)
    return lambda: graph(images)


def _from_eager(recorder: Recorder, case: Case, call: Call) -> Cells:
    """How far a call's outputs are from those of the eager graph in the same precision."""
    graph, images = _deployed(recorder, case)
    return difference(to_arrays(call()), to_arrays(graph(images))).cells()


def _deployed(recorder: Recorder, case: Case) -> tuple[Deployed, Tensor]:
    job = recorder.job
    size_hw = preset_recipe(job, case.preset).model.network_hw
    graph = _network(job, case.preset, case.precision)
    return graph, torch.from_numpy(road_images(case.batch, size_hw)).to(job.device)


@lru_cache(maxsize=1)  # consecutive lines of the table share it; making one takes longer than measuring it
def _network(job: Job, preset: str, precision: str) -> Deployed:
    recipe = preset_recipe(job, preset)
    net, _ = preset_net(recipe)
    return Deployed(net, recipe.model.max_detections, DTYPES[precision]).to(job.device)


def _count_gflop(recorder: Recorder, preset: str) -> float:
    graph, images = _deployed(recorder, Case(preset, "fp32", 1))
    with FlopCounterMode(display=False) as counter:
        graph(images)
    gflop = counter.get_total_flops() / 1e9
    millions = sum(parameter.numel() for parameter in graph.parameters()) / 1e6
    size = f"{images.shape[2]}x{images.shape[1]}"
    recorder.row("Networks", preset=preset, size=size, GFLOP=gflop, **{"parameters, million": millions})
    return gflop
