"""A short training without checkpoints, used by the other examples."""

from collections.abc import Iterable

from accelerate import Accelerator

from lvad_training.losses.multitask import MultiTaskCriterion
from lvad_training.model.multitask import MultiTaskNet
from lvad_training.recipe.schema import TrainConfig
from lvad_training.samples import Batch
from lvad_training.training import loop
from lvad_training.training.schedule import optimizer_and_schedule


# --8<-- [start:train]
def train(
    settings: TrainConfig, net: MultiTaskNet, criterion: MultiTaskCriterion, batches: Iterable[Batch]
) -> list[loop.StepReport]:
    """Train one step per batch with the optimiser and schedule of ``lvad-train run``; returns one report per step."""
    accelerator = Accelerator(mixed_precision=settings.precision)
    optimizer, scheduler = optimizer_and_schedule(net, settings)
    model, optimizer = accelerator.prepare(net, optimizer)
    return list(
        loop.train_steps(
            accelerator=accelerator,
            model=model,
            criterion=criterion.to(accelerator.device),
            optimizer=optimizer,
            scheduler=scheduler,
            batches=batches,
            gradient_clip=settings.gradient_clip,
        )
    )


# --8<-- [end:train]
