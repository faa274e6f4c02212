"""The node with models of other classes than BDD100K's: topics, messages, colours and parameters are the model's."""

import itertools

import numpy as np
import pytest
from frames import TOPIC, listen_to_all, raw_message, trigger

from lvad_perception.vocabulary import NUIMAGES_DETECTION, NUIMAGES_SEMANTIC, vocabulary_of

NUIMAGES = {"detection": NUIMAGES_DETECTION.names, "semantic": NUIMAGES_SEMANTIC.names}
# A class a quarter of the image, by its number: names as data sets of one's own have them.
OWN = {"detection": ("forklift", "Fußgänger", "vehicle.car", "pallet jack"), "semantic": ("lane", "kerb", "background")}
THRESHOLD = "class_score_threshold"


@pytest.fixture
def model_of(make_tiny_model, make_manifest, tmp_path):
    """A function that writes a model file of these classes; a task that is left out is absent."""
    return lambda name, classes: str(make_tiny_model(tmp_path / name, manifest=make_manifest(classes=classes)))


@pytest.fixture
def change(ros):
    """A function that sets a parameter as ``ros2 param set`` does and returns why not, or an empty text."""
    from rclpy.parameter import Parameter

    return lambda node, name, value: node.set_parameters([Parameter(name, value=value)])[0].reason


@pytest.fixture
def seen(robot, wait_until):
    """A function that sends an image until the listeners have results of it and returns the newest."""
    stamps_s = itertools.count(1)

    def see(image, results):
        stamp_s = next(stamps_s)  # results of the image before may still come
        wait_until(
            lambda: (
                robot.publish(TOPIC, raw_message(image, stamp_s=stamp_s))
                or all(messages and messages[-1].header.stamp.sec == stamp_s for messages in results.values())
            ),
            what="a result",
        )
        return {topic: messages[-1] for topic, messages in results.items()}

    return see


def painted():
    """An image, uint8 [48, 64, 3], that is the network's input as it is: the tiny model sees semantic class 1, and in
    the quarters objects 0 to 3 with scores from 0.9 down."""
    image = np.full((48, 64, 3), (13, 0, 0), np.uint8)
    for quarter, blue in enumerate((230, 180, 130, 100)):
        row, column = divmod(quarter, 2)
        image[24 * row : 24 * (row + 1), 32 * column : 32 * (column + 1), 2] = blue
    return image


def classes_of(detections):
    return [detection.results[0].hypothesis.class_id for detection in detections.detections]


def declared(node):
    return list(node.get_parameters_by_prefix(THRESHOLD))


def topics_of(node):
    return {name for name, _ in node.get_publisher_names_and_types_by_node("perception", "/") if "/camera/" in name}


@pytest.mark.parametrize("classes", [NUIMAGES, OWN], ids=["nuimages", "own"])
def test_messages_and_pictures_are_of_the_models_classes(model_of, make_active_node, robot, seen, wait_until, classes):
    from vision_msgs.msg import LabelInfo

    node = make_active_node(model=model_of("model.onnx", classes), overlay_alpha=1.0)
    listeners = listen_to_all(robot)
    assert not any("drivable" in topic for topic in topics_of(node))
    del listeners["drivable_area"]
    results = seen(painted(), listeners)
    assert classes_of(results["detections"]) == list(classes["detection"][:4])
    for task, topic in (("detection", "detections"), ("semantic", "segmentation")):
        info = robot.listen(f"/camera/{topic}/label_info", LabelInfo, latched=True)
        wait_until(lambda info=info: info)
        assert [entry.class_name for entry in info[0].class_map] == list(classes[task])
    overlay = np.frombuffer(results["overlay"].data, np.uint8).reshape(48, 64, 3)
    assert (overlay[36, 48] == vocabulary_of("semantic", classes["semantic"]).colors[1]).all()
    color = vocabulary_of("detection", classes["detection"]).colors[3]
    assert (overlay[47, 40] == color).all()  # the outline of the last quarter


@pytest.mark.parametrize(
    ("classes", "topics"),
    [
        ({"detection": OWN["detection"]}, {"detections", "detections/label_info", "detections/vision_info"}),
        ({"semantic": OWN["semantic"]}, {"segmentation", "segmentation/confidence", "segmentation/label_info"}),
    ],
    ids=["boxes", "masks"],
)
def test_a_model_of_one_task(model_of, make_active_node, robot, seen, wait_until, classes, topics):
    node = make_active_node(model=model_of("model.onnx", classes))
    expected = {f"/camera/{topic}" for topic in (*topics, "overlay", "overlay/compressed")}
    wait_until(lambda: topics_of(node) == expected, what=f"the topics {expected}")
    wanted = {f"/camera/{topic}" for topic in listen_to_all(robot)} & expected
    results = seen(
        painted(), {topic: messages for topic, messages in listen_to_all(robot).items() if f"/camera/{topic}" in wanted}
    )
    assert ("detections" in results) == ("detection" in classes)


def test_each_class_of_the_model_has_a_threshold_while_the_node_is_configured(model_of, make_node, change):
    node = make_node(model=model_of("own.onnx", OWN), **{f"{THRESHOLD}.pallet_jack": 0.5})
    assert declared(node) == ["pallet_jack"]
    assert trigger(node, "configure") == "SUCCESS"
    assert sorted(declared(node)) == sorted(["forklift", "Fußgänger", "vehicle.car", "pallet_jack"])
    for name in declared(node):
        (bounds,) = node.describe_parameter(f"{THRESHOLD}.{name}").floating_point_range
        assert (bounds.from_value, bounds.to_value) == (-1.0, 1.0)
    assert change(node, f"{THRESHOLD}.vehicle.car", 0.25) == ""
    np.testing.assert_allclose(node._perceiver._thresholds, [0.3, 0.3, 0.25, 0.5])
    assert trigger(node, "cleanup") == "SUCCESS"
    assert sorted(declared(node)) == ["pallet_jack", "vehicle.car"]  # what was given stays, for the next model


