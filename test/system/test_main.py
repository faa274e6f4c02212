"""The perception executable where it cannot run."""

import os
import subprocess
import sys


def test_missing_dependency_is_one_sentence_and_status_2(tmp_path):
    # An rclpy that lacks its libraries, as one that was built for another Python.
    (tmp_path / "rclpy.py").write_text("raise ImportError('built for another Python', name='rclpy')\n")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    result = subprocess.run(
        [sys.executable, "-m", "lvad_perception.node.main"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 2
    assert result.stderr == (
        f"perception: rclpy cannot be imported by {sys.executable} (built for another Python); source ROS 2 and "
        "activate the environment in which the package's dependencies are installed\n"
    )
