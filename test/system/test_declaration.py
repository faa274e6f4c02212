"""The parameters in ROS: descriptors, refused values, changes while the node works."""

import time

import pytest
from frames import TOPIC, listen_to_all, raw_message, trigger

from lvad_perception.errors import ConfigError
from lvad_perception.node.parameters import TABLE, expand_table
from lvad_perception.node.ros_parameter import Change
from lvad_perception.vocabulary import DETECTION


@pytest.fixture
def change():
    """A function that sets parameters of a node, all or none, and returns why not, or an empty text."""
    from rclpy.parameter import Parameter

    def set_all(node, **values):
        result = node.set_parameters_atomically([Parameter(name, value=value) for name, value in values.items()])
        assert result.successful == (not result.reason)
        return result.reason

    return set_all


def test_parameters_describe_themselves(make_node):
    node = make_node(cameras=["front", "rear"])
    for name, row in expand_table(["front", "rear"]).items():
        descriptor = node.describe_parameter(name)
        assert descriptor.description == row.description
        assert row.change.value in descriptor.additional_constraints
        assert descriptor.read_only == (row.change is Change.START)
    score = node.describe_parameter("score_threshold").floating_point_range[0]
    assert (score.from_value, score.to_value) == (-1.0, 1.0)
    quality = node.describe_parameter("jpeg_quality").integer_range[0]
    assert (quality.from_value, quality.to_value) == (1, 100)
    assert node.describe_parameter("rear.transport").additional_constraints == (
        "one of auto, raw, compressed; can be changed only while the node is unconfigured"
    )


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("front.transport", "theora", "parameter front.transport is 'theora'; set it to one of auto, raw, compressed"),
        ("front.image_topic", "a b", "parameter front.image_topic is 'a b', which is no ROS name; "),
        ("front.max_rate_hz", -1.0, "front.max_rate_hz"),
        ("jpeg_quality", 101, "jpeg_quality"),
        ("cameras", ["left"], "cameras"),
        ("model", 5, "Wrong parameter type, expected"),
    ],
)
def test_nonsense_is_refused_with_the_reason(make_node, change, name, value, reason):
    node = make_node(cameras=["front"])
    before = node.get_parameter(name).value
    assert reason in change(node, **{name: value})
    assert node.get_parameter(name).value == before


def test_whole_number_is_taken_for_a_decimal_one(make_node, change):
    node = make_node(score_threshold=1, **{"camera.max_rate_hz": 10})
    assert node.get_parameter("score_threshold").value == 1.0
    assert node.get_parameter("camera.max_rate_hz").value == 10.0
    assert change(node, score_threshold=0, threads=3) == ""
    assert node.get_parameter("score_threshold").get_parameter_value().double_value == 0.0
    assert node.get_parameter("threads").value == 3
    assert "expected" in change(node, score_threshold="0")


def test_misspelt_parameters_are_warned_of(make_node, capfd):
    make_node(cameras=["front"], scroe_threshold=0.5, **{"frnt.image_topic": "/a", "left.image_topic": "/b"})
    err = capfd.readouterr().err
    assert "parameter scroe_threshold is unknown; did you mean score_threshold?" in err
    assert "parameter frnt.image_topic is unknown; did you mean front.image_topic?" in err
    assert "parameter left.image_topic is unknown; add left to cameras, which has front" in err


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ({"threads": "many"}, r"parameter threads is 'many'; set it to a whole number"),
        ({"threads": 1000}, r"parameter threads is 1000; set it to a value from 0 to 256"),
        ({"score_threshold": 1.5}, r"parameter score_threshold is 1.5; set it to a value from -1 to 1"),
        ({"cameras": ["a", "a"]}, r"parameter cameras has 'a' twice"),
        ({"cameras": "front"}, r"parameter cameras is 'front'; set it to a list of texts"),
        ({"cameras": ["front"], "front.transport": "theora"}, r"parameter front\.transport is 'theora'"),
    ],
)
def test_impossible_parameter_at_start_is_one_sentence(make_node, parameters, sentence):
    with pytest.raises(ConfigError, match=sentence):
        make_node(**parameters)


