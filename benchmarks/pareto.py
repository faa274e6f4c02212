"""Cost and accuracy of small architectures: the table from which the preset ``edge`` was chosen.

    python -m benchmarks.pareto --cost-only                         # GFLOP, parameters, CPU time; some minutes
    python -m benchmarks.pareto --data ROOT --steps 1000 --out OUT  # and accuracy; the same command resumes

Operations are counted by torch's ``FlopCounterMode``, 2 per multiply-add, for one image of 640 x 384 from normalisation
to the outputs of the last decoder layers. CPU times are of the exported model file, with random weights, in ONNX
Runtime; the models take turns, so that other work of the machine slows all alike. Trainings differ only in the model.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from lvad_perception.engines import open_engine
from lvad_perception.profiling.bench import time_batches
from lvad_perception.profiling.statistics import Samples, median
from lvad_training.build import build_model
from lvad_training.checkpoints import Checkpoint
from lvad_training.export.model_file import export
from lvad_training.recipe.config import parse_recipe
from lvad_training.recipe.schema import Recipe
from lvad_training.training.train import train

COST_HW = (384, 640)
BUDGET_GFLOP, BUDGET_PARAMETERS = 18.5, 8e6


def _resnet(channels: list[int], stem: int) -> dict[str, Any]:
    return {"name": "resnet18d", "options": {"channels": channels, "stem_width": stem}}


def _convolutional(
    channels: list[int], stem: int, *, neck: int, towers: int = 64, drivable: int = 32
) -> dict[str, Any]:
    return {
        "backbone": _resnet(channels, stem),
        "neck_width": neck,
        "detection": {"width": towers},
        "drivable": {"width": drivable},
    }


_TINY, _WIDE, _LATE = [32, 64, 128, 160], [48, 96, 192, 256], [24, 64, 128, 256]

# Name -> settings that differ from the preset "tiny", one change each.
QUERIES: dict[str, dict[str, Any]] = {
    "tiny": {},
    "refinements 2": {"detection": {"refinements": 2}},
    "refinements 4": {"detection": {"refinements": 4}},
    "proposals 60": {"detection": {"proposals": 60}},
    "proposals 150": {"detection": {"proposals": 150}},
    "pool 7": {"detection": {"pool_size": 7}},
    "width 64": {"neck_width": 64},
    "width 128": {"neck_width": 128},
    "mask layers 2": {"semantic": {"layers": 2}},
    "mask queries 20": {"semantic": {"queries": 20}},
    "resnet18d, 48 to 256": {"backbone": _resnet(_WIDE, 24)},
    "resnet18d, 56 to 256": {"backbone": _resnet([56, 112, 208, 256], 24)},
    "mobilenetv2": {"backbone": {"name": "mobilenetv2_100"}},
    "mobilenetv4 small": {"backbone": {"name": "mobilenetv4_conv_small"}},
    "efficientnet-lite0": {"backbone": {"name": "tf_efficientnet_lite0"}},
    "regnety-400": {"backbone": {"name": "regnety_004"}},
    "fastvit-t8": {"backbone": {"name": "fastvit_t8"}},
    "repvit-m0.9": {"backbone": {"name": "repvit_m0_9"}},
    "convnextv2-atto": {"backbone": {"name": "convnextv2_atto"}},
}
# Name -> settings that differ from the preset "edge": widths of the stem, the backbone, the neck, FCOS's towers
# (64) and the branch of the drivable area (32).
CONVOLUTIONAL: dict[str, dict[str, Any]] = {
    "edge": {},
    "24, 48 to 256, neck 96": _convolutional(_WIDE, 24, neck=96),
    "24, 48 to 256, neck 64": _convolutional(_WIDE, 24, neck=64),
    "16, 32 to 160, neck 96": _convolutional(_TINY, 16, neck=96),
    "16, 32 to 160, neck 64": _convolutional(_TINY, 16, neck=64),
    "16, 32 to 160, neck 48, towers 48": _convolutional(_TINY, 16, neck=48, towers=48),
    "12, 24 to 256, neck 64": _convolutional(_LATE, 12, neck=64),
    "8, 24 to 256, neck 48": _convolutional(_LATE, 8, neck=48),
    "12, 24 to 256, neck 48, towers 48": _convolutional(_LATE, 12, neck=48, towers=48),
    "8, 24 to 256, neck 48, drivable 16": _convolutional(_LATE, 8, neck=48, drivable=16),
    "8, 16 to 256, neck 64": _convolutional([16, 64, 128, 256], 8, neck=64),
}
CANDIDATES = {
    **{name: ("tiny", differs) for name, differs in QUERIES.items()},
    **{name: ("edge", differs) for name, differs in CONVOLUTIONAL.items()},
}


def recipe_of(name: str, *, data: str, network_hw: tuple[int, int], settings: list[str], output: str) -> Recipe:
    """The recipe that trains a candidate."""
    preset, differs = CANDIDATES[name]
    content = {
        "preset": preset,
        "data": {"root": data, "workers": 1},
        "model": {**differs, "network_hw": list(network_hw)},
        "train": {"learning_rate": 8.0e-4, "weight_decay": 0.02, "warmup_steps": 50, "batch_size": 8},
        "output": output,
    }
    return parse_recipe(content, settings, source=name)


def cost_of(name: str) -> dict[str, float]:
    """GFLOP of one image of 640 x 384, the backbone's share of it, and the number of parameters."""
    net = build_model(recipe_of(name, data="-", network_hw=COST_HW, settings=[], output="-").model)
    net.eval().requires_grad_(False)
    with FlopCounterMode(display=False, depth=2) as counter:
        net(torch.zeros(1, 3, *COST_HW))
    backbone = sum(counter.get_flop_counts().get("MultiTaskNet.backbone", {}).values())
    return {
        "gflop": counter.get_total_flops() / 1e9,
        "backbone_gflop": backbone / 1e9,
        "parameters": float(sum(parameter.numel() for parameter in net.parameters())),
    }


