"""Build, check and time TensorRT engines on a Jetson or any machine with an NVIDIA GPU.

Builds an engine of each precision from each model file, checks it against ONNX Runtime, times it, and prints one table
at the end. A model file has one batch size: export one for each to be compared. Missing software is reported with the
remedy, and only what needs it is left out.

    python -m benchmarks.target model.onnx
    python -m benchmarks.target model.onnx model-batch4.onnx --images bdd100k/images/100k/val --json target.json
    python -m benchmarks.target model.onnx --precisions fp16 --torch2trt
"""

import argparse
import json
import platform
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from lvad_perception.commands.arguments import progress_bar
from lvad_perception.conversion.calibration import rendered_images, to_batches
from lvad_perception.conversion.lowering import PRECISIONS
from lvad_perception.conversion.optimize import optimize
from lvad_perception.conversion.tensorrt_build import BuildOptions
from lvad_perception.engines import open_engine
from lvad_perception.engines.agreement import TOLERANCES
from lvad_perception.engines.base import Engine
from lvad_perception.engines.cuda import Cuda
from lvad_perception.engines.tensorrt import import_tensorrt
from lvad_perception.errors import LvadError
from lvad_perception.files import write_whole
from lvad_perception.profiling.statistics import median, p99

WARM_UPS = 10
RELEASE = Path("/etc/nv_tegra_release")


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the table; None where a step was not reached.

    Attributes:
        model: name of the file; precision and batch of the engine; builder: "TensorRT", "torch2trt" or "ONNX Runtime".
        outcome: "right", or a sentence with the reason.
        built_s: of the build, 0 from the cache; p50_ms, p99_ms: from images in host memory to outputs in host memory.
        images_per_s: at the median; memory_mb: of the device.
        boxes_px, scores, masks: distance from ONNX Runtime, see ``agreement``.
    """

    model: str
    precision: str
    builder: str
    batch: int | None = None
    outcome: str = "right"
    built_s: float | None = None
    p50_ms: float | None = None
    p99_ms: float | None = None
    images_per_s: float | None = None
    memory_mb: float | None = None
    boxes_px: float | None = None
    scores: float | None = None
    masks: float | None = None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; 0 when every engine was built and agrees, 1 when one does not, 2 when nothing can be built here."""
    options = _parser().parse_args(arguments)
    print("\n".join(f"{name:<14} {value}" for name, value in machine().items()), flush=True)
    device, problems = requirements()
    if device is None or problems:
        print("\nno engine can be built here:", *(f"  {problem}" for problem in problems), sep="\n", file=sys.stderr)
        return 2
    print(f"{'gpu':<14} {device.name}, compute capability {device.capability}\n", flush=True)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="lvad-target-") as scratch:
        for model in options.models:
            rows += _guarded(model, "fp32", "ONNX Runtime", lambda m=model: _reference(m, options.seconds))
            for precision in options.precisions:
                if precision == "int8" and options.images is None:
                    rows.append(Row(model.name, precision, "TensorRT", outcome="left out: int8 needs --images"))
                    continue
                for builder, suffix in (("TensorRT", "engine"), ("torch2trt", "pth"))[: 1 + options.torch2trt]:
                    output = Path(scratch) / f"{model.stem}-{precision}.{suffix}"
                    rows += _guarded(
                        model,
                        precision,
                        builder,
                        lambda m=model, p=precision, b=builder, o=output: _engine(m, p, b, o, options, device),
                    )
    print(f"\n{table(rows)}")
    if options.json is not None:
        content = {"machine": machine(), "gpu": device.name, "rows": [asdict(row) for row in rows]}
        write_whole(options.json, json.dumps(content, indent=1) + "\n")
    return 0 if all(row.outcome == "right" for row in rows) else 1


def requirements() -> tuple[Cuda | None, list[str]]:
    """The GPU, and a sentence for each missing requirement of a build."""
    device: Cuda | None = None
    problems: list[str] = []
    try:
        device = Cuda()
    except LvadError as err:
        problems.append(str(err))
    try:
        import_tensorrt("an engine")
    except LvadError as err:
        problems.append(str(err))
    if find_spec("onnx") is None:
        problems.append("onnx is not installed, which rewrites the model; pip install onnx")
    return device, problems


