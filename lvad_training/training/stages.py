"""The stages of a recipe, teach, pseudo-label, adapt and finetune; up-to-date stages are skipped.

Checkpoints in ``stages.teachers`` label instead of teachers that a stage trains. A recipe with a section ``stages``
becomes an ordered list of stages, each with a folder of its own. Beside the stage's result, its folder holds
``stage.json``: digests of the inputs (``provenance``), the state, and the version of the code. A finished stage whose
inputs are unchanged is skipped; an interrupted one can be resumed.
"""

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from lvad_perception.errors import ConfigError, EvaluationError, LvadError
from lvad_perception.files import removed_on_error
from lvad_perception.provenance import ABSENT, Inputs, changed
from lvad_training.build import build_text_encoder
from lvad_training.checkpoints import resolve_start
from lvad_training.data.batches import recipe_split, selected_images
from lvad_training.data.settings import make_lists, read_lists, write_lists
from lvad_training.pseudo.folder import REPORT, mark_incomplete
from lvad_training.recipe.config import batch_norm_of
from lvad_training.recipe.schema import Recipe, StageConfig, StagesConfig, TrainConfig
from lvad_training.training.labelling import check_teachers, label
from lvad_training.training.processes import this_process
from lvad_training.training.provenance import measuring_inputs, pseudo_inputs, training_inputs
from lvad_training.training.records import RECORD, read_record, write_record
from lvad_training.training.runs import CHECKPOINT, METRICS, MODEL
from lvad_training.training.train import evaluate_folder, train

