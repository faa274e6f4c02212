"""``Run``: one training or one replayed bag, as a report shows it beside others."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape

from lvad_perception.metrics import Findings, Metrics
from lvad_perception.report.charts import Point, Series
from lvad_perception.report.evaluation import Evaluation

Curves = Mapping[str, Sequence[Point]]


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """One run. Sections for which it has no data are left out of the report.

    Attributes:
        name: short and unique in the report.
        metrics: of its last evaluation; only used where ``evaluation`` is None.
        evaluation: all results of that evaluation.
        losses: name -> (step, value) points; the first is the total.
        step_values: other values logged at each step, such as the learning rate; as ``losses``.
        validation: metrics that were measured during training; as ``losses``.
        metadata: name -> value, such as versions and sizes.
        settings: name -> value of settings that may differ between runs.
        note: one sentence on what is missing and how to get it; empty when nothing is.
    """

    name: str
    metrics: Metrics | None = None
    evaluation: Evaluation | None = None
    losses: Curves = field(default_factory=dict)
    step_values: Curves = field(default_factory=dict)
    validation: Curves = field(default_factory=dict)
    metadata: Mapping[str, object] = field(default_factory=dict)
    settings: Mapping[str, object] = field(default_factory=dict)
    note: str = ""

    @property
    def measured(self) -> Metrics | None:
        """The metrics of ``evaluation``, else ``metrics``."""
        return self.evaluation.findings.metrics if self.evaluation is not None else self.metrics

    @property
    def findings(self) -> Findings | None:
        """The findings of ``evaluation``; None without one."""
        return None if self.evaluation is None else self.evaluation.findings


def by_curve(runs: Sequence[Run], kind: str) -> dict[str, list[Series]]:
    """Name of a curve -> this curve of each run that has it; names in the order of their first appearance.

    Args:
        runs: all runs of the report.
        kind: "losses", "step_values" or "validation".
    """
    curves: dict[str, list[Series]] = {}
    for index, run in enumerate(runs):
        for name, points in getattr(run, kind).items():
            if points:
                curves.setdefault(name, []).append(Series(index, run.name if len(runs) > 1 else "", points))
    return curves


def key(series: Series) -> str:
    """A short line in the style of a series, for legends."""
    line = f'<path class="smooth {series.css_class}" d="M1,5L27,5"/>'
    return f'<svg class="key" viewBox="0 0 28 10" aria-hidden="true">{line}</svg>'


def run_keys(runs: Sequence[Run]) -> str:
    """A legend of the runs with their line styles; empty for a single run."""
    if len(runs) < 2:
        return ""
    items = (f"<li>{key(Series(index, '', ()))}{escape(run.name)}</li>" for index, run in enumerate(runs))
    return f'<ul class="runs" aria-label="Runs">{"".join(items)}</ul>'
