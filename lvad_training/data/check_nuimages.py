"""Checks of nuImages' tables: missing images, dangling keys, skipped annotation."""

from collections.abc import Iterator, Sequence

from lvad_perception.datasets.nuimages import NuImagesSplit
from lvad_training.data.check_problems import Problem, listed, not_evaluated, plural, repeated_names

_MEANINGS = {
    "object_ann.sample_data_token": ("object", "key frame of a camera", "not used"),
    "surface_ann.sample_data_token": ("surface", "key frame of a camera", "not used"),
    "object_ann.category_token": ("object", "category", "no object, and their pixels unlabelled"),
    "surface_ann.category_token": ("surface", "category", "their pixels unlabelled"),
    "sample_data.calibrated_sensor_token": ("image", "sensor", "data.cameras does not find them"),
    "sample_data.sample_token": ("image", "sample", "their place is unknown"),
    "sample.log_token": ("sample", "log", "their place is unknown"),
}
"""Foreign key -> (noun of its rows, noun of its target, consequence for rows whose target does not exist)."""


def nuimages_problems(splits: Sequence[NuImagesSplit]) -> Iterator[Problem]:
    """Problems that are found without opening an image or a mask."""
    for split in splits:
        if not split.table.is_annotated:
            message = f"split '{split.name}' has no annotation: not trained on{not_evaluated(split.name)}"
            yield Problem("warning", str(split.table.folder), message)
        yield from _missing_images(split)
        yield from _table_problems(split)
    # The mini version is a subset of the others by design.
    yield from repeated_names([split for split in splits if split.name != "mini"])


def _missing_images(split: NuImagesSplit) -> Iterator[Problem]:
    missing = [split.name_of(i) for i in range(len(split)) if not split.image_path(i).is_file()]
    if missing:
        message = (
            f"{plural(len(missing), 'image')} of {len(split):,} in split '{split.name}' not there: {listed(missing)}; "
            "unpack nuimages-v1.0-all-samples.tgz (or -mini.tgz) there"
        )
        yield Problem("error" if split.table.is_annotated else "warning", str(split.root / "samples"), message)


def _table_problems(split: NuImagesSplit) -> Iterator[Problem]:
    folder, problems = split.table.folder, split.table.problems
    for key, (count, tokens) in sorted(problems.dangling.items()):
        table, field = key.split(".")
        what, target, result = _MEANINGS[key]
        shown = ", ".join(tokens) + (f" and {count - len(tokens):,} more" if count > len(tokens) else "")
        message = f"{plural(count, what)} whose {field} leads to no {target}: {shown}; {result}"
        yield Problem("warning", str(folder / f"{table}.json"), message)
    for category, count in sorted(problems.unknown_categories.items()):
        message = f"unknown category '{category}' of {plural(count, 'annotation')}; skipped, their pixels unlabelled"
        yield Problem("warning", str(folder / "category.json"), message)
    count, tokens = problems.degenerate_boxes
    if count:
        message = f"{plural(count, 'box', 'boxes')} without area: {', '.join(tokens)}; skipped"
        yield Problem("warning", str(folder / "object_ann.json"), message)
    if problems.duplicates:
        message = f"images of several key frames: {listed(sorted(set(problems.duplicates)))}; the first counts"
        yield Problem("warning", str(folder / "sample_data.json"), message)
