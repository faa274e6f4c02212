"""Prepares the training of a small model with given teachers, on images and videos without any label.

The output folder gets ``frames/`` (frames of videos), ``unlabelled/`` (links to all frames, as a data set in BDD100K's
layout with a training and a validation split), ``held-out/pseudo/`` (the teachers' labels of the validation split), and
``data/``, which joins the two. The recipe trains on ``data/`` in stages: *pseudo* labels the training split, *finetune*
is the run, measured against the teachers' labels of the validation split.
"""

import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from msgspec.structs import replace

from lvad_perception.errors import ConfigError, DatasetError
from lvad_perception.files import write_whole
from lvad_perception.media.images import IMAGE_SUFFIXES
from lvad_perception.vocabulary import TASKS
from lvad_training.checkpoints import load_checkpoint, resolve_start
from lvad_training.pretrain.frames import Frame, find_frames
from lvad_training.pretrain.recipe import FramesConfig
from lvad_training.recipe.config import parse_recipe
from lvad_training.recipe.schema import Recipe, StagesConfig, TeachersConfig
from lvad_training.training import stages
from lvad_training.training.labelling import check_teachers
from lvad_training.training.processes import this_process

SHORT_SIDE_PX: Final = 720
"""Frames of videos are shrunk to the size of BDD100K's images."""
_TRAIN, _VAL = "train", "val"
_SETTINGS: Final[dict[str, dict[str, Any]]] = {
    "edge": {
        "learning_rate": 6e-4,
        "weight_decay": 0.02,
        "warmup_steps": 50,
        "start_from": "shipped/edge",
        "batch_norm": "batch",
    }
}
"""Preset -> keys of ``train`` that differ from the schema's defaults, as in config/train_edge.yaml."""
_STEPS: Final = 2000


@dataclass(frozen=True, slots=True)
class Teachers:
    """Checkpoints that label.

    Attributes:
        files: task -> checkpoint.
        box_score: smallest score of a box that becomes a label: the detection teacher's own ``score_threshold``.
    """

    files: dict[str, str]
    box_score: float | None


def choose_teachers(paths: Sequence[Path]) -> Teachers:
    """Which checkpoint labels which task: the first one with a head for it.

    Raises:
        ConfigError: a checkpoint is left without a task.
        CheckpointError: one is missing or damaged.
    """
    files: dict[str, str] = {}
    box_score = None
    for path in paths:
        model = load_checkpoint(resolve_start(str(path))).recipe.model
        new = [task for task in model.tasks if task not in files]
        if not new:
            raise ConfigError(
                f"--teachers: {path} would label nothing, since a file before it has its heads "
                f"({', '.join(model.tasks)}); leave it out or name it first"
            )
        files |= dict.fromkeys(new, str(path))
        if "detection" in new:
            box_score = model.score_threshold
    return Teachers({task: files[task] for task in TASKS if task in files}, box_score)


def distil_recipe(teachers: Teachers, output: Path, *, preset: str = "edge", overrides: Sequence[str] = ()) -> Recipe:
    """The recipe of the student: heads for the tasks that have a teacher, and the stages *pseudo* and *finetune*.

    Args:
        teachers: of ``choose_teachers``.
        output: folder of everything that is written.
        preset: the student's architecture.
        overrides: ``a.b=value`` texts, each value parsed as YAML.

    Raises:
        ConfigError: a key is unknown, a value impossible, or a key is set that follows from the other arguments.
    """
    pseudo = {"images": "all"} | ({} if teachers.box_score is None else {"box_score": teachers.box_score})
    content = {
        "preset": preset,
        "data": {"root": str(output / "data"), "train_split": _TRAIN, "val_split": _VAL},
        "model": {task: None for task in TASKS if task not in teachers.files},
        "train": {"steps": _STEPS, **_SETTINGS.get(preset, {})},
        "stages": {"teachers": teachers.files, "pseudo": pseudo},
        "output": str(output),
    }
    recipe = parse_recipe(content, list(overrides), source="distil")
    plain = parse_recipe(content, [], source="distil")
    stages_config = recipe.stages or StagesConfig()
    fixed = {
        "preset (give --preset)": recipe.preset != plain.preset,
        "output (give --output)": recipe.output != plain.output,
        "stages.teachers (give --teachers)": stages_config.teachers != TeachersConfig(**teachers.files),
        "stages.setting": stages_config.setting != "full",
        "stages.shared": stages_config.shared is not None,
        **{
            f"data.{key}": getattr(recipe.data, key) != getattr(plain.data, key)
            for key in ("root", "train_split", "val_split", "lists")
        },
    }
    for key, changed in fixed.items():
        if changed:
            raise ConfigError(f"distil: {key} follows from the other options; leave it out of --set")
    if untaught := [task for task in recipe.model.tasks if task not in teachers.files]:
        raise ConfigError(
            f"distil: no checkpoint of --teachers has a head for {', '.join(untaught)}, so the model cannot learn it; "
            f"name one, or leave model.{untaught[0]} out"
        )
    return recipe


