"""The evaluation executable beside a played bag, and both launch files against the replay without ROS."""

import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from lvad_perception.bags.convert import from_dataset
from lvad_perception.bags.evaluate import evaluate_bag
from lvad_perception.bags.reader import open_bag
from lvad_perception.bags.replay import replay
from lvad_perception.bags.writer import create_bag
from lvad_perception.engines import open_engine
from lvad_perception.messages import label_info_to_message, make_header, mask_to_message
from lvad_perception.perceiver import Perceiver
from lvad_perception.vocabulary import DRIVABLE

EVALUATION = [sys.executable, "-m", "lvad_perception.node.evaluation", "--ros-args"]


@pytest.fixture
def started():
    """A function that starts a process; whatever is left at the end is killed."""
    processes = []

    def start(command, environment):
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        if process.poll() is None:
            process.kill()
        process.wait()


@pytest.fixture
def annotated(small_split, tmp_path):
    """A bag of two cameras; one of them has a corrupt image."""
    parts = []
    for camera, limit in (("front", 8), ("rear", 5)):
        from_dataset(small_split, "val", tmp_path / camera, camera=camera, limit=limit)
        with open_bag(tmp_path / camera) as reader:
            parts += [
                (stamp, connection, raw, reader.deserialize(raw, connection))
                for connection, stamp, raw in reader.messages(reader.connections)
            ]
    images = 0
    with create_bag(tmp_path / "annotated") as writer:
        for stamp, connection, raw, message in sorted(parts, key=lambda part: part[0]):
            images += connection.topic == "/front/image_raw/compressed"
            if images == 3 and connection.topic == "/front/image_raw/compressed":
                message.data = message.data[:40]
                writer.write(connection.topic, message, stamp)
            else:
                writer.copy(connection, stamp, raw)
    return tmp_path / "annotated"


@pytest.fixture
def without_ros(annotated, tmp_path, tiny_model_file):
    """Metrics of the same bag and model by ``replay`` and ``evaluate``, as a dict."""
    perceiver = Perceiver(open_engine(tiny_model_file), score_threshold=0.0)
    replay(annotated, perceiver, tmp_path / "replayed", report=lambda _: None)
    return evaluate_bag(tmp_path / "replayed", report=lambda _: None).to_dict()


def ros2_launch(environment, file, *arguments):
    command = ["ros2", "launch", "lvad_perception", f"{file}.launch.py", *arguments]
    return subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120, check=False
    )


def test_evaluate_launch_equals_the_evaluation_without_ros(
    package, annotated, without_ros, tiny_model_file, tmp_path, assert_same_metrics
):
    metrics = tmp_path / "metrics.json"
    arguments = [f"bag:={annotated}", f"model:={tiny_model_file}", f"json:={metrics}", "rate:=4.0"]
    result = ros2_launch(package, "evaluate", *arguments)
    assert result.returncode == 0, result.stdout
    found = json.loads(metrics.read_text())
    assert_same_metrics(found, without_ros)
    assert found["detection"]["images"] > 6  # of both cameras
    assert "it has no prediction with its stamp and is left out" in result.stdout  # the corrupt image's
    assert "Traceback" not in result.stdout


def test_replay_launch_records_what_replay_writes(
    package, annotated, without_ros, tiny_model_file, tmp_path, assert_same_metrics
):
    arguments = [f"bag:={annotated}", f"model:={tiny_model_file}", f"output:={tmp_path / 'recorded'}", "drain:=3.0"]
    result = ros2_launch(package, "replay", *arguments)
    assert result.returncode == 0, result.stdout
    assert "Traceback" not in result.stdout
    assert_same_metrics(evaluate_bag(tmp_path / "recorded", report=lambda _: None).to_dict(), without_ros)
    counts = []
    for name in ("recorded", "replayed"):
        with open_bag(tmp_path / name) as reader:
            counts.append({connection.topic: connection.msgcount for connection in reader.connections})
    recorded, written = counts
    # Label info is latched: once per camera and task, whoever writes it.
    assert {topic: recorded[topic] for topic in written} == written


