"""Results of ``lvad-perception bench`` as text and JSON, and the timing of engines alone."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from time import perf_counter
from typing import Any, Final

import numpy as np

from lvad_perception.engines import Engine
from lvad_perception.engines.agreement import Agreement, Tolerance, agree, copied
from lvad_perception.errors import ConfigError
from lvad_perception.preprocess import letterbox_image
from lvad_perception.profiling.frames import Decode
from lvad_perception.profiling.roofline import Roofline
from lvad_perception.profiling.stages import StageTimes
from lvad_perception.profiling.statistics import Samples, median, p99, ratio_of_medians
from lvad_perception.types import RawOutputs, UInt8

_FEWEST_RUNS: Final = 5


@dataclass(frozen=True, slots=True)
class BatchTimes:
    """Times of an engine alone, without the other stages.

    Attributes:
        name: of the model file.
        batch_size: images of a run.
        runs_ms: time of each run, float64 [runs].
    """

    name: str
    batch_size: int
    runs_ms: Samples

    @property
    def images_per_s(self) -> float:
        """Throughput of successive runs."""
        return self.batch_size * 1e3 / float(self.runs_ms.mean())

    def to_dict(self) -> dict[str, Any]:
        """Dict of numbers and names, ready for JSON."""
        return {
            "model": self.name,
            "batch_size": self.batch_size,
            "runs": len(self.runs_ms),
            "median_ms": median(self.runs_ms),
            "p99_ms": p99(self.runs_ms),
            "images_per_s": self.images_per_s,
        }


@dataclass(frozen=True, slots=True)
class Bench:
    """All results of the command.

    Attributes:
        stages: times of whole frames, and of the rivals timed in turns with them.
        batches: times of engines alone, this one included; empty without other batch sizes.
        roofline: the roofline, or a sentence why it is unknown.
        agreement: distance from the reference's outputs, and the tolerance of the precision; None without a reference.
        overlapped_fps: frames per second when the stages of successive frames overlap as in the node; None where that
            was not timed.
    """

    stages: StageTimes
    batches: Sequence[BatchTimes] = ()
    roofline: Roofline | str = ""
    agreement: tuple[Agreement, Tolerance] | None = None
    overlapped_fps: float | None = None

    def to_text(self) -> str:
        """The results as tables."""
        blocks = [self.stages.to_text()]
        if self.overlapped_fps is not None:
            blocks[0] += f"\n{'stages overlapping, as in the node':<40}{self.overlapped_fps:>7.1f} frames/s"
        if self.stages.rivals_ms:
            lines = [f"{'against, ms per image':<32}{'median':>9}{'p99':>9}   {'engine / it':<20}whole frame / it"]
            for name, rival_ms in self.stages.rivals_ms.items():
                engine, frame = self._ratios(name)
                lines.append(
                    f"{name:<32}{median(rival_ms):>9.2f}{p99(rival_ms):>9.2f}   {engine.to_text():<20}{frame.to_text()}"
                )
            blocks.append("\n".join([*lines, "ratios of medians, taken in turns, with 95 % bootstrap intervals"]))
        if self.batches:
            lines = [f"{'engine alone':<32}{'batch':>6}{'median ms':>11}{'p99 ms':>9}{'images/s':>10}"]
            for row in self.batches:
                lines.append(
                    f"{row.name:<32}{row.batch_size:>6}{median(row.runs_ms):>11.2f}{p99(row.runs_ms):>9.2f}"
                    f"{row.images_per_s:>10.1f}"
                )
            blocks.append("\n".join(lines))
        if self.roofline:
            blocks.append(self.roofline if isinstance(self.roofline, str) else self.roofline.to_text())
        if self.agreement is not None:
            agreement, tolerance = self.agreement
            verdict = "within" if agreement.within(tolerance) else "NOT within"
            blocks.append(
                f"against the reference's outputs: {agreement.to_text()}; {verdict} its precision's tolerance"
            )
        return "\n\n".join(blocks)

    def to_dict(self) -> dict[str, Any]:
        """The content of the tables, ready for JSON."""
        result = self.stages.to_dict()
        result["frames_per_second_overlapping"] = self.overlapped_fps
        result["rivals"] = {
            name: {
                "median_ms": median(rival_ms),
                "p99_ms": p99(rival_ms),
                **{key: value.to_dict() for key, value in zip(("engine", "frame"), self._ratios(name), strict=True)},
            }
            for name, rival_ms in self.stages.rivals_ms.items()
        }
        result["batches"] = [row.to_dict() for row in self.batches]
        known = isinstance(self.roofline, Roofline)
        result["roofline"] = self.roofline.to_dict() if isinstance(self.roofline, Roofline) else None
        result["roofline_unknown"] = None if known else self.roofline
        if self.agreement is not None:
            agreement, tolerance = self.agreement
            result["agreement"] = {
                "boxes": agreement.boxes,
                "boxes_px": agreement.boxes_px if math.isfinite(agreement.boxes_px) else None,  # JSON has no infinity
                "scores": agreement.scores,
                "masks": agreement.masks,
                "confidence": agreement.confidence,
                "within": agreement.within(tolerance),
            }
        return result

    def _ratios(self, name: str) -> Any:
        rival_ms = self.stages.rivals_ms[name]
        return (
            ratio_of_medians(self.stages.samples_ms["engine"], rival_ms),
            ratio_of_medians(self.stages.total_ms, rival_ms),
        )


def network_inputs(engine: Engine, frames: Iterator[Decode], count: int) -> list[UInt8]:
    """Preprocess the next frames to ``count`` inputs of the engine, uint8 [N, H, W, 3] each."""
    size_hw, batch_size = engine.manifest.input_hw, engine.manifest.batch_size
    images = [letterbox_image(decode(), size_hw)[0] for decode in islice(frames, count * batch_size)]
    return [np.stack(images[start : start + batch_size]) for start in range(0, len(images), batch_size)]


def compare_outputs(engine: Engine, reference: Engine, inputs: Sequence[UInt8], tolerance: Tolerance) -> Agreement:
    """Distance of an engine's outputs from a reference's on the same inputs.

    Raises:
        ConfigError: the reference has another batch size, input size or other tasks.
    """
    ours, theirs = engine.manifest, reference.manifest
    if (ours.batch_size, ours.input_hw, ours.classes) != (theirs.batch_size, theirs.input_hw, theirs.classes):
        raise ConfigError("the reference has another batch size, input size or tasks; name the file it was made from")
    return agree(_run_all(engine, inputs), _run_all(reference, inputs), tolerance)


def time_batches(engines: Sequence[tuple[str, Engine]], inputs: Sequence[UInt8], *, count: int) -> list[BatchTimes]:
    """Time engines of different batch sizes alone, in turns.

    Args:
        engines: names and engines.
        inputs: an input of each engine.
        count: images for the engine with the largest batch; all engines run equally often, at least five times.
    """
    largest = max(engine.manifest.batch_size for _, engine in engines)
    runs = max(_FEWEST_RUNS, count // largest)
    times: list[list[float]] = [[] for _ in engines]
    for (_, engine), images in zip(engines, inputs, strict=True):
        engine.infer(images)
    for _ in range(runs):
        for (_, engine), images, samples in zip(engines, inputs, times, strict=True):
            began = perf_counter()
            engine.infer(images)
            samples.append(1e3 * (perf_counter() - began))
    return [
        BatchTimes(name, engine.manifest.batch_size, np.array(samples))
        for (name, engine), samples in zip(engines, times, strict=True)
    ]


def _run_all(engine: Engine, inputs: Sequence[UInt8]) -> list[RawOutputs]:
    return [copied(engine.infer(images)) for images in inputs]
