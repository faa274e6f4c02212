"""One training: fit, checkpoint, resume, evaluate.

A run's folder holds ``checkpoint.pt`` (to resume), ``model.pt`` (the result), ``recipe.yaml``, ``losses.jsonl`` (one
line a step), ``environment.json`` (hardware, versions, precision), ``metrics.json``, ``evaluation.npz`` (what a report
shows beside the metrics) and ``tensorboard/``.
"""

import json
import shlex
import sys
from dataclasses import replace
from pathlib import Path

import torch
from timm.layers import convert_sync_batchnorm  # type: ignore[attr-defined]
from tqdm import tqdm

from lvad_perception.errors import ConfigError, EvaluationError, LvadError
from lvad_perception.metrics import Metrics
from lvad_training.build import build_criterion, build_model, build_text_encoder
from lvad_training.checkpoints import (
    Checkpoint,
    load_checkpoint,
    load_weights,
    resolve_start,
    save_checkpoint,
)
from lvad_training.data.batches import training_batches, why_not_evaluated
from lvad_training.model.multitask import MultiTaskNet
from lvad_training.model.published import load_backbone
from lvad_training.model.text_encoders import TextEncoder, TextEncoderMetadata
from lvad_training.recipe.config import batch_norm_of
from lvad_training.recipe.schema import Recipe, TrainConfig
from lvad_training.training import loop
from lvad_training.training.evaluation import evaluate_checkpoint, examine_checkpoint
from lvad_training.training.processes import restore_state, resume_state, seed_process, start_processes, this_process
from lvad_training.training.provenance import check_resumed, fingerprint, remeasured, training_inputs
from lvad_training.training.records import code_version, write_file
from lvad_training.training.runs import (
    CHECKPOINT,
    METRICS,
    MODEL,
    RECIPE,
    find_checkpoint,
    log_metrics,
    open_run,
    record_steps,
    write_evaluation,
)
from lvad_training.training.schedule import optimizer_and_schedule


def train(recipe: Recipe, *, resume: bool = False, overwrite: bool = False, progress: bool = True) -> Path:
    """Train the recipe's model on all its tasks at once and evaluate it: the *finetune* stage.

    Under ``accelerate launch`` it uses all processes and machines that were launched.

    Args:
        recipe: what to train; its ``output`` is the run's folder.
        resume: continue from the folder's checkpoint, if there is one; losses continue as if never interrupted.
        overwrite: start again although the folder holds a run.
        progress: show a progress bar.

    Returns:
        Path of the finished ``model.pt``.

    Raises:
        EvaluationError: ``model.pt`` is finished, but could not be measured.
        ConfigError: the folder holds another run, or an input of the run to resume has changed.
        CheckpointError, DatasetError, LabelError, ImageError, NonFiniteLossError, LoaderError: see ``errors.py``.
    """
    settings = recipe.train
    accelerator = start_processes(settings.precision, accumulate=settings.accumulate)
    main, folder = accelerator.is_main_process, Path(recipe.output)
    state = find_checkpoint(
        folder,
        load_checkpoint,
        fingerprint_of=lambda checkpoint: fingerprint(checkpoint.recipe),
        fingerprint=fingerprint(recipe),
        result=MODEL,
        resume=resume,
        overwrite=overwrite,
    )
    first_step = state.step if state is not None else 0
    batches = training_batches(
        recipe,
        first=first_step * settings.accumulate,
        last=settings.steps * settings.accumulate,
        process=accelerator.process_index,
        processes=accelerator.num_processes,
    )
    inputs = training_inputs(recipe) | {"processes": str(accelerator.num_processes)}
    if state is not None:
        check_resumed(folder, state.inputs, inputs, ended=first_step >= settings.steps)
    encoder = build_text_encoder(recipe.model)
    torch.manual_seed(settings.seed)
    net = build_model(recipe.model, encoder=encoder).to(memory_format=torch.channels_last)
    _load_start(net, recipe, state, encoder)
    _set_batch_norm(net, recipe)
    criterion = build_criterion(recipe.model, recipe.loss).to(accelerator.device)
    optimizer, scheduler = optimizer_and_schedule(net, settings)
    model, optimizer = accelerator.prepare(net, optimizer)
    seed_process(settings.seed)
    if state is not None:
        restore_state(state.resume, accelerator, optimizer, scheduler)

    def save(step: int) -> None:
        snapshot = _snapshot(net, recipe, step)
        snapshot = replace(snapshot, resume=resume_state(accelerator, optimizer, scheduler), inputs=inputs)
        if main:
            save_checkpoint(folder / CHECKPOINT, snapshot)

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
    with open_run(
        folder, recipe, first_step=first_step, precision=accelerator.mixed_precision, asked=settings.precision
    ) as writer:
        if main and (problem := why_not_evaluated(recipe)) is not None:
            tqdm.write(f"warning: the model will be trained but not evaluated: {problem}", file=sys.stderr)
        for report in record_steps(
            reports,
            folder,
            writer,
            first_step=first_step,
            steps=settings.steps,
            save_every=settings.checkpoint_every,
            save=save,
            progress=progress,
        ):
            if _is_measured(report.step, settings):
                try:
                    metrics = evaluate_checkpoint(_snapshot(net, recipe, report.step), device=accelerator.device)
                    log_metrics(metrics, report.step, writer)
                except LvadError as err:
                    if main:
                        tqdm.write(f"warning: step {report.step} was not evaluated: {err}", file=sys.stderr)
        final = replace(_snapshot(net, recipe, settings.steps), version=code_version())
        if main:
            save_checkpoint(folder / MODEL, final)
        accelerator.wait_for_everyone()
        metrics = _examine(folder, final, device=accelerator.device, progress=progress)
        log_metrics(metrics, settings.steps, writer)
    return folder / MODEL


