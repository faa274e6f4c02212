"""Derives the recipes of a table's rows from the base recipe: changes, folders and budget."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from msgspec.structs import replace

from lvad_perception.errors import ConfigError
from lvad_perception.vocabulary import TASKS
from lvad_training.recipe.config import parse_recipe, recipe_to_dict, with_convolutional_heads
from lvad_training.recipe.schema import LanguageConfig, ModelConfig, Recipe, StageConfig, StagesConfig
from lvad_training.reproduce.base import PAPER_EPOCHS
from lvad_training.reproduce.tables import Method, Row, Table


@dataclass(frozen=True, slots=True)
class Training:
    """One training of a row with one seed.

    Attributes:
        recipe: a complete recipe with stages.
        only: the only stage to run, or None for all.
        tasks: tasks whose metrics it contributes to the row.
    """

    recipe: Recipe
    only: str | None
    tasks: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TableRun:
    """A table with everything that determines its trainings.

    Attributes:
        table: its rows.
        base: the base recipe.
        out: folder of all trainings; tables of the same base recipe share it.
        seeds: number of seeds of a complete table.
    """

    table: Table
    base: Recipe
    out: Path
    seeds: int

    def shared_folders(self) -> Iterator[tuple[str, int, Path]]:
        """(``Row.folder``, seed, path) of each folder of lists, teachers and pseudo labels."""
        for folder in dict.fromkeys(row.folder for row in self.table.rows):
            for seed in range(self.seeds):
                yield folder, seed, _shared(self.out, folder, seed)


def trainings(base: Recipe, row: Row, *, seed: int, out: Path) -> Iterator[Training]:
    """The trainings of a row with a seed; none for an absent row.

    Trainings of the same setting, kind of heads and seed share lists, teachers and pseudo labels in
    ``out/<row.folder>/seed<N>``, which also holds the folder of each.

    Raises:
        ConfigError: the budget is too small for the stages, or a published backbone was not set by ``with_files``.
    """
    if row.absent is not None:
        return
    shared = _shared(out, row.folder, seed)
    for method in row.methods:
        recipe = _recipe(base, row, method, seed, shared)
        if method.teacher:
            yield Training(recipe, f"teach-{method.task}", (str(method.task),))
        else:
            yield Training(recipe, None, recipe.model.tasks)


def _shared(out: Path, folder: str, seed: int) -> Path:
    return out / folder / f"seed{seed}"


def _recipe(base: Recipe, row: Row, method: Method, seed: int, shared: Path) -> Recipe:
    stages = base.stages or StagesConfig()
    total = total_steps(base)
    teach = stages.teach or StageConfig(steps=total)
    if method.task is not None:
        total = teach.steps  # a single-task network gets what its teacher gets
    adapt, finetune = budget(method, total, stages.adapt)
    name = f"{method.name}-{adapt}+{finetune}" if method.adapt else method.name
    recipe = replace(
        base,
        data=replace(base.data, sampler=method.sampler),
        model=_model(base, method),
        train=replace(base.train, steps=finetune, seed=seed),
        stages=StagesConfig(
            setting=row.setting,
            sizes=stages.sizes if stages.setting == row.setting else {},
            teach=teach if method.self_training or method.teacher else None,
            pseudo=stages.pseudo,
            adapt=replace(stages.adapt or StageConfig(steps=1), steps=adapt) if method.adapt else None,
            shared=str(shared),
            teacher_backbone=base.model.backbone if method.backbone is not None and method.self_training else None,
        ),
        output=str(shared / name),
    )
    return parse_recipe(recipe_to_dict(recipe), [], source=f"reproduce, row {row.key}")


def total_steps(base: Recipe) -> int:
    """Steps of the student in every row: the sum of adapt and finetune in the base recipe."""
    adapt = base.stages.adapt if base.stages is not None else None
    return base.train.steps + (adapt.steps if adapt is not None else 0)


def budget(method: Method, total: int, adapt: StageConfig | None) -> tuple[int, int]:
    """Steps of adapt and of finetune; their sum is ``total`` unless the method has epochs of its own.

    Args:
        method: the training.
        total: steps of a finetuning without adapt, 36 epochs in the paper.
        adapt: the base recipe's stage; None gives adapt one of the 36 epochs.

    Raises:
        ConfigError: no steps are left for finetuning.
    """
    if not method.adapt:
        return 0, total
    if method.epochs is not None:
        steps = max(1, round(method.epochs[0] * total / PAPER_EPOCHS))
        finetune = round(sum(method.epochs) * total / PAPER_EPOCHS) - steps
    else:
        steps = adapt.steps if adapt is not None else max(1, round(total / PAPER_EPOCHS))
        finetune = total - steps
    if finetune < 1:
        raise ConfigError(
            f"reproduce: adapt takes {steps} of {total} steps, which leaves none to finetune; "
            "give more train.steps or fewer stages.adapt.steps"
        )
    return steps, finetune


def _model(base: Recipe, method: Method) -> ModelConfig:
    if method.pretraining is not None and method.backbone is None:
        raise ConfigError(f"reproduce: {method.name} starts from a published file; give --weights-dir")
    heads = {task: None for task in TASKS if method.task not in (None, task) and not method.teacher}
    language = None
    if method.language is not None:
        language = replace(base.model.language or LanguageConfig(), **method.language)
    model = with_convolutional_heads(base).model if method.convolutional else base.model
    return replace(model, backbone=method.backbone or model.backbone, language=language, **heads)
