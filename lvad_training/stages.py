"""The stages of a recipe. Each writes its recipe, curve and metrics beside its checkpoint and can be resumed.

A run's folder holds ``checkpoint.pt`` (to resume), ``model.pt`` (the result), ``recipe.yaml``, ``losses.jsonl`` (one
line a step), ``metrics.json`` and ``tensorboard/``.
"""

import contextlib
import json
import math
import shutil
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import yaml
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
from lvad_training.build import build_criterion, build_model, evaluation_batches, task_classes, training_batches
from lvad_training.checkpoints import (
    Checkpoint,
    load_checkpoint,
    load_weights,
    resolve_start,
    save_checkpoint,
)
from lvad_training.config import Recipe, TrainConfig, recipe_to_dict

CHECKPOINT, MODEL, CURVE = "checkpoint.pt", "model.pt", "losses.jsonl"


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
    state = _find_state(folder, recipe, resume=resume, overwrite=overwrite)
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
        _prepare_folder(folder, recipe, first_step)
    writer = SummaryWriter(str(folder / "tensorboard"), purge_step=first_step) if main else None
    bar = tqdm(reports, total=settings.steps, initial=first_step, disable=not (progress and main), unit="step")
    with (folder / CURVE).open("a", buffering=1, encoding="utf-8") if main else contextlib.nullcontext() as curve:
        for report in bar:
            if writer is not None:
                _log(report, writer, curve, bar)
            if report.step % settings.checkpoint_every == 0 or report.step == settings.steps:
                _save_resumable(folder / CHECKPOINT, recipe, report.step, net, accelerator, optimizer, scheduler)
            if (
                main
                and settings.evaluate_every
                and report.step % settings.evaluate_every == 0 < settings.steps - report.step
            ):
                metrics = evaluate_weights(recipe, net.state_dict(), accelerator.device)
                _log_metrics(metrics, report.step, writer)
    accelerator.wait_for_everyone()
    if main:
        metrics = evaluate_weights(recipe, net.state_dict(), accelerator.device, progress=progress)
        _log_metrics(metrics, settings.steps, writer)
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
    net = build_model(recipe.model)
    load_weights(net, weights, source="the checkpoint")
    net.to(device)
    return loop.evaluate(
        model=net,
        samples=tqdm(batches, desc="evaluate", unit="batch", disable=not progress),
        evaluator=Evaluator(tasks=tuple(task_classes(recipe.model))),
        device=device,
        max_detections=recipe.model.max_detections,
    )


def parameter_groups(net: nn.Module, settings: TrainConfig) -> list[dict[str, Any]]:
    """Parameters by learning rate (backbone or not) and weight decay (matrices and kernels only)."""
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    learned_inputs = ("query_positions", "query_content", "detection.boxes", "detection.features")
    for name, parameter in net.named_parameters():
        if parameter.requires_grad:
            decays = parameter.ndim > 1 and not name.endswith(learned_inputs)
            groups.setdefault((name.startswith("backbone."), decays), []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": settings.learning_rate * (settings.backbone_multiplier if in_backbone else 1.0),
            "weight_decay": settings.weight_decay if decays else 0.0,
        }
        for (in_backbone, decays), parameters in sorted(groups.items(), key=lambda item: item[0])
    ]


