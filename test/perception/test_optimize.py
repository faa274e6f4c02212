import sys
from dataclasses import replace

import numpy as np
import pytest

import lvad_perception.conversion.optimize as optimize_module
from lvad_perception.cli import main
from lvad_perception.conversion.optimize import optimize
from lvad_perception.conversion.tensorrt_build import BuildOptions
from lvad_perception.engines.agreement import TOLERANCES, Agreement
from lvad_perception.engines.tensorrt_file import read_engine_file
from lvad_perception.errors import ConfigError, DatasetError, EngineError, ModelFileError

from .fake_cuda import FakeCuda
from .fake_tensorrt import VERSIONS

onnx = pytest.importorskip("onnx", reason="onnx is not installed")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")


@pytest.fixture
def trt(use_tensorrt):
    return use_tensorrt("10.3.0")


@pytest.fixture
def build(tiny_model_file, tmp_path):
    """``build(name, **options)`` -> the result and the reported lines."""

    def build(name="out/model.engine", **options):
        lines = []
        options = {"device": FakeCuda(), "cache_dir": tmp_path / "cache", "precision": "fp32", **options}
        return optimize(tiny_model_file, tmp_path / name, report=lines.append, **options), lines

    return build


NO_DISTANCE = Agreement(0, 0, 1, 0, 0)


def wrong_by(monkeypatch, shift):
    """Engines whose masks are moved."""
    from lvad_perception.engines.tensorrt import TensorRtEngine

    right = TensorRtEngine.infer

    def infer(self, images):
        raw = right(self, images)
        return replace(raw, semantic=np.roll(raw.semantic, shift, axis=2))

    monkeypatch.setattr(TensorRtEngine, "infer", infer)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_engine_is_built_checked_and_written(use_tensorrt, build, tmp_path, version, precision, make_manifest):
    use_tensorrt(version)
    result, lines = build(precision=precision)
    file = read_engine_file(tmp_path / "out/model.engine")
    assert result.path == tmp_path / "out/model.engine"
    assert file.precision == precision
    assert file.target.tensorrt == version
    assert file.builder == "tensorrt"
    assert file.manifest == make_manifest()
    assert len(file.model_sha256) == 64
    assert result.agreement.within(TOLERANCES[precision])
    assert file.agreement == result.agreement.to_text()
    assert "agrees with ONNX Runtime on 8 rendered images" in result.to_text()
    assert any("building for TensorRT" in line for line in lines)
    assert [each.name for each in result.path.parent.iterdir()] == ["model.engine"]


def test_8_gets_an_opset_that_it_documents(use_tensorrt, build, monkeypatch):
    from lvad_perception.conversion import optimize as module

    asked = []
    right = module.lower
    monkeypatch.setattr(module, "lower", lambda *a, **k: asked.append(k["opset_17"]) or right(*a, **k))
    for version in ("8.6.1", "10.3.0", "11.1"):
        use_tensorrt(version)
        build()
    assert asked == [True, False, False]


