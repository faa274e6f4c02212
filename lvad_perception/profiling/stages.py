"""Times of the stages of a frame, and of other networks timed in turns with it."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Final

import numpy as np
from tqdm import tqdm

from lvad_perception.engines.plain import PlainNetwork
from lvad_perception.errors import ConfigError
from lvad_perception.perceiver import Perceiver
from lvad_perception.profiling.frames import Decode
from lvad_perception.profiling.messages import publish, unavailable
from lvad_perception.profiling.statistics import Samples, median, p99
from lvad_perception.types import Size

STAGES: Final = ("decode", "preprocess", "engine", "postprocess", "messages")


@dataclass(frozen=True, slots=True)
class StageTimes:
    """Times per frame, in milliseconds.

    Attributes:
        source: description of the frames.
        engine: the engine's description.
        network_hw: size of the network input.
        batch_size: images of a run of the engine; the times of a batch are divided evenly among its images.
        size_hw: size of the first frame.
        samples_ms: stage -> float64 [frames]; without "messages" where they cannot be built.
        rivals_ms: name of another network -> its time per image, taken right after that frame, float64 [frames].
        no_messages: why "messages" were not timed; empty when they were.
    """

    source: str
    engine: str
    network_hw: Size
    batch_size: int
    size_hw: Size
    samples_ms: dict[str, Samples]
    rivals_ms: dict[str, Samples] = field(default_factory=dict)
    no_messages: str = ""

    @property
    def total_ms(self) -> Samples:
        """Sum of all stages of each frame, float64 [frames]."""
        return np.asarray(np.sum(list(self.samples_ms.values()), axis=0))

    @property
    def overhead_ms(self) -> Samples:
        """Sum of all stages except the engine, float64 [frames]."""
        return np.asarray(self.total_ms - self.samples_ms["engine"])

    @property
    def engine_run_ms(self) -> float:
        """Median time of one run of the engine on a batch."""
        return median(self.samples_ms["engine"]) * self.batch_size

    def to_dict(self) -> dict[str, Any]:
        """The content of the table, ready for JSON."""
        rows = {**self.samples_ms, "total": self.total_ms, "overhead": self.overhead_ms}
        return {
            "source": self.source,
            "engine": self.engine,
            "network_hw": list(self.network_hw),
            "batch_size": self.batch_size,
            "size_hw": list(self.size_hw),
            "frames": len(self.total_ms),
            "frames_per_second": 1e3 / float(self.total_ms.mean()),
            "messages_unknown": self.no_messages or None,
            "stages_ms": {name: {"median": median(row), "p99": p99(row)} for name, row in rows.items()},
        }

    def to_text(self) -> str:
        """The times as a table."""
        total = self.total_ms
        lines = [
            f"{len(total)} frames of {self.source}, {self.size_hw[1]}x{self.size_hw[0]} pixels",
            f"{self.engine}; input {self.network_hw[1]}x{self.network_hw[0]}, batch {self.batch_size}",
            "",
            f"{'ms per frame':<14}{'median':>9}{'p99':>9}{'share':>8}",
        ]
        for stage, row in self.samples_ms.items():
            share = 100 * float(row.sum() / total.sum())
            lines.append(f"{stage:<14}{median(row):>9.2f}{p99(row):>9.2f}{share:>7.1f}%")
        lines.append(f"{'total':<14}{median(total):>9.2f}{p99(total):>9.2f}{1e3 / float(total.mean()):>7.1f} frames/s")
        overhead, share = self.overhead_ms, 100 * float(self.overhead_ms.sum() / total.sum())
        lines.append(f"{'beside engine':<14}{median(overhead):>9.2f}{p99(overhead):>9.2f}{share:>7.1f}%")
        if self.no_messages:
            lines.append(f"messages were not timed: {self.no_messages}")
        return "\n".join(lines)


def time_stages(
    perceiver: Perceiver,
    frames: Iterator[Decode],
    *,
    source: str,
    count: int = 200,
    warm_up: int = 5,
    rivals: Sequence[PlainNetwork] = (),
    progress: bool = False,
) -> StageTimes:
    """Time the stages of ``count`` frames.

    Args:
        perceiver: the model to time.
        frames: encoded frames, endless or at least ``warm_up + count``; a shorter iterator gives fewer samples.
        source: description of the frames, for the table.
        count: frames to time.
        warm_up: frames to run before.
        rivals: other networks; each runs once after every batch, so that other load on the machine affects all alike.
        progress: show a progress bar on standard error.

    Raises:
        ConfigError: ``count`` is below 1, or there was no frame after the warm-up.
        EngineError: the engine failed.
    """
    if count < 1 or warm_up < 0:
        raise ConfigError(f"{count} frames after {warm_up} cannot be timed; give --frames 1 or more")
    batch_size = perceiver.manifest.batch_size
    for decode in islice(frames, warm_up):
        for prediction in perceiver([decode()]):
            publish(prediction, 0)
        for rival in rivals:
            rival.run()
    no_messages = unavailable()
    samples: dict[str, list[float]] = {stage: [] for stage in STAGES if not (no_messages and stage == "messages")}
    others: dict[str, list[float]] = {rival.name: [] for rival in rivals}
    size_hw = (0, 0)
    with tqdm(total=count, desc="bench", unit="frame", disable=None if progress else True) as bar:
        while len(samples["engine"]) < count and (batch := list(islice(frames, batch_size))):
            began = time.perf_counter_ns()
            images = [decode() for decode in batch]
            decoded = time.perf_counter_ns()
            pending = perceiver.submit(images)
            predictions = pending.result()
            timings = pending.timings
            perceived = time.perf_counter_ns()
            for index, prediction in enumerate(predictions):
                publish(prediction, index)
            published = time.perf_counter_ns()
            spans_ns = {
                "decode": decoded - began,
                "preprocess": timings.preprocess_ns,
                "engine": timings.engine_ns,
                "postprocess": timings.postprocess_ns,
                "messages": published - perceived,
            }
            for stage, values in samples.items():
                values += [spans_ns[stage] / len(batch) / 1e6] * len(batch)
            for rival in rivals:
                others[rival.name] += [rival.timed_ms() / rival.batch_size] * len(batch)
            size_hw = size_hw if size_hw != (0, 0) else predictions[0].size_hw
            bar.update(len(batch))
    if not samples["engine"]:
        raise ConfigError(f"{source} has no frame left after {warm_up} of warm-up; give more frames")
    return StageTimes(
        source=source,
        engine=perceiver.description,
        network_hw=perceiver.manifest.network_hw,
        batch_size=batch_size,
        size_hw=size_hw,
        samples_ms={stage: np.array(values[:count]) for stage, values in samples.items()},
        rivals_ms={name: np.array(values[:count]) for name, values in others.items()},
        no_messages=no_messages,
    )