LISTS = "lists.json"


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of a recipe.

    Attributes:
        name: "teach-detection", …, "pseudo", "adapt" or "finetune".
        folder: of its result and its ``stage.json``.
        recipe: of its training; for "pseudo", of the data set whose images are labelled.
        teachers: for "pseudo", the checkpoint of each task's teacher.
    """

    name: str
    folder: Path
    recipe: Recipe
    teachers: tuple[tuple[str, Path], ...] = ()


def plan(recipe: Recipe) -> list[Stage]:
    """The stages of a recipe in order; a recipe without ``stages`` has only "finetune", in its output folder.

    Reads and writes no files. Raises CheckpointError for a teacher "shipped/NAME" that the package does not have.
    """
    stages = recipe.stages
    if stages is None:
        return [Stage("finetune", Path(recipe.output), recipe)]
    output = Path(recipe.output)
    shared = Path(stages.shared) if stages.shared is not None else output
    lists = recipe.data.lists if stages.setting == "full" else str(shared / LISTS)
    base = replace(recipe, stages=None, data=replace(recipe.data, lists=lists))
    planned: list[Stage] = []
    teachers = {task: resolve_start(name) for task, name in stages.given.items()}
    if stages.teach is not None:
        for task in [task for task in recipe.model.tasks if task not in teachers]:
            folder = shared / f"teach-{task}"
            planned.append(Stage(folder.name, folder, _teacher_recipe(base, task, stages, folder)))
            teachers[task] = folder / MODEL
    if teachers:
        planned.append(Stage("pseudo", shared / "pseudo", replace(base, stages=stages), tuple(teachers.items())))
        base = replace(base, data=replace(base.data, pseudo=str(shared / "pseudo")))
    if stages.adapt is not None:
        folder = output / "adapt"
        settings = replace(_stage_settings(base, stages.adapt), freeze="backbone")
        planned.append(Stage("adapt", folder, replace(base, train=settings, output=str(folder))))
        base = replace(
            base,
            train=replace(base.train, start_from=str(folder / MODEL), batch_norm=batch_norm_of(base)),
            model=replace(base.model, backbone=replace(base.model.backbone, weights=None)),
        )
    folder = output / "finetune"
    return [*planned, Stage("finetune", folder, replace(base, output=str(folder)))]


def run(
    recipe: Recipe,
    *,
    resume: bool = False,
    overwrite: bool = False,
    only: str | None = None,
    progress: bool = True,
    log: Callable[[str], None] = print,
) -> Path:
    """Run the stages of a recipe, or one of them, and skip those that are up to date.

    Args:
        recipe: with or without ``stages``.
        resume: continue a stage that was interrupted.
        overwrite: repeat stages whose inputs changed or that were interrupted, and the one named by ``only``.
        only: name of the one stage to run; its inputs must exist. "evaluate" measures the final model again.
        progress: show progress bars.
        log: called with one line for each stage.

    Returns:
        Folder of the last stage that ran or was up to date.

    Raises:
        EvaluationError: a model could not be measured, though all stages ran.
        ConfigError: there is no such stage, a stage was interrupted or its inputs changed and neither ``resume`` nor
            ``overwrite`` is given, an input is missing, or a given teacher has not the task or the classes.
        CheckpointError, DatasetError, LabelError, ImageError, NonFiniteLossError: see ``errors.py``.
    """
    stages = plan(recipe)
    last = stages[-1]
    if only == "evaluate":
        _require(last.folder / MODEL, "run the recipe without --stage first")
        evaluate_folder(last.folder, recipe=last.recipe, progress=progress)
        return last.folder
    chosen = [stage for stage in stages if only in (None, stage.name)]
    if not chosen:
        names = ", ".join([*(stage.name for stage in stages), "evaluate"])
        raise ConfigError(f"--stage {only}: this recipe has no such stage; it has {names}")
    if recipe.stages is None:
        train(recipe, resume=resume, overwrite=overwrite, progress=progress)
        return last.folder

    @functools.cache  # once, however many stages start
    def before_start() -> None:
        if only is None:
            build_text_encoder(recipe.model)  # fails now if it is missing, rather than after days of training teachers

    recipe_split(recipe, recipe.data.train_split)  # raises before anything is written
    if any(stage.teachers for stage in chosen):
        check_teachers(recipe)
    _make_lists(recipe, stages, before_start, log)
    unmeasured: EvaluationError | None = None
    for number, stage in enumerate(chosen, start=1):
        title = f"[{number}/{len(chosen)}] {stage.name}"
        problem = _run_stage(
            stage,
            title,
            resume=resume,
            overwrite=overwrite,
            again=only is not None,
            before_start=before_start,
            progress=progress,
            log=log,
        )
        if problem is not None and this_process().is_main_process:
            log(f"{title}: {problem}")
        unmeasured = problem or unmeasured
    if unmeasured is not None:
        raise unmeasured
    return chosen[-1].folder


def close() -> None:
    """Destroy the process group; call it when nothing more is to run."""
    this_process().destroy_process_group()


def _run_stage(
    stage: Stage,
    title: str,
    *,
    resume: bool,
    overwrite: bool,
    again: bool,
    before_start: Callable[[], None],
    progress: bool,
    log: Callable[[str], None],
) -> EvaluationError | None:
    """Run a stage, or skip it when it is up to date. Returns the error if only its evaluation failed."""
    processes = this_process()
    inputs, measured = _inputs(stage), _measuring_inputs(stage)
    record = read_record(stage.folder)
    # same: inputs are unchanged; finished: the stage ran to its end; done: and its result still exists.
    same = record is not None and not changed(record["inputs"], inputs)
    finished = record is not None and record["state"] == "done"
    done = finished and (stage.folder / (REPORT if stage.teachers else MODEL)).is_file()
    processes.wait_for_everyone()  # all have read the record before one process writes it
    log = log if processes.is_main_process else lambda _: None
    if record is not None and same and done and not (again and overwrite):
        stale = record["measured"] not in (None, measured)
        log(f"{title}: up to date in {stage.folder}" + (", and measured again" if stale else ""))
        if measured is None:
            return None
        return _measure(stage, {**record, "measured": measured}, stale=stale, progress=progress)
    if record is not None and not same and not overwrite:
        raise ConfigError(
            f"{stage.folder}: inputs of stage {stage.name} changed since it ran "
            f"({', '.join(changed(record['inputs'], inputs))}); "
            "give --overwrite to run it and the stages after it again, or another output"
        )
    if same and not finished and not (resume or overwrite):
        raise ConfigError(f"{stage.folder}: stage {stage.name} was interrupted; give --resume to go on with it")
    if record is None and not (resume or overwrite):
        _check_unused(stage)
    before_start()
    lost = same and finished and not done and not overwrite  # its result was removed
    continues = (same and not done and resume) or lost or (record is None and resume and not overwrite)
    log(f"{title}: {'goes on' if continues and record is not None else 'starts'} in {stage.folder}")
    started = time.time()
    problem = None
    before = record["seconds"] if continues and record is not None else 0.0
    existing = {*stage.folder.glob("*"), stage.folder / RECORD}
    with removed_on_error(stage.folder / RECORD, unless=lambda: not existing.issuperset(stage.folder.glob("*"))):
        if processes.is_main_process:
            write_record(stage.folder, inputs, "running", before)
            if lost and stage.teachers:
                mark_incomplete(stage.folder)
        if stage.teachers:
            label(stage.recipe, dict(stage.teachers), stage.folder, resume=continues, progress=progress)
        else:
            try:
                train(stage.recipe, resume=continues, overwrite=not continues, progress=progress)
            except EvaluationError as err:
                problem = err
    processes.wait_for_everyone()
    if processes.is_main_process:
        write_record(stage.folder, inputs, "done", before + time.time() - started, measured=measured)
    processes.wait_for_everyone()
    return problem


def _measure(stage: Stage, record: dict[str, Any], *, stale: bool, progress: bool) -> EvaluationError | None:
    """Measure a finished model if its validation data changed, or if its evaluation failed after the training."""
    due = stale or not (stage.folder / METRICS).is_file()
    processes = this_process()
    processes.wait_for_everyone()  # all have looked before one process writes
    if due:
        try:
            evaluate_folder(stage.folder, recipe=stage.recipe, progress=progress)
        except EvaluationError as err:
            return err
        if processes.is_main_process:
            write_record(stage.folder, **record)
        processes.wait_for_everyone()
    return None


def _measuring_inputs(stage: Stage) -> Inputs | None:
    """Digests of what the stage's metrics depend on beside its weights; unreadable validation data is no error here."""
    if stage.teachers:
        return None
    try:
        return measuring_inputs(stage.recipe)
    except LvadError:
        return {"validation": ABSENT}


