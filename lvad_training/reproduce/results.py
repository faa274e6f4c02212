"""Results of a table's finished trainings: metrics, curves, and statistics over seeds."""

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from lvad_perception.errors import DatasetError
from lvad_perception.metrics import Metrics
from lvad_perception.vocabulary import TASKS
from lvad_training.recipe.schema import Recipe
from lvad_training.reproduce.tables import Row, Table
from lvad_training.reproduce.trainings import TableRun, Training, trainings
from lvad_training.training.records import read_record
from lvad_training.training.runs import CURVE, METRICS, read_curve
from lvad_training.training.stages import Stage

Point = tuple[float, float]


class StageRunner(Protocol):
    """The interface of ``lvad_training.training.stages``, which tests replace."""

    def plan(self, recipe: Recipe) -> list[Stage]:
        """The stages of a recipe, in order; no file access."""

    def run(self, recipe: Recipe, *, resume: bool = False, only: str | None = None, progress: bool = True) -> Path:
        """Run the stages that are not up to date; returns the folder of the last one."""


@dataclass(frozen=True, slots=True)
class Column:
    """One number of a table, in percent.

    Attributes:
        key: as in ``paper.py``.
        title: as printed.
        path: its attribute path in ``Metrics``.
        constant: attribute path of the best constant prediction, one class everywhere; None for boxes.
    """

    key: str
    title: str
    path: str
    constant: str | None = None

    def read(self, metrics: Metrics, *, constant: bool = False) -> float | None:
        """The number, or the constant prediction's; None where the data set or the network does not define it."""
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
"""All columns of page and JSON. "DA mIoU" is the mean over all three classes, as in the paper, it seems."""


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
    """The results of a row.

    Attributes:
        row: the row.
        metrics: seed -> metrics, once all trainings of the row with this seed are finished.
        folders: seed -> folders of these metrics.
        curves: "seed 0" or "seed 0, detection" -> (step, total loss) over adapt and finetune.
        failures: seed -> why it has no result.
        stages: seed -> all stages of the finished trainings, including shared teachers and pseudo labels.
    """

    row: Row
    metrics: dict[int, Metrics]
    folders: dict[int, list[Path]]
    curves: dict[str, list[Point]]
    failures: dict[int, str] = field(default_factory=dict)
    stages: dict[int, list[Stage]] = field(default_factory=dict)

    def cell(self, key: str) -> Cell | None:
        """The numbers of a column; None without any."""
        values = [COLUMNS[key].read(metrics) for metrics in self.metrics.values()]
        known = tuple(value for value in values if value is not None)
        return Cell(known) if known else None


def collect(
    run: TableRun, runner: StageRunner, failures: Mapping[tuple[str, int], str] | None = None
) -> list[RowResult]:
    """Read the results of finished trainings, row by row.

    Args:
        run: the table.
        runner: plans the stages of a recipe.
        failures: (row key, seed) -> why a training ended without a result.

    Raises:
        DatasetError: a file of metrics cannot be read.
    """
    results = []
    for row in run.table.rows:
        result = RowResult(row, {}, {}, {})
        for seed in range(run.seeds):
            if failures and (row.key, seed) in failures:
                result.failures[seed] = failures[row.key, seed]
            planned = list(trainings(run.base, row, seed=seed, out=run.out))
            finished: dict[Path, dict[str, Any]] = {}
            for training in planned:
                stages = _stages_of(training, runner)
                own = [stage for stage in stages if stage.name in ("adapt", "finetune", training.only)]
                metrics = read_metrics(own[-1].folder)
                if metrics is not None:
                    finished[own[-1].folder] = {task: getattr(metrics, task) for task in training.tasks}
                    result.stages.setdefault(seed, []).extend(stages)
                if points := _curve(own):
                    task = f", {training.tasks[0]}" if len(planned) > 1 else ""
                    result.curves[f"seed {seed}{task}"] = points
            if finished and len(finished) == len(planned):
                # Several single-task networks count as one network.
                scores = {task: found for part in finished.values() for task, found in part.items()}
                result.metrics[seed] = Metrics(**{**dict.fromkeys(TASKS), **scores})
                result.folders[seed] = list(finished)
        results.append(result)
    return results


def read_metrics(folder: Path) -> Metrics | None:
    """The metrics of a finished training; None of an unfinished one, even if an interruption left a file.

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
    """The content of the page and all metrics of every seed, ready for JSON."""
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
    return [stage for stage in runner.plan(training.recipe) if training.only in (None, stage.name)]


def _curve(stages: Sequence[Stage]) -> list[Point]:
    """Total loss over the steps of stages, one after the other; without incomplete lines that a kill left."""
    points: list[Point] = []
    offset = 0
    for stage in stages:
        try:
            steps = read_curve(stage.folder / CURVE)
        except OSError:
            continue
        points += [(offset + step["step"], step["terms"]["total"]) for step in steps]
        offset += stage.recipe.train.steps
    return points
