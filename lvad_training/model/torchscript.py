"""TorchScript archives, in which OpenAI published CLIP: told from other files by what is in the zip, and read."""

import warnings
import zipfile
from pathlib import Path

import torch
from torch import Tensor


def is_torchscript(path: Path) -> bool:
    """Whether a file is a TorchScript archive; what ``torch.save`` writes is a zip as well, but has no constants."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def read_torchscript(path: Path) -> dict[str, Tensor]:
    """The state dict of an archive, on the CPU. Raises whatever ``torch.jit.load`` does.

    The model in it is not called; but PyTorch does not vouch for archives that were tampered with.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated, and these archives stay what they are
        archive: torch.nn.Module = torch.jit.load(str(path), map_location="cpu")  # type: ignore[no-untyped-call]
    return dict(archive.state_dict())