def write_model(name: str, path: Path) -> None:
    """Write the candidate's model file with random weights."""
    recipe = recipe_of(name, data="-", network_hw=COST_HW, settings=[], output="-")
    torch.manual_seed(0)
    net = build_model(recipe.model).eval()
    random = np.random.default_rng(0)
    images = [random.integers(0, 256, (*COST_HW, 3), np.uint8) for _ in range(2)]
    export({"pareto": Checkpoint(recipe, 0, net.state_dict())}, path, images=images)


def times_ms(paths: dict[str, Path], *, rounds: int, threads: int | None) -> dict[str, Samples]:
    """Milliseconds of one inference of each model file, ``rounds`` times in turns."""
    engines = [(name, open_engine(path, threads=threads)) for name, path in paths.items()]
    image = np.random.default_rng(1).integers(0, 256, (1, *COST_HW, 3), np.uint8)
    times = time_batches(engines, [image] * len(engines), count=rounds)
    for _, engine in engines:
        engine.close()
    return {each.name: each.runs_ms for each in times}


def accuracy_of(name: str, *, data: str, size_hw: tuple[int, int], settings: list[str], out: Path) -> dict[str, Any]:
    """The metrics of the candidate after training; a finished training is not repeated."""
    folder = out / name.replace(" ", "_").replace(",", "")
    metrics = folder / "metrics.json"
    if not metrics.is_file():
        train(recipe_of(name, data=data, network_hw=size_hw, settings=settings, output=str(folder)), resume=True)
    found: dict[str, Any] = json.loads(metrics.read_text())
    return found


def table(rows: dict[str, dict[str, Any]]) -> str:
    """Markdown, cheapest first; candidates over the budget are marked."""
    costs, scores = ["GFLOP", "of it backbone", "M parameters", "CPU ms"], ["AP50", "AP", "mIoU", "pixel accuracy"]
    head = ["", *costs, *scores, "drivable mIoU"]
    lines = ["| " + " | ".join(head) + " |", "|---" + "|---:" * (len(head) - 1) + "|"]
    for name, row in sorted(rows.items(), key=lambda item: item[1]["gflop"]):
        over = row["gflop"] > BUDGET_GFLOP or row["parameters"] > BUDGET_PARAMETERS
        cells = [
            f"{name}{' (over the budget)' if over else ''}",
            f"{row['gflop']:.2f}",
            f"{row['backbone_gflop']:.2f}",
            f"{row['parameters'] / 1e6:.2f}",
            f"{row['cpu_ms']:.1f}" if "cpu_ms" in row else "-",
        ]
        metrics = row.get("metrics")
        if metrics is None:
            cells += ["-"] * 5
        else:
            boxes, semantic = metrics["detection"]["scores"], metrics["semantic"]["scores"]
            drivable = metrics["drivable"]["three_class"]["mean_iou"]
            values = (boxes["ap50"], boxes["ap"], semantic["mean_iou"], semantic["pixel_accuracy"], drivable)
            cells += [f"{value:.1f}" for value in values]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", metavar="ROOT", help="data set in BDD100K's layout; without it no accuracy")
    parser.add_argument("--out", type=Path, default=Path("runs/pareto"), help="folder of the trainings")
    parser.add_argument("--steps", type=int, default=1000, help="of each training (default: %(default)s)")
    parser.add_argument("--train-size", default="384x288", metavar="WxH", help="network size (default: %(default)s)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="more of the trainings' recipe")
    parser.add_argument("--only", action="append", choices=sorted(CANDIDATES), help="candidate; can be repeated")
    parser.add_argument("--rounds", type=int, default=40, help="timed inferences of each model (default: %(default)s)")
    parser.add_argument("--threads", type=int, help="CPU threads of an inference (default: one per core)")
    parser.add_argument("--cost-only", action="store_true", help="train nothing")
    arguments = parser.parse_args(argv)
    names = arguments.only or list(CANDIDATES)
    rows: dict[str, dict[str, Any]] = {name: dict(cost_of(name)) for name in names}
    if arguments.data and not arguments.cost_only:
        width, height = map(int, arguments.train_size.split("x"))
        settings = [f"train.steps={arguments.steps}", *arguments.set]
        for name in names:
            rows[name]["metrics"] = accuracy_of(
                name, data=arguments.data, size_hw=(height, width), settings=settings, out=arguments.out
            )
    with tempfile.TemporaryDirectory() as scratch:
        paths = {name: Path(scratch) / f"{number}.onnx" for number, name in enumerate(names)}
        for name, path in paths.items():
            write_model(name, path)
        for name, times in times_ms(paths, rounds=arguments.rounds, threads=arguments.threads).items():
            rows[name]["cpu_ms"] = median(times)
    print(table(rows))


if __name__ == "__main__":
    main()
