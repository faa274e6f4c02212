"""OpenVINO, where it is installed; ``test_onnx_file`` tests both runtimes."""

import subprocess
import sys
from collections import deque
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from lvad_perception.engines.agreement import copied
from lvad_perception.engines.openvino import OpenVinoEngine, fuse_argmax, read_network
from lvad_perception.errors import EngineError, ModelFileError

pytest.importorskip("openvino", reason="OpenVINO is not installed")


def test_nothing_is_copied(tiny_model_file, images_like):
    engine = OpenVinoEngine(tiny_model_file, threads=1)
    images = images_like(engine.manifest)
    first, second, third = (engine.infer(images) for _ in range(3))
    assert first.semantic.ctypes.data == third.semantic.ctypes.data
    assert not np.shares_memory(first.semantic, second.semantic)  # which is valid until the second begins


def test_the_arithmetic_of_the_caller_stays(tiny_model_file, images_like):
    denormal = np.full(64, 1e-40, np.float32)
    engine = OpenVinoEngine(tiny_model_file, threads=1)
    engine.infer(images_like(engine.manifest))
    assert (denormal + denormal).min() > 0


def test_it_describes_itself(tiny_model_file):
    engine = OpenVinoEngine(tiny_model_file, threads=2)
    assert engine.description.startswith("OpenVINO 20")
    assert engine.description.endswith("CPU, 2 threads, FP32")
    assert (engine.precision, engine.device_memory_bytes) == ("fp32", None)


def test_a_truncated_file_is_reported_without_openvinos_source_lines(tiny_model_file, tmp_path):
    path = tmp_path / "half.onnx"
    content = tiny_model_file.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(
        ModelFileError, match=r"half\.onnx cannot be loaded .*; it is truncated or no ONNX file"
    ) as told:
        read_network(path)
    assert ".cpp" not in str(told.value)


@pytest.fixture
def scores_model():
    """Class and largest score of [1, 5, 6, 7] along the classes, and largest scores that are none of these."""
    onnx = pytest.importorskip("onnx", reason="makes the model")
    helper, float32 = onnx.helper, onnx.TensorProto.FLOAT
    nodes = [
        helper.make_node("ArgMax", ["scores"], ["label"], axis=1, keepdims=0),
        helper.make_node("ReduceMax", ["scores", "classes"], ["largest"], keepdims=0),
        helper.make_node("ReduceMax", ["scores", "classes"], ["kept"], keepdims=1),
        helper.make_node("ReduceMax", ["scores", "rows"], ["of_rows"], keepdims=0),
    ]
    axes = [
        helper.make_tensor(name, onnx.TensorProto.INT64, [1], [axis]) for name, axis in (("classes", 1), ("rows", 2))
    ]
    shapes = {"largest": [1, 6, 7], "kept": [1, 1, 6, 7], "of_rows": [1, 5, 7]}
    outputs = [helper.make_tensor_value_info("label", onnx.TensorProto.INT64, [1, 6, 7])]
    outputs += [helper.make_tensor_value_info(name, float32, shape) for name, shape in shapes.items()]
    source = helper.make_tensor_value_info("scores", float32, [1, 5, 6, 7])
    graph = helper.make_graph(nodes, "scores", [source], outputs, axes)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return read_network(made.SerializeToString())


def test_class_and_score_come_from_one_operator(scores_model):
    core, model = scores_model
    fuse_argmax(model)
    assert [node.get_type_name() for node in model.get_ops()].count("ReduceMax") == 2
    scores = np.random.default_rng(0).normal(size=(1, 5, 6, 7)).astype(np.float32)
    found = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(scores)
    wanted = (scores.argmax(1), scores.max(1), scores.max(1, keepdims=True), scores.max(2))
    for name, value in zip(("label", "largest", "kept", "of_rows"), wanted, strict=True):
        np.testing.assert_array_equal(found[name], value)


SIGNALLED = """
import gc, signal, sys
from pathlib import Path
from lvad_perception.engines.openvino import OpenVinoEngine

signal.signal(signal.SIGUSR1, lambda number, frame: print("handled"))
engines = [OpenVinoEngine(Path(sys.argv[1]), threads=1) for _ in range(2)]
for _ in range(2):
    engines.pop(0).close()
    gc.collect()
signal.raise_signal(signal.SIGUSR1)
"""


