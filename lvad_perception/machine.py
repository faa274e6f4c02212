"""What this process may use of the machine."""

import math
import os
from pathlib import Path


def usable_cores() -> int:
    """Cores that this process may use: those that it is bound to, or as many as a container is given the time of."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    granted = granted_cores()
    return bound if math.isinf(granted) else min(bound, math.ceil(granted))


def granted_cores(cgroup: Path = Path("/sys/fs/cgroup")) -> float:
    """Cores whose time the container may use, above 0, as ``docker run --cpus`` limits it; infinite without a limit.

    Args:
        cgroup: where Linux shows the limits of this process's control group, of version 2 or 1.
    """
    try:
        quota, period = (cgroup / "cpu.max").read_text(encoding="ascii").split()
    except (OSError, ValueError):
        try:
            quota, period = (
                (cgroup / f"cpu/cpu.cfs_{name}_us").read_text(encoding="ascii") for name in ("quota", "period")
            )
        except OSError:
            return math.inf
    try:
        granted = int(quota) / int(period)
    except (ValueError, ZeroDivisionError):  # "max"
        return math.inf
    return granted if granted > 0 else math.inf  # -1 in version 1
