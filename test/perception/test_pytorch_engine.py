"""Exported programs: a network of a convolution and a linear layer in the manner of the real one."""

import json
import logging
import sys
import zipfile

import numpy as np
import pytest

from lvad_perception.engines import open_engine
from lvad_perception.engines.agreement import TOLERANCES, agree
from lvad_perception.errors import (
    ConfigError,
    EngineError,
    MissingDependencyError,
    ModelFileError,
    VocabularyMismatchError,
)
from lvad_perception.manifest import MANIFEST_KEY
from lvad_perception.types import RawOutputs
from lvad_perception.vocabulary import DRIVABLE

torch = pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("torchvision", reason="torchvision is not installed")

from lvad_perception.engines import pt2_file  # noqa: E402
from lvad_perception.engines.pytorch import PyTorchEngine  # noqa: E402

on_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA GPU")


class Network(torch.nn.Module):
    """uint8 [N, H, W, 3] -> the outputs of all tasks, from a convolution, a linear layer and the mean."""

    def __init__(self, boxes=4):
        super().__init__()
        torch.manual_seed(0)
        self.boxes = boxes
        self.conv = torch.nn.Conv2d(3, 19, 3, padding=1)
        self.linear = torch.nn.Linear(19, 4 * boxes)
        self.register_buffer("scale", torch.tensor([40.0]), persistent=False)

    def forward(self, images):
        features = self.conv(images.float().permute(0, 3, 1, 2) / 255).relu()
        best, semantic = (features.float() * self.scale).softmax(1).max(1)
        drivable = features[:, :3].float().argmax(1)
        placed = self.linear(features.mean((2, 3))).float().sigmoid().unflatten(1, (self.boxes, 4))
        scores, order = placed.mean(2).sort(1, descending=True)
        boxes = placed.gather(1, order[:, :, None].expand(-1, -1, 4)) * self.scale
        labels = torch.arange(self.boxes, device=images.device).expand_as(order) + order * 0
        confidence = (best * 255).round().to(torch.uint8)
        masks = semantic.float().to(torch.uint8), confidence, drivable.float().to(torch.uint8)
        return boxes, scores, labels.int(), *masks


def write(path, manifest, network=None, *, text=None):
    example = torch.zeros((manifest.batch_size, *manifest.input_hw, 3), dtype=torch.uint8)
    program = torch.export.export((network or Network()).eval(), (example,))
    program.example_inputs = None
    torch.export.save(program, path, extra_files={MANIFEST_KEY: manifest.to_json() if text is None else text})
    return path


def rewrite(path, spoil):
    """Copy an archive with ``spoil(contents)`` applied, a dictionary from name below the top folder to bytes."""
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        contents = {name.partition("/")[2]: archive.read(name) for name in names}
    top = names[0].partition("/")[0]
    spoil(contents)
    out = path.with_name("spoilt.pt2")
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in contents.items():
            archive.writestr(f"{top}/{name}", content)
    return out


@pytest.fixture(scope="module")
def program_file(tmp_path_factory, make_manifest):
    return write(tmp_path_factory.mktemp("pt2") / "model.pt2", make_manifest())


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (2, 48, 64, 3), np.uint8)


@pytest.fixture
def wanted(images):
    with torch.no_grad():
        arrays = [tensor.numpy() for tensor in Network()(torch.from_numpy(images))]
    boxes, scores, labels, semantic, confidence, drivable = arrays
    return RawOutputs(boxes, scores, labels, semantic, drivable, confidence)


def copied(raw):
    return RawOutputs(**{name: np.array(getattr(raw, name)) for name in RawOutputs.__slots__})