def _make_lists(
    recipe: Recipe, stages: list[Stage], before_start: Callable[[], None], log: Callable[[str], None]
) -> None:
    """Write the lists of the recipe's setting, or check that existing ones are the same."""
    settings = recipe.stages
    if settings is None or settings.setting == "full":
        return
    processes = this_process()
    path = Path(str(stages[-1].recipe.data.lists))
    lists = make_lists(
        recipe_split(recipe, recipe.data.train_split),
        selected_images(recipe),
        setting=settings.setting,
        seed=recipe.train.seed,
        sizes=settings.sizes,
    )
    if path.is_file():
        if read_lists(path) != lists:
            raise ConfigError(
                f"{path}: holds other lists than setting {settings.setting} with seed {recipe.train.seed} gives; "
                "choose another output, or delete it and give --overwrite"
            )
    else:
        before_start()
        if processes.is_main_process:
            write_lists(lists, path)
            log(f"{path}: {lists.describe()}")
    processes.wait_for_everyone()


def _teacher_recipe(base: Recipe, task: str, stages: StagesConfig, folder: Path) -> Recipe:
    assert stages.teach is not None
    others = {other: None for other in base.model.tasks if other != task}
    backbone = stages.teacher_backbone or base.model.backbone
    settings = _stage_settings(base, stages.teach)
    return replace(
        base,
        model=replace(base.model, backbone=backbone, language=None, **others),
        train=replace(settings, prompt_multiplier=1.0),  # a teacher has no prompts; one value for all students
        output=str(folder),
    )


def _stage_settings(recipe: Recipe, stage: StageConfig) -> TrainConfig:
    changes = {key: value for key in ("learning_rate", "warmup_steps") if (value := getattr(stage, key)) is not None}
    return replace(recipe.train, steps=stage.steps, **changes)


def _inputs(stage: Stage) -> Inputs:
    """Digests of what the stage's result depends on; results of earlier stages must exist."""
    recipe = stage.recipe
    files = {"data.lists": recipe.data.lists, **{f"the teacher of {task}": str(path) for task, path in stage.teachers}}
    if not stage.teachers:
        files["train.start_from"] = recipe.train.start_from
    for name, file in files.items():
        if file is not None and not file.startswith("shipped/"):
            _require(Path(file), f"run the stage that writes it, or correct {name}")
    if stage.teachers:
        return pseudo_inputs(recipe, dict(stage.teachers))
    if recipe.data.pseudo is not None and not Path(recipe.data.pseudo).is_dir():
        raise ConfigError(f"{recipe.data.pseudo}: is not there; run the stage pseudo, or correct data.pseudo")
    return training_inputs(recipe)


def _check_unused(stage: Stage) -> None:
    """Raise ConfigError when a folder without a record holds a run, which may be anybody's."""
    found = next((name for name in (CHECKPOINT, MODEL, REPORT) if (stage.folder / name).exists()), None)
    if found is not None:
        raise ConfigError(
            f"{stage.folder}: holds {found} of a run that no {RECORD} describes; give --resume to go on with it, "
            "--overwrite to start anew, or another output"
        )


def _require(path: Path, remedy: str) -> None:
    if not path.is_file():
        raise ConfigError(f"{path}: is not there; {remedy}")
