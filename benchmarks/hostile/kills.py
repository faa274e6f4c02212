"""Send SIGKILL to long commands at random moments: resumed ones must give the same bytes, others no partial output.

    python -m benchmarks.hostile.kills --seed 0 --kills 20

A recipe with all stages is killed and resumed until it is done, again and again until ``--kills`` is reached.
Conversions of a bag, quantisation and, where TensorRT is installed, ``optimize`` are killed and started again; after
each kill their output must be the previous one, a complete new one, or absent. Linux only.
"""

import argparse
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import numpy as np
import yaml

from benchmarks.hostile.materials import RECIPE, SIZE_HW, make_materials
from lvad_training.training.records import RECORD

EARLIEST: Final = 0.2
"""Earliest kill, as a share of the command's run time; before that hardly anything is written."""
FRAMES: Final = 600
"""Images of a conversion, enough for some seconds, most of them spent writing the bag."""
VOLATILE: Final = ("tensorboard", "losses.jsonl", "environment.json", ".log", "checkpoint.pt")
"""Parts of the names of files whose content depends on time or place."""
LANGUAGE: Final = {"context": 2, "layers": 1, "width": 16, "heads": 2}
STAGES: Final = {
    "setting": "disjoint_balance",
    "teach": {"steps": 12},
    "pseudo": {"box_score": 0.05, "mask_confidence": 0.0},
    "adapt": {"steps": 12},
}


@dataclass(frozen=True)
class Trial:
    """A command to kill.

    Attributes:
        command: after ``python -m``.
        output: the file or folder that it writes.
        resumes: whether it resumes after a kill, so that its output may be incomplete in between.
    """

    name: str
    command: tuple[str, ...]
    output: Path
    resumes: bool = False


def digests(output: Path) -> dict[str, str]:
    """Name -> SHA-256 of a file, or of every file of a folder; empty if the output does not exist.

    Files that depend on time or place are left out, and so are the seconds in a stage's record.
    """
    files = [output] if output.is_file() else sorted(path for path in output.rglob("*") if path.is_file())
    kept = [path for path in files if not any(part in str(path.relative_to(output.parent)) for part in VOLATILE)]
    return {str(path.relative_to(output.parent)): hashlib.sha256(_without_seconds(path)).hexdigest() for path in kept}


def _without_seconds(path: Path) -> bytes:
    """The content of a file; of a stage's record without its duration."""
    data = path.read_bytes()
    return json.dumps({**json.loads(data), "seconds": 0}).encode() if path.name == RECORD else data


def run(trial: Trial, folder: Path, *, kill_after_s: float | None = None) -> bool:
    """Run the command and kill all its processes after ``kill_after_s``; returns whether it ended before.

    Raises:
        SystemExit: it failed without being killed.
    """
    log = folder / "log.txt"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", *trial.command],
            cwd=folder,
            env={**os.environ, "OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(folder / "cache"), "PYTHONPATH": _HERE},
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        try:
            status = process.wait(kill_after_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return False
    if status != 0:
        raise SystemExit(f"error: {trial.name} ended with {status}:\n{log.read_text()[-2000:]}")
    return True


def try_kills(trial: Trial, folder: Path, *, kills: int, random: np.random.Generator) -> list[str]:
    """Kill a command ``kills`` times, run it again each time, and compare its output with that of an undisturbed run.

    Returns:
        A line for each difference.
    """
    wrong: list[str] = []
    began = time.monotonic()
    run(trial, folder)
    undisturbed_s = time.monotonic() - began
    wanted = digests(trial.output)
    killed = ended = 0
    while killed < kills:
        if trial.resumes:
            shutil.rmtree(trial.output)
        finished = False
        while not finished:
            share = random.uniform(EARLIEST, 0.6 if trial.resumes else 1.0)
            finished = run(trial, folder, kill_after_s=share * undisturbed_s if killed < kills else None)
            killed += not finished
            if not trial.resumes and digests(trial.output) not in ({}, wanted):
                wrong.append(f"{trial.name}: a partial output after kill {killed}")
        ended += 1
        found = digests(trial.output)
        differing = sorted(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name))
        if differing:
            wrong.append(f"{trial.name}: after {killed} kills {', '.join(differing)} differ")
    print(f"{trial.name}: {undisturbed_s:.0f} s undisturbed; {killed} kills, {ended} runs to the end", flush=True)
    return wrong


def make_trials(folder: Path) -> Iterator[Trial]:
    """The commands to kill."""
    from lvad_training.sample_set import render_sample_set

    recipe = yaml.safe_load(RECIPE)
    recipe["train"] |= {"steps": 12, "checkpoint_every": 3}
    recipe["data"] |= {"train_split": "train"}
    recipe["model"]["language"] = {**LANGUAGE, "text_encoder": {"kind": "huggingface", "name": _text_encoder(folder)}}
    recipe |= {"stages": STAGES, "output": str(folder / "run")}
    (folder / "stages.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    training, perception = "lvad_training.cli", "lvad_perception.cli"
    yield Trial("all stages", (training, "run", "stages.yaml", "--resume", "--quiet"), folder / "run", resumes=True)
    render_sample_set(folder / "long", images=FRAMES * 5 // 4, seed=1, size_hw=SIZE_HW)
    for storage in ("mcap", "sqlite3"):
        bag = folder / f"converted_{storage}"
        command = (perception, "bag", "from-bdd100k", "long", "--split", "train", "--storage", storage, "--overwrite")
        yield Trial(f"conversion to {storage}", (*command, "--output", str(bag)), bag)
    images = ("--calibration", "data/images/100k/train", "--calibration-images", "4", "--check-images", "4")
    small = folder / "quantized.onnx"
    yield Trial("quantize", (perception, "quantize", "model.onnx", *images, "--output", str(small)), small)
    if find_spec("tensorrt") is None:
        print("optimize: not killed, TensorRT is not installed")
    else:
        engine = folder / "model.engine"
        yield Trial("optimize", (perception, "optimize", "model.onnx", "--output", str(engine)), engine)


def _text_encoder(folder: Path) -> str:
    """A BERT of 16 channels with random weights."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizer

    target = folder / "bert"
    target.mkdir()
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "road", "car", "traffic", "light", "##s", "."]
    (target / "vocab.txt").write_text("\n".join(words))
    BertTokenizer(str(target / "vocab.txt")).save_pretrained(target)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    torch.manual_seed(7)
    BertModel(BertConfig(vocab_size=len(words), max_position_embeddings=32, **sizes)).save_pretrained(target)
    return str(target)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all trials; 0 when all outputs were complete and equal, 1 otherwise."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.hostile.kills", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments (default: %(default)s)")
    parser.add_argument("--kills", type=int, default=20, help="of each command (default: %(default)s)")
    parser.add_argument("--only", help="only the trials whose names contain this")
    options = parser.parse_args(arguments)
    random = np.random.default_rng(options.seed)
    wrong: list[str] = []
    with tempfile.TemporaryDirectory(prefix="lvad-kills-") as scratch:
        folder = Path(scratch)
        make_materials(folder)
        for trial in make_trials(folder):
            if options.only is None or options.only in trial.name:
                wrong += try_kills(trial, folder, kills=options.kills, random=random)
    print("\n".join(wrong) or "every output was complete and equal to that of an undisturbed run")
    return 1 if wrong else 0


_HERE: Final = str(Path(__file__).parents[2])

if __name__ == "__main__":
    sys.exit(main())
