"""The ``.pt2`` files in ``lvad_perception``'s PyTorch engine, as a vehicle runs them: host to host, copies included."""

import time

import torch

from benchmarks.gpu.job import Cells, Job, Recorder
from benchmarks.gpu.subjects import model_file, preset_recipe, road_images
from benchmarks.gpu.timing import Stopwatch
from lvad_perception.engines.agreement import TOLERANCES, agree, copied
from lvad_perception.engines.base import Engine
from lvad_perception.engines.pytorch import PyTorchEngine
from lvad_perception.types import RawOutputs, UInt8

CASES = (("fp16", 1), ("bf16", 1), ("fp16", 4), ("fp32", 1))
"""Precision and batch, the most telling first: compiling takes most of the time."""
NEEDS_S = 15.0
"""With less time left no engine is opened."""
COMPARED = 2
SECONDS = 1.5


def run(recorder: Recorder) -> None:
    """Time to open, latency, throughput and memory of the engine, and whether it keeps to its precision's tolerance."""
    job = recorder.job
    recorder.note(
        "Times by the host's clock around `infer`: the copy in, one CUDA graph, the copies out. Differences are to the "
        "same file in FP32 on the CPU, as lvad_perception/engines/agreement.py defines and bounds them."
    )
    references: dict[str, list[RawOutputs]] = {}
    for precision, batch in [("bf16", 1)] if job.small else CASES:
        for preset in job.presets:
            facts = {"preset": preset, "precision": precision, "batch": batch}

            def cells(preset: str = preset, precision: str = precision, batch: int = batch) -> Cells:
                if preset not in references:
                    references[preset] = _on_cpu(recorder, preset)
                return _measure(recorder, preset, precision, batch, references[preset])

            recorder.measure("PyTorch engine", facts, cells, needs_s=2.0 if job.small else NEEDS_S)


def speed(job: Job, engine: Engine) -> Cells:
    """Latency and throughput of an engine from images to outputs in host memory, and the memory that it holds."""
    batch = engine.manifest.batch_size
    images = road_images(batch, engine.manifest.input_hw, seed=1)
    watch = Stopwatch(events=False, quick=job.small)  # infer returns when the outputs are on the host
    measured = watch.speed(lambda: engine.infer(images), batch=batch, seconds=SECONDS)
    memory = engine.device_memory_bytes
    return {**measured, "MB": None if memory is None else memory / 1e6}


def _images(recorder: Recorder, preset: str) -> UInt8:
    return road_images(COMPARED, preset_recipe(recorder.job, preset).model.network_hw, seed=1)


def _on_cpu(recorder: Recorder, preset: str) -> list[RawOutputs]:
    recorder.log(f"{preset}: on the CPU")
    engine = PyTorchEngine(model_file(recorder.job, preset, suffix=".pt2"), device="cpu")
    return [copied(engine.infer(image[None])) for image in _images(recorder, preset)]


def _measure(recorder: Recorder, preset: str, precision: str, batch: int, wanted: list[RawOutputs]) -> Cells:
    job = recorder.job
    path = model_file(job, preset, suffix=".pt2", batch=batch)
    recorder.log(f"{preset}: opening {path.name} in {precision}")
    torch._dynamo.reset()
    began = time.perf_counter()
    engine = PyTorchEngine(path, device=job.device, precision=precision)
    opened_s = time.perf_counter() - began
    try:
        recorder.log(engine.description)
        cells: Cells = {"opened in s": opened_s, **speed(job, engine)}
        if batch == 1:
            found = [copied(engine.infer(image[None])) for image in _images(recorder, preset)]
            tolerance = TOLERANCES[precision]
            agreement = agree(found, wanted, tolerance)
            cells |= {"agrees": agreement.within(tolerance), "difference": agreement.to_text()}
        return cells
    finally:
        engine.close()
