"""One training: fit, save, resume, evaluate. It writes its recipe, curve and metrics beside its checkpoint.

A run's folder holds ``checkpoint.pt`` (to resume), ``model.pt`` (the result), ``recipe.yaml``, ``losses.jsonl`` (one
line a step), ``metrics.json`` and ``tensorboard/``.
"""

import contextlib
import json
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from lvad_perception.errors import CheckpointError, ConfigError
from lvad_perception.metrics import Evaluator, Metrics
from lvad_training import loop
from lvad_training.batches import evaluation_batches, training_batches
from lvad_training.build import build_criterion, build_model
from lvad_training.checkpoints import (
    Checkpoint,
    load_checkpoint,
    load_weights,
    resolve_start,
    save_checkpoint,
)
from lvad_training.recipe import Recipe, TrainConfig
from lvad_training.runs import CHECKPOINT, CURVE, METRICS, MODEL, find_state, log_metrics, log_step, prepare_folder
from lvad_training.schedule import learning_rate_factor, parameter_groups


def train(recipe: Recipe, *, resume: bool = False, overwrite: bool = False, progress: bool = True) -> Path:
    """Train the recipe's model on all its tasks at once and evaluate it: the *finetune* stage.

    Run under ``accelerate launch`` it uses every process and machine given to it; nothing here changes.

    Args:
        recipe: what to do; its ``output`` is the run's folder.
        resume: continue from the folder's checkpoint, if there is one; losses continue as if never interrupted.
        overwrite: start again although the folder holds a run.
        progress: show a progress bar.

    Returns:
        Path of the finished ``model.pt``.

    Raises:
        ConfigError: the folder holds another run, or the recipe changed since the run to resume.
        CheckpointError, DatasetError, LabelError, ImageError, NonFiniteLossError: as their names say.
    """
    settings = recipe.train
    accelerator = _accelerator(settings)
    folder = Path(recipe.output)
    state = find_state(folder, recipe, resume=resume, overwrite=overwrite)
    first_step = state.step if state is not None else 0
    batches = training_batches(
        recipe,
        first=first_step * settings.accumulate,
        last=settings.steps * settings.accumulate,
        process=accelerator.process_index,
        processes=accelerator.num_processes,
    )
    torch.manual_seed(settings.seed)
    net = build_model(recipe.model).to(memory_format=torch.channels_last)
    _load_start(net, recipe, state)
    criterion = build_criterion(recipe.model, recipe.loss).to(accelerator.device)
    optimizer = AdamW(parameter_groups(net, settings), lr=settings.learning_rate)
    scheduler = LambdaLR(optimizer, lambda step: learning_rate_factor(step, settings))
    model, optimizer = accelerator.prepare(net, optimizer)
    torch.manual_seed(settings.seed * 1000 + accelerator.process_index + 1)
    if state is not None:
        _restore(state, accelerator, optimizer, scheduler)

    reports = loop.train_steps(
        accelerator=accelerator,
        model=model,
        criterion=criterion,
        optimizer=optimizer,
        scheduler=scheduler,
        batches=batches,
        first_step=first_step,
        accumulate=settings.accumulate,
        gradient_clip=settings.gradient_clip,
    )
    main = accelerator.is_main_process
    if main:
        prepare_folder(folder, recipe, first_step)
    writer = SummaryWriter(str(folder / "tensorboard"), purge_step=first_step) if main else None
    bar = tqdm(reports, total=settings.steps, initial=first_step, disable=not (progress and main), unit="step")
    with (folder / CURVE).open("a", buffering=1, encoding="utf-8") if main else contextlib.nullcontext() as curve:
        for report in bar:
            if writer is not None:
                log_step(report, writer, curve, bar)
            if report.step % settings.checkpoint_every == 0 or report.step == settings.steps:
                _save_resumable(folder / CHECKPOINT, recipe, report.step, net, accelerator, optimizer, scheduler)
            if (
                main
                and settings.evaluate_every
                and report.step % settings.evaluate_every == 0 < settings.steps - report.step
            ):
                metrics = evaluate_weights(recipe, net.state_dict(), accelerator.device)
                log_metrics(metrics, report.step, writer)
    accelerator.wait_for_everyone()
    if main:
        metrics = evaluate_weights(recipe, net.state_dict(), accelerator.device, progress=progress)
        log_metrics(metrics, settings.steps, writer)
        _finish(folder, recipe, net, metrics)
    if writer is not None:
        writer.close()
    accelerator.wait_for_everyone()
    accelerator.end_training()
    return folder / MODEL


