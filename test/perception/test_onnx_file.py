"""Both runtimes for ``.onnx`` files on a CPU: the tiny model's outputs, and refusals."""

import functools

import numpy as np
import pytest

from lvad_perception.engines import onnx as onnx_engine
from lvad_perception.engines import open_engine
from lvad_perception.engines import openvino as openvino_engine
from lvad_perception.errors import EngineError, ModelFileError, VocabularyMismatchError


@pytest.fixture(params=["onnxruntime", "openvino"])
def load(request):
    """``open_engine`` with one of the runtimes."""
    pytest.importorskip(request.param, reason=f"{request.param} is not installed")
    return functools.partial(open_engine, runtime=request.param)


def test_outputs_are_the_graphs_by_name_type_and_shape(load, tiny_model_file, images_like, reference):
    engine = load(tiny_model_file, threads=1)
    for seed in (0, 1):  # the second run must not show the first one's image
        images = images_like(engine.manifest, seed)
        raw, wanted = engine.infer(images), reference(images)
        for name in ("labels", "semantic", "drivable", "semantic_confidence"):
            found = getattr(raw, name)
            np.testing.assert_array_equal(found, getattr(wanted, name))
            assert found.dtype == getattr(wanted, name).dtype
        np.testing.assert_allclose(raw.scores, wanted.scores, atol=1e-6)
        np.testing.assert_array_equal(raw.boxes, wanted.boxes)
        assert (raw.boxes.dtype, raw.labels.dtype, raw.semantic.dtype) == (np.float32, np.int32, np.uint8)


def test_an_absent_task_is_none(load, tmp_path, make_tiny_model, make_manifest, images_like, reference):
    manifest = make_manifest(classes={"drivable": make_manifest().classes["drivable"]})
    engine = load(make_tiny_model(tmp_path / "drivable.onnx", manifest=manifest))
    images = images_like(manifest)
    raw = engine.infer(images)
    np.testing.assert_array_equal(raw.drivable, reference(images).drivable)
    assert raw.boxes is raw.scores is raw.labels is raw.semantic is raw.semantic_confidence is None


@pytest.mark.parametrize(
    "images", [np.zeros((1, 2, 2, 3), np.uint8), np.zeros((2, 48, 64, 3), np.float32)], ids=["shape", "type"]
)
def test_an_input_of_another_shape_or_type(load, tiny_model_file, images):
    message = (
        rf"shape \({', '.join(map(str, images.shape))}\) and type {images.dtype} do not fit .* uint8 \(2, 48, 64, 3\)"
    )
    with pytest.raises(EngineError, match=message):
        load(tiny_model_file).infer(images)


def test_a_closed_engine_says_so(load, tiny_model_file, images_like):
    engine = load(tiny_model_file)
    engine.close()
    engine.close()
    with pytest.raises(EngineError, match="the engine is closed"):
        engine.infer(images_like(engine.manifest))


@pytest.mark.parametrize("kept", [0, 10, 500, -1])
def test_a_truncated_file(load, tmp_path, tiny_model_file, kept):
    path = tmp_path / "short.onnx"
    path.write_bytes(tiny_model_file.read_bytes()[:kept])
    with pytest.raises(ModelFileError, match=r"short\.onnx c(annot be loaded as an ONNX|arries no lvad_manifest)"):
        load(path)


def test_a_file_of_another_kind(load, tmp_path):
    path = tmp_path / "photo.onnx"
    path.write_bytes(b"\xff\xd8\xff\xe0 not a model" * 99)
    with pytest.raises(ModelFileError, match="is truncated or no ONNX file"):
        load(path)


def test_no_manifest(load, tmp_path, make_tiny_model):
    path = make_tiny_model(tmp_path / "plain.onnx", manifest_text="")
    with pytest.raises(ModelFileError, match="carries no lvad_manifest in its metadata; export the model again"):
        load(path)


def test_a_broken_manifest(load, tmp_path, make_tiny_model):
    path = make_tiny_model(tmp_path / "broken.onnx", manifest_text='{"manifest_version": 1}')
    with pytest.raises(ModelFileError, match="its manifest cannot be read"):
        load(path)


def test_other_classes(load, tmp_path, make_tiny_model, make_manifest):
    manifest = make_manifest(classes={"drivable": ("direct", "alternative")})
    path = make_tiny_model(tmp_path / "two.onnx", manifest_text=manifest.to_json())
    with pytest.raises(VocabularyMismatchError, match=r"drivable classes are \[direct, alternative\]"):
        load(path)


def test_a_dynamic_input(load, tmp_path, make_tiny_model):
    path = make_tiny_model(tmp_path / "dynamic.onnx", dynamic=True)
    with pytest.raises(ModelFileError, match=r"its input images is uint8 \['(n|\?)', 48, 64, 3\] but its manifest"):
        load(path)


