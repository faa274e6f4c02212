"""One pretraining: learn from frames, checkpoint, resume, and write a page about the result.

A run's folder holds ``checkpoint.pt`` (to resume), ``backbone.pt`` (the result, for ``model.backbone.weights``),
``recipe.yaml``, ``losses.jsonl`` (one line a step), ``environment.json``, ``pretraining.html``, ``neighbours.png``,
``tensorboard/`` and, where there are videos, ``frames/``.
"""

import copy
import sys
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import torch
from accelerate import Accelerator
from torch import Tensor
from tqdm import tqdm

from lvad_perception.errors import DatasetError
from lvad_perception.provenance import Inputs, digest
from lvad_perception.report.evaluation import evenly_spaced
from lvad_training.checkpoints import load_weights, read_content, write_content
from lvad_training.data.loader import guarded_loader
from lvad_training.data.sampling import TrainingStream
from lvad_training.model.backbone import Backbone, timm_backbone
from lvad_training.model.published import load_backbone
from lvad_training.pretrain.criteria import queues, set_queues
from lvad_training.pretrain.frames import Frame, find_frames
from lvad_training.pretrain.methods import build_method, build_optimizer, build_scheduler
from lvad_training.pretrain.neighbours import Nearest, features_of, find_nearest, input_hw
from lvad_training.pretrain.page import PAGE, PICTURE, write_pretraining_page
from lvad_training.pretrain.recipe import PretrainRecipe
from lvad_training.pretrain.views import Views, ViewSet, collate_views, make_transform
from lvad_training.training.loop import optimize
from lvad_training.training.processes import restore_state, resume_state, seed_process, start_processes
from lvad_training.training.provenance import backbone_digest, check_resumed
from lvad_training.training.records import code_version
from lvad_training.training.runs import CHECKPOINT, find_checkpoint, open_run, record_steps

RESULT = "backbone.pt"
FORMAT, RESULT_FORMAT = "lvad-pretraining-1", "lvad-backbone-1"


def pretrain(
    recipe: PretrainRecipe, *, resume: bool = False, overwrite: bool = False, progress: bool = True, command: str = ""
) -> Path:
    """Pretrain the recipe's backbone on images without labels.

    Under ``accelerate launch`` it uses all processes and machines that were launched.

    Args:
        recipe: what to train; its ``output`` is the run's folder.
        resume: continue from the folder's checkpoint, if there is one; losses continue as if never interrupted.
        overwrite: start again although the folder holds a run.
        progress: show progress bars.
        command: the command line, for the page.

    Returns:
        Path of the finished ``backbone.pt``.

    Raises:
        ConfigError: the folder holds another run, or the recipe or an input of the run to resume has changed.
        CheckpointError, DatasetError, ImageError, NonFiniteLossError, LoaderError: see ``errors.py``.
    """
    settings, folder = recipe.train, Path(recipe.output)
    accelerator = start_processes(settings.precision)
    main, processes = accelerator.is_main_process, accelerator.num_processes
    progress = progress and main
    state = find_checkpoint(
        folder,
        partial(read_content, file_format=FORMAT, written_by="lvad-train pretrain"),
        fingerprint_of=lambda content: _fingerprint(content["recipe"]),
        fingerprint=_fingerprint(msgspec.to_builtins(recipe)),
        result=RESULT,
        resume=resume,
        overwrite=overwrite,
    )
    first_step = state["step"] if state is not None else 0
    frames = find_frames(
        recipe.data,
        Path(recipe.data.frames) if recipe.data.frames is not None else folder / "frames",
        skip=[folder],
        process=accelerator.process_index,
        processes=processes,
        progress=progress,
    )
    inputs = _inputs(frames, recipe, processes)
    if state is not None:
        check_resumed(folder, state.get("inputs"), inputs, ended=first_step >= settings.steps)

    torch.manual_seed(settings.seed)
    backbone = timm_backbone(recipe.backbone.name, recipe.backbone.options, stride_in=recipe.backbone.stride_in)
    if recipe.backbone.weights is not None:
        matched = load_backbone(backbone, recipe.backbone)
        if main:
            tqdm.write(matched.to_text(), file=sys.stderr)
    start = copy.deepcopy(backbone) if main else None
    method = build_method(recipe, backbone, images=len(frames), process=accelerator.process_index, processes=processes)
    network, criterion = method.network, method.criterion.to(accelerator.device)
    optimizer = build_optimizer(recipe, network, processes=processes)
    scheduler = build_scheduler(recipe, optimizer)
    model, optimizer = accelerator.prepare(network, optimizer)
    seed_process(settings.seed)
    if state is not None:
        load_weights(network, state["weights"], source=str(folder / CHECKPOINT))
        network.steps = first_step
        set_queues(criterion, state["queues"])
        restore_state(state["resume"], accelerator, optimizer, scheduler)

    def save(step: int) -> None:
        content = {
            "format": FORMAT,
            "recipe": msgspec.to_builtins(recipe),
            "step": step,
            "inputs": inputs,
            "weights": network.state_dict(),
            "queues": queues(criterion),
            "resume": resume_state(accelerator, optimizer, scheduler),
            "version": code_version(),
        }
        if main:
            write_content(folder / CHECKPOINT, content)

    def losses(views: Views) -> tuple[dict[str, Tensor], Tensor]:
        views = views.to(accelerator.device)
        with accelerator.autocast():
            outputs = model(views.images)
        terms: dict[str, Tensor] = criterion(outputs)
        return terms, torch.stack(list(terms.values())).sum()

    reports = optimize(
        accelerator=accelerator,
        model=model,
        losses=losses,
        optimizer=optimizer,
        scheduler=scheduler,
        batches=_batches(frames, recipe, first_step, accelerator),
        first_step=first_step,
        gradient_clip=settings.gradient_clip,
        suspect="pixels",
    )
    with open_run(
        folder,
        recipe,
        first_step=first_step,
        precision=accelerator.mixed_precision,
        asked=settings.precision,
        results=(CHECKPOINT, RESULT, PAGE, PICTURE),
    ) as writer:
        for _ in record_steps(
            reports,
            folder,
            writer,
            first_step=first_step,
            steps=settings.steps,
            save_every=settings.checkpoint_every,
            save=save,
            progress=progress,
        ):
            pass
    if main:
        _write_result(folder, recipe, backbone)
    accelerator.wait_for_everyone()
    if start is not None:  # the main process; the others need not wait for the page
        _write_page(folder, recipe, frames, start.to(accelerator.device), backbone, progress=progress, command=command)
    return folder / RESULT


