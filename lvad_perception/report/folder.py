"""Reads the folder of a training run, as ``lvad-train run`` writes it, into a ``Run``."""

import json
from pathlib import Path
from typing import Any, Final

from lvad_perception.errors import DatasetError
from lvad_perception.metrics import Metrics
from lvad_perception.report.charts import Point
from lvad_perception.report.evaluation import FILE, read_evaluation
from lvad_perception.report.run import Run

CURVE: Final = "losses.jsonl"
METRICS: Final = "metrics.json"
MAX_POINTS: Final = 2000

_STEP_VALUES: Final = {"learning_rate": "learning rate", "gradient_norm": "gradient norm", "step_s": "seconds a step"}


def read_run(folder: Path, name: str) -> Run:
    """Read curves, metrics and evaluation of a run; its note states what is missing.

    Args:
        folder: of a finished or running training.
        name: of the run.

    Raises:
        DatasetError: it is not the folder of a training run, or a file in it is damaged.
    """
    found = [part for part in (CURVE, METRICS, FILE) if (folder / part).is_file()]
    if not found:
        raise DatasetError(
            f"{folder} is not the folder of a training run: it has no {CURVE}, {METRICS} or {FILE}; "
            "give the output folder of lvad-train run"
        )
    losses, step_values = _curves(folder / CURVE) if CURVE in found else ({}, {})
    remedy = f"measure it again with: lvad-train evaluate {folder}/model.pt --keep"
    evaluation = read_evaluation(folder / FILE, remedy=remedy)
    metrics = _metrics(folder / METRICS, remedy) if METRICS in found else None
    note = ""
    if evaluation is None and not (folder / "model.pt").is_file():
        note = "its training has not ended, so it shows curves only."
    elif evaluation is None:
        note = f"it has no {FILE}, so it shows no frames, confusions or curves of precision; {remedy}"
    return Run(name, metrics, evaluation, losses, step_values, note=note)


def _curves(path: Path) -> tuple[dict[str, list[Point]], dict[str, list[Point]]]:
    """(loss terms, the total first; other values of each step), each name -> (step, value) points, subsampled."""
    losses: dict[str, list[Point]] = {"total": []}
    step_values: dict[str, list[Point]] = {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        if lines and not lines[-1].endswith("}"):
            lines.pop()  # incomplete: it is just being written
        for line in lines[:: max(1, len(lines) // MAX_POINTS)]:
            report: dict[str, Any] = json.loads(line)
            step = float(report["step"])
            for term, value in report["terms"].items():
                losses.setdefault(term, []).append((step, float(value)))
            for key, title in _STEP_VALUES.items():
                if key in report:
                    step_values.setdefault(title, []).append((step, float(report[key])))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as err:
        raise DatasetError(
            f"{path} cannot be read as losses ({type(err).__name__}: {err}); remove it, or train again"
        ) from err
    return losses, step_values


def _metrics(path: Path, remedy: str) -> Metrics | None:
    try:
        plain: dict[str, Any] | None = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as err:
        raise DatasetError(f"{path} cannot be read as metrics ({err}); {remedy}") from err
    return None if plain is None else Metrics.from_dict(plain)