@pytest.mark.parametrize(
    ("file", "arguments", "sentence"),
    [
        ("evaluate", {"bag": "/nowhere"}, "/nowhere does not exist; name a bag folder"),
        ("evaluate", {"topics": "/left/image_raw"}, "has no image topic /left/image_raw; its image topics are /front/"),
        ("evaluate", {"model": "/nowhere.onnx"}, "cannot configure: /nowhere.onnx does not exist"),
        ("replay", {"bag": "/nowhere", "output": "/nowhere/replayed"}, "/nowhere does not exist; name a bag folder"),
        ("evaluate", {"parameters": "half"}, "parameters is 'half'; write it as YAML, like '{threads: 2}'"),
        ("evaluate", {"rate": "fast"}, "the bag could not be played; the player's last message above says why"),
        ("replay", {"output": "/tmp"}, "/tmp exists already; choose another name"),
    ],
)
def test_what_cannot_work_ends_the_launch_with_one_sentence(
    package, annotated, tiny_model_file, tmp_path, file, arguments, sentence
):
    given = {"bag": annotated, "model": tiny_model_file, **arguments}
    result = ros2_launch(package, file, *(f"{name}:={value}" for name, value in given.items()))
    assert result.returncode == 1, result.stdout
    assert sentence in result.stdout
    assert "Traceback" not in result.stdout


def test_a_model_of_other_classes_is_recorded_but_not_measured(
    package, annotated, make_tiny_model, make_manifest, tmp_path
):
    classes = {"detection": ("forklift", "pallet jack", "person", "rack")}
    model = make_tiny_model(tmp_path / "own.onnx", manifest=make_manifest(classes=classes))
    result = ros2_launch(package, "evaluate", f"bag:={annotated}", f"model:={model}")
    assert result.returncode == 1, result.stdout
    assert "and has forklift, pallet jack, person, rack; bags are measured by these classes, so take a" in result.stdout
    assert "Traceback" not in result.stdout
    recorded = tmp_path / "recorded"
    arguments = [f"bag:={annotated}", f"model:={model}", f"output:={recorded}", "drain:=3.0"]
    result = ros2_launch(package, "replay", *arguments)
    assert result.returncode == 0, result.stdout
    with open_bag(recorded) as reader:
        (connection,) = (c for c in reader.connections if c.topic == "/front/detections/label_info")
        ((_, _, raw),) = reader.messages([connection])
        info = reader.deserialize(raw, connection)
    assert tuple(entry.class_name for entry in info.class_map) == classes["detection"]


@pytest.fixture
def replayed(small_split, tmp_path, make_engine):
    """A bag with results and annotation."""
    from_dataset(small_split, "val", tmp_path / "annotated")
    replay(tmp_path / "annotated", Perceiver(make_engine(), score_threshold=0.0), tmp_path / "replayed")
    return tmp_path / "replayed"


def test_a_played_bag_gives_the_numbers_of_the_bag(ros_environment, started, replayed, tmp_path, assert_same_metrics):
    evaluation = started([*EVALUATION, "-p", f"json:={tmp_path / 'deep' / 'metrics.json'}"], ros_environment)
    play = ["ros2", "bag", "play", str(replayed), "--start-paused", "--disable-keyboard-controls", "--rate", "4"]
    player = started(play, ros_environment)
    output, _ = evaluation.communicate(timeout=60)
    assert evaluation.returncode == 0, output
    assert player.wait(timeout=10) == 0
    wanted = evaluate_bag(replayed)
    assert_same_metrics(json.loads((tmp_path / "deep" / "metrics.json").read_text()), wanted.to_dict())
    assert wanted.to_text() in output


def test_nothing_received_is_one_sentence_and_status_1(ros_environment, started):
    evaluation = started(EVALUATION, ros_environment)
    assert "waiting for results and annotation" in evaluation.stdout.readline()
    evaluation.send_signal(signal.SIGINT)
    output, _ = evaluation.communicate(timeout=10)
    assert evaluation.returncode == 1
    assert "nothing to evaluate: nobody published annotation; play a bag that was made with" in output
    assert "Traceback" not in output


