import ast
import io
import re
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from lvad_perception.engines.tensorrt_build import BuildOptions, build_plan, build_with_torch2trt
from lvad_perception.errors import EngineError, MissingDependencyError

from .fake_tensorrt import INTERFACE, MAGIC, VERSIONS, make_tensorrt

ROOT = Path(__file__).resolve().parents[2]
ROOM = sorted((ROOT / "lvad_perception/engines").glob("tensorrt*.py"))

onnx = pytest.importorskip("onnx", reason="onnx is not installed")


@pytest.fixture
def use(monkeypatch):
    """``use(version)``: the stand-in for a version."""

    def use(version):
        module = make_tensorrt(version)
        monkeypatch.setitem(sys.modules, "tensorrt", module)
        return module

    return use


@pytest.fixture
def model(tiny_model_file):
    return tiny_model_file.read_bytes()


def build(model, precision="fp32", progress=lambda *_: None, **options):
    return build_plan(model, precision, BuildOptions(**options), progress=progress)


class TestVersions:
    @pytest.mark.parametrize("version", VERSIONS)
    @pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
    def test_every_version_builds_every_precision(self, use, model, version, precision):
        trt = use(version)
        assert build(model, precision).startswith(MAGIC)
        assert "TF32" not in trt.facts.flags  # its products would not be FP32

    def test_8_gets_flags_since_it_knows_no_strong_types(self, use, model):
        trt = use("8.6.1")
        build(model, "fp16")
        assert trt.facts.networks[-1].made_with == {"EXPLICIT_BATCH"}
        assert trt.facts.flags == {"FP16", "PREFER_PRECISION_CONSTRAINTS"}
        build(model, "int8")
        assert trt.facts.flags == {"FP16", "INT8", "PREFER_PRECISION_CONSTRAINTS"}
        build(model, "fp32")
        assert trt.facts.flags == set()

    @pytest.mark.parametrize(("version", "made_with"), [("10.3.0", {"STRONGLY_TYPED"}), ("11.1", set())])
    def test_newer_ones_take_the_types_of_the_file(self, use, model, version, made_with):
        trt = use(version)
        build(model, "int8")
        assert trt.facts.networks[-1].made_with == made_with
        assert trt.facts.flags == set()

    def test_8_keeps_fp32_layers_and_leaves_quantised_ones_free(self, use):
        trt = use("8.6.1")
        build(quantised_model(), "int8")
        layers = {layer.get_output(0).name: layer for layer in trt.facts.networks[-1]._layers}
        pinned = {name for name, layer in layers.items() if layer.precision is not None}
        assert pinned == {"sum"}
        assert layers["sum"].output_types == {0: trt.DataType.FLOAT}


