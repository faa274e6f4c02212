"""The command ``optimize``: an engine file for this machine's TensorRT and GPU."""

import argparse
import sys
from pathlib import Path
from typing import Any, Final

from lvad_perception.commands.arguments import MODEL_HELP, add_command, add_comparison_images, progress_bar

_MIB: Final = 1 << 20


def add_optimize(commands: Any) -> None:
    """Add the command to the command line's sub-parsers."""
    from lvad_perception.conversion.lowering import PRECISIONS

    command = add_command(
        commands, "optimize", _optimize, "build a TensorRT engine for this machine and check it against ONNX Runtime"
    )
    command.add_argument("model", type=Path, metavar="MODEL", help=MODEL_HELP)
    command.add_argument(
        "--output",
        "-o",
        type=Path,
        required=True,
        metavar="FILE",
        help="file to write: .engine or .plan, built by TensorRT itself, or .pth, built by torch2trt",
    )
    command.add_argument(
        "--precision", choices=PRECISIONS, default="fp16", help="precision of the engine (default: fp16)"
    )
    add_comparison_images(
        command, purpose="for the scales of int8, and to compare the engine on", required=False, check_images=8
    )
    command.add_argument(
        "--level", type=int, choices=range(6), metavar="0-5", help="the builder's effort (default: TensorRT's own, 3)"
    )
    command.add_argument(
        "--workspace-mib",
        type=int,
        metavar="MIB",
        help="maximum scratch memory of the build (default: all of the GPU's)",
    )
    command.add_argument(
        "--cache-dir", type=Path, metavar="DIR", help="folder for built engines (default: the user's cache folder)"
    )
    command.add_argument("--rebuild", action="store_true", help="build even if the cache has this engine")


def _optimize(arguments: argparse.Namespace) -> None:
    from lvad_perception.conversion.optimize import optimize
    from lvad_perception.conversion.tensorrt_build import BuildOptions

    workspace = arguments.workspace_mib
    options = BuildOptions(arguments.level, None if workspace is None else workspace * _MIB)
    with progress_bar() as progress:
        result = optimize(
            arguments.model,
            arguments.output,
            precision=arguments.precision,
            images=arguments.calibration,
            calibration_images=arguments.calibration_images,
            check_images=arguments.check_images,
            options=options,
            cache_dir=arguments.cache_dir,
            rebuild=arguments.rebuild,
            report=lambda line: print(line, file=sys.stderr, flush=True),
            progress=progress,
        )
    print(result.to_text())
