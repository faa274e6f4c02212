"""A run's folder: its files, whether the run can be resumed, and the log of its steps."""

import contextlib
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import yaml
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from lvad_perception.errors import ConfigError
from lvad_perception.files import write_whole
from lvad_perception.metrics import Metrics
from lvad_perception.report.evaluation import FILE, Evaluation, to_bytes
from lvad_training.recipe.schema import Section
from lvad_training.training.environment import record_environment
from lvad_training.training.loop import StepReport
from lvad_training.training.processes import this_process
from lvad_training.training.records import write_file

CHECKPOINT, MODEL, CURVE, METRICS = "checkpoint.pt", "model.pt", "losses.jsonl", "metrics.json"
EVALUATION, EVENTS, RECIPE = FILE, "tensorboard", "recipe.yaml"

T = TypeVar("T")


def find_checkpoint(
    folder: Path,
    load: Callable[[Path], T],
    *,
    fingerprint_of: Callable[[T], dict[str, Any]],
    fingerprint: dict[str, Any],
    result: str,
    resume: bool,
    overwrite: bool,
) -> T | None:
    """Load the checkpoint to resume from; None to start anew. Writes nothing.

    Args:
        folder: of the run.
        load: reads a checkpoint file.
        fingerprint_of: loaded checkpoint -> fingerprint of the recipe that the run began with.
        fingerprint: of the current recipe, without paths and loader settings.
        result: name of the file that a finished run has.
        resume: resume the run, if it has a checkpoint.
        overwrite: start anew although the folder holds a run.

    Raises:
        ConfigError: the recipe changed since the run began, or starting anew would remove a run.
        CheckpointError: the checkpoint is damaged.
    """
    if resume and (folder / CHECKPOINT).is_file():
        state = load(folder / CHECKPOINT)
        before = fingerprint_of(state)
        if before != fingerprint:
            changed = ", ".join(section for section in before if before[section] != fingerprint.get(section))
            raise ConfigError(
                f"{folder}: the recipe changed since this run began (in {changed}); undo that or start anew"
            )
        return state
    if resume and not overwrite and (folder / result).exists():
        raise ConfigError(
            f"{folder}: holds {result}, but no {CHECKPOINT} to resume from; give --overwrite or another output"
        )
    if not resume and not overwrite and any((folder / name).exists() for name in (CHECKPOINT, result)):
        raise ConfigError(f"{folder}: holds a run already; give --resume, --overwrite or another output")
    return None


@contextlib.contextmanager
def open_run(
    folder: Path,
    recipe: Section,
    *,
    first_step: int,
    precision: str,
    asked: str,
    results: Sequence[str] = (CHECKPOINT, MODEL, METRICS, EVALUATION),
) -> Iterator[SummaryWriter | None]:
    """Prepare a run's folder and open its TensorBoard events; in the main process, the only one that writes.

    Args:
        folder: of the run; it is made.
        recipe: written into the folder.
        first_step: steps done before. A new run, 0, removes the files of an old one; a resumed one hides later events.
        precision: precision that is computed in, never "auto".
        asked: the recipe's ``train.precision``.
        results: names of the files that a run of this kind leaves.

    Yields:
        The writer of the events, closed when the block ends; None in the other processes.

    Raises:
        ConfigError: the folder cannot be written to.
        DatasetError: ``environment.json`` of the run to resume is damaged.
    """
    if not this_process().is_main_process:
        yield None
        return
    _prepare_folder(folder, recipe, first_step, results)
    record_environment(folder, first_step=first_step, precision=precision, asked=asked)
    with contextlib.closing(SummaryWriter(str(folder / EVENTS), purge_step=first_step)) as writer:
        yield writer


def _prepare_folder(folder: Path, recipe: Section, first_step: int, results: Sequence[str]) -> None:
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


def record_steps(
    reports: Iterable[StepReport],
    folder: Path,
    writer: SummaryWriter | None,
    *,
    first_step: int,
    steps: int,
    save_every: int,
    save: Callable[[int], None],
    progress: bool,
) -> Iterator[StepReport]:
    """Pass on a training's steps one by one, each logged to the run's curve and events, and save checkpoints.

    Args:
        reports: the training, which advances as the steps are consumed.
        folder: of the run, prepared.
        writer: of the run's events; None in all processes but the main one, which log nothing.
        first_step: steps done before.
        steps: steps of the whole run.
        save_every: steps from one checkpoint to the next; the last step is saved in any case.
        save: saves the checkpoint after a step; called in every process, and all wait until all have returned.
        progress: show a progress bar, in the main process.
    """
    bar = tqdm(reports, total=steps, initial=first_step, disable=not progress or writer is None, unit="step")
    with contextlib.ExitStack() as files:
        if writer is not None:
            curve = files.enter_context((folder / CURVE).open("a", buffering=1, encoding="utf-8"))
        for report in bar:
            if writer is not None:
                log_step(report, writer, curve, bar)
            if report.step % save_every == 0 or report.step == steps:
                save(report.step)
                this_process().wait_for_everyone()
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
    """The logged steps in order, each a ``StepReport`` as plain values; lines that a kill cut off are skipped.

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


def _trim_curve(path: Path, step: int) -> None:
    """Drop logged steps after ``step``: a resumed run logs them again."""
    if not path.exists():
        return
    kept = [json.dumps(line) + "\n" for line in read_curve(path) if line["step"] <= step]
    write_whole(path, "".join(kept))


def write_evaluation(folder: Path, evaluation: Evaluation) -> None:
    """Write a run's ``evaluation.npz``, which reports are made from. Raises ConfigError when it cannot be written."""
    write_file(folder / EVALUATION, to_bytes(evaluation))


def log_metrics(metrics: Metrics | None, step: int, writer: SummaryWriter | None) -> None:
    """Write metrics to TensorBoard; does nothing without metrics or without a writer."""
    if metrics is None or writer is None:
        return
    for name, value in leaves(metrics.to_dict(), "/"):
        if isinstance(value, float) and "/per_class" not in name:
            writer.add_scalar(f"val/{name}", value, step)


def leaves(content: dict[str, Any], separator: str, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Values of a nested mapping with their paths, such as "detection/scores/ap50"."""
    for key, value in content.items():
        if isinstance(value, dict):
            yield from leaves(value, separator, f"{prefix}{key}{separator}")
        else:
            yield f"{prefix}{key}", value
