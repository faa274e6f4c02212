"""The loops of training, evaluation and prediction, as plain functions."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Protocol, TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lvad_perception.errors import NonFiniteLossError
from lvad_perception.metrics import Evaluator, Metrics
from lvad_perception.postprocess import mask_to_source, to_predictions
from lvad_perception.types import RawOutputs, Truth
from lvad_training.decoding.decode import Decoded, decode, decode_masks
from lvad_training.samples import Batch, ConfidentPredictions, EvaluationSample, Outputs

Criterion = Callable[[Outputs, Batch], dict[str, Tensor]]
Inspect = Callable[[Outputs, Tensor, list[tuple[EvaluationSample, Truth]]], None]
"""Callback for each evaluated batch: its outputs, its images on the device, its samples with annotation."""


@dataclass(frozen=True, slots=True)
class StepReport:
    """Report of one optimiser step.

    Attributes:
        step: number of steps done, this one included.
        terms: weighted loss terms by name, mean over micro-steps and processes; "total" is their sum.
        learning_rate: of the first parameter group in this step.
        gradient_norm: before clipping; 0 when clipping is off.
        data_s: seconds spent waiting for the loader.
        step_s: seconds of the whole step, waiting included.
    """

    step: int
    terms: dict[str, float]
    learning_rate: float
    gradient_norm: float
    data_s: float
    step_s: float


class NamedBatch(Protocol):
    """A batch whose images have names, for error messages."""

    @property
    def names(self) -> Sequence[str]:
        """One name per image."""


BatchT = TypeVar("BatchT", bound=NamedBatch)
Losses = Callable[[BatchT], tuple[dict[str, Tensor], Tensor]]
"""A batch -> its weighted loss terms, and the total to differentiate."""


def train_steps(
    *,
    accelerator: Accelerator,
    model: nn.Module,
    criterion: Criterion,
    optimizer: Optimizer,
    scheduler: LRScheduler,
    batches: Iterable[Batch],
    gradient_clip: float,
    first_step: int = 0,
    accumulate: int = 1,
) -> Iterator[StepReport]:
    """Train the multi-task network: ``optimize`` with its forward pass and criterion.

    Args:
        model: prepared by the accelerator.
        criterion: outputs and batch -> weighted loss terms.
        accelerator, optimizer, scheduler, batches, gradient_clip, first_step, accumulate: see ``optimize``.

    Raises:
        NonFiniteLossError: a loss is NaN or infinite; the message names it and the images.
    """

    def losses(batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        batch = to_device(batch, accelerator.device)
        with accelerator.autocast():
            outputs = model(batch.images)
        terms = criterion(outputs, batch)
        return terms, torch.stack([*terms.values(), _zero(outputs)]).sum()

    return optimize(
        accelerator=accelerator,
        model=model,
        losses=losses,
        optimizer=optimizer,
        scheduler=scheduler,
        batches=batches,
        first_step=first_step,
        accumulate=accumulate,
        gradient_clip=gradient_clip,
    )


def optimize(
    *,
    accelerator: Accelerator,
    model: nn.Module,
    losses: Losses[BatchT],
    optimizer: Optimizer,
    scheduler: LRScheduler,
    batches: Iterable[BatchT],
    gradient_clip: float,
    first_step: int = 0,
    accumulate: int = 1,
    suspect: str = "labels",
) -> Iterator[StepReport]:
    """Take one optimiser step per ``accumulate`` batches and report each.

    Args:
        accelerator: device, precision and processes.
        model: prepared by the accelerator.
        losses: batch -> loss terms and total.
        optimizer: prepared by the accelerator.
        scheduler: stepped once per optimiser step.
        batches: of this process, one per micro-step.
        gradient_clip: largest gradient norm, 0 for no limit.
        first_step: number of steps done before.
        accumulate: micro-steps per step.
        suspect: part of the images that the message of a loss that is not finite points to.

    Raises:
        NonFiniteLossError: a loss is NaN or infinite in one of the processes; raised in all of them, with the name of
            the loss and of the images.
    """
    model.train()
    sums: dict[str, float] = {}
    step, data_s, start = first_step, 0.0, time.perf_counter()
    wait_start = start
    for micro, batch in enumerate(batches, start=1):
        data_s += time.perf_counter() - wait_start
        with accelerator.accumulate(model):
            terms, total = losses(batch)
            values = _mean_over_processes(terms, batch, step, accelerator.num_processes, suspect=suspect)
            accelerator.backward(total)
            norm = 0.0
            if accelerator.sync_gradients and gradient_clip > 0:
                norm = float(accelerator.clip_grad_norm_(model.parameters(), gradient_clip))
            optimizer.step()
            optimizer.zero_grad()
        for name, value in values.items():
            sums[name] = sums.get(name, 0.0) + value / accumulate
        if micro % accumulate == 0:
            learning_rate = optimizer.param_groups[0]["lr"]
            scheduler.step()
            step += 1
            now = time.perf_counter()
            sums["total"] = sum(sums.values())
            yield StepReport(step, sums, learning_rate, norm, data_s, now - start)
            sums, data_s, start = {}, 0.0, time.perf_counter()
            model.train()  # the caller may have evaluated the model meanwhile
        wait_start = time.perf_counter()


@torch.no_grad()
def collect(
    *,
    model: nn.Module,
    samples: Iterable[list[tuple[EvaluationSample, Truth]]],
    evaluator: Evaluator,
    device: torch.device,
    max_detections: int,
    inspect: Inspect | None = None,
) -> Iterator[None]:
    """Run the network on a data set and add its predictions, at source resolution, to an evaluator.

    A generator that yields after each batch, so that processes can synchronise meanwhile; exhaust it to evaluate all.

    Args:
        model: the network, on ``device``.
        samples: batches of letterboxed images, each with its annotation in source pixels.
        evaluator: collects predictions and truths under the images' names.
        device: of the network.
        max_detections: boxes per image.
        inspect: called with each batch's outputs, if given.
    """
    model.eval()
    for batch in samples:
        images, size_hw = _stack([sample for sample, _ in batch], device)
        outputs: Outputs = model(images)
        raw = to_raw(decode(outputs, size_hw, max_detections))
        for index, (sample, truth) in enumerate(batch):
            evaluator.add(to_predictions(raw, index, sample.letterbox), truth, frame=sample.name)
        if inspect is not None:
            inspect(outputs, images, batch)
        yield


def evaluate(
    *,
    model: nn.Module,
    samples: Iterable[list[tuple[EvaluationSample, Truth]]],
    evaluator: Evaluator,
    device: torch.device,
    max_detections: int,
) -> Metrics:
    """Measure the network on a data set; see ``collect`` for the arguments."""
    for _ in collect(model=model, samples=samples, evaluator=evaluator, device=device, max_detections=max_detections):
        pass
    return evaluator.compute()


@torch.no_grad()
def predict(
    *,
    model: nn.Module,
    samples: Iterable[list[EvaluationSample]],
    device: torch.device,
    max_detections: int,
) -> Iterator[ConfidentPredictions]:
    """Predict with confidences, one image at a time in the order of ``samples``.

    Args:
        model: the network, on ``device``.
        samples: batches of letterboxed images.
        device: of the network.
        max_detections: boxes per image.
    """
    model.eval()
    for batch in samples:
        images, size_hw = _stack(batch, device)
        outputs: Outputs = model(images)
        drivable = confidence = None
        if outputs.drivable is not None:  # on its own, since decode gives no confidence for the drivable area
            drivable, confidence = (each.cpu().numpy() for each in decode_masks(outputs.drivable, size_hw))
        raw = to_raw(decode(replace(outputs, drivable=None), size_hw, max_detections))
        for index, sample in enumerate(batch):
            predictions = to_predictions(raw, index, sample.letterbox)
            yield ConfidentPredictions(
                sample.name,
                predictions.size_hw,
                predictions.detections,
                predictions.semantic,
                predictions.semantic_confidence,
                None if drivable is None else mask_to_source(drivable[index], sample.letterbox),
                None if confidence is None else mask_to_source(confidence[index], sample.letterbox),
            )


def _stack(samples: Sequence[EvaluationSample], device: torch.device) -> tuple[Tensor, tuple[int, int]]:
    """The samples' images as one batch uint8 [B, 3, H, W] on the device, and (H, W)."""
    images = torch.stack([sample.image for sample in samples]).to(device)
    return images, (images.shape[2], images.shape[3])


