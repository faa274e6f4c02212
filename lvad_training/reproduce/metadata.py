"""The conditions of a table's measurements: data set, budget, network, hardware, versions, time."""

import contextlib
from collections.abc import Sequence

from lvad_perception.errors import DatasetError
from lvad_training.data.settings import read_lists
from lvad_training.pseudo.folder import TABLE as PSEUDO_TEXT
from lvad_training.recipe.schema import LanguageConfig, Recipe
from lvad_training.reproduce.base import images_of
from lvad_training.reproduce.results import RowResult
from lvad_training.reproduce.tables import Table
from lvad_training.reproduce.trainings import TableRun, budget, total_steps
from lvad_training.training.environment import distinct, read_environments
from lvad_training.training.records import read_record
from lvad_training.training.stages import LISTS


def table_metadata(run: TableRun, results: Sequence[RowResult]) -> dict[str, object]:
    """Names and values for the page, in its order; of finished trainings, teachers included."""
    finished = (result.stages.get(seed, []) for seed in range(run.seeds) for result in results)
    folders = dict.fromkeys(stage.folder for stages in finished for stage in stages)
    starts = [each for folder in folders for each in read_environments(folder)]
    metadata: dict[str, object] = {
        "data set": _data_set(run.base),
        **_lists(run),
        "seeds": ", ".join(map(str, range(run.seeds))),
        "budget": _budget(run.table, run.base),
        "network": _network(run.base),
        "published backbones": _published(run.table),
        "hardware": distinct((each.hardware for each in starts), between="\n"),
        "precision": distinct((each.precision_text for each in starts), between="\n"),
        "versions": distinct((each.versions for each in starts), between="\n"),
    }
    records = [record for folder in folders if (record := read_record(folder)) is not None]
    seconds = sum(record["seconds"] for record in records)
    if seconds:
        length = f"{seconds / 3600:.1f} hours" if seconds >= 3600 else f"{seconds / 60:.1f} minutes"
        metadata["time"] = f"{length} for these rows, teachers and pseudo labels included"
    metadata["commands"] = distinct((each.command for each in starts if each.command), between="\n")
    return {name: value for name, value in metadata.items() if value}


def pseudo_reports(run: TableRun) -> dict[str, str]:
    """Setting and seed -> report of the finished pseudo labels, as text."""
    return {
        f"{setting}, seed {seed}": path.read_text(encoding="utf-8").rstrip()
        for setting, seed, folder in run.shared_folders()
        if (path := folder / "pseudo" / PSEUDO_TEXT).is_file()
    }


def _data_set(base: Recipe) -> str:
    data, counts = base.data, images_of(base)
    annotated = ", ".join(f"{counts[task]:,} {task}" for task in base.model.tasks)
    chosen = [f"{key} {', '.join(names)}" for key in ("only", "exclude", "val_only") if (names := getattr(data, key))]
    return (
        f"{data.root}: {counts['all']:,} images in {data.train_split!r} (annotated: {annotated}), measured on "
        f"{counts['val']:,} in {data.val_split!r}" + "".join(f"; {text}" for text in chosen)
    )


def _lists(run: TableRun) -> dict[str, object]:
    """Setting -> description of its lists, of the first seed that has readable ones."""
    found: dict[str, object] = {}
    for setting, _, folder in run.shared_folders():
        if f"lists of {setting}" not in found and (folder / LISTS).is_file():
            with contextlib.suppress(DatasetError):
                found[f"lists of {setting}"] = read_lists(folder / LISTS).describe()
    return found


def _budget(table: Table, base: Recipe) -> str:
    train, stages = base.train, base.stages
    total = total_steps(base)
    teach = stages.teach.steps if stages is not None and stages.teach is not None else total
    pairs = {
        budget(method, total if method.task is None else teach, stages.adapt if stages is not None else None)
        for row in table.rows
        for method in row.methods
        if method.adapt
    }
    split = " or ".join(f"{adapt:,} + {finetune:,}" for adapt, finetune in sorted(pairs))
    return (
        f"{total:,} steps of {train.batch_size * train.accumulate} images per process"
        + (f" (with adapt: {split})" if pairs else "")
        + f", teachers {teach:,}; learning rate {train.learning_rate:g}, {train.schedule}"
    )


def _network(base: Recipe) -> str:
    model = base.model
    text = (model.language or LanguageConfig()).text_encoder
    height, width = model.network_hw
    found = f"preset {base.preset}, {width} x {height}; backbone {model.backbone.name}, weights "
    found += f"{model.backbone.weights or 'random'}; text encoder {text.kind} {text.name}"
    return found if text.kind == "huggingface" else f"{found}, weights {text.weights or 'random'}"


def _published(table: Table) -> str:
    methods = [method for row in table.rows for method in row.methods]
    files = (f"{m.pretraining}: {m.backbone.name}, {m.backbone.weights}" for m in methods if m.backbone)
    return distinct(files, between="\n")
