"""One pretraining: learn from frames, save, resume, and show what was learned.

A run's folder holds ``checkpoint.pt`` (to resume), ``backbone.pt`` (the result, for ``model.backbone.weights``),
``recipe.yaml``, ``losses.jsonl`` (one line a step), ``pretraining.html``, ``neighbours.png``, ``tensorboard/`` and,
where there are videos, ``frames/``.
"""

import copy
import sys
from pathlib import Path
from typing import Any

import msgspec
import torch
from accelerate import Accelerator
from torch import Tensor
from tqdm import tqdm

from lvad_perception.errors import DatasetError
from lvad_perception.provenance import Inputs, digest
from lvad_perception.report.evaluation import spread
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
from lvad_training.training.environment import note_environment
from lvad_training.training.loop import optimize
from lvad_training.training.processes import complete, restore_state, resume_state, start_processes
from lvad_training.training.provenance import backbone_digest, check_resumed
from lvad_training.training.runs import (
    CHECKPOINT,
    check_empty,
    check_same,
    code_version,
    logged,
    open_events,
    prepare_folder,
)

RESULT = "backbone.pt"
FORMAT, RESULT_FORMAT = "lvad-pretraining-1", "lvad-backbone-1"


def pretrain(
    recipe: PretrainRecipe, *, resume: bool = False, overwrite: bool = False, progress: bool = True, command: str = ""
) -> Path:
    """Pretrain the recipe's backbone on images without labels.

    Run under ``accelerate launch`` it uses every process and machine given to it; nothing here changes.

    Args:
        recipe: what to do; its ``output`` is the run's folder.
        resume: continue from the folder's checkpoint, if there is one; losses continue as if never interrupted.
        overwrite: start again although the folder holds a run.
        progress: show progress bars.
        command: the command line, for the page.

    Returns:
        Path of the finished ``backbone.pt``.

    Raises:
        ConfigError: the folder holds another run, or the recipe changed since the run to resume.
        CheckpointError, DatasetError, ImageError, NonFiniteLossError, LoaderError: as their names say.
    """
    settings, folder = recipe.train, Path(recipe.output)
    accelerator = start_processes(settings.precision)
    main, processes = accelerator.is_main_process, accelerator.num_processes
    progress = progress and main
    state = _find_state(folder, recipe, resume=resume, overwrite=overwrite)
    first_step = state["step"] if state is not None else 0
    frames = find_frames(
        recipe.data,
        Path(recipe.data.frames) if recipe.data.frames is not None else folder / "frames",
        skip=[folder],
        process=accelerator.process_index,
        processes=processes,
        complete=complete,
        progress=progress,
    )
    inputs = _inputs(frames, recipe, processes)
    if state is not None:
        check_resumed(folder, state.get("inputs"), inputs, ended=first_step >= settings.steps)

    torch.manual_seed(settings.seed)
    backbone = timm_backbone(recipe.backbone.name, recipe.backbone.options)
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
    torch.manual_seed(settings.seed * 1000 + accelerator.process_index + 1)
    if state is not None:
        load_weights(network, state["weights"], source=str(folder / CHECKPOINT))
        network.steps = first_step
        set_queues(criterion, state["queues"])
        restore_state(state["resume"], accelerator, optimizer, scheduler)

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
    if main:
        prepare_folder(folder, recipe, first_step, results=(CHECKPOINT, RESULT, PAGE, PICTURE))
        note_environment(folder, accelerator, first_step=first_step, asked=settings.precision)
    writer = open_events(folder, first_step) if main else None
    for report in logged(reports, folder, writer, first_step=first_step, steps=settings.steps, progress=progress):
        if report.step % settings.checkpoint_every == 0 or report.step == settings.steps:
            content = {
                "format": FORMAT,
                "recipe": msgspec.to_builtins(recipe),
                "step": report.step,
                "inputs": inputs,
                "weights": network.state_dict(),
                "queues": queues(criterion),
                "resume": resume_state(accelerator, optimizer, scheduler),
                "version": code_version(),
            }
            if main:
                write_content(folder / CHECKPOINT, content)
            accelerator.wait_for_everyone()
    if writer is not None:
        writer.close()
    if main:
        _write_result(folder, recipe, backbone)
    accelerator.wait_for_everyone()
    if start is not None:  # the others need not wait for the page
        _write_page(folder, recipe, frames, start.to(accelerator.device), backbone, progress=progress, command=command)
    return folder / RESULT


