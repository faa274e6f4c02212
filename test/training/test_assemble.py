"""One model file from checkpoints of several tasks: each task as its own network computes it, equal parts once."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from lvad_perception.engines import open_engine
from lvad_perception.engines.agreement import TOLERANCES, agree, copied
from lvad_perception.perceiver import Perceiver
from lvad_perception.vocabulary import TASKS
from lvad_training.build import build_model, network_of
from lvad_training.checkpoints import Checkpoint, load_checkpoint, save_checkpoint
from lvad_training.cli import main
from lvad_training.decoding.decode import decode
from lvad_training.export.assembly import network_from
from lvad_training.model.backbone import Backbone

from .conftest import SIZE_HW, SMALL_CONVOLUTIONS, SMALL_HEAD, StubEncoder, small_recipe

ALONE = dict.fromkeys(TASKS)
DETECTOR = {**SMALL_HEAD, "proposals": 20, "refinements": 2, "dynamic_width": 4, "pool_size": 3}
PARTS = {
    "detection": {**ALONE, "detection": DETECTOR, "score_threshold": 0.1, "max_detections": 15},
    "semantic": {**ALONE, "semantic": SMALL_CONVOLUTIONS["semantic"], "neck_norm": "none"},
    "drivable": {**ALONE, "drivable": SMALL_CONVOLUTIONS["drivable"], "neck_norm": "none"},
}
STEPS = {"detection": 5, "semantic": 6, "drivable": 7}


def trained(task, *, seed, **model):
    """A checkpoint of one task with BatchNorm statistics of use, not those of initialisation."""
    torch.manual_seed(seed)
    recipe = small_recipe(model={**PARTS[task], **model}, train={"seed": seed})
    net = build_model(recipe.model).train()
    for _ in range(3):
        net(torch.randint(0, 256, (2, 3, *SIZE_HW), dtype=torch.uint8))
    return Checkpoint(recipe, STEPS[task], net.state_dict())


def with_parts_of(checkpoint, other, *prefixes):
    """A checkpoint with the tensors of another under these prefixes, but for BatchNorm's counters."""
    taken = {name: value for name, value in other.weights.items() if name.startswith(prefixes)}
    counters = {name: value + 1 for name, value in taken.items() if name.endswith("num_batches_tracked")}
    return Checkpoint(checkpoint.recipe, checkpoint.step, {**checkpoint.weights, **taken, **counters})


@pytest.fixture(scope="module")
def checkpoints():
    """Three networks: the two of masks have the same backbone and neck."""
    found = {task: trained(task, seed=seed) for seed, task in enumerate(TASKS, 1)}
    found["drivable"] = with_parts_of(found["drivable"], found["semantic"], "backbone.", "neck.")
    return found


@pytest.fixture
def files(checkpoints, tmp_path):
    """The same as files, by task."""
    for task, checkpoint in checkpoints.items():
        save_checkpoint(tmp_path / f"{task}.pt", checkpoint)
    return {task: str(tmp_path / f"{task}.pt") for task in checkpoints}


def backbones_run(checkpoints):
    """How many times backbones and necks run for an image of the assembled network."""
    net = network_from(checkpoints).eval()
    counts = {"backbones": 0, "necks": 0}

    def count(kind):
        def hook(*_):
            counts[kind] += 1

        return hook

    for module in net.modules():
        if isinstance(module, Backbone):
            module.register_forward_hook(count("backbones"))
    for neck in {network.neck for network in net.networks}:
        neck.output[0].register_forward_hook(count("necks"))
    with torch.no_grad():
        net(torch.zeros(1, 3, *SIZE_HW, dtype=torch.uint8))
    return counts["backbones"], counts["necks"]


def test_each_task_is_what_its_own_network_computes(checkpoints, images):
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
    with torch.no_grad():
        together = decode(network_from(checkpoints).eval()(pixels), SIZE_HW, 15)
        alone = {
            task: decode(network_of(checkpoint, source=task).eval()(pixels), SIZE_HW, 15)
            for task, checkpoint in checkpoints.items()
        }
    for name, task in {
        "boxes": "detection",
        "scores": "detection",
        "labels": "detection",
        "semantic": "semantic",
        "semantic_confidence": "semantic",
        "drivable": "drivable",
    }.items():
        assert torch.equal(getattr(together, name), getattr(alone[task], name)), name
    assert len(together.semantic.unique()) > 1


