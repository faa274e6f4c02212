import ast
import io
import re
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from lvad_perception.conversion.tensorrt_build import BuildOptions, build_plan, build_with_torch2trt
from lvad_perception.errors import EngineError, MissingDependencyError

from .fake_tensorrt import INTERFACE, MAGIC, VERSIONS

ROOT = Path(__file__).resolve().parents[2]
ROOM = sorted((ROOT / "lvad_perception").glob("*/tensorrt*.py"))

onnx = pytest.importorskip("onnx", reason="onnx is not installed")


@pytest.fixture
def model(tiny_model_file):
    return tiny_model_file.read_bytes()


def build(model, precision="fp32", progress=lambda *_: None, **options):
    return build_plan(model, precision, BuildOptions(**options), progress=progress)


class TestVersions:
    @pytest.mark.parametrize("version", VERSIONS)
    @pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
    def test_every_version_builds_every_precision(self, use_tensorrt, model, version, precision):
        trt = use_tensorrt(version)
        assert build(model, precision).startswith(MAGIC)
        assert "TF32" not in trt.state.flags  # its products would not be FP32

    def test_8_gets_flags_since_it_has_no_strong_types(self, use_tensorrt, model):
        trt = use_tensorrt("8.6.1")
        build(model, "fp16")
        assert trt.state.networks[-1].made_with == {"EXPLICIT_BATCH"}
        assert trt.state.flags == {"FP16", "PREFER_PRECISION_CONSTRAINTS"}
        build(model, "int8")
        assert trt.state.flags == {"FP16", "INT8", "PREFER_PRECISION_CONSTRAINTS"}
        build(model, "fp32")
        assert trt.state.flags == set()

    @pytest.mark.parametrize(("version", "made_with"), [("10.3.0", {"STRONGLY_TYPED"}), ("11.1", set())])
    def test_newer_ones_use_the_types_of_the_file(self, use_tensorrt, model, version, made_with):
        trt = use_tensorrt(version)
        build(model, "int8")
        assert trt.state.networks[-1].made_with == made_with
        assert trt.state.flags == set()

    def test_8_keeps_fp32_layers_and_leaves_quantised_ones_free(self, use_tensorrt):
        trt = use_tensorrt("8.6.1")
        build(quantised_model(), "int8")
        layers = {layer.get_output(0).name: layer for layer in trt.state.networks[-1]._layers}
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
    def test_the_next_build_starts_from_the_last_one(self, use_tensorrt, model, tmp_path):
        trt = use_tensorrt("10.3.0")
        path = tmp_path / "deep" / "timing.cache"
        build(model, timing_cache=path)
        assert trt.state.config.given_cache == b""
        build(model, timing_cache=path)
        assert trt.state.config.given_cache == path.read_bytes() == b"timings of 10.3.0"
        assert [each.name for each in path.parent.iterdir()] == ["timing.cache"]

    def test_timings_of_another_version_are_discarded(self, use_tensorrt, model, tmp_path):
        path = tmp_path / "timing.cache"
        path.write_bytes(b"timings of 8.6.1")
        trt = use_tensorrt("10.3.0")
        build(model, timing_cache=path)
        assert trt.state.config.given_cache == b""
        assert path.read_bytes() == b"timings of 10.3.0"


class TestProgress:
    @pytest.mark.parametrize("version", VERSIONS[1:])
    def test_nested_phases_give_one_growing_share(self, use_tensorrt, model, version):
        use_tensorrt(version)
        seen = []
        build(model, progress=lambda share, phase: seen.append((share, phase)))
        assert [share for share, _ in seen] == [0.125, 0.25, 0.375, 0.5, 0.5, 1.0]
        assert seen[0][1] == "Timing kernels"
        assert seen[-1][1] == "Building engine"

    def test_8_has_none(self, use_tensorrt, model):
        use_tensorrt("8.6.1")
        build(model, progress=lambda share, phase: pytest.fail("there is no IProgressMonitor in 8.6"))

    def test_ctrl_c_ends_the_build(self, use_tensorrt, model):
        """TensorRT calls from C++, where an exception would only be printed: it must come out of the build."""
        use_tensorrt("10.3.0")

        def interrupt(share, phase):
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            build(model, progress=interrupt)