def prepare(
    recipe: Recipe,
    data: Path,
    *,
    fps: float,
    held_out: float,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = True,
    log: Callable[[str], None] = print,
) -> None:
    """Find the frames, divide them into two splits, and label the validation split.

    Under ``accelerate launch`` the processes share the videos and the frames to label.

    Args:
        recipe: of ``distil_recipe``.
        data: folder of images and videos at any depth, or one video.
        fps: frames per second to take from videos.
        held_out: share of the frames that are not trained on but measured, the last of each folder and video; 0 for
            no measuring.
        resume: continue an interrupted labelling.
        overwrite: label again although frames or teachers changed.
        progress: show progress bars.
        log: called with one line for each piece of work.

    Raises:
        ConfigError: inputs changed, and neither ``resume`` nor ``overwrite`` allows for it; or a folder cannot be
            written; or a teacher was trained in other classes.
        CheckpointError, DatasetError, ImageError: see ``errors.py``.
    """
    check_teachers(recipe)
    processes, output = this_process(), Path(recipe.output)
    frames = find_frames(
        FramesConfig(root=str(data), fps=fps, short_side_px=SHORT_SIDE_PX),
        output / "frames",
        skip=[output],
        process=processes.process_index,
        processes=processes.num_processes,
        progress=progress and processes.is_main_process,
    )
    splits = divide(frames, held_out)
    if processes.is_main_process:
        counts = f"{len(frames):,} frames of {data}, {len(splits[_VAL]):,} of them held out"
        log(counts if splits[_VAL] else f"{counts}: the model will not be measured")
        _write(splits, output)
    processes.wait_for_everyone()
    if splits[_VAL]:
        unlabelled = replace(recipe.data, root=str(output / "unlabelled"), train_split=_VAL)
        stages.run(
            replace(recipe, data=unlabelled, output=str(output / "held-out")),
            only="pseudo",
            resume=resume,
            overwrite=overwrite,
            progress=progress,
            log=lambda line: log(f"held-out frames: {line}"),
        )


def divide(frames: Sequence[Frame], held_out: float) -> dict[str, list[Frame]]:
    """Split -> frames. The last frames of each sequence are held out, since neighbours in a video are alike."""
    sequences: dict[str, list[Frame]] = {}
    for frame in frames:
        sequences.setdefault(frame.sequence, []).append(frame)
    splits: dict[str, list[Frame]] = {_TRAIN: [], _VAL: []}
    for sequence in sequences.values():
        kept = len(sequence) - int(held_out * len(sequence))
        splits[_TRAIN] += sequence[:kept]
        splits[_VAL] += sequence[kept:]
    return splits


def _write(splits: Mapping[str, Sequence[Frame]], output: Path) -> None:
    """Write the links to the frames, and the data set that joins them with the labels of the held-out frames."""
    files = {split: {_file(frame): frame for frame in frames} for split, frames in splits.items()}
    names = {split: {file: frame.name for file, frame in of.items()} for split, of in files.items()}
    try:
        write_whole(output / "unlabelled" / "frames.json", json.dumps(names, indent=1))
        for split, of in files.items():
            folder = output / "unlabelled/images/100k" / split
            for link in folder.glob("*"):
                if link.name not in of:
                    link.unlink()
            for file, frame in of.items():
                _link(folder / file, frame.path.resolve())
        _link(output / "data/images", Path("../unlabelled/images"))
        _link(output / "data/labels", Path("../held-out/pseudo/labels"))
    except OSError as err:
        raise DatasetError(
            f"{output}: links to the frames cannot be written ({err.strerror}); choose another --output, on a file "
            "system that has symbolic links"
        ) from err


def _file(frame: Frame) -> str:
    """File name of a frame in its split: unique, and readable. Images are decoded by content, not by suffix."""
    name = re.sub(r"[^\w.@-]+|_+", "_", frame.name.removesuffix(frame.path.suffix), flags=re.ASCII)
    suffix = frame.path.suffix.lower()
    digest = hashlib.sha256(os.fsencode(frame.name)).hexdigest()[:8]
    return f"{name[-100:].lstrip('.')}-{digest}{suffix if suffix in IMAGE_SUFFIXES else '.jpg'}"


def _link(link: Path, target: Path) -> None:
    if link.is_symlink() and link.readlink() == target:
        return
    link.parent.mkdir(parents=True, exist_ok=True)
    link.unlink(missing_ok=True)
    link.symlink_to(target)
