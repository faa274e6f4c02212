"""Hardware, library versions and precision of each start of a training, kept as ``environment.json``."""

import json
import platform
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import timm
import torch
from tqdm import tqdm

from lvad_perception.errors import DatasetError
from lvad_perception.machine import cpu_name, usable_cores
from lvad_training.training.processes import this_process
from lvad_training.training.records import code_version, write_file

FILE = "environment.json"


@dataclass(frozen=True, slots=True)
class Environment:
    """The environment of one start of a training; a resumed training has several.

    Attributes:
        first_step: steps done before this start.
        precision: precision that was computed in: "no" (FP32), "bf16" or "fp16", never "auto".
        asked: the recipe's ``train.precision``.
        processes: number of processes that trained together.
        hardware: accelerator and processor.
        versions: of this package, Python and the libraries that affect the results.
        command: command line of a row of ``reproduce``; empty for other trainings.
    """

    first_step: int
    precision: str
    asked: str
    processes: int
    hardware: str
    versions: str
    command: str = ""

    @property
    def precision_text(self) -> str:
        """The precision for messages and reports: "bf16 (train.precision: auto)"."""
        return f"{'fp32' if self.precision == 'no' else self.precision} (train.precision: {self.asked})"


def hardware() -> str:
    """Accelerator and processor of this machine: "1 x NVIDIA L4, 8 cores of Intel(R) Xeon(R) CPU, Linux"."""
    accelerator = ""
    if torch.cuda.is_available():
        accelerator = f"{torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}, "
    return f"{accelerator}{usable_cores()} cores of {cpu_name()}, {platform.system()}"


def versions() -> str:
    """Versions of this package (with its commit), Python, torch and timm."""
    own, python = code_version(), platform.python_version()
    return f"lvad {own}, Python {python}, torch {torch.__version__}, timm {timm.__version__}"


def record_environment(folder: Path, *, first_step: int, precision: str, asked: str) -> None:
    """Append this start of a training to its folder's file; drop the starts whose steps are done again.

    Args:
        folder: of the run, prepared.
        first_step: steps done before this start.
        precision: precision that is computed in, never "auto".
        asked: the recipe's ``train.precision``.

    Raises:
        ConfigError: the file cannot be written.
        DatasetError: the file of the run to resume is damaged.
    """
    before = [start for start in read_environments(folder) if start.first_step < first_step] if first_step else []
    now = Environment(first_step, precision, asked, this_process().num_processes, hardware(), versions())
    if before and before[-1].precision != precision:
        tqdm.write(
            f"note: the run began with {before[-1].precision_text} and goes on with {now.precision_text}", sys.stderr
        )
    _write(folder, [*before, now])


def record_command(folder: Path, command: str) -> None:
    """Add the command line to a run's last start. Raises the errors of ``record_environment``."""
    if starts := read_environments(folder):
        _write(folder, [*starts[:-1], replace(starts[-1], command=command)])


def read_environments(folder: Path) -> list[Environment]:
    """Every start of a run, in order; empty for a run of a version that did not record them.

    Raises:
        DatasetError: the file is damaged.
    """
    path = folder / FILE
    try:
        return [Environment(**start) for start in json.loads(path.read_text(encoding="utf-8"))]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError) as err:
        raise DatasetError(f"{path} cannot be read ({type(err).__name__}); remove it") from err


def distinct(values: Iterable[str], *, between: str) -> str:
    """Join values in their order, each once."""
    return between.join(dict.fromkeys(values))


def _write(folder: Path, starts: Sequence[Environment]) -> None:
    write_file(folder / FILE, json.dumps([asdict(start) for start in starts], indent=1))
