"""Run the ROS 2 node at full rate for an hour and check that nothing grows. Needs a sourced ROS 2.

    python -m benchmarks.soak --model model.onnx --minutes 60 --csv soak.csv

Cameras publish images at ``--rate`` to the node's executable, and a subscriber receives every result. Every 10 s the
node's memory, open files and threads, the rates, and the latency from header stamp to received boxes become a line of
the CSV. At the end a straight line is fitted to each but for the first tenth of the samples. The run fails (status 1)
when the line rises over the whole run by more than 10 MB of memory, 10 % of the median latency, or one open file or
thread, or when the node does not end with status 0 within 5 s of SIGINT.
"""

import argparse
import csv
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.node_start import memory_mb
from benchmarks.robot import image_message, image_topic, message_types
from lvad_perception.command_line import size_wh

MEMORY_MB = 10.0
LATENCY_SHARE = 0.1
WARM_UP_SHARE = 0.1
END_S = 5.0
# The outputs that a vehicle subscribes to; the overlay is for people.
COUNTED = ("segmentation", "segmentation/confidence", "drivable_area")


@dataclass(frozen=True)
class Sample:
    """One line of the CSV; rates are of all cameras together."""

    seconds: float
    memory_mb: float
    files: int
    threads: int
    input_hz: float
    boxes_hz: float
    masks_hz: float
    latency_ms: float
    latency_p99_ms: float


@dataclass(frozen=True)
class Verdict:
    """A quantity over the run: its median, the rise of its fitted line, and the largest rise allowed."""

    name: str
    median: float
    growth: float
    limit: float

    @property
    def passed(self) -> bool:
        """Whether the growth is within the limit; False with too few samples."""
        return self.growth <= self.limit


def judge(samples: list[Sample]) -> list[Verdict]:
    """Fit a line to each quantity, without the first tenth of the samples."""
    kept = samples[int(len(samples) * WARM_UP_SHARE) :]
    seconds = np.array([sample.seconds for sample in kept])

    def growth(name: str) -> tuple[float, float]:
        values = np.array([getattr(sample, name) for sample in kept], float)
        usable = np.isfinite(values)
        if usable.sum() < 3:
            return float("nan"), float("nan")
        slope = np.polyfit(seconds[usable], values[usable], 1)[0]
        return float(np.median(values[usable])), float(slope * (seconds[-1] - seconds[0]))

    memory, files, threads, latency = map(growth, ("memory_mb", "files", "threads", "latency_ms"))
    return [
        Verdict("memory [MB]", *memory, MEMORY_MB),
        Verdict("latency, median [ms]", *latency, LATENCY_SHARE * latency[0]),
        Verdict("open files", *files, 1.0),
        Verdict("threads", *threads, 1.0),
    ]


class Robot:
    """Cameras and a subscriber in this process; the node is in another.

    Args:
        cameras: their names.
        size_hw: of the images.
        rate_hz: images a second of each camera.
        jpeg: publish JPEG, else rgb8.
    """

    def __init__(self, cameras: list[str], *, size_hw: tuple[int, int], rate_hz: float, jpeg: bool) -> None:
        import rclpy
        from rclpy.executors import SingleThreadedExecutor

        self._ros = rclpy
        self.node = rclpy.create_node("soak")
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self.node)
        self._message = image_message(size_hw, jpeg=jpeg)
        self._publishers = [
            self.node.create_publisher(type(self._message), image_topic(camera, jpeg=jpeg), 5) for camera in cameras
        ]
        self._reset()
        types = message_types()
        for camera in cameras:
            self.node.create_subscription(types["detections"], f"/{camera}/detections", self._on_boxes, 10)
            for topic in COUNTED:  # raw: deserialising is not a cost of the node
                self.node.create_subscription(types[topic], f"/{camera}/{topic}", self._on_mask, 10, raw=True)
        self.node.create_timer(1.0 / rate_hz, self._send)
        self._sending = False

    def bring_up(self, seconds: float = 120.0) -> None:
        """Configure and activate the node. Raises SystemExit when a transition fails."""
        from lifecycle_msgs.msg import Transition
        from lifecycle_msgs.srv import ChangeState

        client = self.node.create_client(ChangeState, "/perception/change_state")
        if not client.wait_for_service(timeout_sec=30.0):
            raise SystemExit("soak: the node did not start; its last message above says why")
        for transition in (Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE):
            future = client.call_async(ChangeState.Request(transition=Transition(id=transition)))
            self._executor.spin_until_future_complete(future, timeout_sec=seconds)
            if not (future.done() and future.result().success):
                raise SystemExit("soak: the node refuses; its last message above says why")
        self._sending = True

    def sample(self, process: int, began_s: float, seconds: float) -> Sample:
        """Spin for ``seconds`` and measure."""
        self._reset()
        start_s = time.monotonic()
        while (elapsed_s := time.monotonic() - start_s) < seconds:
            self._executor.spin_once(timeout_sec=0.05)
        latencies = np.array(self._latencies_ms) if self._latencies_ms else np.array([np.nan])
        return Sample(
            seconds=round(time.monotonic() - began_s, 1),
            memory_mb=round(memory_mb(process), 1),
            files=len(list(Path(f"/proc/{process}/fd").iterdir())),
            threads=len(list(Path(f"/proc/{process}/task").iterdir())),
            input_hz=round(self._sent / elapsed_s, 2),
            boxes_hz=round(len(self._latencies_ms) / elapsed_s, 2),
            masks_hz=round(self._masks / elapsed_s, 2),
            latency_ms=round(float(np.median(latencies)), 2),
            latency_p99_ms=round(float(np.percentile(latencies, 99)), 2),
        )

    def close(self) -> None:
        """Destroy the publishers and subscriptions."""
        self._executor.shutdown()
        self.node.destroy_node()

    def _reset(self) -> None:
        self._sent = self._masks = 0
        self._latencies_ms: list[float] = []

    def _send(self) -> None:
        if not self._sending:
            return
        for publisher in self._publishers:
            self._message.header.stamp = self.node.get_clock().now().to_msg()
            publisher.publish(self._message)
            self._sent += 1

    def _on_boxes(self, message: Any) -> None:
        stamp = message.header.stamp
        age_ns = self.node.get_clock().now().nanoseconds - (stamp.sec * 1_000_000_000 + stamp.nanosec)
        self._latencies_ms.append(age_ns / 1e6)

    def _on_mask(self, _: bytes) -> None:
        self._masks += 1