def test_equal_parts_run_once(checkpoints):
    assert backbones_run(checkpoints) == (2, 2)
    detection, semantic, drivable = checkpoints.values()
    backbone_alone = {**checkpoints, "drivable": with_parts_of(trained("drivable", seed=8), semantic, "backbone.")}
    assert backbones_run(backbone_alone) == (2, 3)
    neck_alone = {**checkpoints, "drivable": with_parts_of(trained("drivable", seed=8), semantic, "neck.")}
    assert backbones_run(neck_alone) == (3, 3)
    other = {name: value.clone() for name, value in drivable.weights.items()}
    other["backbone.features.layer4.0.bn1.running_var"][0] += 1e-6
    changed = Checkpoint(drivable.recipe, 7, other)
    assert backbones_run({"a": detection, "b": semantic, "c": changed}) == (3, 3)


def test_the_same_weights_in_another_architecture_are_not_shared():
    bottleneck = {"name": "resnet50", "options": {"channels": [4, 4, 8, 8], "stem_width": 8}}
    semantic = trained("semantic", seed=1, backbone=bottleneck)
    same = trained("drivable", seed=2, backbone=bottleneck)
    moved = trained("drivable", seed=2, backbone={**bottleneck, "stride_in": "1x1"})
    assert backbones_run({"a": semantic, "b": with_parts_of(same, semantic, "backbone.", "neck.")}) == (1, 1)
    assert backbones_run({"a": semantic, "b": with_parts_of(moved, semantic, "backbone.", "neck.")}) == (2, 2)


def test_a_network_with_language_keeps_its_own_pyramid(images):
    language = {"context": 5, "width": 16, "heads": 2, "layers": 1, "gamma": 0.5}
    plain = trained("semantic", seed=1)
    encoder = StubEncoder(width=20, token_width=7)
    recipe = small_recipe(model={**PARTS["drivable"], "language": language})
    torch.manual_seed(2)
    net = build_model(recipe.model, encoder=encoder)
    net.fold_prompts()
    spoken = Checkpoint(recipe, 7, net.state_dict(), text_encoder=encoder.metadata.to_dict())
    spoken = Checkpoint(
        recipe, 7, with_parts_of(spoken, plain, "backbone.", "neck.").weights, text_encoder=spoken.text_encoder
    )
    assert backbones_run({"a": plain, "b": spoken}) == (1, 2)
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
    with torch.no_grad():
        together = network_from({"a": plain, "b": spoken}).eval()(pixels)
        alone = network_of(spoken, source="b").eval()(pixels)
    assert torch.equal(together.drivable.logits, alone.drivable.logits)


@pytest.fixture(scope="module")
def assembled(checkpoints, tmp_path_factory, blobs):
    """The file that the command writes of checkpoints in another order than the outputs'."""
    pytest.importorskip("onnxscript", reason="the extra export is not installed")
    folder = tmp_path_factory.mktemp("assembled")
    for task, checkpoint in checkpoints.items():
        save_checkpoint(folder / f"{task}.pt", checkpoint)
    names = [str(folder / f"{task}.pt") for task in ("drivable", "detection", "semantic")]
    images = blobs / "images/100k/val"
    assert main(["assemble", *names, str(folder / "model.onnx"), "--batch", "2", "--images", str(images)]) == 0
    return folder / "model.onnx"


def convolutions(path):
    import onnx

    return sum(node.op_type == "Conv" for node in onnx.load(str(path)).graph.node)


@pytest.mark.slow
def test_the_graph_has_equal_backbones_once(assembled, files, blobs, tmp_path):
    images = str(blobs / "images/100k/val")
    alone = {}
    for task, name in files.items():
        assert main(["export", name, str(tmp_path / f"{task}.onnx"), "--images", images]) == 0
        alone[task] = convolutions(tmp_path / f"{task}.onnx")
    net = network_of(load_checkpoint(Path(files["drivable"])), source="test")
    shared = sum(isinstance(m, torch.nn.Conv2d) for part in (net.backbone, net.neck) for m in part.modules())
    assert shared > 20
    assert convolutions(assembled) == sum(alone.values()) - shared


