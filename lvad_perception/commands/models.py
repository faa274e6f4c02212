"""Commands on a model file: bench, info."""

import argparse
import json
from pathlib import Path
from typing import Any

from lvad_perception.commands.arguments import MODEL_HELP, add_command, add_model, open_perceiver, size_wh, write_json


def add_model_commands(commands: Any) -> None:
    """Add them to the command line's sub-parsers."""
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
    command.add_argument("--json", type=Path, metavar="FILE", help="also write the table as JSON")

    command = add_command(commands, "info", _info, "print what a model file says of itself")
    command.add_argument("model", type=Path, metavar="MODEL", help=MODEL_HELP)
    command.add_argument("--json", action="store_true", help="print it as JSON")


def _bench(arguments: argparse.Namespace) -> None:
    from lvad_perception.benchmark import bag_frames, folder_frames, run_benchmark, synthetic_frames

    with open_perceiver(arguments, default_threshold=None) as perceiver:
        if arguments.bag is not None:
            frames, source = bag_frames(arguments.bag), str(arguments.bag)
        elif arguments.images is not None:
            frames, source = folder_frames(arguments.images), str(arguments.images)
        else:
            width, height = arguments.size
            frames, source = synthetic_frames((height, width)), "synthetic JPEG"
        result = run_benchmark(
            perceiver, frames, source=source, count=arguments.frames, warm_up=arguments.warm_up, progress=True
        )
    print(result.to_text())
    write_json(arguments.json, result.to_dict())


def _info(arguments: argparse.Namespace) -> None:
    from lvad_perception.engines import open_engine

    engine = open_engine(arguments.model)
    facts = json.loads(engine.manifest.to_json())
    if arguments.json:
        print(json.dumps(facts, indent=2, sort_keys=True))
        return
    height, width = engine.manifest.network_hw
    print(f"{arguments.model} ({arguments.model.stat().st_size / 2**20:.1f} MiB), preset {facts['preset']}")
    print(f"  written by       {facts['created_by']}")
    print(f"  weights          sha256 {facts['weights_sha256']}")
    print(f"  input            {width}x{height}, batch {facts['batch_size']}")
    print(f"  boxes            at most {facts['max_detections']}, published from a score of {facts['score_threshold']}")
    for task, names in facts["classes"].items():
        print(f"  {task:<16} {', '.join(names)}")
    for key, value in facts["training"].items():
        print(f"  {'training ' + key:<16} {value if isinstance(value, str) else json.dumps(value)}")
    print(f"  runs here on     {engine.description}")
    engine.close()
