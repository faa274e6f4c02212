"""Runs the missing rows of a table and rewrites its page after each training."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import yaml

from lvad_perception.errors import ConfigError, EvaluationError, LvadError, NonFiniteLossError
from lvad_perception.files import removed_on_error, write_whole
from lvad_perception.report import write_page
from lvad_training.recipe.schema import Recipe
from lvad_training.reproduce.metadata import pseudo_reports, table_metadata
from lvad_training.reproduce.render import Context, heading, summary, to_markdown, to_sections
from lvad_training.reproduce.results import StageRunner, collect, results_to_dict
from lvad_training.reproduce.tables import Table
from lvad_training.reproduce.trainings import TableRun, Training, trainings
from lvad_training.training.environment import record_command
from lvad_training.training.provenance import differences, table_fingerprint
from lvad_training.training.records import RECORD
from lvad_training.training.runs import METRICS

BASE = "base.yaml"


class ReproduceError(LvadError):
    """Some trainings have no result; the page names them with the reason."""


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
    """Run the missing trainings of a table; write ``TABLE.md``, ``TABLE.html`` and ``TABLE.json`` into ``out``.

    All rows are trained with the first seed before the next one starts. After an interruption the same call continues.
    If a training diverges, or its model cannot be measured, it is reported and the others continue.

    Args:
        table: its rows.
        base: the base recipe of all rows.
        out: folder of all trainings; tables of the same base recipe share it, and the trainings they have in common.
        seeds: train with seeds 0 to ``seeds`` - 1.
        first_seed: skip the seeds before this one; the page shows every finished seed.
        runner: runs the stages of a recipe.
        command: the command line, for the page.
        smoke: mark the page's figures as meaningless.
        progress: show progress bars.
        log: called with a line that names each training.

    Returns:
        Path of the page.

    Raises:
        ConfigError: ``out`` holds rows of another base recipe, or cannot be written to.
        ReproduceError: some rows diverged or could not be measured; the page is written.
        CheckpointError, DatasetError, LabelError, ImageError: a checkpoint, label or image is invalid.
    """
    planned = [
        (row, seed, training)
        for seed in range(first_seed, seeds)
        for row in table.rows
        for training in trainings(base, row, seed=seed, out=out)
    ]
    run = TableRun(table, base, out, seeds)
    main = int(os.environ.get("RANK", "0")) == 0  # of several processes that train together, one writes
    failures: dict[tuple[str, int], str] = {}
    unmeasured = 0
    with removed_on_error(out / BASE, unless=lambda: any(out.rglob(RECORD))):  # removed again unless a stage began
        if main:
            _check_base(out, base)
        for number, (row, seed, training) in enumerate(planned, start=1):
            if main:
                part = f", {training.only}" if training.only is not None else ""
                log(f"\n[{number}/{len(planned)}] {row.title}, seed {seed}{part}")
            before = _finished(runner, training)
            try:
                runner.run(training.recipe, resume=True, only=training.only, progress=progress)
            except (NonFiniteLossError, EvaluationError) as err:  # raised in all processes, so that all continue
                unmeasured += isinstance(err, EvaluationError)
                if main:
                    log(str(err) if isinstance(err, EvaluationError) else f"diverged: {err}")
                failures[row.key, seed] = str(err)
            if main:
                for folder in _finished(runner, training) - before:
                    record_command(folder, command)
                _write(run, runner, failures, smoke=smoke)
    if unmeasured:
        raise ReproduceError(
            f"{len(failures)} of {len(planned)} trainings have no result, {unmeasured} of them as their models could "
            f"not be evaluated; {out / table.name}.html says why; fix that and run again, which measures these models"
        )
    if failures:
        raise ReproduceError(
            f"{len(failures)} of {len(planned)} trainings diverged; {out / table.name}.html says where; lower "
            "train.learning_rate for all rows with another --out, or run again to continue from their last checkpoints"
        )
    return out / f"{table.name}.html"


def _finished(runner: StageRunner, training: Training) -> set[Path]:
    """Folders of the training's stages that have metrics, its teachers' included."""
    return {stage.folder for stage in runner.plan(training.recipe) if (stage.folder / METRICS).is_file()}


def _write(run: TableRun, runner: StageRunner, failures: dict[tuple[str, int], str], *, smoke: bool) -> None:
    table, path = run.table, run.out / run.table.name
    results = collect(run, runner, failures)
    metadata = table_metadata(run, results)
    context = Context(run.seeds, metadata, pseudo_reports(run), smoke)
    _write_file(path.with_suffix(".md"), to_markdown(table, results, context))
    _write_file(path.with_suffix(".json"), json.dumps(results_to_dict(table, results, metadata), indent=1))
    write_page(
        path.with_suffix(".html"),
        title=heading(table),
        summary=summary(table, context),
        sections=to_sections(table, results, context),
    )


def _check_base(out: Path, base: Recipe) -> None:
    """Write the base recipe into the folder, or check that the existing one is the same."""
    path = out / BASE
    expected = json.loads(json.dumps(table_fingerprint(base)))  # in the types that YAML gives back
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        _write_file(path, yaml.safe_dump(expected, sort_keys=False))
        return
    except (OSError, yaml.YAMLError) as err:
        raise ConfigError(f"{path}: cannot be read ({type(err).__name__}); choose another --out") from err
    changed = differences(found, expected)
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
