"""How many cores this process may use, which CPU it runs on, and which folders hold its caches."""

import math
import os
import platform
import stat
import tempfile
from pathlib import Path
from typing import Final

_CPUINFO: Final = Path("/proc/cpuinfo")
_CPU_FACTS: Final = ("vendor_id", "model name", "flags", "CPU implementer", "CPU part", "CPU variant", "Features")
"""The fields of ``/proc/cpuinfo`` that decide which runtime is faster, on x86-64 and on ARM."""


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


def cpu_name(cpuinfo: Path = _CPUINFO) -> str:
    """The CPU's model, for tables; the kind of machine where Linux does not name it, as on ARM."""
    return _cpu_facts(cpuinfo).get("model name") or platform.machine()


def cpu_identity(cpuinfo: Path = _CPUINFO) -> str:
    """The CPU's model and instruction sets, the same on every start; what Python knows of it where Linux says nothing.

    Args:
        cpuinfo: what Linux says of the cores.
    """
    facts = _cpu_facts(cpuinfo)
    known = [f"{name}: {facts[name]}" for name in _CPU_FACTS if name in facts]
    return "\n".join(known) or f"{platform.machine()} {platform.processor()}"


def cache_folders(cache_dir: Path | None) -> list[Path]:
    """Directories to keep things in, best first.

    Args:
        cache_dir: the only one; when None, ``$XDG_CACHE_HOME/lvad`` (``~/.cache/lvad``), then the system's temporary
            directory, where the first cannot be written; a folder of the user's in it, none that others can write.
    """
    if cache_dir is not None:
        return [cache_dir]
    temporary = Path(tempfile.gettempdir(), f"lvad-{os.getuid()}")
    places = [temporary] if _is_ours(temporary) else []
    try:
        given = os.environ.get("XDG_CACHE_HOME")
        home = Path(given).expanduser() if given else Path.home() / ".cache"
    except RuntimeError:  # a container's user without a home
        return places or [temporary.with_name(f"{temporary.name}-{os.getpid()}")]
    return [home / "lvad", *places]


def _is_ours(folder: Path) -> bool:
    """Whether nobody else can have put something into a folder of the shared temporary directory."""
    try:
        facts = folder.lstat()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return stat.S_ISDIR(facts.st_mode) and facts.st_uid == os.getuid() and not facts.st_mode & stat.S_IWOTH


def _cpu_facts(cpuinfo: Path) -> dict[str, str]:
    """Field name -> value of the first core in ``/proc/cpuinfo``; empty where the file cannot be read."""
    try:
        first = cpuinfo.read_text(encoding="utf-8", errors="replace").partition("\n\n")[0]
    except OSError:
        return {}
    pairs = (line.partition(":") for line in first.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}
