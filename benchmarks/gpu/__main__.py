"""Everything that a GPU should be asked, within eight minutes: agreement with the CPU, speed, memory, a short training.

Every part runs in a process of its own and is ended at its limit; what it measured until then is kept, and whatever
failed, was skipped or found no time stands in the tables with the reason. Writes gpu.md and gpu.json into --out.

    python -m benchmarks.gpu --data /data/bdd100k --out docs/results/gpu
    python -m benchmarks.gpu --cpu --only correctness train-bf16
"""

import argparse
import shlex
import sys
import tempfile
from pathlib import Path

from benchmarks.gpu.job import Job
from benchmarks.gpu.report import Report
from benchmarks.gpu.supervise import Part, run_part
from lvad_training.recipe.presets import PRESETS

# Name, limit, module beside this one, question. A limit is seconds of the part's whole life, the start of its process
# included; their sum stays under eight minutes.
PARTS = (
    Part("environment", 20, "environment", "hardware, libraries, the measured peak of matrix products, the data set"),
    Part("correctness", 40, "correctness", "CUDA against the CPU in fp32; how far bf16 and fp16 are from that"),
    Part("train-fp32", 30, "training", "training steps in fp32, products in TF32: images/s, memory, the losses' share"),
    Part("train-bf16", 30, "training", "training steps under bf16 autocast"),
    Part("train-fp16", 30, "training", "training steps under fp16 autocast with loss scaling"),
    Part("loader", 40, "loader", "training fed by the data loader: images/s, time spent waiting for data"),
    Part("inference", 100, "inference", "the model file's graph in torch: eager, compiled, as a CUDA graph"),
    Part("engine", 45, "engine", "the .pt2 files in the PyTorch engine: host to host, agreement"),
    Part("onnxruntime", 40, "onnx_providers", "the model files in ONNX Runtime's CUDA and TensorRT providers"),
    Part("tensorrt", 50, "tensorrt_builder", "engines of TensorRT's own builder: build time, latency, agreement"),
    Part("fit", 50, "fit", "a short training on --data and what it learned"),
)
SMALLEST_FIRST = tuple(reversed(PRESETS))
CPU_PATIENCE = 6
"""With --cpu every limit is that many times longer."""


def main(arguments: list[str] | None = None) -> int:
    """Run the parts one after the other; 0 when none failed, 1 otherwise."""
    options = _parser().parse_args(arguments)
    if options.list:
        for part in PARTS:
            print(f"{part.name:<12} {part.limit_s:>4} s  {part.asks}")
        print(f"{'together':<12} {sum(part.limit_s for part in PARTS):>4} s")
        return 0
    if options.data is not None and not options.data.is_dir():
        print(f"error: {options.data}: no such folder; give a data set in BDD100K's layout", file=sys.stderr)
        return 2
    command = shlex.join(["python", "-m", "benchmarks.gpu", *(sys.argv[1:] if arguments is None else arguments)])
    report = Report(options.out, command, on_cpu=options.cpu)
    with tempfile.TemporaryDirectory(prefix="lvad-gpu-") as scratch:
        for part in PARTS:
            if part.name in options.only:
                limit_s = part.limit_s * (CPU_PATIENCE if options.cpu else 1)
                job = Job(
                    part=part.name,
                    module=f"benchmarks.gpu.{part.module}",
                    limit_s=limit_s,
                    device="cpu" if options.cpu else "cuda",
                    presets=tuple(options.presets),
                    data=None if options.data is None else str(options.data.resolve()),
                    scratch=scratch,
                )
                print(f"\n== {part.name}: {part.asks} (at most {limit_s} s)", flush=True)
                try:
                    result = run_part(job)
                except KeyboardInterrupt:
                    print("interrupted; the tables hold the parts that had ended", file=sys.stderr)
                    return 130
                report.add(part, result)
                report.write()
    print(f"\n{report.summary()}\nwritten: {report.markdown_path} and {report.json_path}")
    return 1 if report.failed else 0


def _parser() -> argparse.ArgumentParser:
    names = [part.name for part in PARTS]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("out/gpu"), help="folder of the tables (default: %(default)s)")
    parser.add_argument("--data", type=Path, help="data set in BDD100K's layout; rendered images without it")
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="PART", help="only these parts")
    parser.add_argument(
        "--presets", nargs="+", choices=SMALLEST_FIRST, default=SMALLEST_FIRST, metavar="PRESET", help="only these"
    )
    parser.add_argument("--cpu", action="store_true", help="tiny sizes on the CPU: tries the code, measures nothing")
    parser.add_argument("--list", action="store_true", help="show the parts and their limits")
    return parser


if __name__ == "__main__":
    sys.exit(main())
