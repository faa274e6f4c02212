"""Time and peak memory of opening labels of BDD100K's size, without and with the cache.

Writes a random det_20 file of 70,000 frames and 1.3 million boxes with all attributes (several hundred MB) and as many
empty image files, then opens the split in two fresh processes, as two trainings one after the other would.

    python -m benchmarks.label_index
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

BOXES_PER_FRAME = 18.6  # det_20's average over the training split
_CATEGORIES = ["car"] * 55 + ["traffic sign"] * 19 + ["traffic light"] * 15 + ["pedestrian"] * 7 + ["truck", "bus"] * 2
_WEATHERS = ["clear", "overcast", "partly cloudy", "rainy", "snowy", "foggy", "undefined"]
_SCENES = ["city street", "highway", "residential", "parking lot", "tunnel", "gas stations", "undefined"]
_TIMES = ["daytime", "night", "dawn/dusk", "undefined"]

# Runs in a process of its own, so that ru_maxrss is the peak of opening the split alone.
_OPEN = """
import json, pickle, resource, sys, time
from pathlib import Path
start = time.perf_counter()
from lvad_perception.datasets.bdd100k import open_split
split = open_split(Path(sys.argv[1]), "train", cache_dir=Path(sys.argv[2]))
seconds = time.perf_counter() - start
middle = len(split) // 2
boxes = split.boxes(middle, (720, 1280))
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
total = sum(len(table) and int(table.class_counts().sum()) for table in split.tables)
print(json.dumps(dict(seconds=seconds, peak_bytes=peak, frames=len(split), boxes=total,
                      annotated=int(split.annotated_for("detection").sum()), pickle_bytes=len(pickle.dumps(split)))))
"""


def render_labels(root: Path, frames: int, *, seed: int = 0, with_images: bool = True) -> Path:
    """Write ``labels/det_20/det_train.json``, indented as the release is, and one empty image file per frame.

    Returns the label file.
    """
    rng = random.Random(seed)
    images = root / "images" / "100k" / "train"
    images.mkdir(parents=True, exist_ok=True)
    path = root / "labels" / "det_20" / "det_train.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as stream:
        stream.write("[")
        for index in range(frames):
            name = f"{rng.getrandbits(32):08x}-{index:08x}.jpg"
            if with_images:
                (images / name).touch()
            stream.write(",\n" if index else "\n")
            json.dump(_render_frame(rng, name), stream, indent=4)
        stream.write("\n]\n")
    return path


def _render_frame(rng: random.Random, name: str) -> dict[str, object]:
    labels = []
    for index in range(max(0, round(rng.gauss(BOXES_PER_FRAME, 8)))):
        x1, y1 = rng.uniform(0, 1200), rng.uniform(0, 650)
        category = rng.choice(_CATEGORIES)
        labels.append(
            {
                "id": str(index),
                "attributes": {
                    "occluded": rng.random() < 0.4,
                    "truncated": rng.random() < 0.1,
                    "trafficLightColor": rng.choice("GRY") if category == "traffic light" else "NA",
                },
                "category": category,
                "box2d": {"x1": x1, "y1": y1, "x2": x1 + rng.uniform(2, 79), "y2": y1 + rng.uniform(2, 69)},
            }
        )
    attributes = {"weather": rng.choice(_WEATHERS), "timeofday": rng.choice(_TIMES), "scene": rng.choice(_SCENES)}
    return {"name": name, "attributes": attributes, "timestamp": 10000, "labels": labels}


def measure(root: Path, cache: Path) -> dict[str, float]:
    """Open the split in a fresh process: seconds including imports, peak_bytes, frames, boxes, annotated frames."""
    command = [sys.executable, "-c", _OPEN, str(root), str(cache)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    measured: dict[str, float] = json.loads(result.stdout)
    return measured


def main(arguments: list[str] | None = None) -> None:
    """Render, open twice, print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.label_index", description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=70_000, help="frames to render (default: %(default)s)")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="lvad-label-index-") as folder:
        root = Path(folder)
        start = time.perf_counter()
        path = render_labels(root, options.frames)
        print(f"rendered  {path.stat().st_size / 1e6:8.0f} MB of JSON in {time.perf_counter() - start:.0f} s")
        first, second = measure(root, root / "cache"), measure(root, root / "cache")
        cache_bytes = sum(file.stat().st_size for file in (root / "cache").rglob("*") if file.is_file())
    print(f"labels    {first['frames']:8,.0f} frames, {first['boxes']:,.0f} boxes; cache {cache_bytes / 1e6:.0f} MB")
    for name, values in (("first", first), ("second", second)):
        print(f"{name:7} start {values['seconds']:6.2f} s, peak memory {values['peak_bytes'] / 2**20:5.0f} MiB")
    print(f"a data-loader worker receives {second['pickle_bytes'] / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
