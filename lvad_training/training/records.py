"""The code's version, and the record of a stage, ``stage.json``."""

import json
import subprocess
from pathlib import Path
from typing import Any

import lvad_perception
from lvad_perception.errors import ConfigError
from lvad_perception.files import write_whole
from lvad_perception.provenance import Inputs

RECORD = "stage.json"


def code_version() -> str:
    """The package's version, and in a git checkout the commit: "0.1.0 (v0.1.0-4-gabc1234-dirty)"."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():  # installed, perhaps inside somebody else's checkout
        return lvad_perception.__version__
    command = ["git", "-C", str(root), "describe", "--always", "--tags", "--dirty"]
    try:
        described = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return lvad_perception.__version__
    commit = described.stdout.strip() if described.returncode == 0 else ""
    return f"{lvad_perception.__version__} ({commit})" if commit else lvad_perception.__version__


def write_file(path: Path, content: str | bytes) -> None:
    """Write a file of a run's folder atomically. Raises ConfigError when it cannot be written."""
    try:
        write_whole(path, content)
    except OSError as err:
        raise ConfigError(
            f"{path}: cannot be written ({err.strerror}); free disk space or choose another output"
        ) from err


def read_record(folder: Path) -> dict[str, Any] | None:
    """Read a stage's record as ``write_record`` wrote it; None when no stage began in the folder.

    Raises:
        ConfigError: the record is damaged.
    """
    try:
        record: dict[str, Any] = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        required = {key: record[key] for key in ("inputs", "state", "seconds")}
        return {**required, "measured": record.get("measured")}  # absent from records of older versions
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as err:
        raise ConfigError(
            f"{folder / RECORD}: cannot be read ({type(err).__name__}); delete this file and give --resume"
        ) from err


def write_record(folder: Path, inputs: Inputs, state: str, seconds: float, *, measured: Inputs | None = None) -> None:
    """Write a stage's record.

    Args:
        folder: of the stage.
        inputs: digests of what the stage's result depends on.
        state: "running" or "done".
        seconds: time that the stage has taken so far.
        measured: digests of what its metrics depend on; None for a stage without metrics.

    Raises:
        ConfigError: the record cannot be written.
    """
    metadata = {"state": state, "seconds": round(seconds, 1), "version": code_version()}
    write_file(folder / RECORD, json.dumps({**metadata, "inputs": inputs, "measured": measured}, indent=1))
