"""What a stage says of itself in ``stage.json``: what its result depends on, how far it is, and which code made it."""

import json
from pathlib import Path
from typing import Any

from lvad_perception.errors import ConfigError
from lvad_perception.files import write_whole
from lvad_perception.provenance import Inputs
from lvad_training.training.runs import code_version

RECORD = "stage.json"


def read_record(folder: Path) -> dict[str, Any] | None:
    """What ``write_record`` noted of the stage in a folder; None when no stage began there. Raises ConfigError."""
    try:
        record: dict[str, Any] = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        found = {key: record[key] for key in ("inputs", "state", "seconds")}
        return {**found, "measured": record.get("measured")}  # not in records of older versions
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as err:
        raise ConfigError(
            f"{folder / RECORD}: cannot be read ({type(err).__name__}); delete this file and give --resume"
        ) from err


def write_record(folder: Path, inputs: Inputs, state: str, seconds: float, *, measured: Inputs | None = None) -> None:
    """Note what a stage depends on, whole or not at all.

    Args:
        folder: of the stage.
        inputs: what its result depends on.
        state: "running" or "done".
        seconds: that it took so far.
        measured: what its metrics depend on; None where it has none.

    Raises:
        ConfigError: it cannot be written.
    """
    metadata = {"state": state, "seconds": round(seconds, 1), "version": code_version()}
    content = {**metadata, "inputs": inputs, "measured": measured}
    try:
        write_whole(folder / RECORD, json.dumps(content, indent=1))
    except OSError as err:
        raise ConfigError(f"{folder}: cannot be written to ({err.strerror}); choose another output") from err