def _fingerprint(plain: dict[str, Any]) -> dict[str, Any]:
    """The part of a recipe that the losses depend on: without paths, checkpoint interval and the page's settings."""
    left_out = {"backbone": ("weights",), "data": ("root", "frames", "workers"), "train": ("checkpoint_every",)}
    kept = {section: value for section, value in plain.items() if section not in ("output", "neighbours")}
    for section, keys in left_out.items():
        kept[section] = {key: value for key, value in plain[section].items() if key not in keys}
    return kept


def _inputs(frames: list[Frame], recipe: PretrainRecipe, processes: int) -> Inputs:
    """Digests of what the run depends on beside its recipe: names and sizes of frames, the initial weights."""
    needed = recipe.train.batch_size * processes
    if len(frames) < needed:
        raise DatasetError(
            f"{recipe.data.root}: {len(frames)} frames are fewer than the {needed} of a step; give more with --data or "
            "data.fps, or lower train.batch_size"
        )
    root = Path(recipe.data.root)
    sizes = [frame.path.stat().st_size if frame.path.is_relative_to(root) else 0 for frame in frames]
    inputs = {"frames": digest([[frame.name, size] for frame, size in zip(frames, sizes, strict=True)])}
    if recipe.backbone.weights is not None:
        inputs["backbone.weights"] = backbone_digest(recipe.backbone)
    return inputs | {"processes": str(processes)}


def _batches(frames: list[Frame], recipe: PretrainRecipe, first_step: int, accelerator: Accelerator) -> Any:
    train = recipe.train
    stream = TrainingStream(
        count=len(frames),
        batch_size=train.batch_size,
        seed=train.seed,
        first=first_step,
        last=train.steps,
        process=accelerator.process_index,
        processes=accelerator.num_processes,
    )
    views = ViewSet(frames, make_transform(recipe.method, recipe.views), seed=train.seed)
    return guarded_loader(views, recipe.data.workers, collate_views, batch_sampler=stream)


def _write_result(folder: Path, recipe: PretrainRecipe, backbone: Backbone) -> None:
    """Write the backbone, with its tensors named as in timm, and for a ResNet also as in torchvision."""
    tensors = {name: value.detach().cpu() for name, value in backbone.features.state_dict().items()}
    write_content(
        folder / RESULT,
        {
            "format": RESULT_FORMAT,
            "method": recipe.method,
            "state_dict": tensors,
            "recipe": msgspec.to_builtins(recipe),
            "version": code_version(),
        },
    )


def _write_page(
    folder: Path,
    recipe: PretrainRecipe,
    frames: list[Frame],
    start: Backbone,
    backbone: Backbone,
    *,
    progress: bool,
    command: str,
) -> None:
    """Write the page with the nearest frames of some frames, before and after the training."""
    searched = evenly_spaced(len(frames), recipe.neighbours.frames)
    before, after = (
        _nearest(network, frames, searched, recipe, progress=progress, title=title)
        for network, title in ((start, "features before"), (backbone, "features after"))
    )
    metadata = {
        "method": recipe.method,
        "backbone": f"{recipe.backbone.name}, started from {recipe.backbone.weights or 'random weights'}",
        "frames": f"{len(frames):,} of {recipe.data.root}; {len(searched):,} of them were searched",
        "training": f"{recipe.train.steps:,} steps of {recipe.train.batch_size} frames per process, "
        f"views of {recipe.views.size_px} px",
        "version": code_version(),
    }
    write_pretraining_page(folder, frames, before=before, after=after, metadata=metadata, command=command)


def _nearest(
    backbone: Backbone, frames: list[Frame], searched: list[int], recipe: PretrainRecipe, *, progress: bool, title: str
) -> Nearest:
    features = features_of(
        backbone,
        [frames[index] for index in searched],
        size_hw=input_hw(recipe.views.size_px),
        device=next(backbone.parameters()).device,
        progress=progress,
        title=title,
    )
    return find_nearest(features, frames, searched, recipe.neighbours)