@pytest.mark.parametrize(
    ("argument", "sentence"),
    [
        ("window:=0", "window"),
        ("timeout_s:=soon", "timeout_s"),
        ("json:=", "ROS refuses to start"),
    ],
)
def test_impossible_arguments_are_one_sentence_and_status_2(ros_environment, argument, sentence):
    result = subprocess.run(
        [*EVALUATION, "-p", argument], env=ros_environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert result.returncode == 2, result.stderr
    assert sentence in result.stderr
    assert "Traceback" not in result.stderr


class TestNode:
    @pytest.fixture
    def node(self, ros, spin):
        from lvad_perception.node.evaluation_node import EvaluationNode

        return spin(EvaluationNode())

    @pytest.fixture
    def send(self, ros, robot):
        """A function that publishes a mask, or the classes of one."""
        from lvad_perception.messages import ros_types
        from lvad_perception.node.outputs import LATCHED_QOS, RESULTS_QOS

        publishers = {}

        def send(topic, second=1, *, vocabulary=None):
            header = make_header(second * 1_000_000_000, "camera", types=ros_types())
            message = (
                mask_to_message(np.zeros((4, 6), np.uint8), header, types=ros_types())
                if vocabulary is None
                else label_info_to_message(vocabulary, header, types=ros_types())
            )
            if topic not in publishers:
                qos = RESULTS_QOS if vocabulary is None else LATCHED_QOS
                publishers[topic] = robot.node.create_publisher(type(message), topic, qos)
            publishers[topic].publish(message)

        send.withdraw = lambda topic: robot.node.destroy_publisher(publishers.pop(topic))
        return send

    def test_it_ends_when_annotation_is_no_longer_published(self, node, send, robot, wait_until):
        send("/front/truth/segmentation", 0)
        send("/front/segmentation", 0)
        wait_until(lambda: robot.node.count_subscribers("/front/segmentation") == 1)
        wait_until(lambda: robot.node.count_subscribers("/front/truth/segmentation") == 1)
        time.sleep(0.2)
        for second in (1, 2):
            send("/front/truth/segmentation", second)
            send("/front/segmentation", second)
        wait_until(lambda: node._pairing.paired == 2)
        time.sleep(1.5)
        assert not node.done
        send.withdraw("/front/truth/segmentation")
        wait_until(lambda: node.done)
        assert node.finish().semantic.images == 2

    def test_it_holds_the_player_while_the_node_is_behind(self, ros, node, send, robot, wait_until):
        from rosbag2_interfaces.srv import Pause, Resume

        asked = []
        for kind, name in ((Pause, "pause"), (Resume, "resume")):
            robot.node.create_service(
                kind, f"/rosbag2_player/{name}", lambda _, answer, name=name: asked.append(name) or answer
            )
        send("/front/truth/segmentation", 0)
        send("/front/segmentation", 0)
        wait_until(lambda: asked == ["resume"], what="the start of the player")
        for second in range(1, 9):
            send("/front/truth/segmentation", second)
        wait_until(lambda: asked == ["resume", "pause"], what="the pause")
        for second in range(1, 5):
            send("/front/segmentation", second)
        wait_until(lambda: asked == ["resume", "pause", "resume"], what="the end of the pause")

    def test_other_classes_end_it_with_the_reason(self, node, send, wait_until):
        from lvad_perception.errors import VocabularyMismatchError

        send("/front/truth/segmentation")
        send("/front/segmentation")
        send("/front/segmentation/label_info", vocabulary=DRIVABLE)
        wait_until(lambda: node.done)
        with pytest.raises(VocabularyMismatchError, match=r"label_info stamped 1[.]000000000: label info: its"):
            node.finish()

    def test_a_model_without_the_task_is_reported(self, node, send, wait_until):
        from lvad_perception.errors import DatasetError

        send("/front/truth/segmentation")
        wait_until(lambda: node._annotation)
        with pytest.raises(DatasetError, match="nobody publishes results for /front/truth/segmentation; activate the"):
            node.finish()
