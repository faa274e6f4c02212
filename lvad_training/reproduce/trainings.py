"""Row -> recipes: the base recipe with what makes the row, its folders, and its share of the budget."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from msgspec.structs import replace

from lvad_perception.errors import ConfigError
from lvad_perception.vocabulary import TASKS
from lvad_training.recipe.config import parse_recipe, recipe_to_dict, with_convolutional_heads
from lvad_training.recipe.schema import LanguageConfig, ModelConfig, Recipe, StageConfig, StagesConfig
from lvad_training.reproduce.base import PAPER_EPOCHS
from lvad_training.reproduce.tables import Method, Row


@dataclass(frozen=True, slots=True)
class Training:
    """One training of a row with one seed.

    Attributes:
        recipe: complete, in several stages.
        only: the one stage to run, or None for all.
        tasks: what its metrics count for.
    """

    recipe: Recipe
    only: str | None
    tasks: tuple[str, ...]


def trainings(base: Recipe, row: Row, *, seed: int, out: Path) -> Iterator[Training]:
    """What to run for a row with a seed.

    Trainings of the same setting, kind of heads and seed share lists, teachers and pseudo labels in ``row.folder``,
    under ``seedN``; each has a folder of its own in there.

    Nothing for a row that is absent.

    Raises:
        ConfigError: the budget is too small for the stages, or a method's published backbone was not looked for.
    """
    if row.absent is not None:
        return
    shared = out / row.folder / f"seed{seed}"
    for method in row.methods:
        recipe = _recipe(base, row, method, seed, shared)
        if method.teacher:
            yield Training(recipe, f"teach-{method.task}", (str(method.task),))
        else:
            yield Training(recipe, None, recipe.model.tasks)


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
    """Steps of the student in every row: adapt and finetune of the base recipe together."""
    adapt = base.stages.adapt if base.stages is not None else None
    return base.train.steps + (adapt.steps if adapt is not None else 0)


def budget(method: Method, total: int, adapt: StageConfig | None) -> tuple[int, int]:
    """Steps of adapt and of finetune; together ``total`` unless the method's own epochs say otherwise.

    Args:
        method: what is trained.
        total: steps of a finetuning without adapt, 36 epochs in the paper.
        adapt: the base recipe's stage; without it adapt takes one epoch of the 36.

    Raises:
        ConfigError: nothing is left for one of the two.
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
