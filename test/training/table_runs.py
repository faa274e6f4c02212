"""Runs the paper's tables with fake trainings, for tests of ``reproduce``."""

import argparse
import json
from dataclasses import asdict, replace

from lvad_perception.errors import EvaluationError, NonFiniteLossError
from lvad_training.reproduce.command import add_reproduce
from lvad_training.reproduce.run import reproduce
from lvad_training.reproduce.tables import TABLES
from lvad_training.reproduce.trainings import trainings
from lvad_training.training import stages
from lvad_training.training.environment import Environment, hardware, versions

BOXES = {"ap": 26.44, "ap50": 50.5, "ap75": 23.7, "ap_small": None, "ap_medium": None, "ap_large": None, "ar100": 40.0}


def some_metrics(tasks, shift):
    """Fake metrics; ``shift`` is added to each."""
    pixels = {"pixel_accuracy": 93.0 + shift, "iou": {}, "constant_mean_iou": 2.5}
    masks = {"images": 6, "truth_share": {}}
    drivable = {
        **masks,
        "official": {**pixels, "mean_iou": 90.0 + shift},
        "three_class": {**pixels, "mean_iou": 80.0 + shift},
    }
    found = {
        "detection": {"images": 6, "scores": {**BOXES, "ap": 26.0 + shift, "truth": 9}, "per_class": {}},
        "semantic": {**masks, "scores": {**pixels, "mean_iou": 60.0 + shift}},
        "drivable": drivable,
    }
    return {task: scores if task in tasks else None for task, scores in found.items()}


class FakeRunner:
    """Plans stages as the real runner does; instead of training it writes a training's output files.

    Args:
        stop_after: number of stages after which it raises KeyboardInterrupt.
        diverging, unmeasured: parts of the paths of stages that diverge or cannot be evaluated.
        measured: tasks with metrics.
        better: part of a stage's path -> what is added to its metrics.
    """

    plan = staticmethod(stages.plan)

    def __init__(
        self, stop_after=None, diverging=(), unmeasured=(), measured=("detection", "semantic", "drivable"), better=None
    ):
        self.trained = []
        self.better = better or {}
        self.measured = measured
        self.stop_after = stop_after
        self.diverging = diverging
        self.unmeasured = unmeasured

    def run(self, recipe, *, resume=False, only=None, progress=True):
        assert resume, "an interrupted row must be resumed"
        for stage in stages.plan(recipe):
            if only not in (None, stage.name) or (stage.folder / "metrics.json").exists():
                continue
            if len(self.trained) == self.stop_after:
                raise KeyboardInterrupt
            if any(part in str(stage.folder) for part in self.diverging):
                raise NonFiniteLossError("step 3: loss total is nan on images a.jpg; lower train.learning_rate")
            self.trained.append(stage.folder)
            if any(part in str(stage.folder) for part in self.unmeasured):
                raise EvaluationError("model.pt is finished, but was not evaluated: b.png cannot be decoded")
            stage.folder.mkdir(parents=True)
            tasks = {*stage.recipe.model.tasks} & {*self.measured}
            shift = sum(points for part, points in self.better.items() if part in str(stage.folder))
            metrics = some_metrics(tasks, 2.0 * stage.recipe.train.seed + shift)
            (stage.folder / "metrics.json").write_text(json.dumps(metrics))
            start = Environment(0, "no", "no", 1, hardware(), versions())
            (stage.folder / "environment.json").write_text(json.dumps([asdict(start)]))
            if stage.name == "pseudo":
                (stage.folder / "pseudo.txt").write_text("car 0.40 <17 boxes>\n")
            steps = range(1, stage.recipe.train.steps + 1)
            lines = [json.dumps({"step": step, "terms": {"total": 9.0 / step}}) for step in steps]
            (stage.folder / "losses.jsonl").write_text("\n".join(lines) + '\n{"step": 4, "te')
        return stage.folder


def plans(table, base, *, seed, out):
    """(row, training) of all trainings of a table, with the base backbone in place of published files."""
    for row in table.rows:
        methods = tuple(
            replace(method, backbone=base.model.backbone if method.pretraining else None) for method in row.methods
        )
        for training in trainings(base, replace(row, methods=methods), seed=seed, out=out):
            yield row, training


def run_table(name, base, out, runner, *, seeds=1):
    logged = []
    command = "lvad-train reproduce"
    page = reproduce(
        TABLES[name], base, out=out, seeds=seeds, runner=runner, command=command, progress=False, log=logged.append
    )
    return page, logged


def run_command(*words):
    parser = argparse.ArgumentParser()
    add_reproduce(parser.add_subparsers())
    options = parser.parse_args(["reproduce", *map(str, words)])
    return options.run(options)
