"""The perception executable where it cannot run."""

import os
import subprocess
import sys

import pytest


def run(environment, *arguments):
    return subprocess.run(
        [sys.executable, "-m", "lvad_perception.node.main", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_missing_dependency_is_one_sentence_and_status_2(tmp_path):
    # An rclpy that lacks its libraries, as one that was built for another Python.
    (tmp_path / "rclpy.py").write_text("raise ImportError('built for another Python', name='rclpy')\n")
    result = run({**os.environ, "PYTHONPATH": str(tmp_path)})
    assert result.returncode == 2
    assert result.stderr == (
        f"perception: rclpy cannot be imported by {sys.executable} (built for another Python); source ROS 2 and "
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