def evaluate_weights(
    recipe: Recipe,
    weights: dict[str, Tensor],
    device: torch.device,
    *,
    split: str | None = None,
    progress: bool = False,
) -> Metrics | None:
    """Measure weights in float32 on the recipe's validation split (None when there is no such split) or another.

    Raises:
        CheckpointError: the weights do not fit the recipe's model.
        DatasetError: ``split`` was asked for and does not exist.
    """
    batches = evaluation_batches(recipe, split or recipe.data.val_split, optional=split is None)
    if batches is None:
        return None
    with torch.random.fork_rng():  # the weights that are drawn here are replaced; training's chance is not to notice
        net = build_model(recipe.model)
    load_weights(net, weights, source="the checkpoint")
    net.to(device)
    return loop.evaluate(
        model=net,
        samples=tqdm(batches, desc="evaluate", unit="batch", disable=not progress),
        evaluator=Evaluator(tasks=recipe.model.tasks),
        device=device,
        max_detections=recipe.model.max_detections,
    )


def _accelerator(settings: TrainConfig) -> Accelerator:
    if settings.precision == "fp16" and not torch.cuda.is_available():
        raise ConfigError("train.precision: fp16 needs a CUDA GPU; use bf16 or no")
    return Accelerator(
        mixed_precision=settings.precision,
        gradient_accumulation_steps=settings.accumulate,
        step_scheduler_with_optimizer=False,
    )


def _load_start(net: nn.Module, recipe: Recipe, state: Checkpoint | None) -> None:
    if state is not None:
        load_weights(net, state.weights, source=f"{recipe.output}/{CHECKPOINT}")
    elif recipe.train.start_from is not None:
        path = resolve_start(recipe.train.start_from)
        load_weights(net, load_checkpoint(path).weights, source=str(path))
    if state is None and recipe.model.backbone.weights is not None:
        _load_backbone(net, Path(recipe.model.backbone.weights))


def _load_backbone(net: nn.Module, path: Path) -> None:
    """Backbone weights in timm's own key layout (``state_dict`` of the timm model; the classifier is left out)."""
    if not path.is_file():
        raise CheckpointError(f"{path}: no such backbone file; correct model.backbone.weights")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            found = load_file(str(path))
        else:
            found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as err:
        raise CheckpointError(f"{path}: not a readable weights file ({type(err).__name__}); copy it again") from err
    tensors: dict[str, Tensor] = found.get("state_dict", found)  # type: ignore[assignment]
    features: nn.Module = net.backbone.features  # type: ignore[union-attr, assignment]
    own = features.state_dict()
    matched = {name: value for name, value in tensors.items() if name in own and own[name].shape == value.shape}
    if len(matched) < 0.9 * len(own):
        raise CheckpointError(
            f"{path}: only {len(matched)} of the backbone's {len(own)} tensors are in it; "
            "give weights of the same timm model"
        )
    features.load_state_dict(matched, strict=False)


def _save_resumable(
    path: Path,
    recipe: Recipe,
    step: int,
    net: nn.Module,
    accelerator: Accelerator,
    optimizer: torch.optim.Optimizer,
    scheduler: LambdaLR,
) -> None:
    """Everything that the next step depends on, in one file: optimiser, schedule and every process's random state."""
    random = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        random["cuda"] = torch.cuda.get_rng_state()
    every = gather_object([random])
    if accelerator.is_main_process:
        resume = {
            "optimizer": optimizer.state_dict(),
            "scheduler": scheduler.state_dict(),
            "random": every,
            "scaler": accelerator.scaler.state_dict() if accelerator.scaler is not None else None,
        }
        save_checkpoint(path, Checkpoint(recipe, step, net.state_dict(), resume=resume))
    accelerator.wait_for_everyone()


def _restore(
    state: Checkpoint, accelerator: Accelerator, optimizer: torch.optim.Optimizer, scheduler: LambdaLR
) -> None:
    if state.resume is None:
        raise CheckpointError("the checkpoint holds no optimiser state; resume needs checkpoint.pt, not model.pt")
    optimizer.load_state_dict(state.resume["optimizer"])
    scheduler.load_state_dict(state.resume["scheduler"])
    if accelerator.scaler is not None and state.resume["scaler"] is not None:
        accelerator.scaler.load_state_dict(state.resume["scaler"])
    every = state.resume["random"]
    random = every[accelerator.process_index % len(every)]  # with other processes than before, chance differs
    torch.set_rng_state(random["cpu"])
    if "cuda" in random and torch.cuda.is_available():
        torch.cuda.set_rng_state(random["cuda"])


def _finish(folder: Path, recipe: Recipe, net: nn.Module, metrics: Metrics | None) -> None:
    plain = metrics.to_dict() if metrics is not None else None
    (folder / METRICS).write_text(json.dumps(plain, indent=1), encoding="utf-8")
    save_checkpoint(folder / MODEL, Checkpoint(recipe, recipe.train.steps, net.state_dict(), plain))
