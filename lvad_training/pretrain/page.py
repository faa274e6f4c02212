"""HTML page of a pretraining: nearest frames before and after, loss curves, and settings."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2

from lvad_perception.errors import ImageError
from lvad_perception.files import write_whole
from lvad_perception.report import curve_charts, provenance, write_page
from lvad_perception.report.frames import picture_panel
from lvad_training.pretrain.frames import Frame
from lvad_training.pretrain.neighbours import Nearest, draw_nearest
from lvad_training.training.runs import CURVE, read_curve

PAGE, PICTURE = "pretraining.html", "neighbours.png"
AFTER, BEFORE = "after", "before"


def write_pretraining_page(
    folder: Path,
    frames: Sequence[Frame],
    *,
    before: Nearest,
    after: Nearest,
    metadata: Mapping[str, object],
    command: str = "",
) -> Path:
    """Write ``neighbours.png`` and ``pretraining.html`` into a run's folder.

    Args:
        folder: of the run, with its curve.
        frames: all frames.
        before: nearest frames by the initial backbone.
        after: by the pretrained backbone.
        metadata: name -> value, of the run.
        command: the command line.

    Returns:
        Path of the page.

    Raises:
        ImageError: a frame cannot be read, or a file cannot be written.
    """
    picture = draw_nearest(frames, [(AFTER, after), (BEFORE, before)])
    path = folder / PICTURE
    try:
        write_whole(path, cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))[1].tobytes())
    except OSError as err:
        raise ImageError(f"{path}: cannot be written ({err.strerror}); free disk space or change output") from err
    explained = (
        '<p class="source">On the left a frame; beside it the frames most similar to it by the cosine of pooled '
        "features: above by the pretrained backbone, below by the weights that it started from. Frames close to it in "
        "the same folder or video are left out. Compare the two lines: does the upper one show more of the same kind "
        "of place, light and traffic?</p>"
    )
    label = "Frames and their nearest neighbours"
    panel = picture_panel(picture, label, f"full size: {PICTURE}")
    curves: dict[str, list[tuple[float, float]]] = {}
    for step in read_curve(folder / CURVE):
        for name, value in sorted(step["terms"].items(), key=lambda term: term[0] != "total"):
            curves.setdefault(name, []).append((step["step"], value))
    if len(curves) == 2:
        curves = {"total": curves["total"]}  # a single term is the total
    spread = (
        f"{after.spread:.2f} after, {before.spread:.2f} before (0: every frame has the same features; 1: most even)"
    )
    write_page(
        folder / PAGE,
        title="Pretraining",
        summary="Frames that the backbone finds similar, and the loss curves.",
        sections=[
            ("Nearest frames", f'{explained}<figure class="frame">{panel}</figure>'),
            ("Training", curve_charts(curves)),
            ("How it was made", provenance({**metadata, "spread of features": spread}, [command] if command else [])),
        ],
    )
    return folder / PAGE
