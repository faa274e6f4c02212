"""The parameter table and its checks, without ROS."""

import math
from pathlib import Path

import pytest

from lvad_perception.errors import ConfigError
from lvad_perception.node.parameters import (
    TABLE,
    NodeParameters,
    class_parameter,
    class_row,
    expand_table,
    unknown_classes,
    unknown_parameter,
)
from lvad_perception.node.ros_parameter import Change
from lvad_perception.vocabulary import DETECTION, VOCABULARIES

MODEL = {"model": "model.onnx"}
TWO = MODEL | {"cameras": ["front", "rear"]}
ROOT = Path(__file__).resolve().parents[2]


def test_every_default_passes_its_own_check():
    for row in expand_table(["front", "rear"]).values():
        row.check(row.default)


def test_every_parameter_is_described():
    assert all(row.description.endswith(".") and len(row.description) > 20 for row in TABLE)


def test_the_documentation_shows_the_table():
    lines = (ROOT / "docs" / "ros.md").read_text(encoding="utf-8").splitlines()
    for row in TABLE:
        assert documented(row) in lines


def documented(row):
    """The line of a row in the documentation's table."""
    default = {str: f'"{row.default}"', bool: str(row.default).lower()}.get(type(row.default), str(row.default))
    if isinstance(row.default, tuple):
        default = f"[{', '.join(row.default)}]"
    values = ", ".join(row.choices) or (f"{row.bounds[0]:g} to {row.bounds[1]:g}" if row.bounds else "")
    change = {Change.ANY_TIME: "any time", Change.UNCONFIGURED: "unconfigured", Change.START: "start"}[row.change]
    cells = [f"`{row.name}`", f"`{default}`", values, change, row.description]
    return f"| {' | '.join(cells)} |".replace("|  |", "| |")


def test_the_example_file_is_a_working_configuration_that_names_every_parameter():
    yaml = pytest.importorskip("yaml")
    text = (ROOT / "config" / "camera.yaml").read_text(encoding="utf-8")
    values = yaml.safe_load(text)["/**"]["ros__parameters"]
    del values["diagnostic_updater.period"]
    parameters = NodeParameters.from_values(flat(values))
    assert [camera.name for camera in parameters.cameras] == ["front", "rear"]
    for row in TABLE:
        assert row.name.replace("<camera>", "front").replace("<class>", "pedestrian") in flat(values)


def flat(values, prefix=""):
    """Nested parameters of a YAML file as ROS names them."""
    names = {}
    for name, value in values.items():
        names |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return names


def test_defaults_mean_the_models_threshold_and_no_limits():
    parameters = NodeParameters.from_values(MODEL)
    assert parameters.model == Path("model.onnx")
    assert parameters.score_threshold is None
    assert parameters.class_thresholds == {}
    assert parameters.threads is None
    assert parameters.runtime == "auto"
    assert parameters.precision is None
    assert not parameters.network_size
    assert not parameters.lossless
    (camera,) = parameters.cameras
    assert (camera.topic, camera.compressed, camera.reliable, camera.min_interval_s, camera.camera_info_topic) == (
        "camera/image_raw",
        False,
        False,
        0.0,
        "",
    )


def test_values_are_turned_into_the_units_of_the_code():
    values = {
        "score_threshold": 0,
        "class_score_threshold.traffic_light": 0.7,
        "threads": 2,
        "output_size": "network",
        "rear.max_rate_hz": 20.0,
        "rear.reliability": "reliable",
    }
    parameters = NodeParameters.from_values(TWO | values)
    assert parameters.score_threshold == 0.0
    assert parameters.thresholds_of(DETECTION.names) == {DETECTION.index("traffic light"): 0.7}
    assert parameters.threads == 2
    assert parameters.network_size
    front, rear = parameters.cameras
    assert (front.name, front.topic, front.min_interval_s, front.reliable) == ("front", "front/image_raw", 0.0, False)
    assert (rear.name, rear.topic, rear.min_interval_s, rear.reliable) == ("rear", "rear/image_raw", 0.05, True)


