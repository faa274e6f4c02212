import dataclasses
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from lvad_perception.engines import open_engine
from lvad_perception.engines.agreement import TOLERANCES, Agreement, agree
from lvad_perception.errors import DatasetError, ExportError, MissingDependencyError
from lvad_perception.media.video import write_video
from lvad_perception.perceiver import Perceiver
from lvad_training.build import build_model, network_of
from lvad_training.checkpoints import Checkpoint, weights_sha256
from lvad_training.data.batches import comparison_images
from lvad_training.decoding.camera import CameraFrame
from lvad_training.export import model_file as export_module
from lvad_training.export.graph import ModelFileGraph
from lvad_training.export.model_file import compare, export, write_onnx
from lvad_training.model.text_encoders import TextEncoderMetadata
from lvad_training.sample_set.write import render_sample_set

from .conftest import SIZE_HW, SMALL_HEAD, SMALL_MASKS, StubEncoder, small_recipe

pytest.importorskip("onnxscript", reason="the extra export is not installed")


@pytest.fixture(scope="module")
def checkpoint():
    torch.manual_seed(3)
    recipe = small_recipe()
    net = build_model(recipe.model)
    net.train()
    for _ in range(3):  # batch statistics of real use, not those of initialisation
        net(torch.randint(0, 256, (2, 3, *SIZE_HW), dtype=torch.uint8))
    return Checkpoint(recipe, 7, net.state_dict())


@pytest.fixture(scope="module")
def model_file(checkpoint, images, tmp_path_factory):
    path = tmp_path_factory.mktemp("export") / "model.onnx"
    return path, export({"test": checkpoint}, path, images=images, batch_size=2)


@pytest.mark.slow
def test_the_model_file_agrees_with_torch(model_file):
    path, agreement = model_file
    assert agreement.within(TOLERANCES["fp32"])
    assert agreement.boxes > 100
    assert [found.name for found in path.parent.iterdir()] == ["model.onnx"]


def onnx_outputs(path):
    import onnx

    return onnx.load(str(path)).graph.output


@pytest.mark.slow
def test_the_manifest_has_what_the_vehicle_needs(model_file, checkpoint):
    engine = open_engine(model_file[0])
    manifest = engine.manifest
    assert (manifest.network_hw, manifest.batch_size) == (SIZE_HW, 2)
    assert manifest.max_detections == 100
    names = ("boxes", "scores", "labels", "semantic", "semantic_confidence", "drivable")
    assert manifest.output_names == names
    assert tuple(output.name for output in onnx_outputs(model_file[0])) == names
    assert manifest.training == {"steps": 7, "seed": 0}
    assert manifest.weights_sha256 == weights_sha256(checkpoint.weights)
    outputs = engine.infer(np.zeros((2, *SIZE_HW, 3), np.uint8))
    assert outputs.boxes.shape == (2, 100, 4)
    assert outputs.semantic.dtype == np.uint8


@pytest.mark.slow
def test_the_graph_keeps_to_operators_for_the_target(model_file):
    import onnx

    model = onnx.load(str(model_file[0]))
    counts = Counter(node.op_type for node in model.graph.node)
    assert counts["RoiAlign"] == 4 * 2  # every level, every refinement
    assert not counts.keys() & {"GridSample", "NonMaxSuppression", "NonZero", "Loop", "If", "Scan", "ScatterND"}
    assert {opset.version for opset in model.opset_import if opset.domain == ""} == {export_module.OPSET}
    shapes = [*model.graph.input, *model.graph.output]
    assert all(dim.dim_value > 0 for value in shapes for dim in value.type.tensor_type.shape.dim)
    for node in model.graph.node:
        if node.op_type == "RoiAlign":
            attributes = {item.name: item for item in node.attribute}
            assert attributes["coordinate_transformation_mode"].s == b"half_pixel"


@pytest.mark.slow
def test_other_weights_are_noticed(model_file, checkpoint, images):
    net = build_model(checkpoint.recipe.model)
    weights = {name: value * 1.01 if "classify" in name else value for name, value in checkpoint.weights.items()}
    net.load_state_dict(weights)
    agreement = compare(ModelFileGraph(net, 100).eval(), model_file[0], images, open_engine(model_file[0]).manifest)
    assert not agreement.within(TOLERANCES["fp32"])
    assert agreement.scores > 1e-4


