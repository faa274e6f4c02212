import sys
from dataclasses import replace

import numpy as np
import pytest

from lvad_perception.conversion.tensorrt_build import BuildOptions, build_plan
from lvad_perception.engines.tensorrt import TensorRtEngine
from lvad_perception.engines.tensorrt_file import EngineFile, Target, write_engine_file
from lvad_perception.errors import EngineError, MissingDependencyError, ModelFileError

from .fake_cuda import FakeCuda
from .fake_tensorrt import VERSIONS

pytest.importorskip("onnx", reason="onnx is not installed")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")


@pytest.fixture(params=VERSIONS)
def trt(request, use_tensorrt):
    return use_tensorrt(request.param)


@pytest.fixture
def trt10(use_tensorrt):
    return use_tensorrt("10.3.0")


@pytest.fixture
def write_engine(tmp_path, tiny_model_file, make_manifest):
    """An engine file of the tiny model; with changed metadata."""

    def write(**changes):
        plan = build_plan(tiny_model_file.read_bytes(), "fp32", BuildOptions(), progress=lambda *_: None)
        target = Target(sys.modules["tensorrt"].__version__, FakeCuda().name, "8.7")
        path = tmp_path / "model.engine"
        write_engine_file(path, replace(EngineFile(plan, make_manifest(), "fp32", target), **changes))
        return path

    return write


def test_outputs_are_the_models_in_every_version(trt, write_engine, reference, images_like):
    device = FakeCuda()
    engine = TensorRtEngine(write_engine(), device=device)
    for seed in range(3):
        images = images_like(engine.manifest, seed)
        raw, wanted = engine.infer(images), reference(images)
        for name in ("labels", "semantic", "drivable", "semantic_confidence", "boxes"):
            np.testing.assert_array_equal(getattr(raw, name), getattr(wanted, name))
            assert getattr(raw, name).dtype == getattr(wanted, name).dtype
        np.testing.assert_allclose(raw.scores, wanted.scores, atol=1e-6)
    assert device.fake.replays == 1 + 3  # of the graph, not of its parts
    assert engine.precision == "fp32"
    assert engine.description == f"TensorRT {trt.__version__}, Fake with 2 multiprocessors, FP32, CUDA graph"
    assert engine.device_memory_bytes > images.nbytes + 1000


def test_buffers_are_reused(trt10, write_engine, images_like):
    engine = TensorRtEngine(write_engine(), device=FakeCuda())
    first, second, third = (engine.infer(images_like(engine.manifest, seed)) for seed in range(3))
    assert first.semantic is third.semantic
    assert not np.shares_memory(first.semantic, second.semantic)  # which is valid until the second begins


def test_a_network_that_cannot_be_recorded_runs_without_graph(trt10, write_engine, reference, images_like):
    engine = TensorRtEngine(write_engine(), device=FakeCuda(records=False))
    images = images_like(engine.manifest)
    np.testing.assert_array_equal(engine.infer(images).semantic, reference(images).semantic)
    assert engine.description.endswith("no CUDA graph")


def test_plugins_are_loaded_before_the_plan(trt10, write_engine):
    path = write_engine()
    trt10.state.plugins = False
    TensorRtEngine(path, device=FakeCuda())
    assert trt10.state.plugins


@pytest.mark.parametrize(
    "target",
    [
        Target("8.6.1", "Fake with 2 multiprocessors", "8.7"),
        Target("10.3.0", "Fake with 8 multiprocessors", "8.7"),
        Target("10.3.0", "Fake with 2 multiprocessors", "9.0"),
    ],
)
def test_an_engine_of_another_machine_names_both_and_the_remedy(trt10, write_engine, target):
    path = write_engine(target=target)
    with pytest.raises(
        EngineError,
        match=r"was built for TensorRT .* on Fake .* and this is TensorRT 10\.3\.0 on Fake with 2 multiprocessors .*; "
        r"run lvad-perception optimize MODEL\.onnx --output model\.engine on this machine",
    ):
        TensorRtEngine(path, device=FakeCuda())
    assert trt10.state.runs == 0


def test_a_plan_that_tensorrt_refuses_names_its_reason(trt10, write_engine):
    path = write_engine(plan=b"of another version", target=None)
    with pytest.raises(
        EngineError, match=r"cannot be loaded by .*The engine plan file is not compatible.*run lvad-perception optimize"
    ):
        TensorRtEngine(path, device=FakeCuda())


def test_a_manifest_of_another_model_is_refused(trt10, write_engine, make_manifest):
    promised = r"its input images is uint8 \[2, 48, 64, 3\] but its manifest promises uint8 \[3, 48, 64, 3\]"
    remedy = r"build it with: lvad-perception optimize MODEL\.onnx --output "
    with pytest.raises(ModelFileError, match=f"{promised}; {remedy}"):
        TensorRtEngine(write_engine(manifest=make_manifest(batch_size=3)), device=FakeCuda())


def test_images_of_another_shape_are_refused(trt10, write_engine, images_like):
    engine = TensorRtEngine(write_engine(), device=FakeCuda())
    with pytest.raises(EngineError, match=r"images of shape \(1, 48, 64, 3\) and type uint8 do not fit this engine"):
        engine.infer(images_like(engine.manifest)[:1])
    with pytest.raises(EngineError, match="type float32 do not fit"):
        engine.infer(images_like(engine.manifest).astype(np.float32))


def test_a_device_that_fails_says_so(trt10, write_engine, images_like):
    path = write_engine()
    engine = TensorRtEngine(path, device=FakeCuda(records=False))
    recorded = TensorRtEngine(path, device=FakeCuda())
    trt10.state.broken_run = True
    images = images_like(engine.manifest)
    for _ in range(3):  # a failure takes no turn
        with pytest.raises(EngineError, match=r"TensorRT failed \(it gave no reason\); restart the process"):
            engine.infer(images)
        assert not any(stream.work for stream in engine._cuda.fake.streams)
    recorded.infer(images)  # by the graph alone
    recorded._cuda.fake.broken = "CUDA error: unspecified launch failure"
    for _ in range(3):
        with pytest.raises(EngineError, match=r"the CUDA device failed \(CUDA error: unspec.*\); restart the process"):
            recorded.infer(images)
    with pytest.raises(EngineError, match=r"model\.engine failed on the first image"):
        TensorRtEngine(path, device=FakeCuda())


def test_a_closed_engine_says_so(trt10, write_engine, images_like):
    engine = TensorRtEngine(write_engine(), device=FakeCuda())
    images = images_like(engine.manifest)
    engine.close()
    engine.close()
    with pytest.raises(EngineError, match="the engine is closed; open the model file again"):
        engine.infer(images)


def test_without_tensorrt_the_message_says_how_to_install_it(trt10, write_engine, monkeypatch):
    path = write_engine()
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(MissingDependencyError, match=r"sudo apt install tensorrt.*pip install 'tensorrt>=10\.2,<11'"):
        TensorRtEngine(path, device=FakeCuda())


def test_an_old_tensorrt_is_refused(trt10, write_engine, monkeypatch):
    path = write_engine()
    monkeypatch.setattr(trt10, "__version__", "8.5.2.2")
    with pytest.raises(EngineError, match=r"TensorRT 8\.5\.2\.2 is older than 8\.6.*install JetPack 6 or newer"):
        TensorRtEngine(path, device=FakeCuda())


def test_without_a_gpu_the_message_names_the_alternative(trt10, write_engine):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(EngineError, match=r"sees no CUDA GPU; check nvidia-smi .* or use the \.onnx model file"):
        TensorRtEngine(write_engine())
