"""Run the rows of a table, as far as they are not there already, and write the page after each."""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import yaml

from lvad_perception.errors import ConfigError, EvaluationError, LvadError, NonFiniteLossError
from lvad_perception.files import removed_on_error, write_whole
from lvad_perception.report import write_page
from lvad_training.recipe.schema import Recipe
from lvad_training.reproduce.metadata import pseudo_reports, table_metadata
from lvad_training.reproduce.render import Context, heading, summary, to_markdown, to_sections
from lvad_training.reproduce.results import StageRunner, collect, read_metrics, result_folder, results_to_dict
from lvad_training.reproduce.tables import Table
from lvad_training.reproduce.trainings import Training, trainings
from lvad_training.training.environment import note_command
from lvad_training.training.provenance import differences, table_essence
from lvad_training.training.records import RECORD
from lvad_training.training.runs import METRICS

BASE = "base.yaml"


class ReproduceError(LvadError):
    """Some rows have no result; the page says which and why."""


def reproduce(
    table: Table,
    base: Recipe,
    *,
    out: Path,
    seeds: int,
    runner: StageRunner,
    command: str,
    first_seed: int = 0,
    smoke: bool = False,
    progress: bool = True,
    log: Callable[[str], None] = print,
) -> Path:
    """Run what is missing of a table and write ``TABLE.md``, ``TABLE.html`` and ``TABLE.json`` into ``out``.

    The first seed of all rows comes first. After an interruption the same call goes on where it was. A row whose
    training diverges, or whose model cannot be measured, is reported and the others go on.

    Args:
        table: which rows.
        base: what they have in common.
        out: folder of everything; tables with the same base recipe share it, and the rows that they have in common.
        seeds: train with seeds 0 to ``seeds`` - 1.
        first_seed: train from this seed on only; the page has whatever is there.
        runner: runs the stages of a recipe.
        command: the command line, for the page.
        smoke: the page says that its figures mean nothing.
        progress: show progress bars.
        log: is told in one line what each training is.

    Returns:
        Path of the page.

    Raises:
        ConfigError: ``out`` holds rows of another base recipe, or cannot be written to.
        ReproduceError: some rows diverged or could not be measured; the page is written.
        CheckpointError, DatasetError, LabelError, ImageError: as their names say.
    """
    planned = [
        (row, seed, training)
        for seed in range(first_seed, seeds)
        for row in table.rows
        for training in trainings(base, row, seed=seed, out=out)
    ]
    job = _Job(table, base, out, seeds, runner, smoke)
    main = int(os.environ.get("RANK", "0")) == 0  # several processes train together; one of them writes
    failures: dict[tuple[str, int], str] = {}
    unmeasured = 0
    # Until a stage began, no row depends on the file.
    with removed_on_error(out / BASE, unless=lambda: any(out.rglob(RECORD))):
        if main:
            _claim(out, base)
        for number, (row, seed, training) in enumerate(planned, start=1):
            if main:
                part = f", {training.only}" if training.only is not None else ""
                log(f"\n[{number}/{len(planned)}] {row.title}, seed {seed}{part}")
            before = _finished(job, training)
            try:
                runner.run(training.recipe, resume=True, only=training.only, progress=progress)
            except (NonFiniteLossError, EvaluationError) as err:  # raised in all processes, which go on together
                unmeasured += isinstance(err, EvaluationError)
                if main:
                    log(str(err) if isinstance(err, EvaluationError) else f"diverged: {err}")
                failures[row.key, seed] = str(err)
            if main:
                for folder in _finished(job, training) - before:
                    note_command(folder, command)
                _write(job, failures)
    if unmeasured:
        raise ReproduceError(
            f"{len(failures)} of {len(planned)} trainings have no result, {unmeasured} of them as their models could "
            f"not be evaluated; {out / table.name}.html says why; mend that and run again, which measures these models"
        )
    if failures:
        raise ReproduceError(
            f"{len(failures)} of {len(planned)} trainings diverged; {out / table.name}.html says where; lower "
            "train.learning_rate for all rows with another --out, or run again to go on from their last checkpoints"
        )
    return out / f"{table.name}.html"


@dataclass(frozen=True, slots=True)
class _Job:
    """What is fixed while a table runs; the names are those of the arguments of ``reproduce``."""

    table: Table
    base: Recipe
    out: Path
    seeds: int
    runner: StageRunner
    smoke: bool


def _finished(job: _Job, training: Training) -> set[Path]:
    """Folders of the training's stages that have been measured, its teachers' among them."""
    return {stage.folder for stage in job.runner.plan(training.recipe) if (stage.folder / METRICS).is_file()}


def _write(job: _Job, failures: dict[tuple[str, int], str]) -> None:
    table, out, runner = job.table, job.out, job.runner
    results = collect(table, job.base, out=out, seeds=job.seeds, runner=runner, failures=failures)
    stages = [
        stage
        for seed in range(job.seeds)
        for row in table.rows
        for training in trainings(job.base, row, seed=seed, out=out)
        if read_metrics(result_folder(training, runner)) is not None
        for stage in runner.plan(training.recipe)
        if training.only in (None, stage.name)
    ]
    metadata = table_metadata(table, job.base, out=out, seeds=job.seeds, stages=stages)
    context = Context(job.seeds, metadata, pseudo_reports(table, out=out, seeds=job.seeds), job.smoke)
    _write_file(out / f"{table.name}.md", to_markdown(table, results, context))
    _write_file(out / f"{table.name}.json", json.dumps(results_to_dict(table, results, metadata), indent=1))
    write_page(
        out / f"{table.name}.html",
        title=heading(table),
        summary=summary(table, context),
        sections=to_sections(table, results, context),
    )


def _claim(out: Path, base: Recipe) -> None:
    """Leave the base recipe in the folder, or make sure that the one in there is the same."""
    path = out / BASE
    wanted = json.loads(json.dumps(table_essence(base)))  # as it is read back
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        _write_file(path, yaml.safe_dump(wanted, sort_keys=False))
        return
    except (OSError, yaml.YAMLError) as err:
        raise ConfigError(f"{path}: cannot be read ({type(err).__name__}); choose another --out") from err
    changed = differences(found, wanted)
    if changed:
        raise ConfigError(
            f"{out}: holds rows of another base recipe ({', '.join(changed)} changed), which would not compare; "
            "undo that or choose another --out"
        )


def _write_file(path: Path, text: str) -> None:
    try:
        write_whole(path, text)
    except OSError as err:
        raise ConfigError(f"{path}: cannot be written ({err.strerror}); choose another --out") from err