@pytest.mark.slow
def test_the_manifest_has_all_tasks_and_origins(assembled, checkpoints):
    manifest = open_engine(assembled, threads=1).manifest
    assert manifest.output_names == ("boxes", "scores", "labels", "semantic", "semantic_confidence", "drivable")
    assert manifest.classes == {task: vocabulary.names for task, vocabulary in TASKS.items()}
    assert (manifest.score_threshold, manifest.max_detections, manifest.network_hw) == (0.1, 15, SIZE_HW)
    assert manifest.preset == "tiny"
    origins = manifest.training["networks"]
    assert [(origin["tasks"], origin["steps"], origin["seed"]) for origin in origins] == [
        (["detection"], 5, 1),
        (["semantic"], 6, 2),
        (["drivable"], 7, 3),
    ]
    digests = {manifest.weights_sha256, *(origin["weights_sha256"] for origin in origins)}
    assert len(digests) == 4
    assert json.loads(manifest.to_json())["training"] == manifest.training


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["OpenVINO", "PyTorch"])
def test_other_runtimes_compute_the_same(runtime, assembled, files, blobs, images, tmp_path):
    batch = np.stack(images[:2])
    wanted = copied(open_engine(assembled, threads=1).infer(batch))
    if runtime == "OpenVINO":
        pytest.importorskip("openvino", reason="openvino is not installed")
        from lvad_perception.engines.openvino import OpenVinoEngine

        engine = OpenVinoEngine(assembled, precision="fp32", threads=1)
    else:
        path = tmp_path / "model.pt2"
        names = [files[task] for task in ("detection", "semantic", "drivable")]
        assert main(["assemble", *names, str(path), "--batch", "2", "--images", str(blobs / "images/100k/val")]) == 0
        engine = open_engine(path)
    assert agree([copied(engine.infer(batch))], [wanted], TOLERANCES["fp32"]).within(TOLERANCES["fp32"])


@pytest.mark.slow
def test_the_perceiver_runs_it(assembled, images):
    with Perceiver(open_engine(assembled, threads=1), score_threshold=0.0) as perceiver:
        found = perceiver(images)
    for predictions in found:
        assert len(predictions.detections) == 15
        assert predictions.semantic.shape == predictions.drivable.shape == SIZE_HW


REFUSED = {
    "the same task": (
        lambda files: [files["semantic"], files["other"]],
        r"semantic\.pt and \S+other\.pt both have the task semantic; give one checkpoint for each task",
        {"task": "semantic"},
    ),
    "another size": (
        lambda files: [files["semantic"], files["other"]],
        r"semantic\.pt has the network size 96x64 and \S+other\.pt 128x96; name one for all with --size, such as",
        {"task": "drivable", "network_hw": [96, 128]},
    ),
    "the classes of another data set": (
        lambda files: [files["drivable"], files["other"]],
        r"has the classes of bdd100k and \S+other\.pt those of nuimages; give checkpoints that learned the classes of",
        {"task": "semantic", "vocabulary": "nuimages"},
    ),
    "twice the same file": (
        lambda files: [files["semantic"], files["semantic"]],
        r"semantic\.pt is named twice; name each checkpoint once, and the model file last",
        {"task": "drivable"},
    ),
    "no model file": (
        lambda files: [files["semantic"], files["drivable"], files["other"]],
        r"other\.pt: a model file ends in \.onnx or \.pt2; name it so",
        {"task": "detection"},
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_go_together_is_refused(case, files, blobs, tmp_path, capsys):
    arguments, message, model = REFUSED[case]
    files = {**files, "other": str(tmp_path / "other.pt")}
    save_checkpoint(tmp_path / "other.pt", trained(model.pop("task"), seed=9, **model))
    model_file = [] if case == "no model file" else [str(tmp_path / "model.onnx")]
    images = ["--images", str(blobs / "images/100k/val")]
    assert main(["assemble", *arguments(files), *model_file, *images]) == 2
    assert not (tmp_path / "model.onnx").exists()
    assert re.search(message, capsys.readouterr().err)