def test_signals_are_handled_after_engines_came_and_went(tiny_model_file):
    command = [sys.executable, "-c", SIGNALLED, str(tiny_model_file)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "handled\n"), done.stderr


def test_int8_of_a_file_that_is_not_quantised(tiny_model_file):
    with pytest.raises(EngineError, match=r"not in int8; quantise it with: lvad-perception quantize"):
        OpenVinoEngine(tiny_model_file, precision="int8")


def test_a_precision_that_the_cpu_has_not(monkeypatch, tiny_model_file):
    from lvad_perception.engines import openvino

    class Core:
        def get_property(self, device, name):
            return ["FP32", "INT8", "BIN"]

    with pytest.raises(
        EngineError, match="this CPU does not compute bf16 in OpenVINO, only fp32, int8; choose another"
    ):
        openvino.compile_network(Core(), None, threads=1, precision="bf16", source="m.onnx")


class TestInFlight:
    @pytest.fixture
    def engine(self, tiny_model_file):
        return OpenVinoEngine(tiny_model_file, threads=1)

    def test_two_inferences_each_have_their_own_result(self, engine, images_like, reference):
        images = [images_like(engine.manifest, seed) for seed in range(40)]
        in_flight, found = deque(), []
        for batch in images:
            if len(in_flight) == 2:
                found.append(copied(in_flight.popleft().result()))
            in_flight.append(engine.submit(batch))
        found += [copied(pending.result()) for pending in in_flight]
        for batch, outputs in zip(images, found, strict=True):
            wanted = reference(batch)
            for name in ("labels", "semantic", "drivable", "semantic_confidence"):
                np.testing.assert_array_equal(getattr(outputs, name), getattr(wanted, name))

    def test_results_are_fetched_in_another_thread(self, engine, images_like, reference):
        def check(pending, wanted):
            np.testing.assert_array_equal(pending.result().semantic, wanted)
            assert pending.done

        with ThreadPoolExecutor(1) as other:
            fetched = deque()
            for seed in range(40):
                batch = images_like(engine.manifest, seed)
                if len(fetched) == 2:
                    fetched.popleft().result()
                fetched.append(other.submit(check, engine.submit(batch), reference(batch).semantic))
            for each in fetched:
                each.result()

    def test_images_that_nobody_else_holds_stay(self, engine, images_like, reference):
        pending = engine.submit(images_like(engine.manifest, 3))
        filler = [np.zeros((2, 48, 64, 3), np.uint8) for _ in range(50)]  # would take their place
        np.testing.assert_array_equal(pending.result().semantic, reference(images_like(engine.manifest, 3)).semantic)
        del filler

    def test_a_third_is_refused(self, engine, images_like):
        images = images_like(engine.manifest)
        first, _ = engine.submit(images), engine.submit(images)
        with pytest.raises(EngineError, match="2 inferences are in flight"):
            engine.submit(images)
        first.result()
        engine.submit(images)

    def test_closing_waits_and_the_result_stays(self, engine, images_like, reference):
        images = images_like(engine.manifest)
        pending = engine.submit(images)
        engine.close()
        assert pending.done
        np.testing.assert_array_equal(pending.result().semantic, reference(images).semantic)

    def test_result_raises_a_failure_of_the_inference(self, engine, images_like, reference):
        class Failing:
            """A request that fails in OpenVINO's thread, as when memory is exhausted."""

            def set_input_tensor(self, tensor):
                pass

            def start_async(self):
                pass

            def wait(self):
                raise RuntimeError("Exception from src/plugins:\nno memory")

            def wait_for(self, milliseconds):
                return self.wait()

        engine._requests[0] = Failing()
        images = images_like(engine.manifest)
        for _ in range(3):
            pending, other = engine.submit(images), engine.submit(images)
            assert pending.done
            with pytest.raises(EngineError, match=r"^OpenVINO failed \(no memory\); check the free"):
                pending.result()
            np.testing.assert_array_equal(other.result().semantic, reference(images).semantic)
        engine.close()
