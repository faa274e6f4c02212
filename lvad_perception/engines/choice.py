"""Choice of the fastest CPU runtime for a model file on this machine, among those that agree with ONNX Runtime.

The result of a trial is cached, so that only the first start of a model on a machine measures.
"""

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import numpy as np

from lvad_perception import __version__
from lvad_perception.engines.agreement import TOLERANCES, agree, infer_all
from lvad_perception.engines.base import Engine
from lvad_perception.engines.onnx import OnnxEngine
from lvad_perception.engines.openvino import OpenVinoEngine
from lvad_perception.errors import EngineError, LvadError
from lvad_perception.files import write_whole
from lvad_perception.machine import cache_folders, cpu_identity, usable_cores
from lvad_perception.manifest import Manifest
from lvad_perception.types import UInt8

ROUNDS: Final = 7
"""Timed inferences of each runtime, in alternation, so that a busy moment of the machine affects both."""
ADVANTAGE: Final = 0.95
"""The other runtime must need less than this share of ONNX Runtime's time; near ties then have the same result."""

_ONNX_RUNTIME: Final = "onnxruntime"
_OPENVINO: Final = "openvino"


def fastest(
    path: Path,
    *,
    threads: int | None,
    precision: str | None,
    log: Callable[[str], None],
    clock: Callable[[], float] = time.perf_counter,
    cache_dir: Path | None = None,
) -> Engine:
    """Open a model file with the fastest runtime that agrees with ONNX Runtime in the file's own precision.

    Without OpenVINO there is no choice, and ONNX Runtime is opened without a trial. The cached result of a trial is
    valid for the same model, versions, CPU, threads and precision; only the chosen runtime is opened then.

    Args:
        path: an ``.onnx`` model file.
        threads: CPU threads for one inference; None uses one per core.
        precision: None is the file's own. For one that ONNX Runtime does not offer, OpenVINO is chosen if it is
            within that precision's tolerance.
        log: receives the sentence that states the choice and its reason.
        clock: seconds.
        cache_dir: folder of cached results; the user's cache directory when None, see ``machine.cache_folders``. If
            none can be written, every start measures.

    Raises:
        EngineError: no installed runtime offers the precision within its tolerance.
        ModelFileError: as for ``OnnxEngine``, and its other errors.
    """
    if find_spec(_OPENVINO) is None:
        return _without_choice(path, threads=threads, precision=precision)
    files = _files_of_trial(path, threads=threads, precision=precision, cache_dir=cache_dir)
    if (cached := _read_cache(files)) is not None:
        runtime, reason, file = cached
        try:
            engine = _open(runtime, path, threads=threads, precision=precision)
        except LvadError:  # it ran at the trial; a new trial below reports the cause
            pass
        else:
            log(f"runtime: {reason}; measured at an earlier start and cached in {file}")
            return engine
    return _try_both(path, files, threads=threads, precision=precision, log=log, clock=clock)


def _without_choice(path: Path, *, threads: int | None, precision: str | None) -> Engine:
    engine = OnnxEngine(path, threads=threads)
    if precision in (None, engine.precision):
        return engine
    engine.close()
    raise EngineError(f"no runtime here computes {path} in {precision}; pip install openvino, or give no precision")


def _open(runtime: str, path: Path, *, threads: int | None, precision: str | None) -> Engine:
    if runtime == _OPENVINO:
        return OpenVinoEngine(path, threads=threads, precision=precision)
    return OnnxEngine(path, threads=threads)


def _try_both(
    path: Path,
    files: Sequence[Path],
    *,
    threads: int | None,
    precision: str | None,
    log: Callable[[str], None],
    clock: Callable[[], float],
) -> Engine:
    reference = OnnxEngine(path, threads=threads)
    able = precision in (None, reference.precision)
    engines: list[Engine] = [reference]
    try:
        rival = OpenVinoEngine(path, threads=threads, precision=precision)
        engines.append(rival)
        winner, reason = _compare(reference, rival, able=able, clock=clock)
        _write_cache(files, _OPENVINO if winner is rival else _ONNX_RUNTIME, reason)
    except LvadError as err:
        if not able:
            _close(engines)
            raise
        winner, reason = reference, f"{reference.description}, since OpenVINO does not run it: {err}"
    except BaseException:
        _close(engines)
        raise
    _close([engine for engine in engines if engine is not winner])
    log(f"runtime: {reason}")
    return winner


def _files_of_trial(path: Path, *, threads: int | None, precision: str | None, cache_dir: Path | None) -> list[Path]:
    """Candidate cache files for this model and machine, preferred first; none if the model file cannot be read."""
    try:
        content = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:  # opening the model reports it
        return []
    key = (
        __version__,
        content,
        _installation(_ONNX_RUNTIME),
        _installation(_OPENVINO),
        cpu_identity(),
        threads or usable_cores(),
        precision,
    )
    name = hashlib.sha256(repr(key).encode()).hexdigest()[:32]
    return [parent / "runtimes" / f"{name}.json" for parent in cache_folders(cache_dir)]


def _installation(package: str) -> list[str]:
    """Identify the installed version of a package without importing it, which is slow.

    Returns:
        The names of its distributions, such as ``onnxruntime_gpu-1.20.0.dist-info``, and the modification time of its
        code, which distinguishes versions without such a name.
    """
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        return []
    code = Path(spec.origin)
    try:
        written_ns = code.stat().st_mtime_ns
        return [*sorted(info.name for info in code.parent.parent.glob(f"{package}*.dist-info")), str(written_ns)]
    except OSError:
        return []


def _read_cache(files: Sequence[Path]) -> tuple[str, str, Path] | None:
    """Runtime, reason and file of a cached result; None if there is none or it is damaged."""
    for file in files:
        with suppress(OSError, ValueError, KeyError, TypeError):
            cached = json.loads(file.read_text(encoding="utf-8"))
            runtime, reason = cached["runtime"], cached["reason"]
            if runtime in (_ONNX_RUNTIME, _OPENVINO) and isinstance(reason, str):
                return runtime, reason, file
    return None


def _write_cache(files: Sequence[Path], runtime: str, reason: str) -> None:
    """Cache a result in the first file that can be written; if none can, the next start measures again."""
    text = json.dumps({"runtime": runtime, "reason": reason})
    for file in files:
        with suppress(OSError):
            write_whole(file, text)  # atomic, since other processes may start at the same time
            return


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
    """The engine to use and the reason. ``able``: the reference offers the requested precision."""
    images = trial_images(reference.manifest, 3)
    tolerance = TOLERANCES[rival.precision]
    agreement = agree(infer_all(rival, images), infer_all(reference, images), tolerance)
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
    for index in range(ROUNDS):
        for engine, samples in zip(engines, times, strict=True):
            began = clock()
            engine.infer(images[index % len(images)])
            samples.append(1e3 * (clock() - began))
    return [float(np.median(samples)) for samples in times]


def _close(engines: Sequence[Engine]) -> None:
    for engine in engines:
        engine.close()
