"""What has been measured so far: metrics of every training that is finished, and their statistics over seeds."""

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from lvad_perception.errors import DatasetError
from lvad_perception.metrics import Metrics
from lvad_training.recipe.schema import Recipe
from lvad_training.reproduce.tables import Row, Table
from lvad_training.reproduce.trainings import Training, trainings
from lvad_training.training.records import read_record
from lvad_training.training.runs import CURVE, METRICS, read_curve
from lvad_training.training.stages import Stage

Point = tuple[float, float]


class StageRunner(Protocol):
    """What runs the stages of a recipe: the module ``lvad_training.training.stages``."""

    def plan(self, recipe: Recipe) -> list[Stage]:
        """The stages of a recipe in their order; reads and writes nothing."""

    def run(self, recipe: Recipe, *, resume: bool = False, only: str | None = None, progress: bool = True) -> Path:
        """Run them, skip what is up to date, and return the folder of the last one."""


@dataclass(frozen=True, slots=True)
class Column:
    """One number of a table, in percent.

    Attributes:
        key: as in ``paper.py``.
        title: as printed.
        path: where ``Metrics`` have it.
        constant: where they have the best that predicting one class everywhere reaches; None for boxes.
    """

    key: str
    title: str
    path: str
    constant: str | None = None

    def read(self, metrics: Metrics, *, constant: bool = False) -> float | None:
        """The number, or that of one class everywhere; None where the data set or the network does not define it."""
        path = self.constant if constant else self.path
        found: Any = metrics if path is not None else None
        for name in (path or "").split("."):
            found = getattr(found, name) if found is not None else None
        return None if found is None or found != found else float(found)


COLUMNS = {
    column.key: column
    for column in (
        Column("semantic_miou", "SS mIoU", "semantic.scores.mean_iou", "semantic.scores.constant_mean_iou"),
        Column("semantic_accuracy", "SS pACC", "semantic.scores.pixel_accuracy"),
        Column("drivable_miou", "DA mIoU", "drivable.three_class.mean_iou", "drivable.three_class.constant_mean_iou"),
        Column(
            "drivable_official", "DA mIoU official", "drivable.official.mean_iou", "drivable.official.constant_mean_iou"
        ),
        Column("drivable_accuracy", "DA pACC", "drivable.three_class.pixel_accuracy"),
        Column("ap", "mAP", "detection.scores.ap"),
        Column("ap50", "AP50", "detection.scores.ap50"),
        Column("ap75", "AP75", "detection.scores.ap75"),
    )
}
"""Everything that the page and results give; "DA mIoU" is over all three classes, as the paper's seems to be."""


@dataclass(frozen=True, slots=True)
class Cell:
    """A number over seeds.

    Attributes:
        values: one per seed, in percent.
    """

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Mean over seeds."""
        return statistics.fmean(self.values)

    @property
    def deviation(self) -> float | None:
        """Sample standard deviation (n - 1); None for one seed."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None


@dataclass(frozen=True, slots=True)
class RowResult:
    """What is known of a row.

    Attributes:
        row: the row.
        metrics: seed -> metrics, of the seeds for which all trainings of the row are finished.
        folders: seed -> where those are.
        curves: "seed 0" or "seed 0, detection" -> (step, total loss) over adapt and finetune.
        failures: seed -> why it has no result.
    """

    row: Row
    metrics: dict[int, Metrics]
    folders: dict[int, list[Path]]
    curves: dict[str, list[Point]]
    failures: dict[int, str] = field(default_factory=dict)

    def cell(self, key: str) -> Cell | None:
        """The numbers of a column; None when no seed has one."""
        values = [COLUMNS[key].read(metrics) for metrics in self.metrics.values()]
        known = tuple(value for value in values if value is not None)
        return Cell(known) if known else None