def test_a_disagreement_writes_nothing(checkpoint, images, tmp_path, monkeypatch):
    silent = dataclasses.replace(
        export_module.FORMATS[".onnx"],
        write=lambda graph, path, manifest: path.write_bytes(b""),
        load=lambda path: None,
    )
    monkeypatch.setitem(export_module.FORMATS, ".onnx", silent)
    monkeypatch.setattr(export_module, "run_batches", lambda *_: [])
    monkeypatch.setattr(export_module, "agree", lambda *_: Agreement(0.5, 0.0, 1.0, 0, 100))
    (tmp_path / "model.onnx").write_bytes(b"an older model")
    with pytest.raises(ExportError, match=r"model.onnx: not written, since ONNX Runtime differs from torch by 0.5 px"):
        export({"test": checkpoint}, tmp_path / "model.onnx", images=images)
    assert (tmp_path / "model.onnx").read_bytes() == b"an older model"
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    ("agreement", "holds"),
    [
        (Agreement(0.009, 0.00009, 0.9991, 0, 100), True),
        (Agreement(0.011, 0.0, 1.0, 0, 100), False),
        (Agreement(0.0, 0.00011, 1.0, 0, 100), False),
        (Agreement(0.0, 0.0, 0.998, 0, 100), False),
        (Agreement(float("inf"), 0.0, 1.0, 0, 100), False),
    ],
)
def test_the_tolerances_are_those_of_the_contract(agreement, holds):
    assert agreement.within(export_module.TOLERANCE) is holds


def test_images_to_compare_on_come_from_the_data_set_or_a_folder(blobs):
    recipe = small_recipe(blobs)
    images = comparison_images(recipe, None, (32, 32))
    assert len(images) == 6
    assert {image.shape for image in images} == {(32, 32, 3)}
    folder = comparison_images(recipe, blobs / "images/100k/val", (32, 32))
    assert all(np.array_equal(a, b) for a, b in zip(images, folder, strict=True))


def test_images_to_compare_on_may_be_a_video(tmp_path):
    pytest.importorskip("av", reason="the extra video is not installed")
    frames = [np.full((32, 64, 3), 4 * index, np.uint8) for index in range(45)]
    write_video(tmp_path / "drive.mp4", frames, 25)
    images = comparison_images(small_recipe(), tmp_path / "drive.mp4", (64, 64))
    assert [round(float(image[32].mean())) for image in images] == pytest.approx([0, 40, 80, 120, 160], abs=3)
    assert {image.shape for image in images} == {(64, 64, 3)}


def test_a_recipe_whose_data_set_is_elsewhere_asks_for_images(tmp_path):
    with pytest.raises(DatasetError, match=r"gone: the recipe's data set is not there to compare on; give images"):
        comparison_images(small_recipe(tmp_path / "gone"), None, (32, 32))


def test_a_checkpoint_without_a_task_exports_without_it(tmp_path, images):
    recipe = small_recipe()
    model = {"network_hw": list(SIZE_HW), "detection": None, "semantic": None}
    recipe = small_recipe(model={**model, "backbone": {"name": "resnet18", "options": {"channels": [8, 8, 8, 8]}}})
    path = tmp_path / "drivable.onnx"
    checkpoint = Checkpoint(recipe, 1, build_model(recipe.model).state_dict())
    agreement = export({"test": checkpoint}, path, images=images)
    assert agreement.masks == 1.0
    assert open_engine(path).manifest.output_names == ("drivable",)


@pytest.fixture(scope="module")
def language_checkpoint():
    """Two tasks and all parts of language, with gammas and contexts that make a difference."""
    torch.manual_seed(4)
    encoder = StubEncoder(width=20, token_width=7)
    recipe = small_recipe(
        model={
            "detection": {**SMALL_HEAD, "proposals": 20, "refinements": 1, "dynamic_width": 4, "pool_size": 3},
            "semantic": None,
            "drivable": {**SMALL_MASKS, "layers": 1},
            "language": {
                "context": 5,
                "width": 16,
                "heads": 2,
                "layers": 1,
                "gamma": 0.5,
                "v2l": True,
                "score_map": True,
                "per_task": True,
            },
        }
    )
    net = build_model(recipe.model, encoder=encoder)
    torch.nn.init.normal_(net.adapter.score_map.out.weight)
    with torch.no_grad():
        for contexts in net.prompts.contexts.values():
            contexts.add_(0.3)
    net.fold_prompts()
    return Checkpoint(recipe, 7, net.state_dict(), text_encoder=encoder.metadata.to_dict())


@pytest.fixture(scope="module")
def language_file(language_checkpoint, images, tmp_path_factory):
    path = tmp_path_factory.mktemp("language") / "model.onnx"
    return path, export({"test": language_checkpoint}, path, images=images[:2])


@pytest.mark.slow
def test_language_is_folded_into_the_model_file(language_file, language_checkpoint):
    import onnx

    path, agreement = language_file
    assert agreement.within(TOLERANCES["fp32"])
    model = onnx.load(str(path))
    shapes = {tuple(tensor.dims) for tensor in model.graph.initializer}
    weights = language_checkpoint.weights
    tower = {tuple(parameter.shape) for parameter in StubEncoder(width=20, token_width=7).parameters()}
    assert weights["prompts.contexts.detection"].shape == (5, 7)
    assert not {(5, 7), *(shape for shape in tower if len(shape) > 1)} & shapes
    assert {(1, 10, 20), (1, 3, 20)} <= shapes  # the text itself, of 10 and 3 classes, cut at export
    assert path.stat().st_size < sum(value.numel() for value in weights.values()) * 4 + 500_000  # and the graph
    counts = Counter(node.op_type for node in model.graph.node)
    assert not counts.keys() & {"NonZero", "Loop", "If", "Scan", "ScatterND", "Shape", "GatherND"}
    manifest = open_engine(path).manifest
    assert manifest.weights_sha256 == weights_sha256(weights)
    assert manifest.output_names == ("boxes", "scores", "labels", "drivable")