def test_another_size_than_the_manifest_says(load, tmp_path, make_tiny_model, make_manifest):
    text = make_manifest(network_hw=(96, 128)).to_json()
    path = make_tiny_model(tmp_path / "small.onnx", manifest_text=text)
    with pytest.raises(ModelFileError, match=r"\[2, 48, 64, 3\] but its manifest promises uint8 \[2, 96, 128, 3\]"):
        load(path)


def test_another_input_name(load, tmp_path, make_tiny_model):
    path = make_tiny_model(tmp_path / "renamed.onnx", input_name="x")
    with pytest.raises(ModelFileError, match="its inputs are x but its manifest promises images"):
        load(path)


def test_a_missing_output(load, tmp_path, make_tiny_model, make_manifest):
    one_task = make_manifest(classes={"drivable": make_manifest().classes["drivable"]})
    path = make_tiny_model(tmp_path / "less.onnx", manifest=one_task, manifest_text=make_manifest().to_json())
    with pytest.raises(ModelFileError, match="its outputs are drivable but its manifest promises boxes, scores"):
        load(path)


def test_another_output_type(load, tmp_path, make_tiny_model):
    path = make_tiny_model(tmp_path / "floats.onnx", float_masks=True)
    with pytest.raises(ModelFileError, match=r"output semantic is float32 \[2, 48, 64\].*promises uint8"):
        load(path)


@pytest.fixture
def keep_elsewhere(tmp_path, make_tiny_model):
    """A function that writes the tiny model with one tensor kept in another file; returns its path."""
    import onnx

    def write(location, *, where="initializer"):
        folder = tmp_path / "models"
        folder.mkdir()
        model = onnx.load(str(make_tiny_model(tmp_path / "whole.onnx")))
        tensor = next(tensor for tensor in model.graph.initializer if tensor.name == "quarters")
        for file in (folder / "beside.bin", tmp_path / "outside.bin"):
            file.write_bytes(tensor.raw_data)
        (folder / "link.bin").symlink_to(tmp_path / "outside.bin")
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=location.format(tmp_path=tmp_path))
        if where == "attribute":  # of a constant in a branch
            branch = onnx.helper.make_graph([onnx.helper.make_node("Constant", [], ["c"], value=tensor)], "b", [], [])
            model.graph.initializer.remove(tensor)
            model.graph.node.append(onnx.helper.make_node("If", ["x"], ["quarters"], then_branch=branch))
        (folder / "model.onnx").write_bytes(model.SerializeToString())
        return folder / "model.onnx"

    return write


@pytest.mark.parametrize(
    ("location", "shown"),
    [
        ("../outside.bin", "../outside.bin"),
        ("{tmp_path}/outside.bin", "/.*"),
        ("link.bin", "link.bin"),
        ("beside.bin", "beside.bin"),
        ("missing.bin", "missing.bin"),
        ("/dev/zero", "/dev/zero"),
        ("a\n[FATAL]", r"a\\n\[FATAL\]"),
    ],
)
def test_weights_in_another_file_are_refused_before_it_is_opened(load, keep_elsewhere, monkeypatch, location, shown):
    sentence = (
        rf"model\.onnx keeps its tensor 'quarters' in another file, '{shown}', which a model file has no need of and "
        "which may be any file of this machine; export the model again with lvad-train export, which writes one file"
    )
    path = keep_elsewhere(location)
    for module, name in ((onnx_engine, "create_session"), (openvino_engine, "read_network")):
        monkeypatch.setattr(module, name, lambda *_, **__: pytest.fail("a runtime was asked to read it"))
    with pytest.raises(ModelFileError, match=sentence):
        load(path)


def test_weights_in_another_file_are_found_inside_a_branch(load, keep_elsewhere):
    with pytest.raises(ModelFileError, match=r"keeps its tensor 'quarters' in another file, '\.\./outside\.bin'"):
        load(keep_elsewhere("../outside.bin", where="attribute"))


def test_any_bytes_are_looked_through_for_other_files(tiny_model_file):
    """Without an error, whatever they are; a whole model has none."""
    from lvad_perception.engines.onnx_parts import external_tensors

    data = tiny_model_file.read_bytes()
    assert list(external_tensors(memoryview(data))) == []
    random = np.random.default_rng(0)
    for _ in range(500):
        spoilt = np.frombuffer(data, np.uint8).copy()
        spoilt[random.integers(0, len(data), 20)] = random.integers(0, 256, 20)
        list(external_tensors(memoryview(spoilt.tobytes()[: random.integers(len(data))])))
