"""What a stage says of itself in ``stage.json``: what its result depends on, how far it is, and which code made it."""

import hashlib
import json
from pathlib import Path
from typing import Any

from lvad_perception.errors import ConfigError
from lvad_perception.files import write_whole
from lvad_training.checkpoints import load_checkpoint, weights_sha256
from lvad_training.runs import code_version
from lvad_training.split import Split

RECORD = "stage.json"


def read_record(folder: Path) -> dict[str, Any] | None:
    """ "inputs", "state" and "seconds" of the stage in a folder; None when no stage began there. Raises ConfigError."""
    try:
        record: dict[str, Any] = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        return {"inputs": record["inputs"], "state": record["state"], "seconds": record["seconds"]}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as err:
        raise ConfigError(f"{folder / RECORD}: cannot be read ({type(err).__name__}); delete the folder") from err


def write_record(folder: Path, inputs: dict[str, str], state: str, seconds: float) -> None:
    """Note whole or not at all what a stage depends on, and whether it is "running" or "done". Raises ConfigError."""
    content = {"state": state, "seconds": round(seconds, 1), "version": code_version(), "inputs": inputs}
    try:
        write_whole(folder / RECORD, json.dumps(content, indent=1))
    except OSError as err:
        raise ConfigError(f"{folder}: cannot be written to ({err.strerror}); choose another output") from err


def file_digest(path: Path) -> str:
    """Of a file's content; of another stage's record, of what that stage was made from, not of when.

    Of a checkpoint, of its weights: it changes when it is measured, and what starts from it does not.
    """
    if path.suffix == ".pt":
        found = load_checkpoint(path)
        return text_digest(weights_sha256(found.weights) + json.dumps(found.text_encoder, sort_keys=True))
    if path.name == RECORD:
        record = read_record(path.parent)
        return text_digest(json.dumps(record["inputs"] if record else None, sort_keys=True))
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()[:16]


def split_digest(split: Split) -> str:
    """Of the names of a split's images and of what each is annotated for."""
    digest = hashlib.sha256()
    for index in range(len(split)):
        digest.update(f"{split.name_of(index)} {sorted(split.annotated(index))}\n".encode())
    return digest.hexdigest()[:16]


def text_digest(text: str) -> str:
    """The first 16 hexadecimal digits of a text's SHA-256."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]