def test_runtime_and_precision_are_those_that_were_asked_for():
    parameters = NodeParameters.from_values(MODEL | {"runtime": "openvino", "precision": "bf16"})
    assert (parameters.runtime, parameters.precision) == ("openvino", "bf16")


@pytest.mark.parametrize(("asked", "used"), [("auto", None), ("openvino", "openvino")])
def test_lossless_leaves_no_runtime_to_the_clock(asked, used):
    """The fastest runtime of the moment must not decide what an evaluation counts."""
    assert NodeParameters.from_values(MODEL | {"lossless": True, "runtime": asked}).runtime == used


@pytest.mark.parametrize("vocabularies", VOCABULARIES.values(), ids=VOCABULARIES.keys())
def test_every_class_of_objects_has_a_threshold_of_its_own(vocabularies):
    names = vocabularies["detection"].names
    for index, name in enumerate(names):
        parameters = NodeParameters.from_values(MODEL | {class_parameter(name): 0.5})
        assert parameters.thresholds_of(names) == {index: 0.5}
        assert parameters.thresholds_of(()) == {}  # the model detects no objects
    assert all(class_parameter(name).replace(".", "_").isidentifier() for name in names)


def test_thresholds_of_classes_wait_for_the_model_that_has_them():
    values = {
        "class_score_threshold.Fußgänger": 0.5,
        "class_score_threshold.vehicle.car": 0.25,  # nuScenes' own names have dots
        "class_score_threshold.traffic_light": 0.75,
        "class_score_threshold.dog": -1.0,
    }
    parameters = NodeParameters.from_values(MODEL | values)
    assert parameters.thresholds_of(["dog", "vehicle.car", "cow", "Fußgänger"]) == {1: 0.25, 3: 0.5}
    assert parameters.thresholds_of(["traffic light", "traffic_light"]) == {0: 0.75, 1: 0.75}


def test_a_class_that_the_model_lacks_is_reported_with_those_that_it_has():
    names = ["class_score_threshold.cra", "class_score_threshold.rider"]
    no_class = f"the model has no class of objects for {names[0]}"
    assert unknown_classes(names[:1], ["car", "traffic light"]) == f"{no_class}; it has car, traffic_light"
    assert unknown_classes(names, ["car"]) == f"{no_class}, {names[1]}; it has car"
    assert unknown_classes(names[:1], []) == f"{no_class}; it has none"


@pytest.mark.parametrize("name", ["class_score_threshold", "class_score_threshold.", "score_threshold", "front.car"])
def test_other_parameters_are_not_of_a_class(name):
    assert class_row(name) is None


def test_lossless_asks_for_reliable_delivery():
    assert NodeParameters.from_values(MODEL | {"lossless": True}).cameras[0].reliable


def test_home_folder_is_expanded(monkeypatch):
    monkeypatch.setenv("HOME", "/home/robot")
    assert NodeParameters.from_values({"model": "~/a.onnx"}).model == Path("/home/robot/a.onnx")


