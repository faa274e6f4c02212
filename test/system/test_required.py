"""LVAD_REQUIRE_ROS=1: what is skipped of the ROS tests is an error, and so is a machine without ROS 2."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# As a shell in which neither ROS nor `make` is at work.
PLAIN = {
    **{name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ},
    "PYTHONPATH": str(ROOT),
    "OMP_NUM_THREADS": "1",
}


def run(*command, **variables):
    environment = {**PLAIN, **variables}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=120)


def ros_tests(file, **variables):
    return run(
        sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-m", "ros", f"test/system/{file}", **variables
    )


@pytest.mark.parametrize("value", [None, "0"])
def test_without_it_what_cannot_run_is_skipped(value):
    result = ros_tests("test_outputs.py", **({} if value is None else {"LVAD_REQUIRE_ROS": value}))
    assert result.returncode == 0, result.stdout
    assert "no ROS 2 environment is sourced" in result.stdout
    assert " failed" not in result.stdout


def test_with_it_a_skipped_ros_test_fails_and_says_why():
    result = ros_tests("test_outputs.py", LVAD_REQUIRE_ROS="1")
    assert result.returncode == 1, result.stdout
    assert "LVAD_REQUIRE_ROS is set, so this is an error: Skipped: no ROS 2 environment is sourced" in result.stdout
    assert " skipped" not in result.stdout.splitlines()[-1]


def test_with_it_a_file_that_skips_itself_is_an_error(tmp_path):
    hidden = tmp_path / "onnxruntime.py"
    hidden.write_text("raise ModuleNotFoundError(\"No module named 'onnxruntime'\", name='onnxruntime')\n")
    arguments = {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    assert " error" not in ros_tests("test_benchmarks_cpu.py", **arguments).stdout
    result = ros_tests("test_benchmarks_cpu.py", LVAD_REQUIRE_ROS="1", **arguments)
    assert result.returncode == 2, result.stdout
    assert "LVAD_REQUIRE_ROS is set, so this is an error: Skipped: onnxruntime is not installed" in result.stdout


def test_make_needs_ros_only_with_it():
    without = run("make", "ros-test", "ROS_SETUP=")
    assert (without.returncode, "ROS tests skipped: ROS 2 is not installed" in without.stdout) == (0, True)
    for required in (
        run("make", "ros-test", "ROS_SETUP=", "LVAD_REQUIRE_ROS=1"),
        run("make", "ros-test", "ROS_SETUP=", LVAD_REQUIRE_ROS="1"),
    ):
        assert required.returncode == 2
        assert "LVAD_REQUIRE_ROS is set, but ROS 2 is not installed" in required.stderr


def test_the_environment_gets_the_numpy_that_ros_is_compiled_with():
    """Debian's cv_bridge of Humble and Jazzy is compiled with numpy 1."""

    def recipe(*arguments):
        return run("make", "--dry-run", "setup", "VENV=absent", *arguments).stdout

    assert "-c requirements/tested.txt" in recipe("ROS_NUMPY=2")
    ours = recipe("ROS_NUMPY=1")
    assert "-c absent/constraints.txt" in ours
    assert "-c requirements/tested.txt" not in ours
    assert "echo 'numpy<2'" in ours


def test_a_ros_of_another_python_is_named(tmp_path):
    (tmp_path / "lib" / "python3.9").mkdir(parents=True)
    variables = {"ROS_SETUP": str(tmp_path / "setup.bash"), "OVERLAY": "absent", "VENV": str(tmp_path / "venv")}
    (tmp_path / "venv" / "bin").mkdir(parents=True)
    (tmp_path / "venv" / "bin" / "python").symlink_to(sys.executable)
    sentence = (
        f"is of python3.9 and {tmp_path / 'venv'} of python3.{sys.version_info[1]}; make ros-test PYTHON=python3.9"
    )
    without = run("bash", "test/system/run.sh", **variables)
    assert (without.returncode, sentence in without.stdout) == (0, True), without
    required = run("bash", "test/system/run.sh", LVAD_REQUIRE_ROS="1", **variables)
    assert (required.returncode, sentence in required.stderr) == (2, True), required