class TestCache:
    def test_the_second_time_nothing_is_built_but_checked(self, trt, build):
        build()
        networks, runs = len(trt.state.networks), trt.state.runs
        result, lines = build("again.engine")
        assert len(trt.state.networks) == networks
        assert trt.state.runs > runs
        assert result.built_s is None
        assert "from the cache" in result.to_text()
        assert lines[1].startswith("found in the cache: ")
        assert read_engine_file(result.path).precision == "fp32"

    def test_a_damaged_one_is_built_anew(self, trt, build, tmp_path):
        build()
        (kept,) = (tmp_path / "cache/tensorrt").glob("*.engine")
        kept.write_bytes(kept.read_bytes()[:50])
        result, lines = build()
        assert any("the cached engine cannot be used: " in line and "is truncated" in line for line in lines)
        assert result.built_s is not None
        assert read_engine_file(kept).precision == "fp32"

    def test_a_model_that_is_rewritten_differently_is_built_anew(self, trt, build, monkeypatch, tmp_path):
        """Another version of the rewriting, on the same file with the same options."""
        build()
        lower = optimize_module.lower

        def lower_otherwise(*arguments, **options):
            model = onnx.load_from_string(lower(*arguments, **options))
            model.graph.node[0].name = "renamed"
            return model.SerializeToString()

        monkeypatch.setattr(optimize_module, "lower", lower_otherwise)
        assert build()[0].built_s is not None
        assert len(list((tmp_path / "cache/tensorrt").glob("*.engine"))) == 2
        assert build()[0].built_s is None

    def test_the_metadata_of_the_file_are_in_the_key(self, trt, build, tmp_path, make_tiny_model, make_manifest):
        build()
        model = make_tiny_model(tmp_path / "other.onnx", manifest=make_manifest(score_threshold=0.5))
        options = {"device": FakeCuda(), "cache_dir": tmp_path / "cache", "precision": "fp32", "report": lambda _: None}
        result = optimize_module.optimize(model, tmp_path / "other.engine", **options)
        assert read_engine_file(result.path).manifest.score_threshold == 0.5

    def test_starts_at_the_same_time_leave_each_others_engines(self, trt, build, monkeypatch, tmp_path):
        """Both build the same engine at the same time; both get their file, and the cache has one."""
        first = optimize_module.build_plan
        others = []

        def build_slowly(*arguments, **options):
            monkeypatch.setattr(optimize_module, "build_plan", first)
            others.append(build("other.engine")[0])
            return first(*arguments, **options)

        monkeypatch.setattr(optimize_module, "build_plan", build_slowly)
        result, _ = build()
        assert result.path.read_bytes() == others[0].path.read_bytes()
        names = [path.name for path in (tmp_path / "cache/tensorrt").iterdir()]
        assert sorted(name.rpartition(".")[2] for name in names) == ["cache", "engine"]
        assert build()[0].built_s is None

    def test_rebuild_builds(self, trt, build):
        build()
        assert build(rebuild=True)[0].built_s is not None

    def test_whatever_the_engine_depends_on_is_in_the_key(
        self, use_tensorrt, build, tmp_path, tiny_model_file, make_tiny_model
    ):
        use_tensorrt("10.3.0")
        build()
        engines = tmp_path / "cache" / "tensorrt"
        assert len(list(engines.glob("*.engine"))) == 1
        build(precision="fp16")
        build(device=FakeCuda(name="Other"))
        build(options=BuildOptions(level=1))
        use_tensorrt("10.16")
        build()
        make_tiny_model(tmp_path / "other.onnx", float_masks=False, manifest_text=None)
        assert len(list(engines.glob("*.engine"))) == 5
        assert len(list(engines.glob("timing-*.cache"))) == 3  # one for each TensorRT and GPU


class TestRefusals:
    def test_an_engine_that_disagrees_is_not_written(self, trt, build, monkeypatch, tmp_path):
        wrong_by(monkeypatch, 5)
        with pytest.raises(
            EngineError,
            match=r"model\.engine: not written, since the engine \(TensorRT 10\.3\.0, .*\) disagrees with ONNX Runtime "
            r"in FP32 on 8 rendered images: .* where FP32 may differ by 0\.01 px, 0\.0001 in scores and 0\.10% of mask",
        ):
            build()
        assert not (tmp_path / "out").exists()
        assert not list((tmp_path / "cache/tensorrt").glob("*.engine"))
        assert not list((tmp_path / "cache/tensorrt").glob("build-*"))

    def test_an_older_engine_stays_when_the_new_one_disagrees(self, trt, build, monkeypatch):
        result, _ = build()
        before = result.path.read_bytes()
        wrong_by(monkeypatch, 5)
        with pytest.raises(EngineError, match="not written"):
            build(precision="fp16")
        assert result.path.read_bytes() == before

    def test_a_rewritten_model_that_disagrees_is_not_even_built(self, trt, build, monkeypatch):
        from lvad_perception.conversion import optimize as module

        monkeypatch.setattr(module, "lower", lambda content, **_: spoilt(content))
        with pytest.raises(EngineError, match="since the rewritten model, in ONNX Runtime disagrees"):
            build()
        assert not trt.state.networks

    @pytest.mark.parametrize("name", ["model.onnx", "model", "model.pt2"])
    def test_an_output_of_another_kind(self, trt, build, name):
        with pytest.raises(ConfigError, match=r"does not end in \.engine or \.plan or \.pth"):
            build(name)

    def test_int8_without_images(self, trt, build):
        with pytest.raises(ConfigError, match=r"INT8 needs images .*--calibration"):
            build(precision="int8")

    def test_no_images_to_check_on(self, trt, build):
        with pytest.raises(ConfigError, match="0 images are too few"):
            build(check_images=0)

    def test_a_folder_without_images(self, trt, build, tmp_path):
        with pytest.raises(DatasetError, match=r"has no \.jpg or \.png file"):
            build(images=tmp_path)

    def test_what_is_no_model_file(self, trt, tmp_path):
        with pytest.raises(ModelFileError, match=r"is no \.onnx model file; write one with: lvad-train export"):
            optimize(tmp_path / "none.onnx", tmp_path / "model.engine", device=FakeCuda())


