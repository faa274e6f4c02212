import builtins
import sys

import numpy as np
import pytest

from lvad_perception.engines import open_engine
from lvad_perception.errors import (
    ConfigError,
    EngineError,
    MissingDependencyError,
    ModelFileError,
    VocabularyMismatchError,
)

pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")


def images_like(manifest, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (manifest.batch_size, *manifest.network_hw, 3), np.uint8)


def assert_same(raw, expected):
    for name in ("labels", "semantic", "drivable", "semantic_confidence"):
        np.testing.assert_array_equal(getattr(raw, name), getattr(expected, name))
    np.testing.assert_allclose(raw.scores, expected.scores, atol=1e-6)
    np.testing.assert_array_equal(raw.boxes, expected.boxes)


class TestInference:
    def test_outputs_are_the_graphs_by_name_type_and_shape(self, tiny_model_file, reference):
        engine = open_engine(tiny_model_file, threads=1)
        images = images_like(engine.manifest)
        raw = engine.infer(images)
        assert_same(raw, reference(images))
        assert (raw.boxes.dtype, raw.labels.dtype, raw.semantic.dtype) == (np.float32, np.int32, np.uint8)

    def test_an_absent_task_is_none(self, tmp_path, make_tiny_model, make_manifest, reference):
        manifest = make_manifest(classes={"drivable": make_manifest().classes["drivable"]})
        engine = open_engine(make_tiny_model(tmp_path / "drivable.onnx", manifest=manifest))
        images = images_like(manifest)
        raw = engine.infer(images)
        np.testing.assert_array_equal(raw.drivable, reference(images).drivable)
        assert raw.boxes is raw.scores is raw.labels is raw.semantic is raw.semantic_confidence is None

    def test_it_describes_itself(self, tiny_model_file):
        engine = open_engine(tiny_model_file, threads=2)
        assert engine.description.startswith("ONNX Runtime ")
        assert engine.description.endswith("CPU, 2 threads, FP32")
        assert engine.manifest.batch_size == 2

    def test_an_input_of_another_shape_is_an_engine_error(self, tiny_model_file):
        with pytest.raises(EngineError, match=r"input of shape \(1, 2, 2, 3\)"):
            open_engine(tiny_model_file).infer(np.zeros((1, 2, 2, 3), np.uint8))

    def test_a_closed_engine_says_so(self, tiny_model_file):
        engine = open_engine(tiny_model_file)
        engine.close()
        engine.close()
        with pytest.raises(EngineError, match="the engine is closed"):
            engine.infer(images_like(engine.manifest))


class TestWrongFiles:
    def test_a_missing_file(self, tmp_path):
        with pytest.raises(ModelFileError, match=r"gone\.onnx does not exist; write a model file with: lvad-train"):
            open_engine(tmp_path / "gone.onnx")

    def test_a_directory(self, tmp_path):
        with pytest.raises(ModelFileError, match=r"is a directory; name the \.onnx file in it"):
            open_engine(tmp_path)

    def test_another_suffix(self, tmp_path):
        path = tmp_path / "checkpoint.safetensors"
        path.touch()
        with pytest.raises(ModelFileError, match=r"is no model file; give the \.onnx file"):
            open_engine(path)

    @pytest.mark.parametrize("kept", [0, 10, 500, -1])
    def test_a_truncated_file(self, tmp_path, tiny_model_file, kept):
        path = tmp_path / "short.onnx"
        path.write_bytes(tiny_model_file.read_bytes()[:kept])
        with pytest.raises(ModelFileError, match=r"short\.onnx c(annot be loaded as an ONNX|arries no lvad_manifest)"):
            open_engine(path)

    def test_a_file_of_another_kind(self, tmp_path):
        path = tmp_path / "photo.onnx"
        path.write_bytes(b"\xff\xd8\xff\xe0 not a model" * 99)
        with pytest.raises(ModelFileError, match="is truncated or no ONNX file"):
            open_engine(path)

    def test_no_manifest(self, tmp_path, make_tiny_model):
        path = make_tiny_model(tmp_path / "plain.onnx", manifest_text="")
        with pytest.raises(ModelFileError, match="carries no lvad_manifest in its metadata; export the model again"):
            open_engine(path)

    def test_a_broken_manifest(self, tmp_path, make_tiny_model):
        path = make_tiny_model(tmp_path / "broken.onnx", manifest_text='{"manifest_version": 1}')
        with pytest.raises(ModelFileError, match="its manifest cannot be read"):
            open_engine(path)

    def test_other_classes(self, tmp_path, make_tiny_model, make_manifest):
        manifest = make_manifest(classes={"drivable": ("direct", "alternative")})
        path = make_tiny_model(tmp_path / "two.onnx", manifest_text=manifest.to_json())
        with pytest.raises(VocabularyMismatchError, match=r"drivable classes are \[direct, alternative\]"):
            open_engine(path)

    def test_a_dynamic_input(self, tmp_path, make_tiny_model):
        path = make_tiny_model(tmp_path / "dynamic.onnx", dynamic=True)
        with pytest.raises(ModelFileError, match=r"its input images is uint8 \['n', 48, 64, 3\] but its manifest"):
            open_engine(path)

    def test_another_size_than_the_manifest_says(self, tmp_path, make_tiny_model, make_manifest):
        text = make_manifest(network_hw=(96, 128)).to_json()
        path = make_tiny_model(tmp_path / "small.onnx", manifest_text=text)
        with pytest.raises(ModelFileError, match=r"\[2, 48, 64, 3\] but its manifest promises uint8 \[2, 96, 128, 3\]"):
            open_engine(path)

    def test_another_input_name(self, tmp_path, make_tiny_model):
        path = make_tiny_model(tmp_path / "renamed.onnx", input_name="x")
        with pytest.raises(ModelFileError, match="its inputs are x but its manifest promises images"):
            open_engine(path)

    def test_a_missing_output(self, tmp_path, make_tiny_model, make_manifest):
        one_task = make_manifest(classes={"drivable": make_manifest().classes["drivable"]})
        path = make_tiny_model(tmp_path / "less.onnx", manifest=one_task, manifest_text=make_manifest().to_json())
        with pytest.raises(ModelFileError, match="its outputs are drivable but its manifest promises boxes, scores"):
            open_engine(path)

    def test_another_output_type(self, tmp_path, make_tiny_model):
        path = make_tiny_model(tmp_path / "floats.onnx", float_masks=True)
        with pytest.raises(ModelFileError, match=r"output semantic is float32 \[2, 48, 64\].*promises uint8"):
            open_engine(path)

    def test_no_threads(self, tiny_model_file):
        with pytest.raises(ConfigError, match="0 threads cannot run a model"):
            open_engine(tiny_model_file, threads=0)

    def test_onnxruntime_not_installed(self, monkeypatch, tiny_model_file):
        real_import = builtins.__import__

        def refuse(name, *args, **kwargs):
            if name == "onnxruntime":
                raise ImportError(name)
            return real_import(name, *args, **kwargs)

        monkeypatch.delitem(sys.modules, "onnxruntime")
        monkeypatch.setattr(builtins, "__import__", refuse)
        with pytest.raises(MissingDependencyError, match="install it with: pip install onnxruntime"):
            open_engine(tiny_model_file)