def learning_rate_factor(step: int, settings: TrainConfig) -> float:
    """Multiplier of the learning rate for the step after ``step`` done ones."""
    if step < settings.warmup_steps:
        return (step + 1) / (settings.warmup_steps + 1)
    if settings.schedule == "step":
        return 1.0 if step < settings.drop_at * settings.steps else 0.1
    done = (step - settings.warmup_steps) / max(1, settings.steps - settings.warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def _accelerator(settings: TrainConfig) -> Accelerator:
    if settings.precision == "fp16" and not torch.cuda.is_available():
        raise ConfigError("train.precision: fp16 needs a CUDA GPU; use bf16 or no")
    return Accelerator(
        mixed_precision=settings.precision,
        gradient_accumulation_steps=settings.accumulate,
        step_scheduler_with_optimizer=False,
    )


def _find_state(folder: Path, recipe: Recipe, *, resume: bool, overwrite: bool) -> Checkpoint | None:
    """The run to continue, or None to start; writes nothing."""
    if resume and (folder / CHECKPOINT).is_file():
        state = load_checkpoint(folder / CHECKPOINT)
        _check_same(state.recipe, recipe, folder)
        return state
    if not overwrite and not resume and ((folder / CHECKPOINT).exists() or (folder / MODEL).exists()):
        raise ConfigError(f"{folder}: holds a run already; give --resume, --overwrite or another output")
    return None


def _prepare_folder(folder: Path, recipe: Recipe, first_step: int) -> None:
    """Make the run's folder; a new run leaves nothing of an old one in it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _trim_curve(folder / CURVE, first_step)
        (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe_to_dict(recipe), sort_keys=False), encoding="utf-8")
        if first_step == 0:
            for name in (CHECKPOINT, MODEL, "metrics.json"):
                (folder / name).unlink(missing_ok=True)
            shutil.rmtree(folder / "tensorboard", ignore_errors=True)
    except OSError as err:
        raise ConfigError(f"{folder}: cannot be written to ({err.strerror}); choose another output") from err


def _check_same(old: Recipe, new: Recipe, folder: Path) -> None:
    """Refuse to resume with a recipe that would change the run; where it runs and how it is fed may differ."""

    def essence(recipe: Recipe) -> dict[str, Any]:
        plain = recipe_to_dict(recipe)
        plain.pop("output")
        plain["data"].pop("workers")
        plain["data"].pop("root")
        for key in ("checkpoint_every", "evaluate_every", "start_from"):
            plain["train"].pop(key)
        return plain

    before, after = essence(old), essence(new)
    if before != after:
        changed = ", ".join(section for section in before if before[section] != after[section])
        raise ConfigError(f"{folder}: the recipe changed since this run began (in {changed}); undo that or start anew")


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
    (folder / "metrics.json").write_text(json.dumps(plain, indent=1), encoding="utf-8")
    save_checkpoint(folder / MODEL, Checkpoint(recipe, recipe.train.steps, net.state_dict(), plain))


def _log(report: loop.StepReport, writer: SummaryWriter, curve: Any, bar: Any) -> None:
    curve.write(json.dumps({**asdict(report)}) + "\n")
    if report.step % 10 == 0 or report.step == 1:
        for name, value in report.terms.items():
            writer.add_scalar(f"loss/{name}", value, report.step)
        writer.add_scalar("train/learning_rate", report.learning_rate, report.step)
        writer.add_scalar("train/gradient_norm", report.gradient_norm, report.step)
        writer.add_scalar("train/step_s", report.step_s, report.step)
        bar.set_postfix(loss=f"{report.terms['total']:.3f}", lr=f"{report.learning_rate:.1e}")


def _log_metrics(metrics: Metrics | None, step: int, writer: SummaryWriter | None) -> None:
    if metrics is None or writer is None:
        return
    for name, value in flatten(metrics.to_dict()):
        writer.add_scalar(f"val/{name}", value, step)


def flatten(content: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """The numbers of a nested mapping with their paths, "detection/AP50" and so on; per-class numbers are left out."""
    for key, value in content.items():
        if isinstance(value, dict) and not key.startswith("per_class"):
            yield from flatten(value, f"{prefix}{key}/")
        elif isinstance(value, float):
            yield f"{prefix}{key}", value


def _trim_curve(path: Path, step: int) -> None:
    """Drop logged steps after ``step``: a resumed run writes them again."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except (ValueError, KeyError):
            continue  # a line that a kill cut off
    path.write_text("".join(kept), encoding="utf-8")