class TestOnTheCpu:
    def test_outputs_are_those_of_torch(self, program_file, images, wanted):
        engine = open_engine(program_file)
        raw = engine.infer(images)
        assert agree([raw], [wanted]).within(TOLERANCES["fp32"])
        assert (raw.boxes.dtype, raw.labels.dtype, raw.semantic.dtype) == (np.float32, np.int32, np.uint8)
        assert raw.boxes.shape == (2, 4, 4)

    def test_it_describes_itself(self, program_file):
        engine = PyTorchEngine(program_file, device="cpu", threads=1)
        assert engine.description == f"PyTorch {torch.__version__}, CPU, 1 thread, FP32, not compiled"
        assert (engine.precision, engine.device_memory_bytes) == ("fp32", None)
        assert engine.manifest.batch_size == 2

    def test_half_precision_computes_products_in_it_and_stays_near(self, program_file, images, wanted):
        engine = PyTorchEngine(program_file, device="cpu", precision="bf16")
        raw = engine.infer(images)
        agreement = agree([raw], [wanted], TOLERANCES["bf16"])
        assert engine.precision == "bf16"
        assert "BF16" in engine.description
        assert agreement.scores <= TOLERANCES["bf16"].scores
        assert agreement.boxes_px <= TOLERANCES["bf16"].boxes_px
        assert (raw.scores != wanted.scores).any()  # or it would have been computed in FP32
        assert (raw.semantic == wanted.semantic).mean() > 0.9  # of noise, which has no areas

    def test_outputs_outlive_the_next_call_of_another_engine(self, program_file, images):
        first, second = PyTorchEngine(program_file, device="cpu"), PyTorchEngine(program_file, device="cpu")
        raw = first.infer(images)
        kept = raw.semantic.copy()
        second.infer(255 - images)
        np.testing.assert_array_equal(raw.semantic, kept)

    def test_an_absent_task_is_none(self, tmp_path, make_manifest, images):
        class Drivable(torch.nn.Module):
            def forward(self, images):
                return (images.float().argmax(3).float().to(torch.uint8),)

        manifest = make_manifest(classes={"drivable": DRIVABLE.names})
        raw = open_engine(write(tmp_path / "drivable.pt2", manifest, Drivable())).infer(images)
        np.testing.assert_array_equal(raw.drivable, images.argmax(3))
        assert raw.boxes is raw.scores is raw.labels is raw.semantic is raw.semantic_confidence is None

    def test_compiled_outputs_are_the_same(self, program_file, images, wanted, monkeypatch):
        real = torch.compile
        monkeypatch.setattr(torch, "compile", lambda module, **options: real(module, backend="aot_eager", **options))
        engine = PyTorchEngine(program_file, device="cpu", compiled=True)
        assert engine.description.endswith("FP32, compiled")
        assert agree([engine.infer(images)], [wanted]).within(TOLERANCES["fp32"])

    def test_without_a_compiler_it_runs_uncompiled_and_says_why(
        self, program_file, images, wanted, monkeypatch, caplog
    ):
        def broken(module, **_):
            def fail(images):
                raise ImportError("no Triton here\nand so on")

            return fail

        monkeypatch.setattr(torch, "compile", broken)
        with caplog.at_level(logging.WARNING):
            engine = PyTorchEngine(program_file, device="cpu", compiled=True)
        assert "runs uncompiled, which is slower, since torch.compile failed (no Triton here)" in caplog.text
        assert engine.description.endswith("not compiled")
        assert agree([engine.infer(images)], [wanted]).within(TOLERANCES["fp32"])

    def test_a_file_for_a_camera(self, tmp_path, make_manifest):
        path = write(tmp_path / "camera.pt2", make_manifest(network_hw=(32, 32), camera_hw=(48, 64)))
        engine = open_engine(path)
        assert engine.infer(np.zeros((2, 48, 64, 3), np.uint8)).semantic.shape == (2, 48, 64)


class TestWrongUse:
    def test_images_of_another_shape(self, program_file):
        with pytest.raises(EngineError, match=r"images of shape \(1, 48, 64, 3\).*input is uint8 \(2, 48, 64, 3\)"):
            open_engine(program_file).infer(np.zeros((1, 48, 64, 3), np.uint8))

    def test_a_closed_engine_says_so(self, program_file, images):
        engine = open_engine(program_file)
        engine.close()
        engine.close()
        with pytest.raises(EngineError, match="the engine is closed"):
            engine.infer(images)

    def test_another_precision(self, program_file):
        with pytest.raises(ConfigError, match="runs in fp32, fp16, bf16, not in int8"):
            PyTorchEngine(program_file, precision="int8")

    @pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA GPU")
    def test_no_gpu(self, program_file):
        with pytest.raises(EngineError, match="sees no CUDA GPU"):
            PyTorchEngine(program_file, device="cuda")

    def test_torch_not_installed(self, program_file, monkeypatch):
        monkeypatch.setitem(sys.modules, "torchvision", None)  # importing it raises ImportError
        with pytest.raises(MissingDependencyError, match="torchvision is not installed; install it with: pip install"):
            PyTorchEngine(program_file)


def spoil_json(name, change):
    def spoil(contents):
        metadata = json.loads(contents[name])
        change(metadata)
        contents[name] = json.dumps(metadata).encode()

    return spoil


def first_weight_is_a_pickle(metadata):
    next(iter(metadata["config"].values()))["use_pickle"] = True


def a_call_of_the_system(metadata):
    metadata["graph_module"]["graph"]["nodes"][0]["target"] = "torch.os.system"


def a_dynamic_size(metadata):
    metadata["guards"] = [{"expr_str": "exit()"}]


