"""What a report shows of one run, beside others: a training, or a replay of a bag."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape

from lvad_perception.metrics import Findings, Metrics
from lvad_perception.report.charts import Point, Series
from lvad_perception.report.evaluation import Evaluation

Curves = Mapping[str, Sequence[Point]]


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """One run. What it does not have is left out of the report.

    Attributes:
        name: what to call it; short, and unlike the others'.
        metrics: of its last evaluation; None takes those of ``evaluation``.
        evaluation: everything found by it.
        losses: name -> (step, value); the first is the total.
        course: the same of what else a step has, such as the learning rate.
        validation: the same of the metrics measured on the way.
        metadata: name -> value, such as versions and sizes.
        settings: name -> value, of what may differ between runs.
        note: one sentence on what is missing and how to get it; empty when nothing is.
    """

    name: str
    metrics: Metrics | None = None
    evaluation: Evaluation | None = None
    losses: Curves = field(default_factory=dict)
    course: Curves = field(default_factory=dict)
    validation: Curves = field(default_factory=dict)
    metadata: Mapping[str, object] = field(default_factory=dict)
    settings: Mapping[str, object] = field(default_factory=dict)
    note: str = ""

    @property
    def measured(self) -> Metrics | None:
        """Its metrics, from wherever they are."""
        return self.evaluation.findings.metrics if self.evaluation is not None else self.metrics

    @property
    def findings(self) -> Findings | None:
        """What its evaluation found."""
        return None if self.evaluation is None else self.evaluation.findings


def by_curve(runs: Sequence[Run], kind: str) -> dict[str, list[Series]]:
    """Name of a curve -> that curve of each run that has it, in the order of their first appearance.

    Args:
        runs: all runs of the report.
        kind: "losses", "course" or "validation".
    """
    found: dict[str, list[Series]] = {}
    for place, run in enumerate(runs):
        for name, points in getattr(run, kind).items():
            if points:
                found.setdefault(name, []).append(Series(place, run.name if len(runs) > 1 else "", points))
    return found


def key(series: Series) -> str:
    """A short piece of a curve, as it looks in the charts."""
    line = f'<path class="smooth {series.look}" d="M1,5L27,5"/>'
    return f'<svg class="key" viewBox="0 0 28 10" aria-hidden="true">{line}</svg>'


def run_keys(runs: Sequence[Run]) -> str:
    """The runs with their looks; nothing when there is only one."""
    if len(runs) < 2:
        return ""
    items = (f"<li>{key(Series(place, '', ()))}{escape(run.name)}</li>" for place, run in enumerate(runs))
    return f'<ul class="runs" aria-label="Runs">{"".join(items)}</ul>'