@pytest.mark.slow
def test_the_text_in_the_model_file_matters(language_file, language_checkpoint, images):
    """Agreement alone would also hold if neither torch nor the file used the text."""
    net = build_model(
        language_checkpoint.recipe.model, metadata=TextEncoderMetadata.from_dict(language_checkpoint.text_encoder)
    )
    weights = language_checkpoint.weights
    net.load_state_dict({**weights, "prompts.embeddings": weights["prompts.embeddings"].roll(1, dims=0)})
    agreement = compare(
        ModelFileGraph(net, 100).eval(), language_file[0], images, open_engine(language_file[0]).manifest
    )
    assert not agreement.within(TOLERANCES["fp32"])


CAMERA_HW = (360, 640)


@pytest.fixture(scope="module")
def rendered(tmp_path_factory):
    """Rendered frames of camera size."""
    root = tmp_path_factory.mktemp("rendered") / "set"
    render_sample_set(root, images=5, seed=0, size_hw=CAMERA_HW)
    return comparison_images(small_recipe(), root / "images/100k/train", CAMERA_HW)


@pytest.fixture(scope="module")
def camera_file(checkpoint, model_file, tmp_path_factory):
    path = tmp_path_factory.mktemp("camera") / "model.onnx"
    graph = ModelFileGraph(network_of(checkpoint, source="test"), 100, camera=CameraFrame(CAMERA_HW, SIZE_HW)).eval()
    manifest = open_engine(model_file[0]).manifest
    write_onnx(graph, path, dataclasses.replace(manifest, batch_size=1, camera_hw=CAMERA_HW))
    return path


@pytest.mark.slow
def test_a_file_for_a_camera_gives_the_results_of_the_ordinary_one(model_file, camera_file, rendered):
    """Letterboxed pixels may differ by one grey level, so that nearly undecided classes may differ."""
    ordinary = Perceiver(open_engine(model_file[0], threads=1), score_threshold=0.0)
    fixed = Perceiver(open_engine(camera_file, threads=1), score_threshold=0.0)
    assert (fixed.manifest.camera_hw, fixed.manifest.network_hw) == (CAMERA_HW, SIZE_HW)
    for image in rendered:
        (wanted,), (found,) = ordinary([image]), fixed([image])
        assert found.size_hw == found.semantic.shape == CAMERA_HW
        assert (found.semantic == wanted.semantic).mean() > 0.99
        assert (found.drivable == wanted.drivable).mean() > 0.99
        assert np.abs(found.semantic_confidence.astype(int) - wanted.semantic_confidence).mean() < 1
        count = min(len(found.detections), len(wanted.detections), 20)
        assert count >= 10
        np.testing.assert_allclose(found.detections.scores[:count], wanted.detections.scores[:count], atol=1e-3)
        distance = np.abs(found.detections.boxes_xyxy[:count, None] - wanted.detections.boxes_xyxy).max(2).min(1)
        assert np.median(distance) < 2


@pytest.mark.slow
def test_an_exported_program_is_the_same_model(checkpoint, images, model_file, tmp_path):
    path = tmp_path / "model.pt2"
    assert export({"test": checkpoint}, path, images=images, batch_size=2).within(TOLERANCES["fp32"])
    onnx, program = open_engine(model_file[0], threads=1), open_engine(path)
    assert program.manifest == onnx.manifest
    batch = np.stack(images[:2])
    assert agree([program.infer(batch)], [onnx.infer(batch)]).within(TOLERANCES["fp32"])


def test_an_exported_program_names_no_file_of_the_machine_that_wrote_it(checkpoint, images, tmp_path):
    import zipfile

    recipe = small_recipe(model={"detection": None, "semantic": None, "network_hw": list(SIZE_HW)})
    path = tmp_path / "drivable.pt2"
    export({"test": Checkpoint(recipe, 1, build_model(recipe.model).state_dict())}, path, images=images)
    with zipfile.ZipFile(path) as archive:
        text = b"".join(archive.read(name) for name in archive.namelist() if name.endswith((".json", "manifest")))
    assert b"lvad_training" not in text
    assert b".py" not in text


def test_the_error_for_a_torch_that_is_too_old_names_what_to_install(checkpoint, images, tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "__version__", "2.4.0+cu121")
    wanted = r"export needs torch 2\.14 or newer and this is 2\.4\.0\+cu121; pip install 'lvad_perception\[export\]'"
    with pytest.raises(MissingDependencyError, match=wanted):
        export({"test": checkpoint}, tmp_path / "model.onnx", images=images)
    assert not list(tmp_path.iterdir())


def test_the_extra_brings_the_torch_that_it_needs():
    setup = Path(__file__).resolve().parents[2] / "setup.py"
    assert f'"export": ["torch>={".".join(map(str, export_module.OLDEST_TORCH))}", "onnx' in setup.read_text()
