"""Start-up time of the node, and its CPU and memory without subscribers; part of ``benchmarks.node_cost``.

The launch file starts the node while a camera publishes images and a subscriber waits for detections. The time is from
the command to the first message that the subscriber receives. Then the subscription is destroyed, and the CPU time and
memory of the node's process are read from ``/proc``.
"""

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from benchmarks.robot import Camera, image_topic

CAMERA = "camera"
FIRST_TRIAL = "auto, first start"
"""``auto`` with an empty cache folder: it times the runtimes."""
RUNTIMES = ("onnxruntime", "openvino", "auto", FIRST_TRIAL)
SETTLING_S = 2.0
"""Wait after the first result, until queued images are processed and discovery has ended."""


@dataclass(frozen=True)
class Start:
    """One start of the node.

    Attributes:
        seconds: from the command to the first result at a subscriber in another process.
        idle_share: share of a core that the node's process uses with a camera and without a subscriber.
        memory_mb: resident memory of the node's process then, in MB of 2**20 bytes.
    """

    seconds: float
    idle_share: float
    memory_mb: float


def measure_start(
    model: Path,
    runtime: str,
    *,
    size_hw: tuple[int, int],
    threads: int,
    camera_hz: float = 10.0,
    idle_s: float = 10.0,
    cache: Path | None = None,
) -> Start:
    """Launch the node, measure it, and end it.

    Args:
        model: file, ``.onnx``.
        runtime: the node's parameter.
        size_hw: of the camera's images, JPEG.
        threads: the node's parameter.
        camera_hz: images a second without a subscriber; until the first result the camera sends 30.
        idle_s: seconds over which the idle node's CPU time is measured.
        cache: ``XDG_CACHE_HOME`` of the node; the user's own when None.

    Raises:
        SystemExit: the launch ended, or no result arrived.
    """
    topic = image_topic(CAMERA, jpeg=True)
    with Camera(camera=CAMERA, size_hw=size_hw, jpeg=True) as camera:
        began_s = time.monotonic()
        parameters = f"parameters:={{runtime: {runtime}, threads: {threads}}}"
        arguments = [f"model:={model}", f"image:={topic}", parameters]
        with tempfile.TemporaryFile() as log, _launched(arguments, cache, log) as launch:
            first_s = camera.first_result(rate_hz=30.0, timeout_s=120.0, alive=lambda: launch.poll() is None)
            if first_s is None:
                log.seek(0)
                raise SystemExit(f"node_cost: the launch gave no result; it said:\n{log.read().decode()}")
            camera.publish_only(rate_hz=camera_hz)
            time.sleep(SETTLING_S)
            node = _node_of(launch.pid)
            before_s, from_s = _cpu_s(node), time.monotonic()
            time.sleep(idle_s)
            share = (_cpu_s(node) - before_s) / (time.monotonic() - from_s)
            return Start(first_s - began_s, share, memory_mb(node))


def measure_starts(
    model: Path, runtimes: Sequence[str], *, count: int, size_hw: tuple[int, int], threads: int, idle_s: float
) -> dict[str, list[Start]]:
    """``count`` starts of each runtime, in turns, so that a busy moment of the machine slows all of them.

    ``auto`` gets a cache folder that one start, which is not counted, has filled.
    """
    found: dict[str, list[Start]] = {runtime: [] for runtime in runtimes}
    shape = {"size_hw": size_hw, "threads": threads}
    with tempfile.TemporaryDirectory(prefix="node_start-") as scratch:
        kept = Path(scratch) / "kept"
        if "auto" in runtimes:
            measure_start(model, "auto", idle_s=0.0, cache=kept, **shape)
        for turn in range(count):
            for runtime in runtimes:
                first = runtime == FIRST_TRIAL
                cache = Path(scratch) / f"empty{turn}" if first else kept
                start = measure_start(model, "auto" if first else runtime, idle_s=idle_s, cache=cache, **shape)
                found[runtime].append(start)
    return found


def table_row(runtime: str, starts: Sequence[Start]) -> tuple[str, ...]:
    """Median, minimum and maximum of the start-up time; medians of the idle share and of the memory."""
    seconds = [start.seconds for start in starts]
    return (
        runtime,
        f"{np.median(seconds):.2f}",
        f"{min(seconds):.2f} to {max(seconds):.2f}",
        f"{100 * np.median([start.idle_share for start in starts]):.2f}",
        f"{np.median([start.memory_mb for start in starts]):.0f}",
    )


TABLE_HEAD = ("runtime", "first result [s]", "least to greatest", "idle, % of a core", "memory [MB]")


@contextmanager
def _launched(arguments: Sequence[str], cache: Path | None, log: IO[bytes]) -> Iterator[subprocess.Popen]:
    """The launch file in a process group of its own, ended by SIGINT as by Ctrl-C in a terminal."""
    command = ["ros2", "launch", "lvad_perception", "camera.launch.py", "log_level:=warn", *arguments]
    environment = {**os.environ, **({"XDG_CACHE_HOME": str(cache)} if cache else {})}
    launch = subprocess.Popen(command, env=environment, start_new_session=True, stdout=log, stderr=subprocess.STDOUT)
    try:
        yield launch
    finally:
        if launch.poll() is None:
            os.killpg(launch.pid, signal.SIGINT)
        try:
            launch.wait(timeout=20)
        except subprocess.TimeoutExpired:
            os.killpg(launch.pid, signal.SIGKILL)
            launch.wait()


def _node_of(launch: int) -> int:
    """Process id of the node, the launch's only child."""
    (node,) = Path(f"/proc/{launch}/task/{launch}/children").read_text().split()
    return int(node)


def _cpu_s(process: int) -> float:
    """CPU time of a process's threads so far, user and system."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory_mb(process: int) -> float:
    """Resident memory of a process, in MB of 2**20 bytes."""
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20
