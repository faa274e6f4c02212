"""Measure the cost of the ROS 2 node without its engine, part by part, as Markdown tables. Needs a sourced ROS 2.

    python -m benchmarks.node_cost --model model.onnx

Four measurements, all at the size of ``--size``:

* With a model, starts of the node by its launch file: time to the first result, CPU without a subscriber, memory. The
  package must be built and sourced; ``--only-starts`` leaves out the other measurements.
* Each message alone: built by the node's code, published to a subscriber in another process.
* The node with an engine that takes no time.
* The node with a real model file, against the same engine alone.

The node runs in this process; another one sends one image at a time. Other work of the machine shows in the 99th
percentile. "Round trip" is measured at a subscriber, DDS included; docs/ros.md says how to give DDS the receive buffer
that several masks at once need (CYCLONEDDS_URI=file://…/config/cyclonedds.xml).
"""

import argparse
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from benchmarks.node_start import RUNTIMES, TABLE_HEAD, measure_starts, table_row
from benchmarks.robot import OUTPUTS, Robot, image_message, image_topic, message_types
from lvad_perception.command_line import size_wh
from lvad_perception.engines.base import Engine, Pending
from lvad_perception.machine import cpu_name
from lvad_perception.manifest import Manifest
from lvad_perception.types import Detections, RawOutputs
from lvad_perception.vocabulary import DETECTION, SEMANTIC, TASKS

BOXES = 100
CAMERA = "camera"
# The outputs that a vehicle subscribes to; the overlay is for people.
ON_A_VEHICLE = ("detections", "segmentation", "segmentation/confidence", "drivable_area")
Row = tuple[str, ...]


class InstantEngine(Engine):
    """An engine that takes no time and returns 100 boxes and masks of all classes."""

    def __init__(self, network_hw: tuple[int, int] = (384, 640)) -> None:
        manifest = Manifest(
            network_hw=network_hw,
            batch_size=1,
            max_detections=BOXES,
            classes={task: vocabulary.names for task, vocabulary in TASKS.items()},
            score_threshold=0.3,
            preset="none",
            weights_sha256="0" * 64,
            created_by="benchmark",
        )
        super().__init__(manifest=manifest, description="no engine", precision="fp32")
        random = np.random.default_rng(2)
        height, width = network_hw
        corners = random.uniform(0, 1, (1, BOXES, 2, 2)) * (width, height)
        boxes = np.concatenate([corners.min(axis=2), corners.max(axis=2)], axis=2).astype(np.float32)
        self._outputs = RawOutputs(
            boxes=boxes,
            scores=np.linspace(0.99, 0.31, BOXES, dtype=np.float32)[None],
            labels=random.integers(0, len(DETECTION.names), (1, BOXES)).astype(np.int32),
            semantic=_blocks(random, network_hw, len(SEMANTIC.names))[None],
            drivable=_blocks(random, network_hw, 3)[None],
            semantic_confidence=_blocks(random, network_hw, 256)[None],
        )

    def infer(self, images: np.ndarray) -> RawOutputs:
        """The same outputs for every image."""
        return self._outputs

    def _submit(self, slot: int, images: np.ndarray) -> Pending[list[np.ndarray]]:
        return Pending.finished([getattr(self._outputs, name) for name in self.manifest.output_names])

    def _close(self) -> None:
        """Nothing to free."""


