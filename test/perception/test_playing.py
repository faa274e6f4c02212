import asyncio
import re
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from lvad_perception.bags.convert import from_dataset
from lvad_perception.bags.playing import plan_playback
from lvad_perception.bags.replay import replay
from lvad_perception.bags.writer import create_bag
from lvad_perception.errors import BagError, ConfigError
from lvad_perception.messages import image_to_message, make_header, rosbags_types
from lvad_perception.node.parameters import NodeParameters
from lvad_perception.perceiver import Perceiver

TYPES = rosbags_types()
GIVEN = {"bag": "bag", "model": "m.onnx", "params_file": "p.yaml", "parameters": "", "log_level": "warn"}


@pytest.fixture
def annotated_bag(small_split, tmp_path):
    from_dataset(small_split, "val", tmp_path / "bag")
    return tmp_path / "bag"


def image(compressed=False):
    header = make_header(1_000_000_000, "camera", types=TYPES)
    if compressed:
        return TYPES.CompressedImage(header=header, format="jpeg", data=np.zeros(3, np.uint8))
    return image_to_message(np.zeros((2, 3, 3), np.uint8), header, types=TYPES)


def bag_of(path, *topics, compressed=False):
    with create_bag(path) as writer:
        for topic in topics:
            writer.write(topic, image(compressed), 1_000_000_000)
    return path


def test_an_annotated_bag(annotated_bag):
    playback = plan_playback(annotated_bag, annotated=True)
    assert playback.namespace == "/"
    assert playback.images == {"/camera/image_raw/compressed": 8}
    assert playback.annotation == (
        "/camera/truth/detections",
        "/camera/truth/detections/label_info",
        "/camera/truth/drivable_area",
        "/camera/truth/drivable_area/label_info",
        "/camera/truth/segmentation",
        "/camera/truth/segmentation/label_info",
    )
    assert set(playback.topics) == {"/camera/image_raw/compressed", "/camera/name", *playback.annotation}
    assert playback.node_parameters() == {
        "cameras": ["camera"],
        "lossless": True,
        "score_threshold": 0.0,
        "camera.image_topic": "/camera/image_raw/compressed",
        "camera.transport": "compressed",
    }


def test_the_node_takes_the_parameters(annotated_bag):
    parameters = NodeParameters.from_values({"model": "model.onnx", **plan_playback(annotated_bag).node_parameters()})
    assert parameters.lossless
    assert [(camera.topic, camera.compressed, camera.reliable) for camera in parameters.cameras] == [
        ("/camera/image_raw/compressed", True, True)
    ]


def test_what_a_person_adds_to_the_parameters_wins(annotated_bag):
    yaml = pytest.importorskip("yaml")
    playback = plan_playback(annotated_bag)

    def parameters(further):
        return yaml.safe_load(playback.camera_arguments({**GIVEN, "parameters": further})["parameters"])

    assert parameters("{lossless: false, threads: 2}") == {
        **playback.node_parameters(),
        "lossless": False,
        "threads": 2,
    }
    assert parameters("") == playback.node_parameters()
    for nonsense in ("half", "{", "[1, 2]"):
        with pytest.raises(ConfigError, match=re.escape("write it as YAML, like '{threads: 2}'")):
            parameters(nonsense)


def test_the_node_is_brought_up_in_the_namespace_of_the_bag(tmp_path):
    pytest.importorskip("yaml")
    found = plan_playback(bag_of(tmp_path / "bag", "/robot/front/image_raw")).camera_arguments(GIVEN)
    assert found.pop("parameters")
    assert found == {"model": "m.onnx", "params_file": "p.yaml", "log_level": "warn", "namespace": "/robot"}


def test_earlier_results_are_not_played_again(annotated_bag, tmp_path, make_engine):
    replay(annotated_bag, Perceiver(make_engine(), score_threshold=0.0), tmp_path / "replayed")
    assert plan_playback(tmp_path / "replayed").topics == plan_playback(annotated_bag).topics


def test_cameras_in_a_namespace(tmp_path):
    playback = plan_playback(bag_of(tmp_path / "bag", "/robot/front/image_raw", "/robot/rear/image_raw"))
    assert playback.namespace == "/robot"
    assert playback.node_parameters()["cameras"] == ["front", "rear"]
    assert playback.node_parameters()["rear.image_topic"] == "/robot/rear/image_raw"
    assert "/robot/rear/segmentation/label_info" in playback.results


def test_the_player_starts_paused_and_loses_nothing(annotated_bag, tmp_path):
    yaml = pytest.importorskip("yaml")
    playback = plan_playback(annotated_bag)
    playback.write_qos(tmp_path / "qos.yaml")
    qos = yaml.safe_load((tmp_path / "qos.yaml").read_text())
    assert qos["/camera/image_raw/compressed"] == {
        "history": "keep_all",
        "reliability": "reliable",
        "durability": "volatile",
    }
    assert "/camera/truth/segmentation" in qos
    assert not any(topic.endswith("label_info") for topic in qos)  # they stay latched
    command = playback.play_command(tmp_path / "qos.yaml", rate="2.0")
    assert command[:5] == ["ros2", "bag", "play", str(annotated_bag), "--start-paused"]
    assert command[command.index("--rate") + 1] == "2.0"


