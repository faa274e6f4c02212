"""Time a model file in every CPU runtime, precision and option that is installed, in turns, as one Markdown table.

    python -m benchmarks.cpu MODEL.onnx [--int8 MODEL.int8.onnx] [--images DIR] [--threads 1 2] [--compare OTHER.onnx]

Each round runs every row once, and sleeps 5 ms after each, so that a busy moment of the machine slows all rows and
threads that spin while idle are counted. "CPU ms" is the CPU time of all threads from the start of a run to the end of
that sleep, which decoding, publishing and other cameras cannot use. Ratios are to the first row of the same number of
threads.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from lvad_perception.engines import Engine, open_engine
from lvad_perception.engines.agreement import TOLERANCES, agree, copied
from lvad_perception.engines.choice import trial_images
from lvad_perception.engines.onnx import element_type, session_options
from lvad_perception.engines.plain import open_plain
from lvad_perception.errors import LvadError
from lvad_perception.files import write_whole
from lvad_perception.machine import usable_cores
from lvad_perception.manifest import INPUT_NAME
from lvad_perception.profiling.bench import network_inputs
from lvad_perception.profiling.frames import folder_frames
from lvad_perception.profiling.statistics import median, p99, ratio_of_medians
from lvad_perception.types import UInt8

WAIT_S = 0.005
INPUTS = 8

# Alternatives to this project's options of ONNX Runtime: name -> change of the session's options.
OPTIONS: Mapping[str, Callable[[Any], None]] = {
    "as chosen": lambda options: None,
    "idle threads spin": lambda options: options.add_session_config_entry("session.force_spinning_stop", "0"),
    "threads never spin": lambda options: options.add_session_config_entry("session.intra_op.allow_spinning", "0"),
    "parts that shrink": lambda options: options.add_session_config_entry("session.dynamic_block_base", "4"),
    "denormals are zero": lambda options: options.add_session_config_entry("session.set_denormal_as_zero", "1"),
    "no memory arena": lambda options: setattr(options, "enable_cpu_mem_arena", False),
    "no memory pattern": lambda options: setattr(options, "enable_mem_pattern", False),
    "basic graph optimisation": lambda options: setattr(options, "graph_optimization_level", _level("BASIC")),
    "extended graph optimisation": lambda options: setattr(options, "graph_optimization_level", _level("EXTENDED")),
}


@dataclass(slots=True)
class Row:
    """One way to run the model.

    Attributes:
        name: for the table; ``threads``: of one inference.
        run: takes one input; None where this runtime cannot run the model, with ``reason``.
        agreement: with ONNX Runtime in FP32, as a sentence.
        wall_ms, cpu_ms: samples.
    """

    name: str
    threads: int
    run: Callable[[UInt8], Any] | None = None
    reason: str = ""
    agreement: str = ""
    wall_ms: list[float] = field(default_factory=list)
    cpu_ms: list[float] = field(default_factory=list)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; 0, or 2 after one sentence on standard error."""
    arguments = _parse(argv)
    _silence_onnxruntime()
    try:
        with ExitStack() as open_engines:
            rows, inputs = make_rows(arguments, open_engines)
            measure(rows, inputs, rounds=arguments.rounds)
    except LvadError as err:
        print(f"benchmarks.cpu: error: {err}", file=sys.stderr)
        return 2
    print(to_markdown(rows))
    if arguments.json:
        write_whole(arguments.json, json.dumps([_metadata(row) for row in rows], indent=1) + "\n")
    return 0


def make_rows(arguments: argparse.Namespace, open_engines: ExitStack) -> tuple[list[Row], list[UInt8]]:
    """Open every engine; one that cannot be opened becomes a row with the reason."""
    reference = open_engine(arguments.model, threads=usable_cores())
    open_engines.callback(reference.close)
    if arguments.images:
        inputs = network_inputs(reference, folder_frames(arguments.images), INPUTS)
    else:
        inputs = trial_images(reference.manifest, INPUTS)
    wanted = [copied(reference.infer(images)) for images in inputs]
    rows = []
    for threads in arguments.threads:
        for name, path, options in _engines(arguments):
            row = Row(name, threads)
            rows.append(row)
            try:
                engine: Engine = open_engine(path, threads=threads, **options)
            except LvadError as err:
                row.reason = str(err)
                continue
            open_engines.callback(engine.close)
            row.run = engine.infer
            tolerance = TOLERANCES[engine.precision]
            agreement = agree([copied(engine.infer(images)) for images in inputs], wanted, tolerance)
            row.agreement = f"{'yes' if agreement.within(tolerance) else 'NO'}: {agreement.to_text()}"
        for name, change in list(OPTIONS.items())[1:] if arguments.options else []:
            rows.append(Row(f"ONNX Runtime, {name}", threads, _session(arguments.model, threads, change)))
        if arguments.options:
            rows.append(Row("ONNX Runtime, outputs bound once", threads, _bound(arguments.model, threads)))
        for path in arguments.compare:
            for runtime, precision in (("onnxruntime", "fp32"), ("openvino", "fp32"), ("openvino", "bf16")):
                row = Row(f"{path.name} in {runtime} {precision.upper()}", threads)
                rows.append(row)
                try:
                    network = open_plain(path, runtime=runtime, threads=threads, precision=precision)
                except LvadError as err:
                    row.reason = str(err)
                    continue
                row.run = partial(_run_plain, network.run)
    return rows, inputs