def check_finite(
    terms: dict[str, Tensor], batch: NamedBatch, step: int, *, suspect: str = "labels"
) -> dict[str, float]:
    """Loss terms as numbers. Raises NonFiniteLossError, with the first bad term and the images' names."""
    numbers = torch.stack(list(terms.values())).tolist() if terms else []  # one transfer for all
    values = dict(zip(terms, numbers, strict=True))
    for name, value in values.items():
        if value != value or abs(value) == float("inf"):
            raise NonFiniteLossError(
                f"step {step + 1}: loss {name} is {value} on images {', '.join(batch.names)}; look at their {suspect}, "
                "lower train.learning_rate, or set train.precision=no, then resume from the last checkpoint"
            )
    return values


def _mean_over_processes(
    terms: dict[str, Tensor], batch: NamedBatch, step: int, processes: int, *, suspect: str
) -> dict[str, float]:
    """Mean of each loss term, 0 where a process lacks it; an error of ``check_finite`` is raised in all processes."""
    if processes == 1:
        return check_finite(terms, batch, step, suspect=suspect)
    own: tuple[dict[str, float], str]
    try:
        own = check_finite(terms, batch, step, suspect=suspect), ""
    except NonFiniteLossError as err:
        own = {}, str(err)
    every: list[tuple[dict[str, float], str]] = gather_object([own])
    for _, problem in every:
        if problem:
            raise NonFiniteLossError(problem)
    names = dict.fromkeys(name for values, _ in every for name in values)
    return {name: sum(values.get(name, 0.0) for values, _ in every) / processes for name in names}


def to_device(batch: Batch, device: torch.device) -> Batch:
    """Move the images to the device; the criterion moves the targets that it needs."""
    return Batch(batch.names, batch.images.to(device, non_blocking=True), batch.targets)


def to_raw(decoded: Decoded) -> RawOutputs:
    """Decoded tensors -> numpy arrays, as an engine returns them."""

    tensors = {field.name: getattr(decoded, field.name) for field in fields(decoded)}
    return RawOutputs(**{name: None if value is None else value.cpu().numpy() for name, value in tensors.items()})


def _zero(outputs: Outputs) -> Tensor:
    """A zero that depends on the whole network, so that a task without annotation in the batch has zero gradients.

    Processes that train together must agree on which parameters have gradients, whatever their batches contain, and
    each needs one of every parameter, also of pyramid levels that no head reads.
    """
    others = (outputs.semantic_pixels, outputs.drivable_pixels, outputs.neck_weights)
    parts = [each for each in others if each is not None]
    for head in (outputs.detection, outputs.semantic, outputs.drivable):
        if head is not None:
            values = (getattr(head, field.name) for field in fields(head))
            parts += [value for value in values if isinstance(value, Tensor)]
    return torch.stack([part.float().sum() * 0 for part in parts]).sum()