def collect(
    table: Table,
    base: Recipe,
    *,
    out: Path,
    seeds: int,
    runner: StageRunner,
    failures: dict[tuple[str, int], str] | None = None,
) -> list[RowResult]:
    """Read what is finished; a training without metrics leaves its row of that seed out.

    Args:
        table: what to look for.
        base: the base recipe.
        out: folder of all rows.
        seeds: how many to look for.
        runner: knows the folders of a recipe's stages.
        failures: (row key, seed) -> why a training ended without a result.

    Raises:
        DatasetError: a file of metrics cannot be read.
    """
    results = []
    for row in table.rows:
        result = RowResult(row, {}, {}, {})
        for seed in range(seeds):
            planned = list(trainings(base, row, seed=seed, out=out))
            if failures and (row.key, seed) in failures:
                result.failures[seed] = failures[row.key, seed]
            found = [read_metrics(result_folder(training, runner)) for training in planned]
            if found and all(found):
                parts = [_only(metrics, part.tasks) for metrics, part in zip(found, planned, strict=True) if metrics]
                result.metrics[seed] = _merged(parts)
                result.folders[seed] = [result_folder(training, runner) for training in planned]
            for training in planned:
                points = _curve(training, runner)
                if points:
                    task = f", {training.tasks[0]}" if len(planned) > 1 else ""
                    result.curves[f"seed {seed}{task}"] = points
        results.append(result)
    return results


def result_folder(training: Training, runner: StageRunner) -> Path:
    """Where the training's metrics are or will be."""
    return _stages_of(training, runner)[-1].folder


def read_metrics(folder: Path) -> Metrics | None:
    """The metrics of a finished training; None when it is not finished, whatever an interruption left behind.

    Raises:
        ConfigError: the stage's record cannot be read.
        DatasetError: the file cannot be read, or nothing was measured.
    """
    record = read_record(folder)
    if record is not None and record["state"] != "done":
        return None
    path = folder / METRICS
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as err:
        raise DatasetError(f"{path}: cannot be read ({type(err).__name__}); delete {folder} and run again") from err
    if content is None:
        raise DatasetError(f"{path}: nothing was measured; the data set has no validation split")
    return Metrics.from_dict(content)


def results_to_dict(table: Table, results: Sequence[RowResult], metadata: dict[str, object]) -> dict[str, Any]:
    """Everything of the page and all metrics of every seed, ready for JSON."""
    rows = {}
    for result in results:
        cells = {key: result.cell(key) for key in COLUMNS}
        rows[result.row.key] = {
            "title": result.row.title,
            "setting": result.row.setting,
            "summary": {
                key: {"mean": cell.mean, "deviation": cell.deviation, "values": list(cell.values)}
                for key, cell in cells.items()
                if cell is not None
            },
            "seeds": {
                str(seed): {"folders": [str(path) for path in result.folders[seed]], "metrics": metrics.to_dict()}
                for seed, metrics in result.metrics.items()
            },
            "failures": {str(seed): reason for seed, reason in result.failures.items()},
        }
    return {"table": table.name, "caption": table.caption, "facts": metadata, "rows": rows}


def _stages_of(training: Training, runner: StageRunner) -> list[Stage]:
    stages = runner.plan(training.recipe)
    if training.only is not None:
        return [stage for stage in stages if stage.name == training.only]
    return [stage for stage in stages if stage.name in ("adapt", "finetune")]


def _only(metrics: Metrics, tasks: Sequence[str]) -> dict[str, Any]:
    return {task: getattr(metrics, task) for task in tasks}


def _merged(parts: Sequence[dict[str, Any]]) -> Metrics:
    """The metrics of several single-task networks as those of one."""
    empty = dict.fromkeys(("detection", "semantic", "drivable"))
    return Metrics(**{**empty, **{task: scores for part in parts for task, scores in part.items()}})


def _curve(training: Training, runner: StageRunner) -> list[Point]:
    """Total loss over the steps of adapt and finetune, one after the other; lines that a kill cut off are left out."""
    points: list[Point] = []
    offset = 0
    for stage in _stages_of(training, runner):
        try:
            steps = read_curve(stage.folder / CURVE)
        except OSError:
            continue
        points += [(offset + step["step"], step["terms"]["total"]) for step in steps]
        offset += stage.recipe.train.steps
    return points
