"""A run's folder: what is in it, whether it can be continued, and what is logged into it."""

import contextlib
import json
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec
import yaml
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

import lvad_perception
from lvad_perception.errors import ConfigError
from lvad_perception.files import write_whole
from lvad_perception.metrics import Metrics
from lvad_perception.report.evaluation import FILE, Evaluation, to_bytes
from lvad_training.checkpoints import Checkpoint, load_checkpoint
from lvad_training.recipe.schema import Recipe, Section
from lvad_training.training.loop import StepReport
from lvad_training.training.provenance import fingerprint

CHECKPOINT, MODEL, CURVE, METRICS = "checkpoint.pt", "model.pt", "losses.jsonl", "metrics.json"
EVALUATION, EVENTS, RECIPE = FILE, "tensorboard", "recipe.yaml"


def find_state(folder: Path, recipe: Recipe, *, resume: bool, overwrite: bool) -> Checkpoint | None:
    """The run to continue, or None to start; writes nothing."""
    if resume and (folder / CHECKPOINT).is_file():
        state = load_checkpoint(folder / CHECKPOINT)
        check_same(fingerprint(state.recipe), fingerprint(recipe), folder)
        return state
    if not overwrite:
        check_empty(folder, checkpoint=CHECKPOINT, result=MODEL, resume=resume)
    return None


def check_empty(folder: Path, *, checkpoint: str, result: str, resume: bool) -> None:
    """Raise ConfigError when a folder holds a run that starting anew would remove.

    Args:
        folder: of the run.
        checkpoint: name of the file that a run is resumed from; not there where ``resume`` finds nothing to go on with.
        result: name of the file that is there when a run has ended.
        resume: whether the run was to be resumed.
    """
    if resume and (folder / result).exists():
        raise ConfigError(
            f"{folder}: holds {result}, but no {checkpoint} to resume from; give --overwrite or another output"
        )
    if not resume and any((folder / name).exists() for name in (checkpoint, result)):
        raise ConfigError(f"{folder}: holds a run already; give --resume, --overwrite or another output")


def prepare_folder(
    folder: Path,
    recipe: Section,
    first_step: int,
    *,
    results: Sequence[str] = (CHECKPOINT, MODEL, METRICS, EVALUATION),
) -> None:
    """Make the run's folder; a new run leaves nothing of an old one in it, whose files ``results`` names."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _trim_curve(folder / CURVE, first_step)
        write_whole(folder / RECIPE, yaml.safe_dump(msgspec.to_builtins(recipe), sort_keys=False))
        if first_step == 0:
            for name in results:
                (folder / name).unlink(missing_ok=True)
            shutil.rmtree(folder / EVENTS, ignore_errors=True)
    except OSError as err:
        raise ConfigError(f"{folder}: cannot be written to ({err.strerror}); choose another output") from err


def write_evaluation(folder: Path, evaluation: Evaluation) -> None:
    """Write what a report shows of a run's evaluation, whole or not at all. Raises ConfigError."""
    try:
        write_whole(folder / EVALUATION, to_bytes(evaluation))
    except OSError as err:
        raise ConfigError(f"{folder}: the evaluation cannot be written ({err.strerror}); free disk space") from err


def code_version() -> str:
    """The package's version, and in a git checkout the commit: "0.1.0 (v0.1.0-4-gabc1234-dirty)"."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():  # installed, perhaps inside somebody else's checkout
        return lvad_perception.__version__
    command = ["git", "-C", str(root), "describe", "--always", "--tags", "--dirty"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return lvad_perception.__version__
    commit = found.stdout.strip() if found.returncode == 0 else ""
    return f"{lvad_perception.__version__} ({commit})" if commit else lvad_perception.__version__


def check_same(before: dict[str, Any], after: dict[str, Any], folder: Path) -> None:
    """Refuse to resume with a recipe that would change the run; where it runs and how it is fed may differ.

    Args:
        before: the essence of the recipe that began the run.
        after: the essence of the one to go on with.
        folder: of the run, for the message.
    """
    if before != after:
        changed = ", ".join(section for section in before if before[section] != after[section])
        raise ConfigError(f"{folder}: the recipe changed since this run began (in {changed}); undo that or start anew")


def open_events(folder: Path, first_step: int) -> SummaryWriter:
    """The run's TensorBoard events; those of steps after ``first_step``, which come again, are hidden."""
    return SummaryWriter(str(folder / EVENTS), purge_step=first_step)


def logged(
    reports: Iterable[StepReport],
    folder: Path,
    writer: SummaryWriter | None,
    *,
    first_step: int,
    steps: int,
    progress: bool,
) -> Iterator[StepReport]:
    """Hand on a training's steps one by one, each written to the run's curve and events first.

    Args:
        reports: the training; it goes on as the steps are taken.
        folder: of the run, prepared.
        writer: of its events; None in a process that writes nothing.
        first_step: steps done before.
        steps: steps of the whole run.
        progress: show a progress bar.
    """
    bar = tqdm(reports, total=steps, initial=first_step, disable=not progress, unit="step")
    if writer is None:
        yield from bar
        return
    with (folder / CURVE).open("a", buffering=1, encoding="utf-8") as curve:
        for report in bar:
            log_step(report, writer, curve, bar)
            yield report


def log_step(report: StepReport, writer: SummaryWriter, curve: Any, bar: Any) -> None:
    """Write a step to the curve file, every tenth also to TensorBoard and the progress bar."""
    curve.write(json.dumps(asdict(report)) + "\n")
    if report.step % 10 == 0 or report.step == 1:
        for name, value in report.terms.items():
            writer.add_scalar(f"loss/{name}", value, report.step)
        writer.add_scalar("train/learning_rate", report.learning_rate, report.step)
        writer.add_scalar("train/gradient_norm", report.gradient_norm, report.step)
        writer.add_scalar("train/step_s", report.step_s, report.step)
        bar.set_postfix(loss=f"{report.terms['total']:.3f}", lr=f"{report.learning_rate:.1e}")


def read_curve(path: Path) -> list[dict[str, Any]]:
    """The logged steps, ``StepReport`` as plain values, in order; without lines that a kill cut off.

    Raises:
        OSError: there is no such file.
    """
    steps = []
    for text in path.read_text(encoding="utf-8").splitlines():
        with contextlib.suppress(ValueError):
            step = json.loads(text)
            if isinstance(step, dict) and {"step", "terms"} <= step.keys():
                steps.append(step)
    return steps


def log_metrics(metrics: Metrics | None, step: int, writer: SummaryWriter | None) -> None:
    """Write metrics to TensorBoard; nothing when there are none or in a process that does not write."""
    if metrics is None or writer is None:
        return
    for name, value in flatten(metrics.to_dict()):
        writer.add_scalar(f"val/{name}", value, step)


def flatten(content: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """The numbers of a nested mapping with their paths, "detection/AP50" and so on; per-class numbers are left out."""
    for key, value in content.items():
        if isinstance(value, dict) and not key.startswith("per_class"):
            yield from flatten(value, f"{prefix}{key}/")
        elif isinstance(value, float):
            yield f"{prefix}{key}", value


def _trim_curve(path: Path, step: int) -> None:
    """Drop logged steps after ``step``: a resumed run writes them again."""
    if not path.exists():
        return
    kept = [json.dumps(line) + "\n" for line in read_curve(path) if line["step"] <= step]
    write_whole(path, "".join(kept))
