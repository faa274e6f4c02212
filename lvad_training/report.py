"""HTML page that compares runs, made from the files in their folders without running a model."""

import platform
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import yaml

import lvad_perception
from lvad_perception.errors import ConfigError, DatasetError
from lvad_perception.report import Run, write_report
from lvad_perception.report.charts import Point
from lvad_perception.report.folder import read_run
from lvad_training.training.environment import distinct, read_environments
from lvad_training.training.runs import EVENTS, RECIPE, leaves

LAST_STAGE = "finetune"
VALIDATION: Final = {
    "val/detection/scores/ap50": "Boxes AP50",
    "val/detection/scores/ap": "Boxes AP",
    "val/semantic/scores/mean_iou": "Semantic mIoU",
    "val/drivable/three_class/mean_iou": "Drivable mIoU, 3 classes",
    "val/drivable/official/mean_iou": "Drivable mIoU, official",
}
"""TensorBoard tag -> title of the metrics that are plotted over the steps."""


def report_runs(
    folders: Sequence[Path], output: Path, *, title: str = "", frames: int = 8, score_threshold: float = 0.3
) -> list[Run]:
    """Write a page about one run, or about several side by side.

    Args:
        folders: of runs; of a run in several stages, the last stage is shown.
        output: HTML file to write.
        title: heading of the page; empty for the names of the runs.
        frames: number of worst frames to show.
        score_threshold: least score of the boxes drawn.

    Returns:
        The runs as shown, with a note where something is missing.

    Raises:
        DatasetError: a folder holds no run, or a damaged file.
        ConfigError: a run is named twice.
        ImageError: the page cannot be written.
    """
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise ConfigError("the same run is named twice; name each run once")
    runs = [read_folder(folder, name) for folder, name in zip(folders, short_names(folders), strict=True)]
    steps = [int(run.losses["total"][-1][0]) for run in runs if run.losses.get("total")]
    trained = f", {min(steps):,} to {max(steps):,} training steps" if steps and min(steps) != max(steps) else ""
    trained = f", {steps[0]:,} training steps" if steps and not trained else trained
    count = "One run" if len(runs) == 1 else f"{len(runs)} runs side by side"
    write_report(
        output,
        title=title or (f"Training {runs[0].name}" if len(runs) == 1 else "Trainings compared"),
        summary=f"{count}{trained}.",
        runs=runs,
        metadata={
            "page written by": f"lvad_perception {lvad_perception.__version__}",
            "machine": f"{platform.machine()}, {platform.system()}",
            "boxes drawn from a score of": score_threshold,
        },
        frames=frames,
        score_threshold=score_threshold,
    )
    return runs


def read_folder(folder: Path, name: str) -> Run:
    """A run with its recipe and the metrics measured during training. Raises DatasetError."""
    if not folder.is_dir():
        raise DatasetError(f"{folder} does not exist; give the output folder of lvad-train run")
    stage = folder / LAST_STAGE if (folder / LAST_STAGE).is_dir() else folder
    run = read_run(stage, name)
    settings = _settings(stage / RECIPE)
    known = {} if run.evaluation is None else run.evaluation.metadata
    metadata = {"folder": folder, **({"recipe": settings["preset"]} if "preset" in settings else {})}
    metadata |= {title: known[key] for key, title in (("data", "measured on"), ("split", "split")) if key in known}
    if starts := read_environments(stage):
        metadata |= {"trained on": distinct((start.hardware for start in starts), between=", then ")}
        metadata |= {"precision": distinct((start.precision_text for start in starts), between=", then ")}
    return replace(run, validation=_validation(stage / EVENTS), metadata=metadata, settings=settings)


def short_names(folders: Sequence[Path]) -> list[str]:
    """The shortest distinct names of folders: as few last parts of their paths as tell them apart."""
    parts = [folder.resolve().parts for folder in folders]
    longest = max(len(path) for path in parts)
    for count in range(1, longest):
        names = ["/".join(path[-count:]) for path in parts]
        if len(set(names)) == len(names):
            return names
    return [str(folder) for folder in folders]


def _settings(path: Path) -> dict[str, object]:
    """Dotted key -> value of a run's recipe, without ``output``; empty when there is none."""
    try:
        content: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, yaml.YAMLError) as err:
        raise DatasetError(f"{path} cannot be read as a recipe ({type(err).__name__}); restore or remove it") from err
    settings = leaves(content, ".") if isinstance(content, dict) else ()
    return {name: value for name, value in settings if name != "output"}


def _validation(folder: Path) -> dict[str, list[Point]]:
    """Title -> (step, value) of the metrics in the TensorBoard log; empty without a log."""
    if not folder.is_dir():
        return {}
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events: Any = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    tags = events.Tags()["scalars"]
    return {
        title: [(float(event.step), float(event.value)) for event in events.Scalars(tag)]
        for tag, title in VALIDATION.items()
        if tag in tags
    }
