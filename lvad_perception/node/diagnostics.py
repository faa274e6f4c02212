"""Diagnostics from the cameras' reports: a level, one sentence with the reason, and the numbers.

Everything runs in the executor's thread, by the timer of ``diagnostic_updater``.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Final

from diagnostic_msgs.msg import DiagnosticStatus
from diagnostic_updater import DiagnosticStatusWrapper

from lvad_perception.manifest import Manifest
from lvad_perception.node.health import Report

STALE_AFTER_S: Final = 2.0
"""The newest frame of an active camera must not be older."""
STUCK_AFTER_S: Final = 10.0
"""A frame without result after this time is an error: the model hangs or is too slow for this machine."""
_COMPARABLE_S: Final = 3600.0
"""Stamps further from now belong to a recording that is played without its clock; their age is ignored."""
_OK: Final = DiagnosticStatus.OK
_WARN: Final = DiagnosticStatus.WARN
_ERROR: Final = DiagnosticStatus.ERROR


class CameraState(Enum):
    """What the node does with a camera."""

    INACTIVE = "inactive"
    STOPPED = "stopped"
    """The node is active, but the worker has ended unexpectedly."""
    RESTING = "resting"
    """The results have no subscriber."""
    WORKING = "working"


@dataclass(frozen=True, slots=True)
class EngineState:
    """The engine's properties for the diagnostics; see ``engines.base.Engine``."""

    description: str
    precision: str
    device_memory_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """The state of a camera: a level of ``DiagnosticStatus`` and one sentence."""

    level: bytes
    sentence: str


def judge(
    report: Report,
    state: CameraState,
    *,
    topic: str,
    why_silent: Callable[[], str],
    stale_after_s: float,
    min_interval_s: float = 0.0,
) -> Verdict:
    """The most serious problem of a camera, or its normal state.

    Args:
        report: the camera's.
        state: what the node does with it.
        topic: full name of its image topic.
        why_silent: called for the reason when no image arrives.
        stale_after_s: greatest age of the newest frame, in seconds.
        min_interval_s: time that frames wait on purpose because of ``max_rate_hz``.
    """
    if state is CameraState.INACTIVE:
        return Verdict(_OK, "not active")
    if state is CameraState.STOPPED:
        return Verdict(_ERROR, "the worker has stopped; deactivate and activate again")
    if report.silent_s > stale_after_s:
        return Verdict(_ERROR, f"no image on {topic} for {report.silent_s:.0f} s: {why_silent()}")
    waiting_s = report.waiting_s or 0.0
    if state is CameraState.WORKING and waiting_s > STUCK_AFTER_S + min_interval_s:
        stuck = f"no result for {waiting_s:.0f} s while images come"
        return Verdict(_ERROR, f"{stuck}; the model hangs or is too slow for this machine")
    age_s = report.newest_age_s
    if age_s is not None and stale_after_s < age_s < _COMPARABLE_S:
        late = f"the newest image on {topic} is {age_s:.1f} s old by its stamp"
        return Verdict(_ERROR, f"{late}; check the camera's clock and the link, or use_sim_time for a bag")
    if report.newly_skipped:
        skipped = f"{report.newly_skipped} frame{'s'[: report.newly_skipped != 1]} skipped"
        if not report.newly_published:
            return Verdict(_ERROR, f"{skipped} and none processed: {report.last_problem}")
        return Verdict(_WARN, f"{skipped}: {report.last_problem}")
    if age_s is not None and -_COMPARABLE_S < age_s < -stale_after_s:
        return Verdict(_WARN, f"the newest image on {topic} is stamped {-age_s:.1f} s in the future; set the clocks")
    if report.newly_jumped:
        return Verdict(_WARN, f"the stamps on {topic} jumped back; a bag began again or a clock was set")
    if state is CameraState.RESTING:
        return Verdict(_OK, "nobody subscribes to the results")
    return Verdict(_OK, f"{report.output_hz:.1f} frames a second")


def fill_camera(status: DiagnosticStatusWrapper, report: Report, verdict: Verdict) -> DiagnosticStatusWrapper:
    """Fill the status of one camera with its verdict and all numbers."""
    status.summary(verdict.level, verdict.sentence)
    status.add("input rate [Hz]", f"{report.input_hz:.1f}")
    status.add("output rate [Hz]", f"{report.output_hz:.1f}")
    status.add("newest frame received before [s]", f"{report.silent_s:.2f}" if report.received else "never")
    if report.newest_age_s is not None and abs(report.newest_age_s) < _COMPARABLE_S:
        status.add("newest frame, age by header stamp [s]", f"{report.newest_age_s:.2f}")
    status.add("frames received", str(report.received))
    status.add("frames replaced by a newer one", str(report.dropped))
    status.add("frames corrupt", str(report.corrupt))
    status.add("frames failed", str(report.failed))
    status.add("stamps jumped back", str(report.jumps))
    if report.last_problem:
        status.add("last problem", report.last_problem)
    if report.age_ms is not None and abs(report.age_ms[0]) < 1000 * _COMPARABLE_S:
        _add_quantiles(status, "latency from header stamp", report.age_ms)
    if report.latency_ms is not None:
        _add_quantiles(status, "latency from reception", report.latency_ms)
    for part, spent_ms in report.parts_ms.items():
        _add_quantiles(status, f"of which {part}", spent_ms)
    return status


def fill_node(
    status: DiagnosticStatusWrapper,
    verdicts: Mapping[str, Verdict],
    *,
    manifest: Manifest,
    engine: EngineState,
    model: str,
) -> DiagnosticStatusWrapper:
    """Fill the status of the whole node: level and sentences of the worst cameras, model, engine and memory.

    Args:
        status: the status to fill.
        verdicts: camera -> its verdict.
        manifest: of the model.
        engine: of the model.
        model: path of the model file.
    """
    bad = {camera: verdict for camera, verdict in verdicts.items() if verdict.level != _OK}
    level = max((verdict.level for verdict in verdicts.values()), default=_OK)
    if bad:
        reasons = "; ".join(f"{camera}: {verdict.sentence}" for camera, verdict in bad.items())
        status.summary(level, f"{len(verdicts) - len(bad)} of {len(verdicts)} cameras fine; {reasons}")
    else:
        status.summary(level, "all cameras fine")
    height, width = manifest.network_hw
    status.add("model", model)
    status.add("architecture", manifest.preset)
    status.add("weights sha256", manifest.weights_sha256)
    status.add("tasks", ", ".join(manifest.classes))
    status.add("network size", f"{width}x{height}, batch {manifest.batch_size}")
    status.add("engine", engine.description)
    status.add("precision", engine.precision)
    if engine.device_memory_bytes is not None:
        status.add("memory of the engine's device [MB]", f"{engine.device_memory_bytes / 1e6:.0f}")
    memory = resident_mb()
    if memory is not None:
        status.add("memory of the process [MB]", f"{memory:.0f}")
    return status


def resident_mb() -> float | None:
    """Resident memory of this process in 10**6 bytes; None where the system has no ``/proc``."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    kilobytes = next((int(line.split()[1]) for line in lines if line.startswith("VmRSS:")), None)
    return None if kilobytes is None else kilobytes * 1024 / 1e6


def _add_quantiles(status: DiagnosticStatusWrapper, what: str, quantiles_ms: tuple[float, float]) -> None:
    status.add(f"{what}, median [ms]", f"{quantiles_ms[0]:.1f}")
    status.add(f"{what}, 99 % [ms]", f"{quantiles_ms[1]:.1f}")