def evaluate_folder(folder: Path, *, recipe: Recipe | None = None, progress: bool = False) -> Metrics | None:
    """Measure a finished run's model again, and write the metrics beside it and into it; processes share the images.

    Args:
        folder: of the run.
        recipe: whose validation data and score threshold to measure with; the run's own when None.
        progress: show a progress bar.

    Returns:
        The metrics; None when there is no validation split.

    Raises:
        CheckpointError: the folder holds no finished model.
        EvaluationError: the model cannot be measured.
        ConfigError: the metrics cannot be written.
    """
    final = load_checkpoint(folder / MODEL)
    if recipe is not None:
        final = replace(final, recipe=remeasured(final.recipe, recipe))
    return _examine(folder, final, device=this_process().device, progress=progress)


def _examine(folder: Path, final: Checkpoint, *, device: torch.device, progress: bool) -> Metrics | None:
    """Measure a run's model and write the results. Raises EvaluationError, with the model unchanged."""
    try:
        evaluation = examine_checkpoint(final, device=device, progress=progress)
    except LvadError as err:
        command = shlex.join(["lvad-train", "run", str(folder / RECIPE), "--stage", "evaluate"])
        raise EvaluationError(
            f"{folder / MODEL} is finished, but was not evaluated: {err}; after that measure it with: {command}"
        ) from err
    metrics = None if evaluation is None else evaluation.findings.metrics
    if this_process().is_main_process:
        plain = None if metrics is None else metrics.to_dict()
        write_file(folder / METRICS, json.dumps(plain, indent=1))
        if evaluation is not None:
            write_evaluation(folder, evaluation)
        save_checkpoint(folder / MODEL, replace(final, metrics=plain))
    this_process().wait_for_everyone()
    return metrics


def _load_start(net: MultiTaskNet, recipe: Recipe, state: Checkpoint | None, encoder: TextEncoder | None) -> None:
    """Load the initial weights: of the run to resume, else of ``train.start_from``, else of the backbone's file.

    Heads of ``train.start_from`` that this network does not have are skipped. If that model has no language, the
    language parts of this one keep their random weights.
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
        if this_process().is_main_process:
            tqdm.write(report.to_text(), file=sys.stderr)


def _set_batch_norm(net: MultiTaskNet, recipe: Recipe) -> None:
    """Freeze the backbone or its BatchNorm, or synchronise the network's. Raises ConfigError where it cannot be."""
    mode = batch_norm_of(recipe)
    if recipe.train.freeze == "backbone":
        net.backbone.freeze()
    elif mode == "frozen":
        net.backbone.freeze_norms()
    if mode == "sync" and this_process().num_processes > 1:
        if this_process().device.type == "cpu":
            raise ConfigError("train.batch_norm: sync needs GPUs when there are several processes; use frozen or batch")
        convert_sync_batchnorm(net)  # type: ignore[no-untyped-call]


def _check_encoder(encoder: TextEncoder | None, checkpoint: Checkpoint, source: str) -> None:
    if encoder is not None:
        encoder.metadata.check_same(TextEncoderMetadata.from_dict(checkpoint.text_encoder), source=source)


def _is_measured(step: int, settings: TrainConfig) -> bool:
    """Whether to validate after this step; the last step's model is measured in any case, as the result."""
    every = settings.evaluate_every
    return every > 0 and step % every == 0 and step < settings.steps


def _snapshot(net: MultiTaskNet, recipe: Recipe, step: int) -> Checkpoint:
    """The network's current state with folded prompts. The weights are the network's own tensors, not copies."""
    net.fold_prompts()
    encoder = net.prompts.encoder if net.prompts is not None else None
    metadata = encoder.metadata.to_dict() if encoder is not None else None
    return Checkpoint(recipe, step, net.state_dict(), text_encoder=metadata)
