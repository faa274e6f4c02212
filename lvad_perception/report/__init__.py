"""Self-contained HTML pages about training and evaluation: no scripts, no external files."""

from lvad_perception.report.page import Overlay, curve_charts, provenance, write_page, write_report

__all__ = ["Overlay", "curve_charts", "provenance", "write_page", "write_report"]
