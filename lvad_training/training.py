"""One training: fit, save, resume, evaluate. It writes its recipe, curve and metrics beside its checkpoint.

A run's folder holds ``checkpoint.pt`` (to resume), ``model.pt`` (the result), ``recipe.yaml``, ``losses.jsonl`` (one
line a step), ``metrics.json``, ``evaluation.npz`` (what a report shows beside the metrics) and ``tensorboard/``.
"""

import contextlib
import json
import sys
from dataclasses import replace
from pathlib import Path

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import gather_object
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from lvad_perception.errors import CheckpointError, ConfigError
from lvad_perception.metrics import Metrics
from lvad_perception.report.evaluation import FILE as EVALUATION
from lvad_perception.report.evaluation import Evaluation, to_bytes
from lvad_training import loop
from lvad_training.batches import training_batches
from lvad_training.build import build_criterion, build_model, build_text_encoder
from lvad_training.checkpoints import (
    Checkpoint,
    load_checkpoint,
    load_weights,
    resolve_start,
    save_checkpoint,
)
from lvad_training.evaluation import evaluate_checkpoint, examine_checkpoint
from lvad_training.files import write_whole
from lvad_training.model.backbone import Backbone
from lvad_training.model.multitask import MultiTaskNet
from lvad_training.model.published import MatchReport, load_published, load_timm
from lvad_training.model.text_encoders import TextEncoder, TextFacts
from lvad_training.recipe import BackboneConfig, Recipe, TrainConfig
from lvad_training.runs import (
    CHECKPOINT,
    CURVE,
    METRICS,
    MODEL,
    code_version,
    find_state,
    log_metrics,
    log_step,
    prepare_folder,
)
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
    encoder = build_text_encoder(recipe.model)
    torch.manual_seed(settings.seed)
    net = build_model(recipe.model, encoder=encoder).to(memory_format=torch.channels_last)
    _load_start(net, recipe, state, encoder)
    if settings.freeze == "backbone":
        net.backbone.freeze()
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
                snapshot = _snapshot(net, recipe, report.step)
                _save_resumable(folder / CHECKPOINT, snapshot, accelerator, optimizer, scheduler)
            if main and _is_measured(report.step, settings):
                metrics = evaluate_checkpoint(_snapshot(net, recipe, report.step), device=accelerator.device)
                log_metrics(metrics, report.step, writer)
    accelerator.wait_for_everyone()
    if main:
        final = _snapshot(net, recipe, settings.steps)
        evaluation = examine_checkpoint(final, device=accelerator.device, progress=progress)
        log_metrics(None if evaluation is None else evaluation.findings.metrics, settings.steps, writer)
        _finish(folder, final, evaluation)
    if writer is not None:
        writer.close()
    accelerator.wait_for_everyone()
    return folder / MODEL


def evaluate_folder(folder: Path, *, progress: bool = False) -> Metrics | None:
    """Measure a finished run's model again, and write the metrics beside it and into it.

    Raises:
        CheckpointError: the folder holds no finished model.
        ConfigError: the metrics cannot be written.
    """
    found = load_checkpoint(folder / MODEL)
    evaluation = examine_checkpoint(found, progress=progress)
    _finish(folder, found, evaluation)
    return None if evaluation is None else evaluation.findings.metrics


def _accelerator(settings: TrainConfig) -> Accelerator:
    if settings.precision == "fp16" and not torch.cuda.is_available():
        raise ConfigError("train.precision: fp16 needs a CUDA GPU; use bf16 or no")
    return Accelerator(
        mixed_precision=settings.precision,
        gradient_accumulation_steps=settings.accumulate,
        step_scheduler_with_optimizer=False,
    )


def _load_start(net: MultiTaskNet, recipe: Recipe, state: Checkpoint | None, encoder: TextEncoder | None) -> None:
    """Weights to begin with: of the run to resume, else of ``train.start_from``, else of the backbone's file.

    A start may have been trained with other heads, which are left out, and without language, which then starts anew.
    """
    if state is not None:
        _check_encoder(encoder, state, f"{recipe.output}/{CHECKPOINT}")
        load_weights(net, state.weights, source=f"{recipe.output}/{CHECKPOINT}")
        return
    if recipe.train.start_from is not None:
        path = resolve_start(recipe.train.start_from)
        start = load_checkpoint(path)
        _check_encoder(encoder, start, str(path))
        own = net.state_dict()
        parts = {name.partition(".")[0] for name in own}
        weights = {name: value for name, value in start.weights.items() if name.partition(".")[0] in parts}
        if start.text_encoder is None:
            weights |= {name: value for name, value in own.items() if name.startswith(("prompts.", "adapter."))}
        load_weights(net, weights, source=str(path))
    if recipe.model.backbone.weights is not None:
        report = load_backbone(net.backbone, recipe.model.backbone)
        if PartialState().is_main_process:
            tqdm.write(report.to_text(), file=sys.stderr)


def load_backbone(backbone: Backbone, config: BackboneConfig) -> MatchReport:
    """Load ``config.weights``: "timm", "timm:TAG", "shipped/NAME" or a file in any layout that is known.

    Raises:
        CheckpointError: the weights cannot be had or do not fit the backbone.
        ConfigError: timm has no such weights.
    """
    where = str(config.weights)
    if where == "timm" or where.startswith("timm:"):
        return load_timm(backbone, config.name, where.partition(":")[2] or None)
    return load_published(backbone, resolve_start(where))


def _check_encoder(encoder: TextEncoder | None, found: Checkpoint, source: str) -> None:
    if encoder is not None:
        encoder.facts.check_same(TextFacts.from_dict(found.text_encoder), source=source)


def _is_measured(step: int, settings: TrainConfig) -> bool:
    """Whether to validate on the way; after the last step that is done in any case."""
    every = settings.evaluate_every
    return every > 0 and step % every == 0 and step < settings.steps


def _snapshot(net: MultiTaskNet, recipe: Recipe, step: int) -> Checkpoint:
    """The network as it is now, its prompts folded. The weights are the network's own tensors, not copies."""
    net.fold_prompts()
    encoder = net.prompts.encoder if net.prompts is not None else None
    facts = encoder.facts.to_dict() if encoder is not None else None
    return Checkpoint(recipe, step, net.state_dict(), text_encoder=facts)


def _save_resumable(
    path: Path,
    snapshot: Checkpoint,
    accelerator: Accelerator,
    optimizer: torch.optim.Optimizer,
    scheduler: LambdaLR,
) -> None:
    """The snapshot and all else that the next step depends on: optimiser, schedule, every process's random state."""
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
        save_checkpoint(path, replace(snapshot, resume=resume))
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


def _finish(folder: Path, final: Checkpoint, evaluation: Evaluation | None) -> None:
    plain = evaluation.findings.metrics.to_dict() if evaluation is not None else None
    try:
        write_whole(folder / METRICS, json.dumps(plain, indent=1))
        if evaluation is not None:
            write_whole(folder / EVALUATION, to_bytes(evaluation))
    except OSError as err:
        raise ConfigError(f"{folder}: metrics cannot be written ({err.strerror}); free disk space") from err
    save_checkpoint(folder / MODEL, replace(final, metrics=plain, version=code_version()))
