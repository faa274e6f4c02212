"""The machine: usable CPU cores, the CPU's name and identity, and cache folders."""

import math
import os
import platform
import stat
import tempfile
from pathlib import Path
from typing import Final

_CPUINFO: Final = Path("/proc/cpuinfo")
_CPU_FIELDS: Final = ("vendor_id", "model name", "flags", "CPU implementer", "CPU part", "CPU variant", "Features")
"""The fields of ``/proc/cpuinfo`` that decide which runtime is faster, on x86-64 and on ARM."""


def usable_cores() -> int:
    """Number of cores that this process may use: limited by its CPU affinity and by the container's CPU quota."""
    affine = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = quota_cores()
    return affine if math.isinf(quota) else min(affine, math.ceil(quota))


def quota_cores(cgroup: Path = Path("/sys/fs/cgroup")) -> float:
    """CPU quota of the container in cores, > 0, as set by ``docker run --cpus``; infinite without a limit.

    Args:
        cgroup: folder of this process's control group, version 2 or 1.
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
        cores = int(quota) / int(period)
    except (ValueError, ZeroDivisionError):  # "max"
        return math.inf
    return cores if cores > 0 else math.inf  # -1 in version 1


def cpu_name(cpuinfo: Path = _CPUINFO) -> str:
    """The CPU's model name, for tables; the machine type where Linux does not state it, as on ARM."""
    return _cpuinfo_fields(cpuinfo).get("model name") or platform.machine()


def cpu_identity(cpuinfo: Path = _CPUINFO) -> str:
    """The CPU's model and instruction sets, stable across boots; Python's ``platform`` where Linux gives none.

    Args:
        cpuinfo: the file in which Linux describes the cores.
    """
    fields = _cpuinfo_fields(cpuinfo)
    known = [f"{name}: {fields[name]}" for name in _CPU_FIELDS if name in fields]
    return "\n".join(known) or f"{platform.machine()} {platform.processor()}"


def cache_folders(cache_dir: Path | None) -> list[Path]:
    """Candidate cache directories, best first; a caller uses the first one that it can write.

    Args:
        cache_dir: the only candidate. When None: ``$XDG_CACHE_HOME/lvad`` (``~/.cache/lvad``), then a folder of the
            user in the system's temporary directory, unless other users can write to it.
    """
    if cache_dir is not None:
        return [cache_dir]
    temporary = Path(tempfile.gettempdir(), f"lvad-{os.getuid()}")
    fallback = [temporary] if _is_private(temporary) else []
    try:
        given = os.environ.get("XDG_CACHE_HOME")
        home = Path(given).expanduser() if given else Path.home() / ".cache"
    except RuntimeError:  # a container's user without a home
        return fallback or [temporary.with_name(f"{temporary.name}-{os.getpid()}")]
    return [home / "lvad", *fallback]


def _is_private(folder: Path) -> bool:
    """Whether no other user can have written into a folder of the shared temporary directory."""
    try:
        status = folder.lstat()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and not status.st_mode & stat.S_IWOTH


def _cpuinfo_fields(cpuinfo: Path) -> dict[str, str]:
    """Field name -> value of the first core in ``/proc/cpuinfo``; empty where the file cannot be read."""
    try:
        first = cpuinfo.read_text(encoding="utf-8", errors="replace").partition("\n\n")[0]
    except OSError:
        return {}
    pairs = (line.partition(":") for line in first.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}