def quantised_model():
    """x -> Q -> DQ -> Conv (whose weights are plain) -> Add -> Cast to half -> Relu."""
    h = onnx.helper
    nodes = [
        h.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
        h.make_node("DequantizeLinear", ["q", "scale", "zero"], ["dq"]),
        h.make_node("Conv", ["dq", "weight"], ["conv"]),
        h.make_node("Add", ["conv", "one"], ["sum"]),
        h.make_node("Cast", ["sum"], ["half"], to=onnx.TensorProto.FLOAT16),
        h.make_node("Relu", ["half"], ["y"]),
    ]
    constants = {
        "scale": np.float32(0.1),
        "zero": np.int8(0),
        "weight": np.ones((1, 1, 1, 1), np.float32),
        "one": np.ones((1, 1, 1, 1), np.float32),
    }
    graph = h.make_graph(
        nodes,
        "quantised",
        [h.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 1, 2, 2])],
        [h.make_tensor_value_info("y", onnx.TensorProto.FLOAT16, [1, 1, 2, 2])],
        [onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    return h.make_model(graph, opset_imports=[h.make_opsetid("", 17)], ir_version=8).SerializeToString()


class TestTimingCache:
    def test_the_next_build_starts_from_the_last_one(self, use, model, tmp_path):
        trt = use("10.3.0")
        path = tmp_path / "deep" / "timing.cache"
        build(model, timing_cache=path)
        assert trt.facts.config.given_cache == b""
        build(model, timing_cache=path)
        assert trt.facts.config.given_cache == path.read_bytes() == b"timings of 10.3.0"
        assert [each.name for each in path.parent.iterdir()] == ["timing.cache"]

    def test_timings_of_another_version_are_thrown_away(self, use, model, tmp_path):
        path = tmp_path / "timing.cache"
        path.write_bytes(b"timings of 8.6.1")
        trt = use("10.3.0")
        build(model, timing_cache=path)
        assert trt.facts.config.given_cache == b""
        assert path.read_bytes() == b"timings of 10.3.0"


class TestProgress:
    @pytest.mark.parametrize("version", VERSIONS[1:])
    def test_nested_phases_make_one_growing_share(self, use, model, version):
        use(version)
        seen = []
        build(model, progress=lambda share, phase: seen.append((share, phase)))
        assert [share for share, _ in seen] == [0.125, 0.25, 0.375, 0.5, 0.5, 1.0]
        assert seen[0][1] == "Timing kernels"
        assert seen[-1][1] == "Building engine"

    def test_8_has_none(self, use, model):
        use("8.6.1")
        build(model, progress=lambda share, phase: pytest.fail("there is no IProgressMonitor in 8.6"))

    def test_ctrl_c_ends_the_build(self, use, model):
        """TensorRT calls from C++, where an exception would only be printed: it must come out of the build."""
        use("10.3.0")

        def interrupt(share, phase):
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            build(model, progress=interrupt)


class TestOptions:
    def test_they_reach_tensorrt(self, use, model):
        trt = use("10.3.0")
        build(model, level=5, workspace_bytes=1 << 28)
        assert trt.facts.config.builder_optimization_level == 5
        assert trt.facts.limits == {"WORKSPACE": 1 << 28}

    def test_by_default_nothing_is_limited(self, use, model):
        trt = use("10.3.0")
        build(model)
        assert trt.facts.config.builder_optimization_level == 3
        assert trt.facts.limits == {}


class TestRefusals:
    def test_without_a_gpu(self, use, model):
        use("8.6.1").facts.gpu = False
        with pytest.raises(EngineError, match=r"cannot start its builder \(CUDA initialization failure.*nvidia-smi"):
            build(model)

    def test_a_model_that_the_parser_does_not_read(self, use, model):
        use("10.3.0").facts.refuse = "no importer for operator Grid"
        with pytest.raises(
            EngineError, match=r"TensorRT 10\.3\.0 cannot read the model \(no importer for operator Grid"
        ):
            build(model)

    def test_a_build_that_fails(self, use, model):
        use("10.3.0").facts.fail = True
        with pytest.raises(EngineError, match=r"builds nothing \(it gave no reason\); free memory"):
            build(model)


class TestTorch2trt:
    """Its ONNX path, as its torch2trt.py at version 0.5.0 has it; the stand-in has that interface."""

    @pytest.fixture
    def torch2trt(self, monkeypatch):
        torch = pytest.importorskip("torch", reason="torch is not installed")
        module = types.ModuleType("torch2trt")
        module.calls = []

        def torch2trt(net, inputs, input_names, output_names, *, use_onnx, keep_network, max_workspace_size, **types_):
            """Exports the module to a stream, parses what is there without looking at errors, builds."""
            outputs = net(*inputs)
            assert use_onnx
            assert not keep_network
            flattened = [each for each in inputs if each.dtype in (torch.float, torch.half, torch.bool)]
            assert len(flattened) == len(input_names)  # else its profile has no shape for them
            assert len(outputs) == len(output_names)
            stream = io.BytesIO()
            torch.onnx.export(net, tuple(inputs), stream, input_names=input_names, opset_version=None)
            module.calls.append((tuple(inputs[0].shape), list(output_names), types_, stream.getvalue()))
            if module.fails:
                return types.SimpleNamespace(engine=None)
            schema = {"schema": [0], "size": 1}
            state = {"engine": bytearray(b"plan"), "input_names": input_names, "output_names": output_names}
            state |= {"input_flattener": schema, "output_flattener": schema}
            return types.SimpleNamespace(engine=object(), state_dict=lambda: state)

        module.torch2trt, module.fails = torch2trt, False
        monkeypatch.setitem(sys.modules, "torch2trt", module)
        monkeypatch.setitem(sys.modules, "onnx_graphsurgeon", types.ModuleType("onnx_graphsurgeon"))
        return module

    @pytest.mark.parametrize(
        ("precision", "flags"),
        [
            ("fp32", {"fp16_mode": False, "int8_mode": False}),
            ("fp16", {"fp16_mode": True, "int8_mode": False}),
            ("int8", {"fp16_mode": True, "int8_mode": True}),
        ],
    )
    def test_it_gets_the_file_as_it_is(self, use, torch2trt, model, make_manifest, precision, flags):
        import torch

        use("10.3.0")
        export = torch.onnx.export
        plan, state = build_with_torch2trt(model, make_manifest(), precision, device="cpu")
        assert plan == b"plan"
        assert state["output_names"] == list(make_manifest().output_names)
        shape, names, given, content = torch2trt.calls[0]
        assert shape == (2, 48, 64, 3)
        assert names == list(make_manifest().output_names)
        assert given == {**flags, "qat_mode": True}
        assert content == model
        assert torch.onnx.export is export

    def test_the_parsers_errors_are_not_lost(self, use, torch2trt, model, make_manifest):
        use("8.6.1").facts.refuse = "unsupported"
        with pytest.raises(EngineError, match=r"cannot read the model \(unsupported\)"):
            build_with_torch2trt(model, make_manifest(), "fp16", device="cpu")
        assert not torch2trt.calls

    def test_nothing_built_is_an_error(self, use, torch2trt, model, make_manifest):
        use("10.3.0")
        torch2trt.fails = True
        with pytest.raises(EngineError, match=r"torch2trt with TensorRT 10\.3\.0 builds nothing"):
            build_with_torch2trt(model, make_manifest(), "fp16", device="cpu")

    def test_with_11_it_is_refused(self, use, torch2trt, model, make_manifest):
        use("11.1")
        with pytest.raises(EngineError, match=r"torch2trt cannot build with TensorRT 11\.1.*ends in \.engine"):
            build_with_torch2trt(model, make_manifest(), "fp16")

    def test_where_it_is_missing_the_message_says_how_to_install_it(self, use, model, make_manifest, monkeypatch):
        use("10.3.0")
        monkeypatch.setitem(sys.modules, "onnx_graphsurgeon", types.ModuleType("onnx_graphsurgeon"))
        monkeypatch.setitem(sys.modules, "torch2trt", None)
        with pytest.raises(MissingDependencyError, match=r"without build isolation, torch2trt from github\.com"):
            build_with_torch2trt(model, make_manifest(), "fp16")


def names_of(path):
    """Attribute names that a source file uses on anything."""
    return {node.attr for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)}


