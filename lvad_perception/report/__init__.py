"""Self-contained HTML reports of trainings and evaluations, without scripts and external files."""

from lvad_perception.report.page import provenance, write_page, write_report
from lvad_perception.report.run import Run
from lvad_perception.report.training import curve_charts

__all__ = ["Run", "curve_charts", "provenance", "write_page", "write_report"]
