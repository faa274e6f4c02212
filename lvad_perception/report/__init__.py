"""One self-contained HTML page about a training run and its evaluation: no scripts, no external files."""

from lvad_perception.report.page import Overlay, write_report

__all__ = ["Overlay", "write_report"]
