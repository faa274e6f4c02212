"""The parameter table and its checks, without ROS."""

import math
from pathlib import Path

import pytest

from lvad_perception.errors import ConfigError
from lvad_perception.node.parameters import TABLE, NodeParameters, check_value

MODEL = {"model": "model.onnx"}
DOCUMENTATION = Path(__file__).resolve().parents[2] / "docs" / "ros.md"


def test_every_default_passes_its_own_check():
    for row in TABLE:
        check_value(row.name, row.default)


def test_every_parameter_is_described():
    assert all(row.description.endswith(".") and len(row.description) > 20 for row in TABLE)


def test_the_documentation_shows_the_table():
    lines = DOCUMENTATION.read_text(encoding="utf-8").splitlines()
    for row in TABLE:
        bounds = f"{row.bounds[0]:g} to {row.bounds[1]:g}" if row.bounds else ""
        default = f'"{row.default}"' if isinstance(row.default, str) else str(row.default)
        values = ", ".join(row.choices) or bounds
        cells = [f"`{row.name}`", f"`{default}`", values, row.description]
        assert f"| {' | '.join(cells)} |".replace("|  |", "| |") in lines


def test_defaults_mean_the_models_threshold_and_no_limits():
    parameters = NodeParameters.from_values(MODEL)
    assert parameters.model == Path("model.onnx")
    assert parameters.score_threshold is None
    assert parameters.threads is None
    (camera,) = parameters.cameras
    assert (camera.topic, camera.compressed, camera.reliable, camera.min_interval_s) == (
        "camera/image_raw",
        False,
        False,
        0.0,
    )


def test_values_are_turned_into_the_units_of_the_code():
    values = {"score_threshold": 0, "threads": 2, "max_rate_hz": 20.0, "reliability": "reliable", "camera": "front"}
    parameters = NodeParameters.from_values(MODEL | values)
    assert parameters.score_threshold == 0.0
    assert parameters.threads == 2
    assert parameters.cameras[0].min_interval_s == pytest.approx(0.05)
    assert parameters.cameras[0].reliable
    assert parameters.cameras[0].name == "front"


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
    camera = NodeParameters.from_values(MODEL | {"image_topic": topic, "transport": transport}).cameras[0]
    assert (camera.topic, camera.compressed) == expected


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"model": ""}, r"^parameter model is empty; set it to the \.onnx file that lvad-train export wrote$"),
        ({"modle": "x"}, r"^parameter modle is unknown; did you mean model\?$"),
        ({"zzz": 1}, r"^parameter zzz is unknown; known are model, camera, "),
        ({"threads": 1.5}, r"^parameter threads is 1\.5; set it to a whole number$"),
        ({"threads": True}, r"^parameter threads is True; set it to a whole number$"),
        ({"threads": -1}, r"^parameter threads is -1; set it to a value from 0 to 256$"),
        ({"score_threshold": "high"}, r"^parameter score_threshold is 'high'; set it to a number$"),
        ({"score_threshold": 1.01}, r"^parameter score_threshold is 1\.01; set it to a value from -1 to 1$"),
        ({"score_threshold": math.nan}, r"^parameter score_threshold is nan; set it to a value from -1 to 1$"),
        ({"max_rate_hz": math.inf}, r"^parameter max_rate_hz is inf; set it to a value from 0 to 1000$"),
        ({"transport": "theora"}, r"^parameter transport is 'theora'; set it to one of auto, raw, compressed$"),
        ({"reliability": ""}, r"^parameter reliability is ''; set it to one of best_effort, reliable$"),
        ({"image_topic": "my camera"}, r"^parameter image_topic is 'my camera', which is no ROS name; "),
        ({"camera": ""}, r"^parameter camera is '', which is no ROS name; "),
        ({"camera": "2nd"}, r"^parameter camera is '2nd', which is no ROS name; "),
    ],
)
def test_impossible_values_are_refused_with_a_remedy(values, sentence):
    with pytest.raises(ConfigError, match=sentence):
        NodeParameters.from_values(MODEL | values)