def _find_state(folder: Path, recipe: PretrainRecipe, *, resume: bool, overwrite: bool) -> dict[str, Any] | None:
    """The content of the checkpoint to continue, or None to start; writes nothing."""
    if resume and (folder / CHECKPOINT).is_file():
        state = read_content(folder / CHECKPOINT, file_format=FORMAT, written_by="lvad-train pretrain")
        check_same(_essence(state["recipe"]), _essence(msgspec.to_builtins(recipe)), folder)
        return state
    if not overwrite:
        check_empty(folder, checkpoint=CHECKPOINT, result=RESULT, resume=resume)
    return None


def _essence(plain: dict[str, Any]) -> dict[str, Any]:
    """What of a recipe the losses depend on: not where files are, nor how often it saves, nor the picture."""
    fingerprint = {key: value for key, value in plain.items() if key not in ("output", "neighbours")}
    fingerprint["backbone"] = {key: value for key, value in plain["backbone"].items() if key != "weights"}
    fingerprint["data"] = {
        key: value for key, value in plain["data"].items() if key not in ("root", "frames", "workers")
    }
    fingerprint["train"] = {key: value for key, value in plain["train"].items() if key != "checkpoint_every"}
    return fingerprint


def _inputs(frames: list[Frame], recipe: PretrainRecipe, processes: int) -> Inputs:
    """What the run depends on beside its recipe: names of frames, sizes of images, the file that it starts from."""
    wanted = recipe.train.batch_size * processes
    if len(frames) < wanted:
        raise DatasetError(
            f"{recipe.data.root}: {len(frames)} frames are fewer than the {wanted} of a step; give more with --data or "
            "data.fps, or lower train.batch_size"
        )
    root = Path(recipe.data.root)
    sizes = [frame.path.stat().st_size if frame.path.is_relative_to(root) else 0 for frame in frames]
    found = {"frames": digest([[frame.name, size] for frame, size in zip(frames, sizes, strict=True)])}
    if recipe.backbone.weights is not None:
        found["backbone.weights"] = backbone_digest(recipe.backbone)
    return found | {"processes": str(processes)}


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
    """Write the backbone under the names that timm and, for a ResNet, torchvision give its tensors."""
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
    """Write what the backbone finds near some frames, before and after."""
    places = spread(len(frames), recipe.neighbours.frames)
    before, after = (
        _nearest(each, frames, places, recipe, progress=progress, title=title)
        for each, title in ((start, "features before"), (backbone, "features after"))
    )
    metadata = {
        "method": recipe.method,
        "backbone": f"{recipe.backbone.name}, started from {recipe.backbone.weights or 'random weights'}",
        "frames": f"{len(frames):,} of {recipe.data.root}; {len(places):,} of them were searched",
        "training": f"{recipe.train.steps:,} steps of {recipe.train.batch_size} frames per process, "
        f"views of {recipe.views.size_px} px",
        "version": code_version(),
    }
    write_pretraining_page(folder, frames, before=before, after=after, metadata=metadata, command=command)


def _nearest(
    backbone: Backbone, frames: list[Frame], places: list[int], recipe: PretrainRecipe, *, progress: bool, title: str
) -> Nearest:
    features = features_of(
        backbone,
        [frames[place] for place in places],
        size_hw=input_hw(recipe.views.size_px),
        device=next(backbone.parameters()).device,
        progress=progress,
        title=title,
    )
    return find_nearest(features, frames, places, recipe.neighbours)
