"""The command ``info``: the manifest of a model file."""

import argparse
import json
from pathlib import Path
from typing import Any

from lvad_perception.commands.arguments import MODEL_HELP, add_command
from lvad_perception.manifest import Manifest


def add_model_commands(commands: Any) -> None:
    """Add the command to the command line's sub-parsers."""
    command = add_command(commands, "info", _info, "print the manifest of a model file")
    command.add_argument("model", type=Path, metavar="MODEL", help=MODEL_HELP)
    command.add_argument("--json", action="store_true", help="print it as JSON")


def _info(arguments: argparse.Namespace) -> None:
    manifest, target = _manifest_and_target(arguments.model)
    metadata = json.loads(manifest.to_json())
    if arguments.json:
        print(json.dumps(metadata, indent=2, sort_keys=True))
        return
    sizes = dict.fromkeys((manifest.input_hw, manifest.network_hw))  # two in a file for one camera size
    spelled = ", resized inside to ".join(f"{width}x{height}" for height, width in sizes)
    print(f"{arguments.model} ({arguments.model.stat().st_size / 2**20:.1f} MiB), preset {metadata['preset']}")
    print(f"  written by       {metadata['created_by']}")
    print(f"  weights          sha256 {metadata['weights_sha256']}")
    print(f"  input            {spelled}, batch {metadata['batch_size']}")
    print(
        f"  boxes            at most {metadata['max_detections']}, "
        f"published from a score of {metadata['score_threshold']}"
    )
    for task, names in metadata["classes"].items():
        print(f"  {task:<16} {', '.join(names)}")
    for key, value in metadata["training"].items():
        print(f"  {'training ' + key:<16} {value if isinstance(value, str) else json.dumps(value)}")
    for label, text in target.items():
        print(f"  {label:<16} {text}")


def _manifest_and_target(path: Path) -> tuple[Manifest, dict[str, str]]:
    """The manifest, and labelled lines on where the file runs; an engine file is read without TensorRT and its GPU."""
    from lvad_perception.engines import open_engine
    from lvad_perception.engines.tensorrt_file import SUFFIXES, read_engine_file

    if path.suffix in SUFFIXES:
        file = read_engine_file(path)
        built_for = "it does not say" if file.target is None else file.target.to_text()
        lines = {"built for": built_for, "precision": file.precision, "agreed": file.agreement}
        return file.manifest, {label: text for label, text in lines.items() if text is not None}
    engine = open_engine(path)
    try:
        return engine.manifest, {"runs here on": engine.description}
    finally:
        engine.close()
