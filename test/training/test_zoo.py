"""Published detection and segmentation checkpoints: they compute here what the original libraries compute."""

import importlib.util

import numpy as np
import pytest
import torch

from lvad_perception.errors import CheckpointError
from lvad_perception.vocabulary import DETECTION
from lvad_training.build import network_of
from lvad_training.checkpoints import load_checkpoint, save_checkpoint
from lvad_training.cli import main
from lvad_training.samples import PointOutputs
from lvad_training.zoo.importing import import_checkpoint

from .zoo_files import (
    CLASSES,
    FCOS_HW,
    RECORDED,
    SIZE_HW,
    detectron2_sparse_rcnn,
    image,
    mmdet_fcos,
    mmdet_sparse_rcnn,
    mmseg_semantic_fpn,
    official,
)

SMALL = f"model.network_hw=[{SIZE_HW[0]},{SIZE_HW[1]}]"
FILES = {
    "sparse_rcnn": mmdet_sparse_rcnn,
    "fcos": mmdet_fcos,
    "semantic": mmseg_semantic_fpn,
    "drivable": lambda: mmseg_semantic_fpn(3, norm_name="bn"),
}
LIBRARY = {"sparse_rcnn": "mmdet", "fcos": "mmdet", "semantic": "mmseg", "drivable": "mmseg"}


@pytest.fixture
def imported(tmp_path):
    """A function that writes a state dict as its project does and imports it for small images."""

    def convert(state, **beside):
        torch.save({"state_dict": state, **beside}, tmp_path / "published.pth")
        height, width = FCOS_HW if "bbox_head.conv_centerness.weight" in state else SIZE_HW
        return import_checkpoint(tmp_path / "published.pth", [f"model.network_hw=[{height},{width}]"])

    return convert


def computed(checkpoint, task):
    """What the imported network gives for the image, as ``zoo_files.official`` names it."""
    network = network_of(checkpoint, source="test").eval()
    with torch.no_grad():
        normalised = image(checkpoint.recipe.model.network_hw)
        pyramid = network.neck.merge(network.neck.laterals(network.backbone(normalised)))
        if task == "detection":
            found = network.detection(pyramid)
            if isinstance(found, PointOutputs):
                scores, centerness = found.logits[0].sigmoid().numpy(), found.centerness[0].sigmoid().numpy()
                return {"scores": scores, "centerness": centerness, "boxes": found.boxes_xyxy[0].numpy()}
            return {"scores": found.logits[-1][0].sigmoid().numpy(), "boxes": found.boxes_xyxy[-1][0].numpy()}
        return {"logits": getattr(network, task)(pyramid)[0].logits[0].numpy()}


def without_letterbox(checkpoint, state):
    """The proposals as published: what was recorded is of an image without padding."""
    checkpoint.weights["detection.boxes"] = state["rpn_head.init_proposal_bboxes.weight"]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("source", ["recorded", "live"])
def test_it_computes_what_the_original_library_does(name, source, imported):
    if source == "live":
        if importlib.util.find_spec(LIBRARY[name]) is None:
            pytest.skip(f"{LIBRARY[name]} is not installed")
        expected = official(name)
    else:
        expected = dict(np.load(RECORDED / f"{name}.npz"))
    state = FILES[name]()
    checkpoint, report = imported(state)
    assert report.task == ("detection" if LIBRARY[name] == "mmdet" else name)
    assert report.tensors == sum(not each.endswith("num_batches_tracked") for each in checkpoint.weights)
    if name == "sparse_rcnn":
        without_letterbox(checkpoint, state)
    found = computed(checkpoint, report.task)
    assert found.keys() == expected.keys()
    for key, values in expected.items():
        assert np.abs(values).max() > 0.1
        np.testing.assert_allclose(found[key], values, atol=1e-3 if key == "boxes" else 1e-5, rtol=1e-4)


def test_the_recipe_rebuilds_the_network_from_the_file(imported, tmp_path):
    checkpoint, _ = imported(mmdet_sparse_rcnn())
    save_checkpoint(tmp_path / "model.pt", checkpoint)
    again = load_checkpoint(tmp_path / "model.pt")
    assert again.recipe == checkpoint.recipe
    detection = again.recipe.model.detection
    assert (detection.proposals, detection.refinements, detection.dynamic_width, detection.canonical_px) == (
        12,
        2,
        16,
        224,
    )
    assert again.recipe.model.neck_norm == "none"
    np.testing.assert_array_equal(computed(again, "detection")["boxes"], computed(checkpoint, "detection")["boxes"])


def test_proposals_move_into_the_letterbox(tmp_path):
    state = mmdet_sparse_rcnn()
    state["rpn_head.init_proposal_bboxes.weight"] = torch.tensor([[0.5, 0.5, 1, 1], [0.25, 0, 0.5, 0.1]] * 6)
    torch.save(state, tmp_path / "bare.pth")
    checkpoint, _ = import_checkpoint(tmp_path / "bare.pth")
    assert checkpoint.recipe.model.network_hw == (736, 1280)
    boxes = checkpoint.weights["detection.boxes"][:2] * torch.tensor([1280, 736, 1280, 736])
    torch.testing.assert_close(boxes, torch.tensor([[640, 368, 1280, 720], [320, 8, 640, 72]]).float())


