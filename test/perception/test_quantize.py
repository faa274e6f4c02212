"""INT8 for CPUs: written files, refusals, and the precision that the runtimes report."""

import cv2
import numpy as np
import pytest

from lvad_perception.conversion import comparison
from lvad_perception.conversion import quantize as module
from lvad_perception.conversion.quantize import quantize
from lvad_perception.engines import open_engine
from lvad_perception.engines.agreement import Tolerance
from lvad_perception.errors import ConfigError, DatasetError, EngineError, ModelFileError

onnx = pytest.importorskip("onnx", reason="onnx is not installed")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")


@pytest.fixture
def model(tmp_path, make_tiny_model):
    return with_convolutions(make_tiny_model(tmp_path / "model.onnx"))


def with_convolutions(path):
    """The tiny model, whose blue channel passes through three convolutions that change nothing: to 32 copies and back.

    Of those only the one in the middle is for INT8: it is wide enough, and not the last before an output.
    """
    from onnx import helper, numpy_helper

    content = onnx.load(str(path))
    nodes = list(content.graph.node)
    place = next(index for index, node in enumerate(nodes) if node.output[0] == "bf")
    layers = [helper.make_node("Unsqueeze", ["bf", "channel"], ["c0"])]
    layers += [helper.make_node("Conv", [f"c{index}", f"w{index}"], [f"c{index + 1}"]) for index in range(3)]
    layers.append(helper.make_node("Squeeze", ["c3", "channel"], ["convolved"]))
    for node in nodes:
        node.input[:] = ["convolved" if name == "bf" else name for name in node.input]
    del content.graph.node[:]
    content.graph.node.extend([*nodes[: place + 1], *layers, *nodes[place + 1 :]])
    content.graph.initializer.append(numpy_helper.from_array(np.int64([1]), "channel"))
    for index, shape in enumerate([(32, 1, 1, 1), (32, 32, 1, 1), (1, 32, 1, 1)]):
        weights = np.full(shape, 1 / shape[1], np.float32)  # the mean of the copies
        content.graph.initializer.append(numpy_helper.from_array(weights, f"w{index}"))
    onnx.save(content, str(path))
    return path


@pytest.fixture
def images(tmp_path):
    """A folder of twelve images of random quarters."""
    folder, random = tmp_path / "images", np.random.default_rng(0)
    folder.mkdir()
    for index in range(12):
        quarters = random.integers(0, 256, (2, 2, 3), np.uint8)
        cv2.imwrite(str(folder / f"{index:02d}.png"), quarters.repeat(24, axis=0).repeat(32, axis=1))
    return folder


def test_a_quantised_file_is_a_model_file_in_int8(model, images, tmp_path):
    output = tmp_path / "deep" / "model.int8.onnx"
    done = quantize(model, output, images, calibration_images=6, check_images=4)
    assert (done.path, done.calibration_images, done.check_images) == (output, 6, 4)
    assert done.size_bytes == output.stat().st_size
    assert "INT8 convolutions" in done.to_text()
    assert [path.name for path in output.parent.iterdir()] == ["model.int8.onnx"]
    engine, original = open_engine(output, threads=1), open_engine(model, threads=1)
    assert (engine.precision, original.precision) == ("int8", "fp32")
    assert engine.manifest == original.manifest
    assert engine.description.endswith("INT8")
    assert open_engine(output, precision="int8").precision == "int8"


def test_openvino_runs_it_in_int8(model, images, tmp_path):
    pytest.importorskip("openvino", reason="OpenVINO is not installed")
    output = tmp_path / "model.int8.onnx"
    quantize(model, output, images)
    assert open_engine(output, runtime="openvino").manifest.preset == "test"


def test_calibration_and_comparison_use_different_images(model, images, tmp_path, monkeypatch):
    seen = {}
    real = module._quantised
    monkeypatch.setattr(
        module,
        "_quantised",
        lambda model, batches, progress: seen.update(scales=batches) or real(model, batches, progress),
    )
    monkeypatch.setattr(
        comparison.Comparison,
        "check",
        lambda self, *a, real=comparison.Comparison.check, **k: seen.update(check=self.batches) or real(self, *a, **k),
    )
    quantize(model, tmp_path / "q.onnx", images, calibration_images=8, check_images=4)
    scales, check = ({image.tobytes() for batch in seen[name] for image in batch} for name in ("scales", "check"))
    assert (len(scales), len(check)) == (8, 4)
    assert not scales & check


def test_one_that_differs_too_much_is_not_written(model, images, tmp_path, monkeypatch):
    strict = Tolerance(boxes_px=0.0, scores=0.0, masks=1.0)
    monkeypatch.setattr(comparison, "TOLERANCES", {"int8": strict})
    with pytest.raises(
        EngineError,
        match=r"q\.onnx: not written, since the quantised model disagrees .* give more images like those of the",
    ):
        quantize(model, tmp_path / "new" / "q.onnx", images)
    assert list((tmp_path / "new").iterdir()) == []


class TestBadInput:
    def test_the_original_itself(self, model, images):
        with pytest.raises(ConfigError, match="cannot be the quantised file; name another one that ends in"):
            quantize(model, model.parent / "." / model.name, images)

    def test_another_suffix(self, model, images, tmp_path):
        with pytest.raises(ConfigError, match=r"q\.engine cannot be the quantised file"):
            quantize(model, tmp_path / "q.engine", images)

    def test_a_single_image(self, model, images, tmp_path):
        for path in sorted(images.iterdir())[1:]:
            path.unlink()
        with pytest.raises(ConfigError, match="has a single image; scales and comparison need different ones"):
            quantize(model, tmp_path / "q.onnx", images)

    def test_no_images(self, model, tmp_path):
        with pytest.raises(DatasetError, match=r"has no \.jpg or \.png file"):
            quantize(model, tmp_path / "q.onnx", tmp_path / "gone")

    @pytest.mark.parametrize("counts", [(0, 4), (4, 0)])
    def test_counts_below_one(self, model, images, tmp_path, counts):
        with pytest.raises(ConfigError, match="give 1 or more of each"):
            quantize(model, tmp_path / "q.onnx", images, calibration_images=counts[0], check_images=counts[1])

    def test_a_quantised_model(self, model, images, tmp_path):
        quantize(model, tmp_path / "q.onnx", images)
        with pytest.raises(ConfigError, match=r"q\.onnx is in int8 already; give the FP32 file"):
            quantize(tmp_path / "q.onnx", tmp_path / "qq.onnx", images)

    def test_a_model_without_convolutions(self, tiny_model_file, images, tmp_path):
        with pytest.raises(ModelFileError, match=r"tiny\.onnx has no convolution that could be INT8; use it as it is"):
            quantize(tiny_model_file, tmp_path / "q.onnx", images)

    def test_a_folder_that_cannot_be_written(self, model, images):
        with pytest.raises(EngineError, match=r"/proc/q\.onnx cannot be written"):
            quantize(model, module.Path("/proc/q.onnx"), images)
