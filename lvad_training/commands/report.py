"""The command report: an HTML page that compares runs."""

import argparse
import sys
from pathlib import Path

from lvad_perception.errors import ConfigError
from lvad_training.commands.arguments import Commands


def add_report_command(commands: Commands) -> None:
    """Add it to the command line's sub-parsers."""
    parser = commands.add_parser(
        "report",
        help="show runs side by side as an HTML page",
        description="Write one self-contained page about one run, or several side by side: curves, metrics per class, "
        "precision and recall, confusions, weather and time of day, and the worst frames. It runs no model.",
        epilog="example: lvad-train report runs/r50 runs/edge --output compared.html",
    )
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="output folder of lvad-train run")
    parser.add_argument("--output", "-o", type=Path, required=True, metavar="FILE.html", help="page to write")
    parser.add_argument("--title", default="", help="heading of the page")
    parser.add_argument("--frames", type=int, default=8, metavar="N", help="worst frames to show (default: 8)")
    parser.add_argument(
        "--score-threshold", type=float, default=0.3, metavar="S", help="draw boxes from this score on (default: 0.3)"
    )
    parser.set_defaults(run=_report)


def _report(options: argparse.Namespace) -> int:
    from lvad_training.report import report_runs

    if options.frames < 0:
        raise ConfigError(f"--frames {options.frames} is negative; give 0 for none")
    runs = report_runs(
        options.runs,
        options.output,
        title=options.title,
        frames=options.frames,
        score_threshold=options.score_threshold,
    )
    for run in runs:
        if run.note:
            print(f"{run.name}: {run.note}", file=sys.stderr)
    print(f"{options.output}: {options.output.stat().st_size / 1e6:.1f} MB; open it in a browser")
    return 0
