"""The life cycle: cycles leave nothing behind, and after whatever fails the node can be configured again."""

import gc
import os
import threading
import tracemalloc

import numpy as np
import pytest
from frames import TOPIC, raw_message, state_of, trigger

from lvad_perception.errors import EngineError

CYCLE = ("configure", "activate", "deactivate", "cleanup")


def run(node, *transitions):
    """Trigger transitions that must succeed."""
    for transition in transitions:
        assert trigger(node, transition) == "SUCCESS", transition


def entities(node):
    """Everything that a node can leave behind in ROS."""
    kinds = ("publishers", "subscriptions", "timers", "services", "clients", "guards", "waitables")
    counts = {kind: len(list(getattr(node, kind))) for kind in kinds}
    graph = node.get_publisher_names_and_types_by_node("perception", "/")
    return counts, sorted(graph), sorted(node.get_subscriber_names_and_types_by_node("perception", "/"))


def test_ten_cycles_leave_nothing_behind(tiny_model_file, make_node, robot, images, wait_until):
    from lvad_perception.messages import ros_types

    psutil = pytest.importorskip("psutil", reason="psutil is not installed")
    node = make_node(model=str(tiny_model_file), cameras=["camera", "rear"], **{"camera.camera_info_topic": "info"})
    results = robot.listen("/camera/segmentation", ros_types().Image)

    def cycle():
        run(node, "configure", "activate")
        count = len(results)
        wait_until(lambda: robot.publish(TOPIC, raw_message(images[0])) or len(results) > count)
        run(node, "deactivate", "cleanup")
        assert state_of(node) == "unconfigured"

    for _ in range(3):  # what is made once and kept
        cycle()
    process = psutil.Process()
    gc.collect()
    before = entities(node), threading.active_count(), process.num_threads(), process.num_fds()
    diagnosed = len(node._diagnostics.tasks)
    tracemalloc.start()
    try:
        cycle()
        results.clear()
        gc.collect()
        start = tracemalloc.get_traced_memory()[0]
        for _ in range(10):
            cycle()
            results.clear()
        gc.collect()
        grown = tracemalloc.get_traced_memory()[0] - start
    finally:
        tracemalloc.stop()
    assert (entities(node), threading.active_count(), process.num_threads(), process.num_fds()) == before
    assert len(node._diagnostics.tasks) == diagnosed
    assert node._perceiver is node._worker is node._mailbox is None
    # rclpy keeps a weak reference of each publisher that ever was; one kept frame alone would be 43,200 bytes.
    assert grown < 200_000, f"{grown} bytes in ten cycles"


def test_active_node_can_be_shut_down(tiny_model_file, make_active_node):
    node = make_active_node(model=str(tiny_model_file))
    run(node, "shutdown")
    assert state_of(node) == "finalized"
    assert node._perceiver is None


def test_failed_configure_says_why_and_can_be_repeated(tiny_model_file, tmp_path, make_node, capfd):
    from rclpy.parameter import Parameter

    truncated = tmp_path / "truncated.onnx"
    truncated.write_bytes(tiny_model_file.read_bytes()[:100])
    node = make_node()
    for model, sentence in (
        ("", "cannot configure: parameter model is empty; set it to the .onnx file that lvad-train export wrote"),
        (str(tmp_path / "absent.onnx"), "absent.onnx does not exist; "),
        (str(truncated), "truncated.onnx cannot be loaded as an ONNX model"),
    ):
        node.set_parameters([Parameter("model", value=model)])
        assert trigger(node, "configure") == "FAILURE"
        assert state_of(node) == "unconfigured"
        err = capfd.readouterr().err
        assert sentence in err
        assert "Traceback" not in err
    node.set_parameters([Parameter("model", value=str(tiny_model_file))])
    run(node, "configure")
    assert state_of(node) == "inactive"


def fail(*_, **__):
    raise RuntimeError("surprise")


@pytest.mark.parametrize(
    ("broken", "transition", "before", "after"),
    [
        ("lvad_perception.node.perception.Perceiver.__call__", "configure", [], "unconfigured"),
        ("lvad_perception.node.perception.CameraOutputs", "configure", [], "unconfigured"),
        ("lvad_perception.node.perception.CameraInput", "activate", ["configure"], "inactive"),
        ("lvad_perception.node.perception.Worker", "activate", ["configure"], "inactive"),
        ("lvad_perception.node.inputs.CameraInput.destroy", "deactivate", ["configure", "activate"], "unconfigured"),
        ("lvad_perception.node.outputs.CameraOutputs.destroy", "cleanup", ["configure"], "unconfigured"),
        ("lvad_perception.engines.onnx.OnnxEngine.close", "cleanup", ["configure"], "unconfigured"),
    ],
)
def test_after_a_transition_that_fails_the_node_can_be_configured_again(
    tiny_model_file, make_node, monkeypatch, capfd, broken, transition, before, after
):
    node = make_node(model=str(tiny_model_file), cameras=["front", "rear"])
    threads = threading.active_count()
    run(node, *before)
    with monkeypatch.context() as patch:
        patch.setattr(broken, fail)
        assert trigger(node, transition) in ("FAILURE", "ERROR")
    assert "unexpected RuntimeError: surprise" in capfd.readouterr().err
    assert state_of(node) == after
    assert threading.active_count() == threads
    if after == "inactive":
        assert list(node.subscriptions) == []
        run(node, "cleanup")
    assert node._perceiver is None
    run(node, *CYCLE)
    assert state_of(node) == "unconfigured"


def test_an_engine_that_fails_its_warm_up_is_closed(make_engine, make_node, monkeypatch, capfd):
    class Broken(make_engine):
        def infer(self, batch):
            raise EngineError("out of memory; close something")

    engine = Broken()
    monkeypatch.setattr("lvad_perception.node.perception.open_engine", lambda *_, **__: engine)
    node = make_node(model="any")
    assert trigger(node, "configure") == "FAILURE"
    assert engine.closed
    assert "cannot configure: out of memory; close something" in capfd.readouterr().err


def test_another_model_without_a_restart(tiny_model_file, make_tiny_model, make_manifest, tmp_path, make_active_node):
    from rclpy.parameter import Parameter

    classes = {"drivable": make_manifest().classes["drivable"]}
    other = make_tiny_model(tmp_path / "other.onnx", manifest=make_manifest(classes=classes, network_hw=(48, 64)))
    node = make_active_node(model=str(tiny_model_file))
    (refused,) = node.set_parameters([Parameter("model", value=str(other))])
    assert refused.reason == (
        "parameter model can be changed only while the node is unconfigured; deactivate it and clean it up first"
    )
    run(node, "deactivate", "cleanup")
    (result,) = node.set_parameters([Parameter("model", value=str(other))])
    assert result.successful
    run(node, "configure", "activate")
    topics = {publisher.topic_name for publisher in node.publishers}
    assert "/camera/drivable_area" in topics
    assert "/camera/segmentation" not in topics


def test_memory_of_the_process_does_not_grow_with_cycles(tiny_model_file, make_node):
    psutil = pytest.importorskip("psutil", reason="psutil is not installed")
    node = make_node(model=str(tiny_model_file))
    for _ in range(10):
        run(node, *CYCLE)
    process, sizes = psutil.Process(os.getpid()), []
    for _ in range(3):
        for _ in range(10):
            run(node, *CYCLE)
        gc.collect()
        sizes.append(process.memory_info().rss)
    assert np.diff(sizes).min() < 2_000_000, sizes  # ten kept sessions of ONNX Runtime are more than that
