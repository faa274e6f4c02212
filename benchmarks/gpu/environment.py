"""What the numbers were measured on."""

import importlib
import platform
import subprocess
import time
from pathlib import Path

import torch

import lvad_perception
from benchmarks.gpu.job import Cells, Recorder, Unavailable, one_line
from benchmarks.gpu.subjects import DTYPES
from benchmarks.gpu.timing import matmul_tflops
from lvad_perception.machine import cpu_name, usable_cores

_LIBRARIES = ("torchvision", "timm", "accelerate", "onnx", "onnxruntime", "tensorrt")


def run(recorder: Recorder) -> None:
    """Hardware and versions, the peak of matrix products, and what the data set holds."""
    job = recorder.job
    recorder.row("Machine", what="sources", value=_sources())
    recorder.row("Machine", what="CPU", value=f"{cpu_name()}, {usable_cores()} cores usable")
    recorder.row("Machine", what="system", value=f"{platform.platform()}, Python {platform.python_version()}")
    recorder.row("Machine", what="torch", value=f"{torch.__version__}, CUDA {torch.version.cuda or 'none'}")
    if job.device == "cuda":
        _gpu(recorder)
    for name in _LIBRARIES:
        recorder.row("Machine", what=name, value=_version(name))
    torch.set_float32_matmul_precision("high")
    for name, dtype in DTYPES.items():
        label = "fp32 in TF32" if name == "fp32" and job.device == "cuda" else name
        recorder.measure(
            "Peak of matrix products, measured",
            {"precision": label},
            lambda dtype=dtype: {"TFLOP/s": matmul_tflops(dtype, job.device)},
        )
    recorder.measure("Data set", {"root": job.data or "none given"}, lambda: _data(job.data))


def _gpu(recorder: Recorder) -> None:
    facts = torch.cuda.get_device_properties(0)
    recorder.row(
        "Machine",
        what="GPU",
        value=f"{facts.name}, {facts.total_memory / 2**30:.1f} GiB, compute capability {facts.major}.{facts.minor}, "
        f"{facts.multi_processor_count} multiprocessors; {torch.cuda.device_count()} in the machine",
    )
    recorder.row("Machine", what="cuDNN", value=str(torch.backends.cudnn.version()))
    recorder.row("Machine", what="driver", value=_nvidia_smi())


def _nvidia_smi() -> str:
    query = "driver_version,power.limit,clocks.max.sm,clocks.max.memory,temperature.gpu"
    try:
        result = subprocess.run(
            ["nvidia-smi", "--id=0", f"--query-gpu={query}", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError) as err:
        return f"nvidia-smi does not say ({one_line(err)})"
    return f"{query.replace(',', ', ')}: {result.stdout.strip()}"


def _sources() -> str:
    """Version of the package and, in a checkout, the commit."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        commit = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return f"lvad_perception {lvad_perception.__version__}, no checkout"
    return f"lvad_perception {lvad_perception.__version__}, commit {commit}"


def _version(name: str) -> str:
    try:
        module = importlib.import_module(name)
    except Exception as err:  # a library that is there and broken says so in its own way
        return "not installed" if isinstance(err, ModuleNotFoundError) else f"cannot be imported: {one_line(err)}"
    version = str(getattr(module, "__version__", "unknown"))
    return f"{version}, {', '.join(module.get_available_providers())}" if name == "onnxruntime" else version


def _data(root: str | None) -> Cells:
    from lvad_perception.datasets.bdd100k import find_splits, open_split

    if root is None:
        raise Unavailable("no --data; the loader reads rendered images, the short training is left out")
    cells: Cells = {}
    for name in find_splits(Path(root)):
        began = time.perf_counter()
        cells[f"{name} images"] = len(open_split(Path(root), name))
        cells[f"{name} opened in s"] = time.perf_counter() - began
    return cells
