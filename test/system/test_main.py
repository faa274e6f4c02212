"""The perception executable: failed starts, signals, activation."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest


def run(environment, *arguments, program="main"):
    return subprocess.run(
        [sys.executable, "-m", f"lvad_perception.node.{program}", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(("program", "name"), [("main", "perception"), ("evaluation", "evaluation")])
def test_missing_dependency_is_one_sentence_and_status_2(tmp_path, program, name):
    # An rclpy that lacks its libraries, as one that was built for another Python.
    (tmp_path / "rclpy.py").write_text("raise ImportError('built for another Python', name='rclpy')\n")
    result = run({**os.environ, "PYTHONPATH": str(tmp_path)}, program=program)
    assert result.returncode == 2
    assert result.stderr == (
        f"{name}: rclpy cannot be imported by {sys.executable} (built for another Python); source ROS 2 and "
        "activate the environment in which the package's dependencies are installed\n"
    )


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["-p", "cameras:=[]"], "a parameter has no value, as an empty list has none for ROS; give it one"),
        (["-p", "threads:=many"], "parameter threads is 'many'; set it to a whole number"),
        (["-p", "model:"], "perception: ROS refuses to start (failed to initialize rcl: Couldn't parse parameter"),
        (["--params-file", "/nowhere.yaml"], "Couldn't parse params file: '--params-file /nowhere.yaml'"),
    ],
)
def test_impossible_arguments_are_one_sentence_and_status_2(ros_environment, arguments, sentence):
    result = run(ros_environment, "--ros-args", *arguments)
    assert result.returncode == 2
    assert sentence in result.stderr
    assert "Traceback" not in result.stderr


def test_a_node_that_ros_refuses_is_one_sentence(ros_environment):
    code = (
        "from lvad_perception.node.process import open_node\n"
        "def make(): raise RuntimeError('error creating node: no\\nsecurity libraries, at /node.c:252, at /m.c:1')\n"
        "print(open_node('perception', [], make))\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], env=ros_environment, capture_output=True, text=True, timeout=60, check=True
    )
    assert result.stdout == "None\n"
    assert result.stderr == (
        "perception: ROS refuses the node (error creating node: no security libraries); correct what stands after "
        "--ros-args or, where SROS 2 is on, the enclave and its policy\n"
    )


# The executable, with an engine that takes its time: argument 1 is how many calls it answers at once.
SLOW = """
import sys, time
from unittest.mock import patch
from lvad_perception.node.main import main
from lvad_perception.engines.onnx import OnnxEngine

class Slow(OnnxEngine):
    calls = 0

    def submit(self, images):
        Slow.calls += 1
        if Slow.calls > int(sys.argv[1]):
            print("busy", flush=True)
            time.sleep(60)
        return super().submit(images)

if "--hang" in sys.argv:
    import rclpy
    rclpy.init = lambda **_: (print("busy", flush=True), time.sleep(60))

with patch("lvad_perception.engines.onnx.OnnxEngine", Slow):
    sys.exit(main(["perception", *sys.argv[2:]]))