class TestRealTensorRt:
    """Where TensorRT is installed, even without a GPU: what our calls use must exist."""

    @pytest.fixture
    def trt(self):
        return pytest.importorskip("tensorrt", reason="tensorrt is not installed")

    def test_every_name_that_we_use_exists(self, trt):
        """Against the installed version: each name that some version's class defines and our sources use."""
        version = next((name for name in VERSIONS if close(name, trt.__version__)), None)
        if version is None:
            pytest.skip(f"no interface is recorded for TensorRT {trt.__version__}")
        used = set().union(*map(names_of, ROOM))
        missing = [
            f"{kind}.{name}"
            for kind, names in INTERFACE[version]["classes"].items()
            for name in sorted(used.intersection(names))
            if not hasattr(find(trt, kind), name)
        ]
        assert not missing

    def test_the_recorded_interface_is_the_installed_one(self, trt):
        version = next((name for name in VERSIONS if close(name, trt.__version__)), None)
        if version is None:
            pytest.skip(f"no interface is recorded for TensorRT {trt.__version__}")
        for kind, names in INTERFACE[version]["classes"].items():
            assert [name for name in names if not hasattr(find(trt, kind), name)] == [], kind

    def test_progress_is_there_from_10_on(self, trt):
        assert hasattr(trt, "IProgressMonitor") == (int(trt.__version__.split(".")[0]) >= 10)

    def test_our_logger_can_be_made(self, trt):
        from lvad_perception.engines.tensorrt import make_log

        log = make_log(trt)
        log.log(trt.ILogger.Severity.ERROR, "first\n")
        log.log(trt.ILogger.Severity.WARNING, "no error")
        assert log.text() == "first"


def close(recorded, installed):
    """Whether two versions share major and minor."""
    return re.match(r"\d+\.\d+", recorded)[0] == re.match(r"\d+\.\d+", installed)[0]


def find(trt, kind):
    return trt.ILogger.Severity if kind == "Severity" else getattr(trt, kind)
