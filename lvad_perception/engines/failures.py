"""Errors of engines, by cause: a failed device, exhausted memory, a failed inference, an unwritable file."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from lvad_perception.engines.graph import first_line
from lvad_perception.errors import DeviceError, EngineError

# Wording of torch, of ONNX Runtime's CUDA and TensorRT providers, and of TensorRT.
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
# The reason in ONNX Runtime's message, after names of source files: "CUDA failure 700: an illegal … ; GPU=0 ; …".
_REASON: Final = re.compile(r"CUDA failure \d+: [^;\n]+")


def device_failure(err: Exception) -> EngineError | None:
    """The error for a runtime's exception that reports a failed device or exhausted memory; None for any other.

    Returns:
        A ``DeviceError`` where the device can no longer be used by this process, an EngineError where its memory, or
        that of the process, is exhausted.
    """
    text = str(err)
    match = _REASON.search(text)
    reason = match[0].strip() if match else first_line(err)
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
    """The error of a failed inference.

    Args:
        runtime: its name.
        err: the runtime's exception.
        remedy: for the message, unless the device failed or memory is exhausted.
    """
    return device_failure(err) or EngineError(f"{runtime} failed ({first_line(err)}); {remedy}")


@contextmanager
def write_failures(path: Path) -> Iterator[None]:
    """Raise EngineError where the block raises OSError because the model file ``path`` cannot be written."""
    try:
        yield
    except OSError as err:
        raise EngineError(f"{path} cannot be written ({err.strerror}); choose a folder with space") from err
