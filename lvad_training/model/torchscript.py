"""Reads TorchScript archives, the format in which OpenAI published CLIP."""

import warnings
import zipfile
from pathlib import Path

import torch
from torch import Tensor


def is_torchscript(path: Path) -> bool:
    """Whether a file is a TorchScript archive: a zip with constants, which files of ``torch.save`` do not have."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def read_torchscript(path: Path) -> dict[str, Tensor]:
    """The state dict of an archive, on the CPU. Raises any exception of ``torch.jit.load``.

    The archive's code is not called, but PyTorch does not guarantee that loading a manipulated archive is safe.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch deprecates TorchScript, but CLIP's archives use it
        archive: torch.nn.Module = torch.jit.load(str(path), map_location="cpu")  # type: ignore[no-untyped-call]
    return dict(archive.state_dict())