def measure(rows: Sequence[Row], inputs: Sequence[UInt8], *, rounds: int) -> None:
    """Run all rows in turns, every second round in reverse order; the first round is not counted."""
    for turn in range(-1, rounds):
        images = inputs[turn % len(inputs)]
        for row in rows if turn % 2 == 0 else reversed(rows):
            if row.run is None:
                continue
            began, cpu_began = time.perf_counter(), time.process_time()
            row.run(images)
            ended = time.perf_counter()
            time.sleep(WAIT_S)
            if turn >= 0:
                row.wall_ms.append(1e3 * (ended - began))
                row.cpu_ms.append(1e3 * (time.process_time() - cpu_began))


def to_markdown(rows: Sequence[Row]) -> str:
    """The table; the ratio's interval is a 95 % bootstrap of the rounds."""
    lines = [
        "| | threads | median ms | p99 ms | CPU ms | ratio | agrees with ONNX Runtime FP32 |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        if row.run is None:
            lines.append(f"| {row.name} | {row.threads} | | | | | not run: {row.reason} |")
            continue
        first = next(other for other in rows if other.threads == row.threads and other.run is not None)
        wall = np.array(row.wall_ms)
        ratio = ratio_of_medians(wall, np.array(first.wall_ms)).to_text() if row is not first else "1"
        lines.append(
            f"| {row.name} | {row.threads} | {median(wall):.2f} | {p99(wall):.2f} | {np.median(row.cpu_ms):.1f} "
            f"| {ratio} | {row.agreement} |"
        )
    return "\n".join(lines)


def _engines(arguments: argparse.Namespace) -> Iterator[tuple[str, Path, dict[str, str]]]:
    """Name, file and options of ``open_engine``."""
    yield "ONNX Runtime FP32", arguments.model, {}
    yield "OpenVINO FP32", arguments.model, {"runtime": "openvino"}
    yield "OpenVINO BF16", arguments.model, {"runtime": "openvino", "precision": "bf16"}
    for path in arguments.int8:
        name = path.name if len(arguments.int8) > 1 else "INT8"
        yield f"ONNX Runtime {name}", path, {}
        yield f"OpenVINO {name} over FP32", path, {"runtime": "openvino"}
        yield f"OpenVINO {name} over BF16", path, {"runtime": "openvino", "precision": "int8"}


def _session(model: Path, threads: int, change: Callable[[Any], None]) -> Callable[[UInt8], Any]:
    import onnxruntime

    options = session_options(threads)
    change(options)
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    return lambda images: session.run(None, {INPUT_NAME: images})


def _bound(model: Path, threads: int) -> Callable[[UInt8], Any]:
    """A call that writes into the same output arrays every time, instead of new ones."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(model), session_options(threads), providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    for output in session.get_outputs():
        value = onnxruntime.OrtValue.ortvalue_from_shape_and_type(output.shape, element_type(output.type), "cpu")
        binding.bind_ortvalue_output(output.name, value)

    def run(images: UInt8) -> None:
        binding.bind_cpu_input(INPUT_NAME, images)
        session.run_with_iobinding(binding)

    return run


def _silence_onnxruntime() -> None:
    """Suppress its warnings, one for every option that is set a second time."""
    import onnxruntime

    onnxruntime.set_default_logger_severity(3)


def _level(name: str) -> Any:
    import onnxruntime

    return getattr(onnxruntime.GraphOptimizationLevel, f"ORT_ENABLE_{name}")


def _run_plain(run: Callable[[], Any], _images: UInt8) -> Any:
    return run()


def _metadata(row: Row) -> dict[str, Any]:
    return {
        "name": row.name,
        "threads": row.threads,
        "reason": row.reason,
        "agreement": row.agreement,
        "wall_ms": row.wall_ms,
        "cpu_ms": row.cpu_ms,
    }


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cpu", description="Time a model on this CPU.")
    parser.add_argument("model", type=Path, help="model file (.onnx)")
    parser.add_argument(
        "--int8",
        type=Path,
        action="append",
        default=[],
        metavar="FILE.onnx",
        help="the same model, quantised; repeatable",
    )
    parser.add_argument("--images", type=Path, metavar="DIR", help="images to run on (default: rendered noise)")
    parser.add_argument("--threads", type=int, nargs="+", default=[usable_cores()], metavar="N")
    parser.add_argument("--rounds", type=int, default=50, metavar="N", help="runs of each row (default: 50)")
    parser.add_argument("--compare", type=Path, nargs="+", default=[], metavar="FILE.onnx", help="other networks")
    parser.add_argument("--options", action="store_true", help="also ONNX Runtime's options, one changed at a time")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every sample")
    arguments = parser.parse_args(argv)
    if arguments.rounds < 2:
        parser.error("--rounds needs 2 or more")
    return arguments


if __name__ == "__main__":
    sys.exit(main())
