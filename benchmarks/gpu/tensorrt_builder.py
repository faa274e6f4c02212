"""TensorRT engines as ``lvad-perception optimize`` builds them, host to host as a vehicle runs them."""

from pathlib import Path

from benchmarks.gpu.engine import speed
from benchmarks.gpu.job import Cells, Recorder, Unavailable
from benchmarks.gpu.subjects import model_file
from lvad_perception.conversion.optimize import optimize
from lvad_perception.conversion.tensorrt_build import BuildOptions
from lvad_perception.engines.tensorrt import TensorRtEngine, import_tensorrt
from lvad_perception.errors import LvadError

LEFT_OUT = ("r50",)
"""Its engine takes longer to build than this part has."""
OPTIONS = BuildOptions(level=2, workspace_bytes=2 << 30)
"""TensorRT's default level, 3, takes longer than this part has."""
PRECISION = "fp16"
COMPARED = 2


def run(recorder: Recorder) -> None:
    """An FP16 engine of each small preset: time to build, latency, and its distance from ONNX Runtime on the CPU."""
    if recorder.job.small:
        raise Unavailable("TensorRT needs CUDA")
    try:
        tensorrt = import_tensorrt("this part")
    except LvadError as err:
        raise Unavailable(str(err)) from err
    recorder.note(
        f"TensorRT {tensorrt.__version__}, builder optimization level {OPTIONS.level}. Times by the host's clock "
        "around `infer`: the copy in, one CUDA graph, the copies out. Differences are to ONNX Runtime on the CPU in "
        "FP32, as lvad_perception/engines/agreement.py defines and bounds them."
    )
    for preset in recorder.job.presets:
        if preset not in LEFT_OUT:
            facts = {"preset": preset, "precision": PRECISION, "batch": 1}
            recorder.measure("TensorRT engines", facts, lambda p=preset: _measure(recorder, p), needs_s=10)


def _measure(recorder: Recorder, preset: str) -> Cells:
    scratch = Path(recorder.job.scratch)
    result = optimize(
        model_file(recorder.job, preset),
        scratch / f"{preset}.engine",
        precision=PRECISION,
        check_images=COMPARED,
        options=OPTIONS,
        cache_dir=scratch,
        rebuild=True,
        report=lambda line: recorder.log(f"{preset}: {line}"),
    )
    engine = TensorRtEngine(result.path)
    try:
        measured = speed(recorder.job, engine)
    finally:
        engine.close()
    return {"built in s": result.built_s, **measured, "difference": result.agreement.to_text()}