def start_node(model: Path, cameras: list[str], *, jpeg: bool, threads: int) -> subprocess.Popen:
    """Start the node's executable, without configuring it."""
    parameters = {"model": model, "threads": threads, "cameras": f"[{', '.join(cameras)}]"}
    parameters |= {f"{camera}.image_topic": image_topic(camera, jpeg=jpeg) for camera in cameras}
    arguments = [part for name, value in parameters.items() for part in ("-p", f"{name}:={value}")]
    return subprocess.Popen([sys.executable, "-m", "lvad_perception.node.main", "--ros-args", *arguments])


def main() -> int:
    """Run, write the CSV, print the table; 0 when nothing grew."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="model file")
    parser.add_argument("--minutes", type=float, default=60.0, help="how long (default: 60)")
    parser.add_argument("--every", type=float, default=10.0, metavar="S", help="seconds a sample (default: 10)")
    parser.add_argument("--rate", type=float, default=30.0, metavar="HZ", help="of each camera (default: 30)")
    parser.add_argument("--cameras", type=int, default=1, metavar="N", help="how many (default: 1)")
    parser.add_argument(
        "--size", type=size_wh, default=(1280, 720), metavar="WxH", help="of the images (default: 1280x720)"
    )
    parser.add_argument("--raw", action="store_true", help="send rgb8 images instead of JPEG")
    parser.add_argument("--threads", type=int, default=0, metavar="N", help="CPU threads of the model (default: all)")
    parser.add_argument("--csv", type=Path, default=Path("soak.csv"), help="file to write (default: soak.csv)")
    arguments = parser.parse_args()
    width, height = arguments.size
    cameras = [f"camera{index}" for index in range(arguments.cameras)]
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    import rclpy

    rclpy.init(args=[])
    process = start_node(arguments.model, cameras, jpeg=not arguments.raw, threads=arguments.threads)
    robot = Robot(cameras, size_hw=(height, width), rate_hz=arguments.rate, jpeg=not arguments.raw)
    samples: list[Sample] = []
    try:
        robot.bring_up()
        began_s = time.monotonic()
        with arguments.csv.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, [field.name for field in fields(Sample)])
            writer.writeheader()
            while time.monotonic() - began_s < 60 * arguments.minutes and process.poll() is None:
                samples.append(robot.sample(process.pid, began_s, arguments.every))
                writer.writerow(asdict(samples[-1]))
                file.flush()
                print(samples[-1], file=sys.stderr)
    except KeyboardInterrupt:
        pass
    finally:
        ended, ending_s = end_node(process)
        robot.close()
        rclpy.shutdown()
    return report(samples, ended, ending_s)


def end_node(process: subprocess.Popen) -> tuple[int | None, float]:
    """Send SIGINT; the exit status, None when it had to be killed, and the seconds until it ended."""
    began_s = time.monotonic()
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
    try:
        return process.wait(END_S), time.monotonic() - began_s
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return None, time.monotonic() - began_s


def report(samples: list[Sample], ended: int | None, ending_s: float) -> int:
    """Print the table and return the exit status of the benchmark."""
    if not samples:
        print("soak: ended before the first sample", file=sys.stderr)
        return 1
    verdicts = judge(samples)
    print(f"\n| over {samples[-1].seconds / 60:.1f} min | median | growth | limit | |\n|---|---:|---:|---:|---|")
    for one in verdicts:
        state = "ok" if one.passed else "GROWS"
        print(f"| {one.name} | {one.median:.2f} | {one.growth:+.2f} | {one.limit:.2f} | {state} |")
    medians = {field.name: np.nanmedian([getattr(s, field.name) for s in samples]) for field in fields(Sample)}
    print(
        f"| rates: in, boxes, masks [Hz] | {medians['input_hz']:.1f}, {medians['boxes_hz']:.1f}, "
        f"{medians['masks_hz']:.1f} | | | |\n| latency, 99 % [ms] | {medians['latency_p99_ms']:.1f} | | | |\n"
        f"| end after SIGINT [s] | {ending_s:.2f} | | {END_S:.2f} | {'ok' if ended == 0 else f'STATUS {ended}'} |"
    )
    return 0 if all(one.passed for one in verdicts) and ended == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