def test_the_recorder_takes_what_is_played_and_the_results(annotated_bag, tmp_path):
    command = plan_playback(annotated_bag).record_command(tmp_path / "qos.yaml", tmp_path / "out")
    regex = command[command.index("--regex") + 1]
    for topic in ("/camera/name", "/camera/detections", "/camera/segmentation/label_info", "/camera/truth/detections"):
        assert re.search(regex, topic)
    for topic in ("/camera/overlay", "/camera/segmentation/confidence", "/other/camera/name", "/diagnostics"):
        assert not re.search(regex, topic)


@pytest.mark.parametrize(
    ("topics", "compressed", "sentence"),
    [
        (["/image_raw"], False, "/image_raw, are not <camera>/image_raw of cameras in one namespace; name those of"),
        (["/a/front/image_raw", "/b/rear/image_raw"], False, "are not <camera>/image_raw of cameras in one namespace"),
        (["/front/image"], True, "on /front/image are compressed, but the topic does not end in /compressed"),
    ],
)
def test_what_one_node_cannot_take_is_refused(tmp_path, topics, compressed, sentence):
    with pytest.raises(BagError, match=re.escape(sentence)):
        plan_playback(bag_of(tmp_path / "bag", *topics, compressed=compressed))


def test_entries_of_one_topic_are_summed_in_any_version_of_the_metadata(tmp_path):
    yaml = pytest.importorskip("yaml")
    bag = bag_of(tmp_path / "bag", "/front/image_raw")
    content = yaml.safe_load((bag / "metadata.yaml").read_text())
    information = content["rosbag2_bagfile_information"]
    information["version"] = 10
    information["topics_with_message_count"] *= 2
    (bag / "metadata.yaml").write_text(yaml.safe_dump(content))
    assert plan_playback(bag).images == {"/front/image_raw": 2}


def test_the_cameras_of_one_namespace_can_be_chosen(tmp_path):
    playback = plan_playback(
        bag_of(tmp_path / "bag", "/a/front/image_raw", "/b/rear/image_raw"), topics=["/b/rear/image_raw"]
    )
    assert (playback.namespace, list(playback.cameras), playback.topics) == ("/b", ["rear"], ("/b/rear/image_raw",))


def test_annotation_is_asked_for(tmp_path):
    bag = bag_of(tmp_path / "bag", "/front/image_raw")
    assert plan_playback(bag).annotation == ()
    with pytest.raises(BagError, match="has no annotation, only /front/image_raw; make an annotated bag with"):
        plan_playback(bag, annotated=True)


@pytest.mark.parametrize("content", ["", "{", "rosbag2_bagfile_information: {topics_with_message_count: 3}"])
def test_damaged_metadata_is_one_sentence(annotated_bag, content):
    (annotated_bag / "metadata.yaml").write_text(content)
    with pytest.raises(BagError, match=r"metadata\.yaml is damaged \(.*\); rebuild it with: ros2 bag reindex"):
        plan_playback(annotated_bag)


def test_a_single_file_is_refused(annotated_bag):
    with pytest.raises(BagError, match=r"\.mcap is a single file; name a bag folder"):
        plan_playback(next(annotated_bag.glob("*.mcap")))


def test_missing_bag(tmp_path):
    with pytest.raises(BagError, match="absent does not exist; name a bag folder"):
        plan_playback(tmp_path / "absent")


def test_ros2_launch_needs_no_library_of_ours():
    """Its Python may be another than the node's."""
    code = "import sys, lvad_perception.bags.playing; print({'numpy', 'cv2', 'rosbags', 'tqdm'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert result.stdout.strip() == "set()"


class Graph:
    """A ROS graph that says more at each look: a list of (topic, node, namespace) that subscribe, look by look."""

    def __init__(self, *looks):
        self.looks, self.asked = list(looks), 0

    def get_subscriptions_info_by_topic(self, topic):
        look = self.looks[min(self.asked, len(self.looks) - 1)]
        self.asked += 1
        return [SimpleNamespace(node_name=node, node_namespace=space) for at, node, space in look if at == topic]


class TestNodeListens:
    @pytest.fixture
    def playback(self, tmp_path):
        return plan_playback(bag_of(tmp_path / "bag", "/front/image_raw", "/rear/image_raw"))

    def test_it_waits_for_every_camera(self, playback):
        front, rear = (("/front/image_raw", "perception", "/"), ("/rear/image_raw", "perception", "/"))
        graph = Graph([], [front], [front], [front, rear])
        assert asyncio.run(playback.node_listens(graph, ended=lambda: False))
        assert graph.asked == 5

    @pytest.mark.parametrize("other", [("rviz", "/"), ("perception", "/another")])
    def test_other_listeners_do_not_count(self, playback, other):
        graph = Graph([(topic, *other) for topic in playback.images])
        assert not asyncio.run(playback.node_listens(graph, ended=lambda: graph.asked > 3))

    def test_it_gives_up_at_the_end(self, playback):
        assert not asyncio.run(playback.node_listens(Graph([]), ended=lambda: True))
