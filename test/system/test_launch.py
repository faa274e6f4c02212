"""The launch files, started and stopped as processes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

END_TO_END = Path(__file__).with_name("camera_end_to_end.py")


class Launch:
    """``ros2 launch`` in a process group of its own, as a terminal starts it; what it says ends up in ``log``."""

    def __init__(self, environment, log, *arguments, file="camera"):
        self.log = log
        command = ["ros2", "launch", "lvad_perception", f"{file}.launch.py", *arguments]
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                command, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
            )

    def wait_for(self, text, seconds=20.0):
        end_s = time.monotonic() + seconds
        while text not in self.log.read_text():
            assert time.monotonic() < end_s, f"{text!r} did not come; the launch said:\n{self.log.read_text()}"
            time.sleep(0.05)

    def others_alive(self):
        """Processes of the launch that outlived it."""
        try:
            os.killpg(self.process.pid, 0)
        except ProcessLookupError:
            return False
        return True


@pytest.fixture
def launch(package, tmp_path):
    """A function that starts a launch file with arguments; whatever is left at the end is killed."""
    started = []

    def start(*arguments, file="camera"):
        started.append(Launch(package, tmp_path / f"launch{len(started)}.log", *arguments, file=file))
        return started[-1]

    yield start
    for one in started:
        if one.others_alive():
            os.killpg(one.process.pid, signal.SIGKILL)
        one.process.wait()


def test_ros2_run_finds_the_executables_by_their_short_names(package):
    listed = subprocess.run(
        ["ros2", "pkg", "executables", "lvad_perception"], env=package, capture_output=True, text=True, check=True
    )
    assert {"lvad_perception perception", "lvad_perception evaluation"} <= set(listed.stdout.splitlines())
    for name in ("perception", "evaluation"):
        command = ["ros2", "run", "lvad_perception", name, "--ros-args", "--params-file", "/nowhere.yaml"]
        result = subprocess.run(command, env=package, capture_output=True, text=True, timeout=60, check=False)
        assert result.returncode == 2, result.stderr
        assert f"{name}: ROS refuses to start" in result.stderr


def test_end_to_end(package, tiny_model_file):
    command = [sys.executable, "-m", "launch_testing.launch_test", str(END_TO_END), f"model:={tiny_model_file}"]
    result = subprocess.run(command, env=package, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("to_group", [True, False], ids=["as a terminal does", "launch alone"])
def test_one_sigint_ends_the_launch_with_status_0_and_leaves_nothing(launch, tiny_model_file, to_group):
    running = launch(f"model:={tiny_model_file}", "image:=/robot/image_raw")
    running.wait_for("/robot/image_raw -> /camera/detections")
    started_s = time.monotonic()
    (os.killpg if to_group else os.kill)(running.process.pid, signal.SIGINT)
    assert running.process.wait(timeout=10) == 0
    assert time.monotonic() - started_s < 5.0
    assert not running.others_alive()
    text = running.log.read_text()
    assert "process has finished cleanly" in text
    assert "Traceback" not in text


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["model:=/nowhere/absent.onnx"], "cannot configure: /nowhere/absent.onnx does not exist; "),
        ([], "cannot configure: parameter model is empty; set it to the .onnx file that lvad-train export wrote"),
        (
            ["model:=/x.onnx", "cameras:=front-left"],
            "parameter cameras has 'front-left'; use letters, digits and _ only",
        ),
        (["model:=5"], "cannot configure: 5 does not exist; "),  # a text, whatever it looks like
        (["cameras:=2"], "parameter cameras has '2'; use letters, digits and _ only"),
        (["parameters:={model: '5', camera: {transport: '1.0'}}"], "parameter camera.transport is '1.0'; set it to"),
        (["parameters:={cameras: []}"], "parameter cameras has no value; give it one or leave it out"),
        (["parameters:={rear: {transport: }}"], "parameter rear.transport has no value; give it one or leave it out"),
        (["cameras:=front=/f rear=/r", "image:=/x"], "image is for one camera; write cameras:='front=/front/image_raw"),
        (["parameters:=half"], "parameters is 'half'; write it as YAML, like '{score_threshold: 0.5}'"),
        (["remappings:=/a=/b"], "remappings has '/a=/b'; write each as from:=to, separated by spaces"),
        (["params_file:=/nowhere.yaml"], "params_file /nowhere.yaml does not exist; give the path of a YAML file"),
    ],
)
def test_what_cannot_work_ends_the_launch_with_one_sentence(launch, arguments, sentence):
    running = launch(*arguments)
    assert running.process.wait(timeout=20) == 1
    assert not running.others_alive()
    text = running.log.read_text()
    assert sentence in text
    assert "Traceback" not in text


def test_parameters_come_from_a_file_and_arguments_win(launch, tiny_model_file, tmp_path):
    parameters = tmp_path / "camera.yaml"
    parameters.write_text(
        f"/**:\n  ros__parameters:\n    model: {tiny_model_file}\n    cameras: [rear]\n"
        "    rear.image_topic: /rear/image\n    front.image_topic: /front/image\n"
    )
    running = launch(f"params_file:={parameters}", "cameras:=front", "namespace:=robot")
    running.wait_for("/front/image -> /robot/front/detections, /robot/front/segmentation")
    os.killpg(running.process.pid, signal.SIGINT)
    assert running.process.wait(timeout=10) == 0


def test_many_cameras_remappings_and_further_parameters(launch, tiny_model_file):
    running = launch(
        f"model:={tiny_model_file}",
        "cameras:=front=/f/image_raw/compressed rear",
        "parameters:={rear: {image_topic: /r/image_raw}, score_threshold: 0, rear.reliability: reliable}",
        "remappings:=front/detections:=/objects rear/drivable_area:=/free",
    )
    running.wait_for("/f/image_raw/compressed -> /objects, /front/segmentation")
    running.wait_for("/r/image_raw -> /rear/detections, /rear/segmentation")
    running.wait_for("/free")
    os.killpg(running.process.pid, signal.SIGINT)
    assert running.process.wait(timeout=10) == 0


def test_thresholds_of_a_models_own_classes(launch, make_tiny_model, make_manifest, tmp_path):
    classes = {"detection": ("forklift", "Fußgänger", "vehicle.car", "0")}
    model = make_tiny_model(tmp_path / "own.onnx", manifest=make_manifest(classes=classes))
    given = "{forklift: 0.5, Fußgänger: 0.5, vehicle.car: 0.5, 0: 0.5, rider: 0.5, bus: 0.5}"
    running = launch(f"model:={model}", f"parameters:={{class_score_threshold: {given}}}")
    running.wait_for("/camera/image_raw -> /camera/detections, /camera/overlay")
    os.killpg(running.process.pid, signal.SIGINT)
    assert running.process.wait(timeout=10) == 0
    text = running.log.read_text()
    assert text.count("no class of objects for") == 1
    for name in ("rider", "bus"):
        assert f"class_score_threshold.{name}" in text
    assert "; it has forklift, Fußgänger, vehicle.car, 0" in text
