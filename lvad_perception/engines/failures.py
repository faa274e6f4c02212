"""What a runtime's message says of a failed inference: the device, its memory, or something else."""

import re
from typing import Final

from lvad_perception.engines.graph import first_line
from lvad_perception.errors import DeviceError, EngineError

# As torch, ONNX Runtime's CUDA and TensorRT providers and TensorRT itself word it.
_TAKEN: Final = re.compile(r"busy or unavailable|cudaErrorDevices?Unavailable", re.IGNORECASE)
_MEMORY: Final = re.compile(
    r"out of memory|cudaErrorMemoryAllocation|STATUS_ALLOC_FAILED|(failed to|can't|cannot) allocate|bad_alloc",
    re.IGNORECASE,
)
_DEVICE: Final = re.compile(
    r"\bCUDA(?: driver| runtime)? (?:error|failure)|\bCuda (?:Runtime|Driver) \(|\bcudaError[A-Z]"
    r"|\bCU(?:BLAS|DNN)_STATUS_|device-side assert|unspecified launch failure|illegal memory access",
    re.IGNORECASE,
)
_CUDA: Final = re.compile(r"cuda|gpu", re.IGNORECASE)
# Behind ONNX Runtime's names of its own files and functions: "CUDA failure 700: an illegal … ; GPU=0 ; hostname=…".
_REASON: Final = re.compile(r"CUDA failure \d+: [^;\n]+")


def device_failure(err: Exception) -> EngineError | None:
    """The error that tells of a device; None where the message says nothing of one.

    Returns:
        A ``DeviceError`` where the device does nothing more for this process, an EngineError where its memory, or that
        of the process, ran out.
    """
    text = str(err)
    found = _REASON.search(text)
    reason = found[0].strip() if found else first_line(err)
    if _TAKEN.search(text):
        return DeviceError(
            f"the CUDA device cannot be used ({reason}); end the process that holds it, which nvidia-smi shows, or "
            "give it the compute mode Default"
        )
    if _MEMORY.search(text):
        if _CUDA.search(text):
            return EngineError(
                f"the CUDA device is out of memory ({reason}); end what else uses it, which nvidia-smi shows, or take "
                "a model file of a smaller batch, size or precision"
            )
        return EngineError(
            f"the memory ran out ({reason}); close other programs, or take a model file of a smaller batch or size"
        )
    if _DEVICE.search(text):
        return DeviceError(f"the CUDA device failed ({reason}); restart the process, and the machine if it fails again")
    return None


def engine_failure(runtime: str, err: Exception, *, remedy: str) -> EngineError:
    """The error of an inference that failed.

    Args:
        runtime: its name.
        err: what it raised.
        remedy: what to do where the message says nothing of a device.
    """
    return device_failure(err) or EngineError(f"{runtime} failed ({first_line(err)}); {remedy}")