def test_what_is_fixed_while_the_node_is_configured_is_refused(tiny_model_file, make_active_node, change):
    node = make_active_node(model=str(tiny_model_file))
    fixed = [row for name, row in expand_table(["camera"]).items() if row.change is Change.UNCONFIGURED]
    assert len(fixed) >= 8
    others = {str: "reliable", int: 7, float: 7.0, bool: True}
    for row in fixed:
        value = row.choices[-1] if row.choices else others[type(row.default)]
        reason = change(node, **{row.name: value})
        assert reason == f"parameter {row.name} {row.change.value}; deactivate it and clean it up first"
    assert change(node, threads=0) == ""  # what it is already, as in a file that is loaded again
    trigger(node, "deactivate")
    assert change(node, lossless=True) != ""
    trigger(node, "cleanup")
    assert change(node, lossless=True) == ""


def test_several_changes_take_effect_together_or_not_at_all(tiny_model_file, make_active_node, change):
    node = make_active_node(model=str(tiny_model_file))
    assert "threads" in change(node, score_threshold=0.9, threads=3)
    assert node._perceiver.score_threshold == 0.3
    assert node.get_parameter("score_threshold").value == -1.0
    assert change(node, score_threshold=0.9, jpeg_quality=50) == ""
    assert node._perceiver.score_threshold == 0.9


def test_changes_take_effect_on_humble_too(tiny_model_file, make_active_node, change, monkeypatch):
    from rclpy.node import Node

    monkeypatch.delattr(Node, "add_post_set_parameters_callback", raising=False)
    node = make_active_node(model=str(tiny_model_file))
    assert change(node, score_threshold=0.9) == ""
    assert node._perceiver.score_threshold == 0.9


def test_values_that_contradict_each_other_are_refused(tiny_model_file, make_active_node, change):
    node = make_active_node(model=str(tiny_model_file), lossless=True)
    assert "lossless is true, which leaves no frame out" in change(node, **{"camera.max_rate_hz": 5.0})


def test_every_dynamic_parameter_reaches_its_part(tiny_model_file, make_active_node, change):
    node = make_active_node(model=str(tiny_model_file), cameras=["front", "rear"])
    dynamic = {row.name for row in TABLE if row.change is Change.ANY_TIME}
    assert dynamic == {
        "<camera>.max_rate_hz",
        "score_threshold",
        "class_score_threshold.<class>",
        "overlay_alpha",
        "jpeg_quality",
    }
    values = {"overlay_alpha": 0.25, "jpeg_quality": 40, "rear.max_rate_hz": 8.0, "score_threshold": 0.5}
    assert change(node, **values, **{"class_score_threshold.traffic_light": 0.75}) == ""
    for outputs in node._outputs.values():
        assert (outputs._options.overlay_alpha, outputs._options.jpeg_quality) == (0.25, 40)
    assert [slot.min_interval_s for slot in node._mailbox._slots.values()] == [0.0, 0.125]
    thresholds = node._perceiver._thresholds
    assert thresholds[DETECTION.index("traffic light")] == 0.75
    assert (thresholds == 0.5).sum() == len(DETECTION.names) - 1
    # A new activation starts with the changed values.
    trigger(node, "deactivate")
    assert change(node, **{"front.max_rate_hz": 4.0}) == ""
    trigger(node, "activate")
    assert [slot.min_interval_s for slot in node._mailbox._slots.values()] == [0.25, 0.125]


def test_thresholds_and_rates_take_effect_while_frames_flow(
    tiny_model_file, make_active_node, robot, images, wait_until, change
):
    node = make_active_node(model=str(tiny_model_file), score_threshold=0.0)
    results = listen_to_all(robot)["detections"]

    def newest():
        count = len(results)
        wait_until(
            lambda: robot.publish(TOPIC, raw_message(images[0])) or time.sleep(0.02) or len(results) >= count + 2
        )
        return [found.results[0].hypothesis.class_id for found in results[-1].detections]

    assert sorted(newest()) == sorted(DETECTION.names[:4])
    assert change(node, score_threshold=1.0) == ""
    assert newest() == []
    assert change(node, **{f"class_score_threshold.{DETECTION.names[2]}": 0.1}) == ""
    assert newest() == [DETECTION.names[2]]
    assert change(node, **{"camera.max_rate_hz": 0.01}) == ""
    count = len(results)
    for _ in range(10):
        robot.publish(TOPIC, raw_message(images[0]))
        time.sleep(0.02)
    assert len(results) <= count + 1
    assert change(node, **{"camera.max_rate_hz": 0.0}) == ""
    assert newest()