def test_peize_suns_file_gives_the_same_network_with_our_classes(imported):
    checkpoint, report = imported(detectron2_sparse_rcnn())
    assert report.layout == "PeizeSun's Sparse R-CNN on detectron2"
    assert "finetune it" in report.to_text()
    coco, _ = imported(mmdet_sparse_rcnn(80))
    assert checkpoint.weights.keys() == coco.weights.keys()
    assert all(
        torch.equal(checkpoint.weights[name], coco.weights[name])
        for name in coco.weights
        if not name.endswith("num_batches_tracked")
    )
    published = mmdet_sparse_rcnn(80)["roi_head.bbox_head.1.fc_cls.weight"]
    traffic_light = DETECTION.names.index("traffic light")
    assert torch.equal(checkpoint.weights["detection.refinements.1.classify.weight"][traffic_light], published[9])


@pytest.mark.parametrize("prefix", ["module.", "ema_model.net."])
def test_a_prefix_of_a_wrapper_is_removed(prefix, imported):
    state = mmseg_semantic_fpn(3)
    plain, _ = imported(state)
    wrapped, report = imported({prefix + name: value for name, value in state.items()})
    assert report.layout == "Semantic FPN of mmsegmentation"
    assert all(torch.equal(wrapped.weights[name], value) for name, value in plain.weights.items())


def test_classes_in_another_order_are_put_into_ours(imported):
    names = DETECTION.names[::-1]
    checkpoint, _ = imported(mmdet_sparse_rcnn(), meta={"CLASSES": names})
    usual, _ = imported(mmdet_sparse_rcnn(), meta={"dataset_meta": {"classes": list(DETECTION.names)}})
    name = "detection.refinements.0.classify.bias"
    assert torch.equal(checkpoint.weights[name], usual.weights[name].flip(0))


def renamed(state, old, new):
    return {name.replace(old, new): value for name, value in state.items()}


REFUSED = {
    "other classes": (
        lambda: (mmdet_sparse_rcnn(), {"meta": {"CLASSES": tuple(f"dog{i}" for i in range(CLASSES))}}),
        r"its classes are not BDD100K's \(dog0, dog1, dog2\); import a file trained on BDD100K",
    ),
    "another number of classes": (
        lambda: (mmdet_sparse_rcnn(91), {}),
        "Sparse R-CNN of mmdetection for 91 classes, not BDD100K's 10 or COCO's 80",
    ),
    "masks of 150 classes": (
        lambda: (mmseg_semantic_fpn(150), {}),
        "for 150 classes, not 19 for semantic segmentation or 3 for drivable area",
    ),
    "deformable convolutions": (
        lambda: ({**mmdet_sparse_rcnn(), "backbone.layer2.0.conv2.conv_offset.weight": torch.zeros(1)}, {}),
        r"deformable convolutions \(dconv\) \(backbone\.layer2\.0\.conv2\.conv_offset\.weight\)",
    ),
    "Caffe": (
        lambda: (mmdet_sparse_rcnn(), {"meta": {"config": "model = dict(backbone=dict(style='caffe'))"}}),
        "Sparse R-CNN of mmdetection on Caffe's ResNet was never published for BDD100K",
    ),
    "FCOS with tricks": (
        lambda: ({**mmdet_fcos(), "bbox_head.cls_convs.0.conv.bias": torch.zeros(64)}, {}),
        r"FCOS of mmdetection with other layers than published ones \(its towers' convolutions have a bias",
    ),
    "another detector": (
        lambda: ({"rpn_head.rpn_conv.weight": torch.zeros(1), "roi_head.x": torch.zeros(1)}, {}),
        r"not a checkpoint that can be imported \(.*\); its tensors begin with rpn_head\.rpn_conv\.weight, roi_head\.x",
    ),
    "a tensor too few": (
        lambda: ({k: v for k, v in mmdet_sparse_rcnn().items() if "layer3.5.conv3" not in k}, {}),
        r"its weights do not fit .* first backbone\.features\.layer3\.5\.conv3\.weight",
    ),
    "a tensor too many": (
        lambda: ({**mmdet_sparse_rcnn(), "roi_head.bbox_head.0.more.weight": torch.zeros(1)}, {}),
        r"its weights do not fit .* first detection\.refinements\.0\.more\.weight",
    ),
    "no head": (
        lambda: ({k: v for k, v in mmdet_sparse_rcnn().items() if ".ffn." not in k}, {}),
        r"Sparse R-CNN of mmdetection with other layers than published ones \(KeyError: .*ffn\.layers\.0\.0\.weight",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused_by_name(case, imported):
    make, message = REFUSED[case]
    state, beside = make()
    with pytest.raises(CheckpointError, match=message):
        imported(state, **beside)


def test_a_file_that_is_not_there_is_not_called_a_backbone(tmp_path, capsys):
    assert main(["import", str(tmp_path / "gone.pth"), "--output", str(tmp_path / "model.pt")]) == 2
    assert capsys.readouterr().err.endswith("gone.pth: no such file; check the path of the published checkpoint\n")


def test_the_command(tmp_path, capsys):
    torch.save({"state_dict": mmseg_semantic_fpn()}, tmp_path / "fpn.pth")
    assert main(["import", str(tmp_path / "fpn.pth"), "--output", str(tmp_path / "semantic.pt"), "--set", SMALL]) == 0
    said = capsys.readouterr().out
    assert "Semantic FPN of mmsegmentation, task semantic; all 314 tensors have their place" in said
    assert load_checkpoint(tmp_path / "semantic.pt").recipe.model.tasks == ("semantic",)