"""


def catches(process, number):
    """Whether a process has a handler of its own for a signal."""
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    (mask,) = (int(line.split()[1], 16) for line in lines if line.startswith("SigCgt"))
    return bool(mask >> (number - 1) & 1)


class TestSigint:
    """SIGINT at any moment: status 0 within 2 s."""

    @pytest.fixture
    def start(self, ros_environment, tiny_model_file):
        """A function that starts the executable, or ``SLOW`` with so many quick calls."""
        started = []
        # ``SLOW`` replaces this runtime and counts its calls.
        options = ("-p", f"model:={tiny_model_file}", "-p", "runtime:=onnxruntime", "-r", "__node:=interrupted")
        arguments = ["--ros-args", *options]

        def start(quick_calls=None, *more):
            code = ["-m", "lvad_perception.node.main"] if quick_calls is None else ["-c", SLOW, str(quick_calls)]
            process = subprocess.Popen(
                [sys.executable, *code, *more, *arguments],
                env={**ros_environment, "PYTHONUNBUFFERED": "1"},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            started.append(process)
            return process

        yield start
        for process in started:
            process.kill()
            process.wait()

    @pytest.fixture
    def transit(self, ros, robot, wait_until):
        """A function that asks the executable for a transition and does not wait for the answer."""
        from lifecycle_msgs.msg import Transition
        from lifecycle_msgs.srv import ChangeState

        client = robot.node.create_client(ChangeState, "/interrupted/change_state")

        def transit(transition, *, wait=False):
            assert client.wait_for_service(timeout_sec=20.0)
            answer = client.call_async(ChangeState.Request(transition=Transition(id=transition)))
            if wait:
                wait_until(answer.done)

        transit.configure, transit.activate = Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE
        return transit

    def ends(self, process, *, again_s=None):
        """``again_s``: when a second SIGINT follows; None for one alone, after which it ends within 2 s."""
        began_s = time.monotonic()
        process.send_signal(signal.SIGINT)
        if again_s is not None:
            time.sleep(again_s)
            process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=20)
        assert process.returncode == 0, output
        assert again_s is not None or time.monotonic() - began_s < 2.0
        assert "Traceback" not in output

    def is_busy(self, process):
        while "busy" not in (line := process.stdout.readline()):
            assert line, "the model was not loaded"

    @pytest.mark.parametrize("delay_s", [0.5, 0.9, 1.5])
    def test_while_it_starts(self, start, delay_s):
        process = start()
        time.sleep(delay_s)
        self.ends(process)

    @pytest.mark.parametrize("turn", range(12))
    def test_twice_at_any_moment(self, start, wait_until, turn):
        """From when it has its handlers, long before rclpy is there, until it has long been active."""
        process = start(None, *["--activate"][: turn % 2])
        wait_until(lambda: catches(process, signal.SIGTERM))
        moments = random.Random(turn)
        time.sleep(moments.uniform(0, 0.25 * turn))
        self.ends(process, again_s=moments.choice([0.0, 0.001, 0.05, 0.4, 1.1]))

    def test_a_second_one_ends_it_where_the_first_cannot(self, start, transit):
        """rclpy hangs while the node is made, so that nobody waits for the event."""
        process = start(0, "--hang")
        self.is_busy(process)
        process.send_signal(signal.SIGINT)
        time.sleep(1.2)
        assert process.poll() is None
        self.ends(process)

    def test_while_the_model_loads(self, start, transit):
        process = start(quick_calls=0)
        transit(transit.configure)
        self.is_busy(process)
        self.ends(process)

    def test_while_it_brings_itself_up(self, start):
        process = start(0, "--activate")
        self.is_busy(process)
        self.ends(process)

    def test_while_a_frame_is_in_work(self, start, transit, robot, wait_until):
        from sensor_msgs.msg import Image

        process = start(quick_calls=1)
        robot.listen("/camera/segmentation", Image)
        transit(transit.configure, wait=True)
        transit(transit.activate, wait=True)
        wait_until(lambda: robot.node.count_publishers("/camera/segmentation"))
        message = Image(height=2, width=2, encoding="mono8", step=2, data=[0] * 4)
        busy = threading.Event()

        def read():
            for line in iter(process.stdout.readline, ""):
                if "busy" in line:
                    busy.set()
                    return

        reading = threading.Thread(target=read)
        reading.start()
        for _ in range(200):
            robot.publish("/camera/image_raw", message)
            if busy.wait(0.05):
                break
        reading.join(5.0)
        assert busy.is_set()
        self.ends(process)


class TestEvaluation:
    """The evaluation, which shares the handler."""

    @pytest.mark.parametrize("turn", range(4))
    def test_two_sigints_end_it_with_its_own_status(self, ros_environment, wait_until, turn):
        process = subprocess.Popen(
            [sys.executable, "-m", "lvad_perception.node.evaluation"],
            env=ros_environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            wait_until(lambda: catches(process, signal.SIGTERM))
            time.sleep(0.6 * turn)
            for _ in range(2):
                process.send_signal(signal.SIGINT)
            output, _ = process.communicate(timeout=20)
        finally:
            process.kill()
        assert process.returncode == 1, output  # nothing was measured
        assert "nothing to evaluate: nobody published annotation" in output
        assert "Traceback" not in output


class TestActivate:
    """``--activate``: the process brings its node up, or ends."""

    def test_the_node_is_active_without_anybody_asking(self, ros_environment, ros, robot, tiny_model_file, wait_until):
        options = ("-p", f"model:={tiny_model_file}", "-p", "cameras:=[itself]", "-r", "__node:=itself")
        process = subprocess.Popen(
            [sys.executable, "-m", "lvad_perception.node.main", "--activate", "--ros-args", *options],
            env=ros_environment,
        )
        try:
            wait_until(lambda: robot.node.count_subscribers("/itself/image_raw"), seconds=20.0)
        finally:
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=10) == 0

    @pytest.mark.parametrize(
        ("option", "sentence"),
        [
            (
                "model:=/nowhere.onnx",
                "cannot configure: /nowhere.onnx does not exist; write a model file with: lvad-train",
            ),
            (
                "threads:=0",
                "cannot configure: parameter model is empty; set it to the .onnx file that lvad-train export",
            ),
        ],
    )
    def test_where_it_cannot_the_process_ends_with_status_1(self, ros_environment, option, sentence):
        result = run(ros_environment, "--activate", "--ros-args", "-p", option)
        assert result.returncode == 1
        assert sentence in result.stderr
        assert "Traceback" not in result.stderr
