"""On what a training ran, and the precision that it computed in; ``environment.json`` in the run's folder says it."""

import json
import platform
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import timm
import torch
from accelerate import Accelerator
from tqdm import tqdm

from lvad_perception.errors import ConfigError, DatasetError
from lvad_perception.files import write_whole
from lvad_perception.machine import cpu_name, usable_cores
from lvad_training.training.runs import code_version

FILE = "environment.json"


@dataclass(frozen=True, slots=True)
class Environment:
    """One start of a training; a resumed one has several.

    Attributes:
        first_step: steps that were done before.
        precision: "no" (FP32), "bf16" or "fp16": what was computed in, never "auto".
        asked: the recipe's ``train.precision``.
        processes: that trained together.
        hardware: accelerator and processor.
        versions: of this package, Python and the libraries that decide about the figures.
        command: the command line, of a row of ``reproduce``; empty elsewhere.
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
        """As messages and reports show it: "bf16 (train.precision: auto)"."""
        return f"{'fp32' if self.precision == 'no' else self.precision} (train.precision: {self.asked})"


def hardware() -> str:
    """Accelerator and processor of this machine: "1 x NVIDIA L4, 8 cores of Intel(R) Xeon(R) CPU, Linux"."""
    found = ""
    if torch.cuda.is_available():
        found = f"{torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}, "
    return f"{found}{usable_cores()} cores of {cpu_name()}, {platform.system()}"


def versions() -> str:
    """Of this package with its commit, Python, torch and timm."""
    own, python = code_version(), platform.python_version()
    return f"lvad {own}, Python {python}, torch {torch.__version__}, timm {timm.__version__}"


def note_environment(folder: Path, accelerator: Accelerator, *, first_step: int, asked: str) -> None:
    """Add this start of a training to its folder; starts at this step or later, whose steps are done again, go.

    Args:
        folder: of the run, prepared.
        accelerator: its processes and the precision that they compute in.
        first_step: steps that were done before.
        asked: the recipe's ``train.precision``.

    Raises:
        ConfigError: the file cannot be written.
        DatasetError: the file of the run to resume is damaged.
    """
    before = [each for each in read_environments(folder) if each.first_step < first_step] if first_step else []
    precision, processes = accelerator.mixed_precision, accelerator.num_processes
    now = Environment(first_step, precision, asked, processes, hardware(), versions())
    if before and before[-1].precision != precision:
        tqdm.write(
            f"note: the run began with {before[-1].precision_text} and goes on with {now.precision_text}", sys.stderr
        )
    _write(folder, [*before, now])


def note_command(folder: Path, command: str) -> None:
    """Add to a run's last start with which command line it was. Raises as ``note_environment``."""
    if starts := read_environments(folder):
        _write(folder, [*starts[:-1], replace(starts[-1], command=command)])


def distinct(values: Iterable[str], *, between: str) -> str:
    """What several starts or runs say, each once, in their order."""
    return between.join(dict.fromkeys(values))


def _write(folder: Path, starts: Sequence[Environment]) -> None:
    try:
        write_whole(folder / FILE, json.dumps([asdict(each) for each in starts], indent=1))
    except OSError as err:
        raise ConfigError(f"{folder / FILE}: cannot be written ({err.strerror}); choose another output") from err


def read_environments(folder: Path) -> list[Environment]:
    """Every start of a run, in order; empty for a run of a version that did not write them.

    Raises:
        DatasetError: the file is damaged.
    """
    path = folder / FILE
    try:
        return [Environment(**each) for each in json.loads(path.read_text(encoding="utf-8"))]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError) as err:
        raise DatasetError(f"{path} cannot be read ({type(err).__name__}); remove it") from err