def _blocks(random: np.random.Generator, size_hw: tuple[int, int], values: int) -> np.ndarray:
    """A mask of 16 x 16 blocks, uint8 [H, W]."""
    height, width = size_hw
    small = random.integers(0, values, (-(-height // 16), -(-width // 16))).astype(np.uint8)
    return np.ascontiguousarray(np.kron(small, np.ones((16, 16), np.uint8))[:height, :width])


def measure(work: Callable[[], Any], count: int) -> list[float]:
    """Milliseconds of each of ``count`` calls, after a tenth as many that are not counted."""
    times = []
    for index in range(count + count // 10):
        began_s = time.perf_counter()
        work()
        if index >= count // 10:
            times.append(1000 * (time.perf_counter() - began_s))
    return times


def row(name: str, times_ms: list[float]) -> Row:
    """A name, the median and the 99th percentile."""
    return (name, f"{np.median(times_ms):.2f}", f"{np.percentile(times_ms, 99):.2f}")


def print_table(title: str, head: Row, rows: list[Row]) -> None:
    """Print a Markdown table with numbers aligned to the right."""
    print(f"\n{title}\n")
    print(f"| {' | '.join(head)} |")
    print(f"|---|{'---:|' * (len(head) - 1)}")
    for cells in rows:
        print(f"| {' | '.join(cells)} |", flush=True)


def message_costs(size_hw: tuple[int, int], count: int) -> list[Row]:
    """Times of each message alone: receive, decode, build, publish."""
    import cv2
    import rclpy
    from rclpy.serialization import deserialize_message, serialize_message

    from lvad_perception.media.overlay import draw_predictions
    from lvad_perception.messages import (
        DetectionMessages,
        image_to_message,
        jpeg_to_message,
        make_header,
        mask_to_message,
        ros_types,
    )
    from lvad_perception.node.decoding import decode
    from lvad_perception.node.outputs import RESULTS_QOS
    from lvad_perception.types import Predictions

    rows = []
    for name, jpeg in (("rgb8", False), ("JPEG", True)):
        message = image_message(size_hw, jpeg=jpeg)
        raw, kind = serialize_message(message), type(message)
        receive = measure(lambda r=raw, k=kind: deserialize_message(r, k), count)
        rows.append(row(f"{name} image: deserialise, as the callback receives it", receive))
        rows.append(row(f"{name} image: decode", measure(lambda m=message: decode(m), count)))

    types, engine = ros_types(), InstantEngine(size_hw)
    header, found = make_header(1, "camera", types=types), engine.infer(np.empty(0))
    boxes = Detections(found.boxes[0], found.scores[0], found.labels[0])
    predictions = Predictions(size_hw, boxes, found.semantic[0], found.drivable[0], found.semantic_confidence[0])
    image = decode(image_message(size_hw, jpeg=False))
    drawn = draw_predictions(image, predictions, score_threshold=0.0)

    def encode() -> Any:
        encoded = cv2.imencode(".jpg", cv2.cvtColor(drawn, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 90])[1]
        return jpeg_to_message(encoded, header, types=types)

    detection_messages = DetectionMessages(DETECTION.names, types)
    builders = {
        "detections": lambda: detection_messages.build(boxes, header),
        "segmentation": lambda: mask_to_message(predictions.semantic, header, types=types),
        "segmentation/confidence": lambda: mask_to_message(predictions.semantic_confidence, header, types=types),
        "drivable_area": lambda: mask_to_message(predictions.drivable, header, types=types),
        "overlay": lambda: image_to_message(drawn, header, types=types),
        "overlay/compressed": encode,
    }
    node = rclpy.create_node("messages")
    with Robot(camera="alone", size_hw=(2, 2), jpeg=False, outputs=tuple(OUTPUTS)):
        for topic, build in builders.items():
            publisher = node.create_publisher(message_types()[topic], f"/alone/{topic}", RESULTS_QOS)
            _wait(lambda publisher=publisher: publisher.get_subscription_count() > 0)
            rows.append(row(f"{topic}: build", measure(build, count)))
            message = build()
            rows.append(row(f"{topic}: publish", measure(lambda p=publisher, m=message: p.publish(m), count)))
    rows.append(row("overlay: draw", measure(lambda: draw_predictions(image, predictions, score_threshold=0.0), count)))
    node.destroy_node()
    return rows


def _wait(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    end_s = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end_s:
            raise TimeoutError(f"no subscriber within {seconds:g} s; check that DDS works on this machine")
        time.sleep(0.02)


@contextmanager
def active_node(model: Path | None, *, jpeg: bool, threads: int) -> Iterator[Any]:
    """The perception node in this process, active; with an instant engine when ``model`` is None."""
    from rclpy.executors import SingleThreadedExecutor
    from rclpy.lifecycle import TransitionCallbackReturn
    from rclpy.parameter import Parameter

    from lvad_perception.engines import open_engine
    from lvad_perception.node import perception

    values = {
        "model": str(model or "none.onnx"),
        "threads": threads,
        "runtime": "onnxruntime",  # as in bare_engine, which it is compared with
        "cameras": [CAMERA],
        f"{CAMERA}.image_topic": image_topic(CAMERA, jpeg=jpeg),
        f"{CAMERA}.reliability": "reliable",
    }
    node = perception.PerceptionNode(
        parameter_overrides=[Parameter(name, value=value) for name, value in values.items()]
    )
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    stop = threading.Event()

    def spin() -> None:
        while not stop.is_set():
            executor.spin_once(timeout_sec=0.1)

    thread = threading.Thread(target=spin)
    try:
        with patch.object(perception, "open_engine", open_engine if model else lambda *_, **__: InstantEngine()):
            for transition in (node.trigger_configure, node.trigger_activate):
                if transition() != TransitionCallbackReturn.SUCCESS:
                    raise SystemExit("node_cost: a transition of the node failed; its last message above says why")
        thread.start()
        yield node
    finally:
        stop.set()
        if thread.is_alive():
            thread.join()
        node.close()
        executor.shutdown()
        node.destroy_node()


def timed_callback(node: Any) -> list[float]:
    """A list that gets the milliseconds of each call of the image callback from now on."""
    source, times = node._inputs[CAMERA], []
    deliver = source._deliver

    def timed(message: Any) -> None:
        began_s = time.perf_counter()
        deliver(message)
        times.append(1000 * (time.perf_counter() - began_s))

    source._deliver = timed
    return times


def node_costs(
    model: Path | None, *, size_hw: tuple[int, int], jpeg: bool, outputs: tuple[str, ...], count: int, threads: int
) -> dict[str, tuple[float, float]]:
    """Part -> median and 99th percentile in milliseconds, from the node's diagnostics; also the round trip."""
    robots = {"camera": CAMERA, "size_hw": size_hw, "jpeg": jpeg, "outputs": outputs}
    with active_node(model, jpeg=jpeg, threads=threads) as node, Robot(**robots) as robot:
        callback = timed_callback(node)
        robot.one_at_a_time(max(count // 10, 3))
        callback.clear()
        trips = np.array(robot.one_at_a_time(count)) * 1000
        report = node._health[CAMERA].report()
    parts = {name: (spent[0], spent[1]) for name, spent in report.parts_ms.items()}
    return {
        "callback": (float(np.median(callback)), float(np.percentile(callback, 99))),
        **parts,
        "whole node": (report.latency_ms[0], report.latency_ms[1]),
        "round trip": (float(np.median(trips)), float(np.percentile(trips, 99))),
    }


def bare_engine(model: Path, *, size_hw: tuple[int, int], count: int, threads: int) -> tuple[str, list[float]]:
    """The engine's description, and milliseconds of the engine alone, without ROS."""
    from lvad_perception.engines import open_engine
    from lvad_perception.node.decoding import decode
    from lvad_perception.perceiver import Perceiver

    image = decode(image_message(size_hw, jpeg=False))
    with Perceiver(open_engine(model, threads=threads or None), score_threshold=None) as perceiver:
        times = []
        for _ in range(count + max(count // 10, 3)):
            pending = perceiver.submit([image])
            pending.result()
            times.append(pending.timings.engine_ns / 1e6)
        return perceiver.description, times[-count:]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--model", type=Path, help="model file; without it only messages and the node without an engine"
    )
    parser.add_argument(
        "--size", type=size_wh, default=(1280, 720), metavar="WxH", help="of the images (default: 1280x720)"
    )
    parser.add_argument("--frames", type=int, default=300, metavar="N", help="frames a measurement (default: 300)")
    parser.add_argument("--threads", type=int, default=0, metavar="N", help="CPU threads of the model (default: all)")
    parser.add_argument(
        "--starts", type=int, default=5, metavar="N", help="starts of each runtime (default: 5; 0 for none)"
    )
    parser.add_argument("--only-starts", action="store_true", help="measure only the starts")
    parser.add_argument("--runtimes", nargs="+", choices=RUNTIMES, default=RUNTIMES, help="to start (default: all)")
    parser.add_argument(
        "--idle", type=float, default=10.0, metavar="S", help="seconds over which the idle node is measured (10)"
    )
    arguments = parser.parse_args()
    width, height = arguments.size
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    if arguments.model and arguments.starts:
        starts = measure_starts(
            arguments.model,
            arguments.runtimes,
            count=arguments.starts,
            size_hw=(height, width),
            threads=arguments.threads,
            idle_s=arguments.idle,
        )
        title = f"Starts of the node with {arguments.model}, {width}x{height}, {cpu_name()}"
        print_table(title, TABLE_HEAD, [table_row(runtime, found) for runtime, found in starts.items()])
    if arguments.only_starts:
        return
    import rclpy

    rclpy.init(args=["--ros-args", "--log-level", "error"])
    shape: dict[str, Any] = {"size_hw": (height, width), "count": arguments.frames}
    print_table(
        f"Each message alone, {width}x{height}, {BOXES} boxes", ("ms", "median", "99 %"), message_costs(**shape)
    )
    models = [None, arguments.model] if arguments.model else [None]
    for model in models:
        columns = {}
        for name, jpeg, outputs in (
            ("rgb8", False, ON_A_VEHICLE),
            ("JPEG", True, ON_A_VEHICLE),
            ("JPEG, overlay too", True, (*ON_A_VEHICLE, "overlay", "overlay/compressed")),
        ):
            columns[name] = node_costs(model, jpeg=jpeg, outputs=outputs, threads=arguments.threads, **shape)
        parts = list(dict.fromkeys(part for column in columns.values() for part in column))
        head = ("median / 99 % [ms]", *columns)
        rows: list[Row] = [
            (part, *(f"{c[part][0]:.2f} / {c[part][1]:.2f}" if part in c else "-" for c in columns.values()))
            for part in parts
        ]
        rows.append(("node without engine", *(f"{_overhead(column):.2f}" for column in columns.values())))
        rows.append(
            ("of it without decoding", *(f"{_overhead(c) - c.get('decode', (0.0,))[0]:.2f}" for c in columns.values()))
        )
        if model is None:
            print_table("The node with an engine that takes no time", head, rows)
            continue
        description, alone = bare_engine(model, threads=arguments.threads, **shape)
        alone_text = f"{np.median(alone):.2f} / {np.percentile(alone, 99):.2f}"
        rows.append(("engine alone, without ROS", *([alone_text] * len(columns))))
        shares = [f"{100 * _overhead(column) / column['whole node'][0]:.1f} %" for column in columns.values()]
        rows.append(("node without engine, of a frame", *shares))
        print_table(f"The node with {model} on {description}", head, rows)
    rclpy.shutdown()


def _overhead(column: dict[str, tuple[float, float]]) -> float:
    """The node's median time minus that of its engine, in milliseconds."""
    return column["whole node"][0] - column.get("engine", (0.0, 0.0))[0]


if __name__ == "__main__":
    main()