@pytest.mark.parametrize(
    ("topic", "transport", "expected"),
    [
        ("/cam/image_raw", "auto", ("/cam/image_raw", False)),
        ("/cam/image_raw/compressed", "auto", ("/cam/image_raw/compressed", True)),
        ("/cam/image_raw", "compressed", ("/cam/image_raw/compressed", True)),
        ("/cam/image_raw/compressed", "compressed", ("/cam/image_raw/compressed", True)),
        ("/cam/compressed", "raw", ("/cam/compressed", False)),
    ],
)
def test_transport_decides_topic_and_type(topic, transport, expected):
    values = MODEL | {"camera.image_topic": topic, "camera.transport": transport}
    camera = NodeParameters.from_values(values).cameras[0]
    assert (camera.topic, camera.compressed) == expected


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"model": ""}, r"^parameter model is empty; set it to the \.onnx file that lvad-train export wrote$"),
        (
            {"runtime": "tvm"},
            r"^parameter runtime is 'tvm'; set it to one of auto, onnxruntime, openvino, onnxruntime-",
        ),
        ({"precision": "fp8"}, r"^parameter precision is 'fp8'; set it to one of file, fp32, fp16, bf16, int8$"),
        ({"threads": 1.5}, r"^parameter threads is 1\.5; set it to a whole number$"),
        ({"threads": True}, r"^parameter threads is True; set it to a whole number$"),
        ({"threads": -1}, r"^parameter threads is -1; set it to a value from 0 to 256$"),
        ({"jpeg_quality": 0}, r"^parameter jpeg_quality is 0; set it to a value from 1 to 100$"),
        ({"score_threshold": "high"}, r"^parameter score_threshold is 'high'; set it to a number$"),
        ({"score_threshold": 1.01}, r"^parameter score_threshold is 1\.01; set it to a value from -1 to 1$"),
        ({"score_threshold": math.nan}, r"^parameter score_threshold is nan; set it to a value from -1 to 1$"),
        ({"class_score_threshold.car": 2.0}, r"^parameter class_score_threshold\.car is 2\.0; set it to a value from "),
        ({"front.max_rate_hz": math.inf}, r"^parameter front\.max_rate_hz is inf; set it to a value from 0 to 1000$"),
        ({"front.transport": "theora"}, r"^parameter front\.transport is 'theora'; set it to one of auto, raw, "),
        ({"rear.reliability": ""}, r"^parameter rear\.reliability is ''; set it to one of best_effort, reliable$"),
        ({"output_size": "half"}, r"^parameter output_size is 'half'; set it to one of source, network$"),
        ({"front.image_topic": "my camera"}, r"^parameter front\.image_topic is 'my camera', which is no ROS name; "),
        ({"front.image_topic": ""}, r"^parameter front\.image_topic is '', which is no ROS name; "),
        ({"front.camera_info_topic": "2nd"}, r"^parameter front\.camera_info_topic is '2nd', which is no ROS name; "),
        ({"lossless": 1}, r"^parameter lossless is 1; set it to true or false$"),
        ({"lossless": True, "rear.max_rate_hz": 5.0}, r"^parameter rear\.max_rate_hz is 5 and lossless is true, "),
        ({"cameras": "front"}, r"^parameter cameras is 'front'; set it to a list of texts$"),
        ({"cameras": [1]}, r"^parameter cameras is \[1\]; set it to a list of texts$"),
        ({"cameras": []}, r"^parameter cameras is empty; name at least one camera, like \[front\]$"),
        ({"cameras": ["front", "2nd"]}, r"^parameter cameras has '2nd'; use letters, digits and _ only"),
        ({"cameras": ["a/b"]}, r"^parameter cameras has 'a/b'; use letters, digits and _ only"),
        ({"cameras": ["front", "front"]}, r"^parameter cameras has 'front' twice; "),
        ({"cameras": ["model"]}, r"^camera name 'model' clashes with the parameter model; "),
    ],
)
def test_impossible_values_are_refused_with_a_remedy(values, sentence):
    with pytest.raises(ConfigError, match=sentence):
        NodeParameters.from_values(TWO | values)


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("modle", "did you mean model?"),
        ("frnt.image_topic", "did you mean front.image_topic?"),
        ("front.image_topc", "did you mean front.image_topic?"),
        ("class_score_treshold.car", "did you mean class_score_threshold.<class>?"),
        ("left.image_topic", "add left to cameras, which has front, rear"),
        ("zzz", "known are model, cameras, <camera>.image_topic, "),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(name, remedy):
    with pytest.raises(ConfigError) as error:
        NodeParameters.from_values(TWO | {name: 1})
    assert str(error.value).startswith(f"parameter {name} is unknown; {remedy}")
    assert str(error.value) == unknown_parameter(name, ["front", "rear"])
