"""OpenVINO, where it is installed: the tiny model's outputs, and what is refused."""

import numpy as np
import pytest

from lvad_perception.engines import open_engine
from lvad_perception.engines.openvino import OpenVinoEngine
from lvad_perception.errors import EngineError, ModelFileError, VocabularyMismatchError

pytest.importorskip("openvino", reason="OpenVINO is not installed")


def images_like(manifest, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (manifest.batch_size, *manifest.input_hw, 3), np.uint8)


def test_outputs_are_the_graphs_by_name_type_and_shape(tiny_model_file, reference):
    engine = open_engine(tiny_model_file, threads=1, runtime="openvino")
    for seed in (0, 1):  # the second run must not show the first one's image
        images = images_like(engine.manifest, seed)
        raw, wanted = engine.infer(images), reference(images)
        for name in ("labels", "semantic", "drivable", "semantic_confidence"):
            found = getattr(raw, name)
            np.testing.assert_array_equal(found, getattr(wanted, name))
            assert found.dtype == getattr(wanted, name).dtype
        np.testing.assert_allclose(raw.scores, wanted.scores, atol=1e-6)
        np.testing.assert_array_equal(raw.boxes, wanted.boxes)


def test_an_absent_task_is_none(tmp_path, make_tiny_model, make_manifest, reference):
    manifest = make_manifest(classes={"drivable": make_manifest().classes["drivable"]})
    engine = OpenVinoEngine(make_tiny_model(tmp_path / "drivable.onnx", manifest=manifest))
    images = images_like(manifest)
    raw = engine.infer(images)
    np.testing.assert_array_equal(raw.drivable, reference(images).drivable)
    assert raw.boxes is raw.scores is raw.labels is raw.semantic is raw.semantic_confidence is None


def test_nothing_is_copied(tiny_model_file):
    engine = OpenVinoEngine(tiny_model_file, threads=1)
    images = images_like(engine.manifest)
    first = engine.infer(images)
    second = engine.infer(images)
    assert first.semantic.ctypes.data == second.semantic.ctypes.data


def test_the_arithmetic_of_the_caller_stays(tiny_model_file):
    denormal = np.full(64, 1e-40, np.float32)
    engine = OpenVinoEngine(tiny_model_file, threads=1)
    engine.infer(images_like(engine.manifest))
    assert (denormal + denormal).min() > 0


def test_it_describes_itself(tiny_model_file):
    engine = OpenVinoEngine(tiny_model_file, threads=2)
    assert engine.description.startswith("OpenVINO 20")
    assert engine.description.endswith("CPU, 2 threads, FP32")
    assert (engine.precision, engine.device_memory_bytes) == ("fp32", None)


def test_an_input_of_another_shape(tiny_model_file):
    with pytest.raises(EngineError, match=r"input of shape \(1, 2, 2, 3\), but the model takes \(2, 48, 64, 3\)"):
        OpenVinoEngine(tiny_model_file).infer(np.zeros((1, 2, 2, 3), np.uint8))


def test_a_closed_engine_says_so(tiny_model_file):
    engine = OpenVinoEngine(tiny_model_file)
    engine.close()
    engine.close()
    with pytest.raises(EngineError, match="the engine is closed"):
        engine.infer(images_like(engine.manifest))


def test_int8_of_a_file_that_is_not_quantised(tiny_model_file):
    with pytest.raises(EngineError, match=r"not in int8; quantise it with: lvad-perception quantize"):
        OpenVinoEngine(tiny_model_file, precision="int8")


class TestWrongFiles:
    def test_a_file_of_another_kind(self, tmp_path):
        path = tmp_path / "photo.onnx"
        path.write_bytes(b"\xff\xd8\xff\xe0 not a model" * 99)
        with pytest.raises(ModelFileError, match="is truncated or no ONNX file"):
            OpenVinoEngine(path)

    def test_no_manifest(self, tmp_path, make_tiny_model):
        path = make_tiny_model(tmp_path / "plain.onnx", manifest_text="")
        with pytest.raises(ModelFileError, match="carries no lvad_manifest in its metadata; export the model again"):
            OpenVinoEngine(path)

    def test_other_classes(self, tmp_path, make_tiny_model, make_manifest):
        manifest = make_manifest(classes={"drivable": ("direct", "alternative")})
        path = make_tiny_model(tmp_path / "two.onnx", manifest_text=manifest.to_json())
        with pytest.raises(VocabularyMismatchError, match=r"drivable classes are \[direct, alternative\]"):
            OpenVinoEngine(path)

    def test_a_dynamic_input(self, tmp_path, make_tiny_model):
        path = make_tiny_model(tmp_path / "dynamic.onnx", dynamic=True)
        with pytest.raises(ModelFileError, match=r"its input images is uint8 \['\?', 48, 64, 3\] but its manifest"):
            OpenVinoEngine(path)

    def test_another_output_type(self, tmp_path, make_tiny_model):
        path = make_tiny_model(tmp_path / "floats.onnx", float_masks=True)
        with pytest.raises(ModelFileError, match=r"output semantic is float32 \[2, 48, 64\].*promises uint8"):
            OpenVinoEngine(path)


def test_a_precision_that_the_cpu_has_not(monkeypatch, tiny_model_file):
    from lvad_perception.engines import openvino

    class Core:
        def get_property(self, device, name):
            return ["FP32", "INT8", "BIN"]

    with pytest.raises(
        EngineError, match="this CPU does not compute bf16 in OpenVINO, only fp32, int8; choose another"
    ):
        openvino.compile_network(Core(), None, threads=1, precision="bf16", source="m.onnx")