def spoilt(content):
    """The model whose boxes are elsewhere."""
    import onnx

    model = onnx.load_from_string(content)
    for tensor in model.graph.initializer:
        if tensor.name == "quarters":
            tensor.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor) + 3, "quarters"))
    return model.SerializeToString()


def test_int8_measures_its_scales_on_the_folder(trt, build, small_split):
    result, _ = build(precision="int8", images=small_split / "images", calibration_images=6, check_images=2)
    assert result.images == f"2 images of {small_split / 'images'}"
    assert read_engine_file(result.path).precision == "int8"


def test_scales_and_comparison_have_different_images(trt, build, small_split, monkeypatch):
    from lvad_perception.conversion import optimize as module

    given = []
    right = module.lower
    monkeypatch.setattr(module, "lower", lambda *a, **k: given.extend(k["batches"]) or right(*a, **k))
    checked = []
    monkeypatch.setattr(module._Check, "model", lambda self, _: checked.extend(self.comparison.batches) or NO_DISTANCE)
    build(precision="int8", images=small_split / "images", calibration_images=6, check_images=2)
    seen = {image.tobytes() for batch in given for image in batch}
    assert len(given) == 3
    assert not seen & {image.tobytes() for batch in checked for image in batch}


class TestCommand:
    def test_it_prints_what_it_wrote(self, trt, tiny_model_file, tmp_path, monkeypatch, capsys):
        monkeypatch.setattr("lvad_perception.conversion.optimize.Cuda", FakeCuda)
        output = tmp_path / "model.engine"
        arguments = ["optimize", tiny_model_file, "-o", output, "--cache-dir", tmp_path, "--level", 2]
        assert main([str(each) for each in arguments]) == 0
        out, err = capsys.readouterr()
        assert out.startswith(f"{output}: TensorRT 10.3.0, Fake with 2 multiprocessors, FP16, CUDA graph; ")
        assert "building for TensorRT 10.3.0" in err
        assert trt.state.config.builder_optimization_level == 2
        assert output.exists()

    def test_without_a_gpu_it_says_so(self, trt, tiny_model_file, tmp_path, capsys):
        torch = pytest.importorskip("torch", reason="torch is not installed")
        if torch.cuda.is_available():
            pytest.skip("there is a GPU")
        assert main(["optimize", str(tiny_model_file), "-o", str(tmp_path / "model.engine")]) == 2
        assert "sees no CUDA GPU" in capsys.readouterr().err

    def test_info_needs_neither_tensorrt_nor_gpu(self, trt, build, monkeypatch, capsys):
        result, _ = build(precision="fp16")
        monkeypatch.setitem(sys.modules, "tensorrt", None)
        assert main(["info", str(result.path)]) == 0
        lines = [line.split(maxsplit=2) for line in capsys.readouterr().out.splitlines()]
        assert ["built", "for", f"TensorRT 10.3.0 on {FakeCuda().name} (compute capability 8.7)"] in lines
        assert ["precision", "fp16"] in lines
        assert ["agreed", *result.agreement.to_text().split(maxsplit=1)] in lines
