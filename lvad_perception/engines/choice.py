"""Which CPU runtime runs a model file fastest on this machine, among those that agree with ONNX Runtime."""

import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import numpy as np

from lvad_perception.agreement import TOLERANCES, agree, copied
from lvad_perception.engines.base import Engine
from lvad_perception.engines.onnx import OnnxEngine
from lvad_perception.engines.openvino import OpenVinoEngine
from lvad_perception.errors import EngineError, LvadError
from lvad_perception.manifest import Manifest
from lvad_perception.types import UInt8

ROUNDS: Final = 7
"""Timed inferences of each runtime, in turns, so that a busy moment of the machine hits both."""
ADVANTAGE: Final = 0.95
"""Another runtime must need less than this share of ONNX Runtime's time, so that a near tie falls out the same way."""


def fastest(
    path: Path,
    *,
    threads: int | None,
    precision: str | None,
    say: Callable[[str], None],
    clock: Callable[[], float] = time.perf_counter,
) -> Engine:
    """Open a model file with the fastest runtime that agrees with ONNX Runtime in the file's own precision.

    Without OpenVINO there is nothing to choose, and ONNX Runtime is opened without a trial.

    Args:
        path: an ``.onnx`` model file.
        threads: CPU threads for one inference; None uses one per core.
        precision: what to compute in; None is the file's own. One that ONNX Runtime does not compute in leaves
            OpenVINO, if it keeps to that precision's tolerance.
        say: takes the sentence that states the choice and its reason.
        clock: seconds.

    Raises:
        EngineError: no runtime here computes in that precision within its tolerance.
        ModelFileError: and the others of ``OnnxEngine``.
    """
    reference = OnnxEngine(path, threads=threads)
    able = precision in (None, reference.precision)
    if find_spec("openvino") is None:
        if able:
            return reference
        reference.close()
        raise EngineError(f"no runtime here computes {path} in {precision}; pip install openvino, or ask for no other")
    engines: list[Engine] = [reference]
    try:
        rival = OpenVinoEngine(path, threads=threads, precision=precision)
        engines.append(rival)
        winner, reason = _compare(reference, rival, able=able, clock=clock)
    except LvadError as err:
        if not able:
            _close(engines)
            raise
        winner, reason = reference, f"{reference.description}, since OpenVINO does not run it: {err}"
    except BaseException:
        _close(engines)
        raise
    _close([engine for engine in engines if engine is not winner])
    say(f"runtime: {reason}")
    return winner


def trial_images(manifest: Manifest, count: int, *, seed: int = 0) -> list[UInt8]:
    """Smooth random scenes as network input, uint8 [N, H, W, 3] each; the same on every machine."""
    random = np.random.default_rng(seed)
    height, width = manifest.input_hw
    rows, columns = np.arange(height) // 32, np.arange(width) // 32
    batches = []
    for _ in range(count):
        coarse = random.integers(0, 256, (manifest.batch_size, rows[-1] + 2, columns[-1] + 2, 3)).astype(np.float32)
        down = (np.arange(height) % 32 / 32).astype(np.float32)[:, None, None]
        right = (np.arange(width) % 32 / 32).astype(np.float32)[:, None]
        upper, lower = (  # bilinear between the corners of cells of 32 pixels
            coarse[:, rows + step][:, :, columns] * (1 - right) + coarse[:, rows + step][:, :, columns + 1] * right
            for step in (0, 1)
        )
        batches.append(np.ascontiguousarray(upper * (1 - down) + lower * down, np.uint8))
    return batches


def _compare(reference: Engine, rival: Engine, *, able: bool, clock: Callable[[], float]) -> tuple[Engine, str]:
    """The engine to take and why. ``able``: the reference computes in the precision that was asked for."""
    images = trial_images(reference.manifest, 3)
    tolerance = TOLERANCES[rival.precision]
    wanted = [copied(reference.infer(batch)) for batch in images]
    found = [copied(rival.infer(batch)) for batch in images]
    agreement = agree(found, wanted, tolerance)
    if not agreement.within(tolerance):
        reason = f"{rival.description} differs from ONNX Runtime ({agreement.to_text()})"
        if not able:
            raise EngineError(
                f"{reason}, more than {rival.precision} may; choose the runtime openvino yourself to use it all the "
                "same, or another precision"
            )
        return reference, f"{reference.description}, since {reason}"
    if not able:
        return rival, f"{rival.description}, which alone computes in {rival.precision} ({agreement.to_text()})"
    reference_ms, rival_ms = _medians_ms([reference, rival], images, clock)
    faster = rival if rival_ms < ADVANTAGE * reference_ms else reference
    return faster, (
        f"{faster.description}; medians of {ROUNDS}: ONNX Runtime {reference_ms:.1f} ms, OpenVINO {rival_ms:.1f} ms, "
        f"{agreement.to_text()}"
    )


def _medians_ms(engines: Sequence[Engine], images: Sequence[UInt8], clock: Callable[[], float]) -> list[float]:
    times: list[list[float]] = [[] for _ in engines]
    for turn in range(ROUNDS):
        for engine, samples in zip(engines, times, strict=True):
            began = clock()
            engine.infer(images[turn % len(images)])
            samples.append(1e3 * (clock() - began))
    return [float(np.median(samples)) for samples in times]


def _close(engines: Sequence[Engine]) -> None:
    for engine in engines:
        engine.close()
