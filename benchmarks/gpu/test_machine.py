"""The machine of the measurements: hardware, libraries, peak of matrix products, data set."""

import importlib
import platform
import subprocess
import time
from pathlib import Path

import pytest
import torch

import lvad_perception
from benchmarks.gpu.subjects import DTYPES, peak
from lvad_perception.datasets.bdd100k import find_splits, open_split
from lvad_perception.machine import cpu_name, usable_cores

LIBRARIES = ("torchvision", "timm", "accelerate", "onnx", "onnxruntime", "tensorrt")
NVIDIA_SMI_QUERY = "driver_version,power.limit,clocks.max.sm,clocks.max.memory,temperature.gpu"


@pytest.mark.gpu("environment", "Machine")
def test_versions(job, row):
    """The GPU is the first one that torch sees."""
    commit = _output("git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty")
    row(what="sources", value=f"lvad_perception {lvad_perception.__version__}, {commit}")
    row(what="CPU", value=f"{cpu_name()}, {usable_cores()} cores usable")
    row(what="system", value=f"{platform.platform()}, Python {platform.python_version()}")
    row(what="torch", value=f"{torch.__version__}, CUDA {torch.version.cuda or 'none'}")
    if job.device == "cuda":
        gpu = torch.cuda.get_device_properties(0)
        row(
            what="GPU",
            value=f"{gpu.name}, {gpu.total_memory / 2**30:.1f} GiB, compute capability {gpu.major}.{gpu.minor}, "
            f"{gpu.multi_processor_count} multiprocessors; {torch.cuda.device_count()} in the machine",
        )
        row(what="cuDNN", value=str(torch.backends.cudnn.version()))
        answer = _output("nvidia-smi", "--id=0", f"--query-gpu={NVIDIA_SMI_QUERY}", "--format=csv,noheader")
        row(what="driver", value=f"{NVIDIA_SMI_QUERY.replace(',', ', ')}: {answer}")
    for name in LIBRARIES:
        row(what=name, value=_version(name))


@pytest.mark.gpu(
    "environment", "Peak of matrix products, measured", cases=("precision", tuple(DTYPES), ("fp32",)), needs_s=4
)
def test_peak(job, row, precision):
    """The peak in fp32 is of products in TF32 on CUDA; the bandwidth is that of a copy."""
    torch.set_float32_matmul_precision("high")
    machine = peak(job, precision)
    row(**{"TFLOP/s": machine.gflops / 1e3, "GB/s": machine.gbytes_s})


@pytest.mark.gpu("environment", "Data set")
def test_data_set(job, row):
    """Its splits; the first opening parses the labels, later ones read the cache."""
    if job.data is None:
        pytest.skip("no --data; the loader reads rendered images, the short training is left out")
    cells = {"root": job.data}
    for name in find_splits(Path(job.data)):
        began = time.perf_counter()
        cells[f"{name} images"] = len(open_split(Path(job.data), name))
        cells[f"{name} opened in s"] = time.perf_counter() - began
    row(**cells)


def _output(*command: str) -> str:
    """The output of a command, or the reason why there is none."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError) as err:
        return f"{command[0]} failed ({type(err).__name__})"


def _version(name: str) -> str:
    try:
        module = importlib.import_module(name)
    except Exception as err:  # a broken installation raises anything
        return "not installed" if isinstance(err, ModuleNotFoundError) else f"cannot be imported: {type(err).__name__}"
    version = str(getattr(module, "__version__", "unknown"))
    return f"{version}, {', '.join(module.get_available_providers())}" if name == "onnxruntime" else version