class TestOptions:
    def test_they_reach_tensorrt(self, use_tensorrt, model):
        trt = use_tensorrt("10.3.0")
        build(model, level=5, workspace_bytes=1 << 28)
        assert trt.state.config.builder_optimization_level == 5
        assert trt.state.limits == {"WORKSPACE": 1 << 28}

    def test_by_default_nothing_is_limited(self, use_tensorrt, model):
        trt = use_tensorrt("10.3.0")
        build(model)
        assert trt.state.config.builder_optimization_level == 3
        assert trt.state.limits == {}


class TestRefusals:
    def test_without_a_gpu(self, use_tensorrt, model):
        use_tensorrt("8.6.1").state.gpu = False
        with pytest.raises(EngineError, match=r"cannot start its builder \(CUDA initialization failure.*nvidia-smi"):
            build(model)

    def test_a_model_that_the_parser_does_not_read(self, use_tensorrt, model):
        use_tensorrt("10.3.0").state.refuse = "no importer for operator Grid"
        with pytest.raises(
            EngineError, match=r"TensorRT 10\.3\.0 cannot read the model \(no importer for operator Grid"
        ):
            build(model)

    def test_a_build_that_fails(self, use_tensorrt, model):
        use_tensorrt("10.3.0").state.fail = True
        with pytest.raises(EngineError, match=r"builds nothing \(it gave no reason\); free memory"):
            build(model)


class TestTorch2trt:
    """Its ONNX path, as its torch2trt.py at version 0.5.0 has it; the fake has that interface."""

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
    def test_it_gets_the_file_as_it_is(self, use_tensorrt, torch2trt, model, make_manifest, precision, flags):
        import torch

        use_tensorrt("10.3.0")
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

    def test_the_parsers_errors_are_not_lost(self, use_tensorrt, torch2trt, model, make_manifest):
        use_tensorrt("8.6.1").state.refuse = "unsupported"
        with pytest.raises(EngineError, match=r"cannot read the model \(unsupported\)"):
            build_with_torch2trt(model, make_manifest(), "fp16", device="cpu")
        assert not torch2trt.calls

    def test_nothing_built_is_an_error(self, use_tensorrt, torch2trt, model, make_manifest):
        use_tensorrt("10.3.0")
        torch2trt.fails = True
        with pytest.raises(EngineError, match=r"torch2trt with TensorRT 10\.3\.0 builds nothing"):
            build_with_torch2trt(model, make_manifest(), "fp16", device="cpu")

    def test_with_11_it_is_refused(self, use_tensorrt, torch2trt, model, make_manifest):
        use_tensorrt("11.1")
        with pytest.raises(EngineError, match=r"torch2trt cannot build with TensorRT 11\.1.*ends in \.engine"):
            build_with_torch2trt(model, make_manifest(), "fp16")

    def test_where_it_is_missing_the_message_says_how_to_install_it(
        self, use_tensorrt, model, make_manifest, monkeypatch
    ):
        use_tensorrt("10.3.0")
        monkeypatch.setitem(sys.modules, "onnx_graphsurgeon", types.ModuleType("onnx_graphsurgeon"))
        monkeypatch.setitem(sys.modules, "torch2trt", None)
        with pytest.raises(MissingDependencyError, match=r"without build isolation, torch2trt from github\.com"):
            build_with_torch2trt(model, make_manifest(), "fp16")