def machine() -> dict[str, str]:
    """Name -> version of the machine's hardware and software, for the report."""
    versions = {"python": platform.python_version(), "machine": platform.machine()}
    for name in ("tensorrt", "torch", "onnxruntime", "onnx", "torch2trt"):
        try:
            versions[name] = str(getattr(__import__(name), "__version__", "of unknown version"))
        except Exception as err:  # torch2trt fails at import in many ways
            versions[name] = f"cannot be imported ({(str(err).splitlines() or [type(err).__name__])[0]})"
    if RELEASE.exists():
        versions["jetson linux"] = RELEASE.read_text(encoding="utf-8").splitlines()[0].lstrip("# ")
    return versions


def table(rows: Sequence[Row]) -> str:
    """Markdown, one row per engine."""
    heads = "model|builder|precision|batch|p50 ms|p99 ms|images/s|built in s|MB|boxes px|scores|masks|outcome"
    head = heads.split("|")
    lines = [head, ["---"] * len(head)]
    for row in rows:
        numbers = (row.p50_ms, row.p99_ms, row.images_per_s, row.built_s, row.memory_mb, row.boxes_px, row.scores)
        cells = [row.model, row.builder, row.precision, "" if row.batch is None else str(row.batch)]
        cells += ["" if number is None else f"{number:.3g}" for number in numbers]
        cells += ["" if row.masks is None else f"{100 * row.masks:.2f} %", row.outcome.replace("|", "/")]
        lines.append(cells)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _guarded(model: Path, precision: str, builder: str, work: Any) -> list[Row]:
    """The row that ``work`` returns, or one with the reason why it failed."""
    try:
        return [work()]
    except LvadError as err:
        print(f"{model.name} {precision}: {err}", file=sys.stderr, flush=True)
        return [Row(model.name, precision, builder, outcome=str(err))]


def _reference(model: Path, seconds: float) -> Row:
    engine = open_engine(model)
    try:
        times = _times_ms(engine, seconds)
        return Row(model.name, "fp32", "ONNX Runtime", **_speed(engine, times))
    finally:
        engine.close()


def _engine(model: Path, precision: str, builder: str, output: Path, options: Any, device: Cuda) -> Row:
    with progress_bar() as progress:
        result = optimize(
            model,
            output,
            precision=precision,
            images=options.images,
            options=BuildOptions(options.level),
            device=device,
            report=lambda line: print(f"{model.name} {precision}: {line}", flush=True),
            progress=progress,
        )
    engine = open_engine(output)
    try:
        times = _times_ms(engine, options.seconds)
        distance = result.agreement
        assert distance.within(TOLERANCES[precision])
        return Row(
            model.name,
            precision,
            builder,
            built_s=result.built_s or 0.0,
            memory_mb=(engine.device_memory_bytes or 0) / 1e6,
            boxes_px=distance.boxes_px,
            scores=distance.scores,
            masks=distance.masks,
            **_speed(engine, times),
        )
    finally:
        engine.close()


def _speed(engine: Engine, times: Sequence[float]) -> dict[str, Any]:
    samples, batch = np.array(times), engine.manifest.batch_size
    p50 = median(samples)
    return {"batch": batch, "p50_ms": p50, "p99_ms": p99(samples), "images_per_s": 1e3 * batch / p50}


def _times_ms(engine: Engine, seconds: float) -> list[float]:
    """Wall-clock times of single calls, from images to outputs in host memory."""
    manifest = engine.manifest
    (batch,) = to_batches(rendered_images(manifest.input_hw, manifest.batch_size), manifest.batch_size)
    for _ in range(WARM_UPS):
        engine.infer(batch)
    times: list[float] = []
    until = time.perf_counter() + seconds
    while len(times) < WARM_UPS or time.perf_counter() < until:
        began = time.perf_counter()
        engine.infer(batch)
        times.append(1e3 * (time.perf_counter() - began))
    return times


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.target", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("models", type=Path, nargs="+", metavar="MODEL.onnx", help="model files, one a batch size")
    parser.add_argument("--images", type=Path, metavar="DIR", help="folder of camera images: int8 needs them")
    parser.add_argument(
        "--precisions", nargs="+", choices=PRECISIONS, default=PRECISIONS, help="what to build (default: all)"
    )
    parser.add_argument("--torch2trt", action="store_true", help="also build through torch2trt")
    parser.add_argument("--level", type=int, choices=range(6), help="the builder's effort (default: TensorRT's own, 3)")
    parser.add_argument("--seconds", type=float, default=5.0, help="to time each engine (default: 5)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rows as JSON")
    return parser


if __name__ == "__main__":
    sys.exit(main())