def test_thresholds_take_effect_while_frames_flow(model_of, make_active_node, robot, seen, change):
    node = make_active_node(model=model_of("own.onnx", OWN), **{f"{THRESHOLD}.forklift": 0.95})
    results = {"detections": listen_to_all(robot)["detections"]}
    assert classes_of(seen(painted(), results)["detections"]) == ["Fußgänger", "vehicle.car", "pallet jack"]
    assert change(node, f"{THRESHOLD}.pallet_jack", 1) == ""  # a whole number, too
    assert classes_of(seen(painted(), results)["detections"]) == ["Fußgänger", "vehicle.car"]
    assert change(node, f"{THRESHOLD}.forklift", -1.0) == ""
    assert classes_of(seen(painted(), results)["detections"]) == ["forklift", "Fußgänger", "vehicle.car"]


def test_a_threshold_of_a_class_that_the_model_lacks_is_reported(model_of, make_node, change, capfd):
    unknown = f"{THRESHOLD}.rider"
    node = make_node(model=model_of("own.onnx", OWN), **{unknown: 0.5, f"{THRESHOLD}.forklift": 0.5})
    assert unknown not in capfd.readouterr().err  # which classes there are is not known yet
    assert trigger(node, "configure") == "SUCCESS"
    sentence = f"the model has no class of objects for {unknown}; it has forklift, Fußgänger, vehicle.car, pallet_jack"
    assert capfd.readouterr().err.count(sentence) == 1
    np.testing.assert_allclose(node._perceiver._thresholds, [0.5, 0.3, 0.3, 0.3])
    assert change(node, unknown, 0.25) == sentence
    assert change(node, unknown, 0.5) == ""  # what it is already, as in a file that is loaded again
    assert change(node, f"{THRESHOLD}.car", 0.25).startswith(f"the model has no class of objects for {THRESHOLD}.car; ")
    assert not node.has_parameter(f"{THRESHOLD}.car")


def test_a_model_without_objects_has_no_thresholds(model_of, make_node, change, capfd):
    node = make_node(model=model_of("masks.onnx", {"semantic": OWN["semantic"]}), **{f"{THRESHOLD}.car": 0.5})
    assert trigger(node, "configure") == "SUCCESS"
    sentence = f"the model has no class of objects for {THRESHOLD}.car; it has none"
    assert sentence in capfd.readouterr().err
    assert change(node, f"{THRESHOLD}.car", 0.25) == sentence


def test_a_threshold_can_be_set_before_the_model_is_known(model_of, make_node, change):
    node = make_node(model=model_of("own.onnx", OWN))
    assert declared(node) == []
    assert change(node, f"{THRESHOLD}.forklift", 1) == ""
    assert "is 2.0; set it to a value from -1 to 1" in change(node, f"{THRESHOLD}.pallet_jack", 2.0)
    assert "is 'low'; set it to a number" in change(node, f"{THRESHOLD}.pallet_jack", "low")
    assert trigger(node, "configure") == "SUCCESS"
    np.testing.assert_allclose(node._perceiver._thresholds, [1.0, 0.3, 0.3, 0.3])
    assert node.get_parameter(f"{THRESHOLD}.forklift").value == 1.0


def test_a_misspelt_parameter_is_refused_when_it_is_set(make_node, change):
    node = make_node()
    assert change(node, "scroe_threshold", 0.5) == "parameter scroe_threshold is unknown; did you mean score_threshold?"
    assert not node.has_parameter("scroe_threshold")


def test_another_model_brings_its_classes(model_of, make_node, robot, wait_until, change, capfd):
    from vision_msgs.msg import VisionInfo

    paths = {
        "bdd100k": model_of("bdd.onnx", {"detection": ("car", "rider", "bus", "truck")}),
        "own": model_of("own.onnx", OWN),
    }
    node = make_node(model=paths["bdd100k"], **{f"{THRESHOLD}.rider": 0.5})

    def configure(name):
        assert change(node, "model", paths[name]) == ""
        assert trigger(node, "configure") == "SUCCESS"
        info = robot.listen("/camera/detections/vision_info", VisionInfo, latched=True)
        wait_until(lambda: info)
        return info[-1].database_version

    assert configure("bdd100k") == 1
    np.testing.assert_allclose(node._perceiver._thresholds, [0.3, 0.5, 0.3, 0.3])
    assert "no class of objects" not in capfd.readouterr().err
    trigger(node, "cleanup")
    assert configure("bdd100k") == 1
    trigger(node, "cleanup")
    assert configure("own") == 2  # vision_msgs: listeners see that their list of classes is not the model's any more
    assert f"the model has no class of objects for {THRESHOLD}.rider; it has forklift, " in capfd.readouterr().err
    trigger(node, "cleanup")
    assert configure("bdd100k") == 3
    np.testing.assert_allclose(node._perceiver._thresholds, [0.3, 0.5, 0.3, 0.3])


def test_a_failed_configure_leaves_the_parameters_as_they_were(model_of, make_node, change):
    node = make_node(model=model_of("own.onnx", OWN), **{f"{THRESHOLD}.forklift": 0.5})
    node._diagnostics.setHardwareID = None  # fails late, after the model was read
    assert trigger(node, "configure") == "FAILURE"
    assert declared(node) == ["forklift"]