USED = {
    "Builder": "build_serialized_network create_builder_config create_network",
    "BuilderFlag": "TF32",
    "DataType": "FLOAT INT32 UINT8",
    "IBuilderConfig": "builder_optimization_level clear_flag create_timing_cache get_timing_cache set_flag "
    "set_memory_pool_limit set_timing_cache",
    "ICudaEngine": "create_execution_context get_tensor_dtype get_tensor_mode get_tensor_name get_tensor_shape "
    "num_io_tensors",
    "IExecutionContext": "execute_async_v3 set_tensor_address",
    "ILayer": "get_input get_output num_inputs num_outputs type",
    "INetworkDefinition": "get_layer num_layers",
    "ITensor": "dtype name",
    "ITimingCache": "serialize",
    "LayerType": "CAST CONSTANT DEQUANTIZE QUANTIZE SHAPE",
    "MemoryPoolType": "WORKSPACE",
    "OnnxParser": "get_error num_errors parse",
    "ParserError": "desc",
    "Runtime": "deserialize_cuda_engine",
    "Severity": "ERROR INTERNAL_ERROR WARNING",
    "TensorIOMode": "INPUT",
}
"""What our sources use in every version, class by class."""
USED_BEFORE_10 = {
    "BuilderFlag": "FP16 INT8 PREFER_PRECISION_CONSTRAINTS",
    "ILayer": "precision set_output_type",
    "NetworkDefinitionCreationFlag": "EXPLICIT_BATCH",
}
USED_FROM_10 = {"IBuilderConfig": "progress_monitor", "IProgressMonitor": "phase_finish phase_start step_complete"}


def used_in(version):
    """(class, name) of everything that our sources use in a version."""
    more = USED_FROM_10 if int(version.split(".")[0]) >= 10 else USED_BEFORE_10
    return [(kind, name) for table in (USED, more) for kind, names in table.items() for name in names.split()]


class TestInterface:
    @pytest.mark.parametrize("version", VERSIONS)
    def test_what_we_use_is_in_the_bindings_of_every_version(self, version):
        classes = INTERFACE[version]["classes"]
        assert [(kind, name) for kind, name in used_in(version) if name not in classes.get(kind, ())] == []

    def test_the_table_matches_the_sources(self):
        """Every name of the table stands in our sources, and every recorded name that stands there is in the table."""
        text = "".join(path.read_text() for path in ROOM)
        attributes = {node.attr for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Attribute)}
        words = attributes | set(re.findall(r'"([A-Z_0-9]+)"', text)) | set(re.findall(r"def (\w+)", text))
        table = {name for version in VERSIONS for _, name in used_in(version)}
        assert table <= words
        recorded = {name for version in VERSIONS for names in INTERFACE[version]["classes"].values() for name in names}
        versioned = {"device_memory_size", "device_memory_size_v2", "STRONGLY_TYPED"}
        ours = {"builder", "engine"}  # of our own objects and of torch2trt's
        assert (attributes & recorded) - table - versioned == ours

    @pytest.fixture
    def installed(self):
        """The real module, where it is installed, even without a GPU."""
        return pytest.importorskip("tensorrt", reason="tensorrt is not installed")

    def test_what_we_use_is_in_the_installed_tensorrt(self, installed):
        def find(kind):
            return installed.ILogger.Severity if kind == "Severity" else getattr(installed, kind)

        version = installed.__version__
        assert [(kind, name) for kind, name in used_in(version) if not hasattr(find(kind), name)] == []
        assert hasattr(installed, "IProgressMonitor") == (int(version.split(".")[0]) >= 10)
        assert callable(installed.init_libnvinfer_plugins)

    def test_our_logger_reports_the_installed_tensorrts_cause(self, installed):
        from lvad_perception.engines.tensorrt import make_log

        severities, log = installed.ILogger.Severity, make_log(installed)
        assert log.text() == "it gave no reason"
        log.log(severities.WARNING, "a warning\n")
        assert log.text() == "a warning"
        log.log(severities.ERROR, "the cause\n")
        log.log(severities.INTERNAL_ERROR, "a consequence")
        assert log.text() == "the cause"

    def test_without_a_gpu_the_installed_tensorrt_is_refused_by_name(self, installed, model):
        torch = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_available():
            pytest.skip("there is a GPU")
        with pytest.raises(EngineError, match=r"cannot start its builder \(CUDA initialization failure"):
            build(model)