class TestWrongFiles:
    @pytest.mark.parametrize(
        ("spoil", "found"),
        [
            (spoil_json("data/weights/model_weights_config.json", first_weight_is_a_pickle), "the pickle conv"),
            (spoil_json("models/model.json", a_call_of_the_system), "torch.os.system"),
            (spoil_json("models/model.json", a_dynamic_size), "dynamic sizes"),
            (lambda contents: contents.update({"data/sample_inputs/model.pt": b"\x80"}), "sample inputs"),
            (lambda contents: contents.update({"data/constants/custom_obj_0": b"\x80"}), "data/constants/custom_obj_0"),
            (lambda contents: contents.update({"data/weights/model.pt": b"\x80"}), "data/weights/model.pt"),
            (lambda contents: contents.update({"data/aotinductor/model/a.so": b"\x80"}), "data/aotinductor/model/a.so"),
        ],
        ids=["weight", "operator", "expression", "sample", "object", "old weights", "library"],
    )
    def test_content_that_could_run_code_is_refused_before_loading(self, program_file, spoil, found, monkeypatch):
        monkeypatch.setattr(torch.export, "load", lambda _: pytest.fail("torch was asked to read it"))
        with pytest.raises(ModelFileError, match=rf"holds {found}.*could run code.*a checkpoint that you trust"):
            open_engine(rewrite(program_file, spoil))

    def test_an_entry_that_is_there_twice_is_refused(self, program_file):
        path = rewrite(program_file, lambda contents: None)
        with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr(archive.namelist()[0], b"")
        with pytest.raises(ModelFileError, match="could run code"):
            open_engine(path)

    def test_compressed_content_is_refused_before_it_is_unpacked(self, tmp_path, program_file, monkeypatch):
        path = tmp_path / "packed.pt2"
        with zipfile.ZipFile(program_file) as whole, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
            for item in whole.infolist():
                packed.writestr(item.filename, whole.read(item))
        monkeypatch.setattr(torch.export, "load", lambda _: pytest.fail("torch was asked to read it"))
        monkeypatch.setattr(zipfile.ZipFile, "read", lambda *_: pytest.fail("it was unpacked"))
        with pytest.raises(
            ModelFileError, match=r"packed\.pt2 holds \S+ compressed, which torch never does, and unpacked"
        ):
            open_engine(path)

    def test_a_file_of_ours_is_read_without_unpickling(self, program_file, images, monkeypatch):
        monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("torch.load was called"))
        assert open_engine(program_file).infer(images).boxes.shape == (2, 4, 4)

    def test_a_file_rewritten_without_change_is_read(self, program_file, images, wanted):
        engine = open_engine(rewrite(program_file, lambda contents: None))
        assert agree([engine.infer(images)], [wanted]).within(TOLERANCES["fp32"])

    @pytest.mark.parametrize("kept", [0, 10, 5000, -1])
    def test_a_truncated_file(self, tmp_path, program_file, kept):
        path = tmp_path / "short.pt2"
        path.write_bytes(program_file.read_bytes()[:kept])
        with pytest.raises(ModelFileError, match=r"short\.pt2 cannot be read as an exported program.*copy it again or"):
            open_engine(path)

    def test_another_archive(self, tmp_path):
        torch.save({"archive": torch.zeros(1)}, tmp_path / "weights.pt2")
        with pytest.raises(ModelFileError, match="could run code"):
            open_engine(tmp_path / "weights.pt2")

    def test_no_manifest(self, program_file):
        path = rewrite(program_file, lambda contents: contents.pop(f"extra/{MANIFEST_KEY}"))
        with pytest.raises(ModelFileError, match="carries no lvad_manifest; export the model again"):
            open_engine(path)

    def test_other_classes(self, program_file):
        def fewer(metadata):
            metadata["classes"]["drivable"] = ["direct", "alternative"]

        path = rewrite(program_file, spoil_json(f"extra/{MANIFEST_KEY}", fewer))
        with pytest.raises(VocabularyMismatchError, match=r"drivable classes are \[direct, alternative\]"):
            open_engine(path)

    def test_another_size_than_the_manifest_says(self, tmp_path, make_manifest):
        path = write(tmp_path / "m.pt2", make_manifest(), text=make_manifest(network_hw=(96, 128)).to_json())
        with pytest.raises(ModelFileError, match=r"images is uint8 \[2, 48, 64, 3\] but its manifest promises uint8"):
            open_engine(path)

    def test_fewer_outputs_than_the_manifest_says(self, tmp_path, make_manifest):
        text = make_manifest(classes={"drivable": DRIVABLE.names}).to_json()
        path = write(tmp_path / "m.pt2", make_manifest(), text=text)
        with pytest.raises(
            ModelFileError, match="its graph has 1 inputs and 6 outputs, but its manifest promises 1 and 1"
        ):
            open_engine(path)

    def test_another_version_of_torch(self, program_file, monkeypatch):
        def fail(path):
            raise AssertionError("schema version 99")

        monkeypatch.setattr(torch.export, "load", fail)
        with pytest.raises(
            EngineError, match=r"cannot be read by torch .* \(schema version 99\); export the model again"
        ):
            pt2_file.load_program(program_file)


@on_cuda
class TestOnCuda:
    @pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
    def test_outputs_of_a_cuda_graph_are_those_of_the_cpu(self, program_file, images, wanted, precision):
        engine = PyTorchEngine(program_file, precision=precision)
        first, second = copied(engine.infer(images)), copied(engine.infer(255 - images))
        tolerance = TOLERANCES[precision]
        agreement = agree([first], [wanted], tolerance)
        assert agreement.boxes_px <= tolerance.boxes_px
        assert agreement.scores <= tolerance.scores
        assert (first.semantic == wanted.semantic).mean() > 0.9
        assert (second.semantic != first.semantic).any()
        assert "CUDA graph" in engine.description
        assert engine.device_memory_bytes > 0
