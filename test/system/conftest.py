"""ROS fixtures: a private domain, an executor in a thread, and a node that acts as camera and listener."""

import gc
import os
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parent))  # for frames.py; pytest's import mode adds no folder


def pytest_collection_modifyitems(items):
    """Mark tests that use ``ros`` or ``ros_environment`` with ``ros``, so that ``-m ros`` selects them."""
    for item in items:
        if {"ros", "ros_environment"} & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.ros)


def _require(report, *, ros):
    """Turn a skip into a failure with LVAD_REQUIRE_ROS=1, so that continuous integration cannot pass without ROS."""
    if (
        ros
        and report.skipped
        and not hasattr(report, "wasxfail")
        and os.environ.get("LVAD_REQUIRE_ROS", "0") not in ("", "0")
    ):
        *_, reason = report.longrepr
        report.outcome = "failed"
        report.longrepr = f"LVAD_REQUIRE_ROS is set, so this is an error: {reason}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item):
    return _require((yield), ros=item.get_closest_marker("ros") is not None)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report():
    return _require((yield), ros=True)  # a skipped file may hold ROS tests


@pytest.fixture(scope="session")
def ros_environment():
    """Environment of a private, local ROS domain; skips the test where no ROS 2 is sourced."""
    pytest.importorskip("rclpy", reason="no ROS 2 environment is sourced")
    os.environ["ROS_DOMAIN_ID"] = str(1 + os.getpid() % 100)
    if os.environ.get("ROS_DISTRO") == "humble":
        os.environ["ROS_LOCALHOST_ONLY"] = "1"  # Humble does not know the variable below, later ones deprecate this one
    else:
        os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    return os.environ


@pytest.fixture(autouse=True)
def free_nodes():
    """Frees nodes of earlier tests, whose services answer until they are garbage-collected."""
    gc.collect()


@pytest.fixture
def package(ros_environment):
    """Environment of a shell in which the built package is sourced."""
    from ament_index_python.packages import PackageNotFoundError, get_package_prefix

    try:
        get_package_prefix("lvad_perception")
    except PackageNotFoundError:
        pytest.skip("lvad_perception is not built; run the ROS tests with: make ros-test")
    # The node runs with the first python3 on PATH: the interpreter of these tests, which has its dependencies.
    path = f"{Path(sys.executable).parent}{os.pathsep}{ros_environment['PATH']}"
    # A separate domain: nodes of this process, also called perception, must not answer.
    domain = str(1 + (int(ros_environment["ROS_DOMAIN_ID"]) + 49) % 100)
    quiet = {"RCUTILS_COLORIZED_OUTPUT": "0", "PYTHONUNBUFFERED": "1"}
    return {**ros_environment, "PATH": path, "ROS_DOMAIN_ID": domain, **quiet}


class Clock:
    """A clock that only the test advances."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture(scope="session")
def ros(ros_environment):
    """rclpy, initialised for the session."""
    import rclpy

    rclpy.init()
    yield rclpy
    rclpy.shutdown()


@pytest.fixture
def spin(ros):
    """``spin(node)``: spins a node in a background thread until the test ends, then destroys it."""
    from rclpy.executors import SingleThreadedExecutor

    executor = SingleThreadedExecutor()
    nodes = []
    stop = threading.Event()

    def run():
        while not stop.is_set():
            executor.spin_once(timeout_sec=0.1)

    def add(node):
        nodes.append(node)
        executor.add_node(node)
        return node

    thread = threading.Thread(target=run)
    thread.start()
    yield add
    stop.set()
    thread.join()
    for node in nodes:
        if hasattr(node, "close"):
            node.close()
        node.destroy_node()
    executor.shutdown()


@pytest.fixture
def wait_until():
    """``wait_until(condition)``: fails the test if the condition does not become true in time."""

    def wait(condition, *, seconds=10.0, what="the condition"):
        end_s = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end_s, f"{what} did not become true within {seconds} s"
            time.sleep(0.005)

    return wait


@pytest.fixture
def robot(ros, spin):
    """A node beside the one under test: ``publish`` images, ``listen`` to topics."""
    from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

    node = spin(ros.create_node("robot"))
    publishers = {}

    def publish(topic, message):
        if topic not in publishers:
            publishers[topic] = node.create_publisher(type(message), topic, 5)
        publishers[topic].publish(message)

    def listen(topic, kind, *, latched=False):
        durability = DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE
        received = []
        qos = QoSProfile(depth=50, reliability=ReliabilityPolicy.RELIABLE, durability=durability)
        node.create_subscription(kind, topic, received.append, qos)
        return received

    return SimpleNamespace(node=node, publish=publish, listen=listen)


@pytest.fixture
def make_node(spin):
    """``make_node(**parameters)``: starts the node."""
    from rclpy.parameter import Parameter

    from lvad_perception.node.perception import PerceptionNode

    def make(**parameters):
        return spin(PerceptionNode(parameter_overrides=[Parameter(name, value=v) for name, v in parameters.items()]))

    return make


@pytest.fixture
def make_active_node(make_node):
    """``make_active_node(**parameters)``: starts, configures and activates the node."""
    from frames import trigger

    def make(**parameters):
        node = make_node(**parameters)
        assert trigger(node, "configure") == "SUCCESS"
        assert trigger(node, "activate") == "SUCCESS"
        return node

    return make


@pytest.fixture
def images():
    """Random images, uint8 [H, W, 3] RGB."""
    random = np.random.default_rng(7)
    return random.integers(0, 256, (4, 90, 160, 3), dtype=np.uint8)
