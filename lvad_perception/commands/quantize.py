"""The command ``quantize``: a model file with INT8 convolutions for CPUs."""

import argparse
from pathlib import Path
from typing import Any

from lvad_perception.commands.arguments import MODEL_HELP, add_command, add_comparison_images, progress_bar


def add_quantize(commands: Any) -> None:
    """Add the command to the command line's sub-parsers."""
    command = add_command(
        commands, "quantize", _quantize, "write the model with INT8 convolutions for CPUs and check it on images"
    )
    command.add_argument("model", type=Path, metavar="MODEL", help=MODEL_HELP)
    command.add_argument("--output", "-o", type=Path, required=True, metavar="FILE.onnx", help="file to write")
    add_comparison_images(command, purpose="some for the scales, others to compare on", required=True, check_images=16)


def _quantize(arguments: argparse.Namespace) -> None:
    from lvad_perception.conversion.quantize import quantize

    with progress_bar() as progress:
        result = quantize(
            arguments.model,
            arguments.output,
            arguments.calibration,
            calibration_images=arguments.calibration_images,
            check_images=arguments.check_images,
            progress=progress,
        )
    print(result.to_text())
