"""The command ``bench``: times of a model's stages, and comparisons with other networks."""

import argparse
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lvad_perception.command_line import size_wh
from lvad_perception.commands.arguments import (
    add_command,
    add_model,
    open_model,
    write_json,
    write_text,
)
from lvad_perception.engines import Engine, open_engine
from lvad_perception.errors import ConfigError, LvadError
from lvad_perception.machine import usable_cores

if TYPE_CHECKING:
    from lvad_perception.engines.agreement import Agreement, Tolerance
    from lvad_perception.profiling.frames import Decode
    from lvad_perception.profiling.roofline import Roofline

_REFERENCE_INPUTS = 8


def add_bench(commands: Any) -> None:
    """Add the command to the command line's sub-parsers."""
    command = add_command(commands, "bench", _bench, "time each stage of a frame: median and 99th percentile")
    add_model(command, required=True)
    frames = command.add_mutually_exclusive_group()
    frames.add_argument("--bag", type=Path, help="time a bag's images")
    frames.add_argument("--images", type=Path, metavar="DIR", help="time a folder's images")
    frames.add_argument(
        "--size", type=size_wh, default=(1280, 720), metavar="WxH", help="time synthetic images (default: 1280x720)"
    )
    command.add_argument("--frames", type=int, default=200, metavar="N", help="frames to time (default: 200)")
    command.add_argument("--warm-up", type=int, default=5, metavar="N", help="frames before that (default: 5)")
    command.add_argument(
        "--compare",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE.onnx",
        help="any other networks, timed in turns with this one in the same runtime, threads and precision",
    )
    command.add_argument(
        "--batches",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help="the same model exported for other batch sizes: latency and throughput of each engine alone",
    )
    command.add_argument(
        "--reference",
        type=Path,
        metavar="FILE.onnx",
        help="compare the outputs with this file's in ONNX Runtime, as for another precision or a built engine",
    )
    command.add_argument("--no-roofline", action="store_true", help="do not measure the machine's peak performance")
    command.add_argument("--json", type=Path, metavar="FILE", help="also write the tables as JSON")
    command.add_argument("--plot", type=Path, metavar="FILE.svg", help="also draw them")


def _bench(arguments: argparse.Namespace) -> None:
    from lvad_perception.perceiver import Perceiver
    from lvad_perception.profiling.bench import Bench
    from lvad_perception.profiling.drawing import draw
    from lvad_perception.profiling.overlap import overlapped_fps
    from lvad_perception.profiling.stages import time_stages

    if arguments.plot is not None and arguments.plot.suffix != ".svg":
        raise ConfigError(f"--plot {arguments.plot} is no SVG file; name one that ends in .svg")
    frames, source = _frames(arguments)
    with ExitStack() as open_files:
        engine = open_model(arguments, arguments.model)
        perceiver = open_files.enter_context(Perceiver(engine))
        rivals = _rivals(arguments, engine)
        others = [(path.name, open_model(arguments, path)) for path in arguments.batches]
        for _, other in others:
            open_files.callback(other.close)
        stages = time_stages(
            perceiver,
            frames,
            source=source,
            count=arguments.frames,
            warm_up=arguments.warm_up,
            rivals=rivals,
            progress=True,
        )
        overlapped = overlapped_fps(perceiver, frames, count=arguments.frames // 2)
        batches = _batches([(arguments.model.name, engine), *others], frames, arguments.frames) if others else []
        roofline = "" if arguments.no_roofline else _roofline(arguments, engine, stages.engine_run_ms)
        bench = Bench(stages, batches, roofline, _agreement(arguments, engine, frames), overlapped)
    write_json(arguments.json, bench.to_dict())
    if arguments.plot is not None:
        write_text(arguments.plot, draw(bench), option="--plot")
    print(bench.to_text())


def _frames(arguments: argparse.Namespace) -> "tuple[Iterator[Decode], str]":
    from lvad_perception.profiling.frames import bag_frames, folder_frames, synthetic_frames

    if arguments.bag is not None:
        return bag_frames(arguments.bag), str(arguments.bag)
    if arguments.images is not None:
        return folder_frames(arguments.images), str(arguments.images)
    width, height = arguments.size
    return synthetic_frames((height, width)), "synthetic JPEG"


def _rivals(arguments: argparse.Namespace, engine: Engine) -> list[Any]:
    from lvad_perception.engines.plain import open_plain, runtime_of

    if not arguments.compare:
        return []
    runtime = runtime_of(engine)
    if runtime is None:
        raise ConfigError(f"other networks can be timed beside a CPU runtime only, not beside {engine.description}")
    threads = arguments.threads or usable_cores()
    return [
        open_plain(path, runtime=runtime, threads=threads, precision=engine.precision) for path in arguments.compare
    ]


def _batches(engines: list[tuple[str, Engine]], frames: "Iterator[Decode]", count: int) -> list[Any]:
    from lvad_perception.profiling.bench import network_inputs, time_batches

    inputs = [network_inputs(engine, frames, 1)[0] for _, engine in engines]
    return time_batches(engines, inputs, count=count)


def _roofline(arguments: argparse.Namespace, engine: Engine, engine_ms: float) -> "Roofline | str":
    """The roofline, or why it is unknown; the measured times must not be lost with it."""
    from lvad_perception.engines.plain import runtime_of
    from lvad_perception.profiling.cost import graph_cost
    from lvad_perception.profiling.roofline import Roofline, measure_cuda, measure_machine

    runtime, graph = runtime_of(engine), arguments.model if arguments.model.suffix == ".onnx" else arguments.reference
    if graph is None:
        return f"roofline: not known; name the .onnx file that {arguments.model.name} was made from with --reference"
    try:
        cost = graph_cost(graph)
        if not cost.flop:
            return "roofline: not known, since the graph has no convolution and no matrix product"
        if runtime is None:
            machine = measure_cuda(engine.precision)
        else:
            threads = arguments.threads or usable_cores()
            machine = measure_machine(runtime=runtime, precision=engine.precision, threads=threads)
    except LvadError as err:
        return f"roofline: not known, since {err}"
    return Roofline(cost, machine, engine.precision, engine_ms)


def _agreement(
    arguments: argparse.Namespace, engine: Engine, frames: "Iterator[Decode]"
) -> "tuple[Agreement, Tolerance] | None":
    from lvad_perception.engines.agreement import TOLERANCES
    from lvad_perception.profiling.bench import compare_outputs, network_inputs

    if arguments.reference is None:
        return None
    reference = open_engine(arguments.reference, threads=arguments.threads)
    try:
        tolerance = TOLERANCES[engine.precision]
        inputs = network_inputs(engine, frames, _REFERENCE_INPUTS)
        return compare_outputs(engine, reference, inputs, tolerance), tolerance
    finally:
        reference.close()
