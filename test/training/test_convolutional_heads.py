"""FCOS and Semantic FPN in the place of the heads of queries: the same inputs, outputs, losses and model file."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from lvad_perception.engines import open_engine
from lvad_perception.engines.agreement import TOLERANCES, agree
from lvad_perception.postprocess import to_predictions
from lvad_perception.types import Letterbox
from lvad_training.boxes import NmsSettings
from lvad_training.build import build_criterion, build_model
from lvad_training.checkpoints import Checkpoint
from lvad_training.decoding.decode import decode, decode_masks, decode_points
from lvad_training.export.model_file import export
from lvad_training.model.fcos import FcosHead
from lvad_training.model.semantic_fpn import SemanticFpnHead
from lvad_training.samples import Batch, Outputs, PixelOutputs, PointOutputs
from lvad_training.training.loop import to_raw

from .conftest import SIZE_HW, SMALL_CONVOLUTIONS, StubEncoder, small_recipe

RECIPE = small_recipe(model=SMALL_CONVOLUTIONS)


@pytest.fixture
def conv_net():
    torch.manual_seed(0)
    return build_model(RECIPE.model)


@pytest.fixture
def conv_criterion():
    return build_criterion(RECIPE.model, RECIPE.loss)


def test_every_point_and_every_pixel_has_a_prediction(conv_net, batch):
    outputs = conv_net(batch.images)
    points = sum((64 // s) * (96 // s) for s in (4, 8, 16, 32)) + 1 * 2  # stride 64 rounds up
    assert outputs.detection.logits.shape == (2, points, 10)
    assert outputs.detection.boxes_xyxy.shape == (2, points, 4)
    assert outputs.detection.centerness.shape == (2, points)
    assert outputs.detection.points_xy.shape == (points, 2)
    assert outputs.detection.strides.unique().tolist() == [4, 8, 16, 32, 64]
    assert outputs.semantic.logits.shape == (2, 19, 16, 24)
    assert outputs.drivable.logits.shape == (2, 3, 16, 24)
    assert outputs.semantic_pixels is None


def test_a_fresh_box_is_one_stride_around_its_point_and_nearly_background(conv_net, batch):
    found = conv_net(batch.images).detection
    sides = (found.boxes_xyxy - found.points_xy.repeat(1, 2)).abs() / found.strides[:, None]
    assert ((sides > 0.5) & (sides < 2)).all()
    assert found.logits.sigmoid().max() < 0.1


def test_boxes_follow_regression_scale_and_stride():
    rule = NmsSettings(candidates=10, overlap=0.6, least_score=0.05)
    head = FcosHead(
        classes=2,
        in_width=4,
        in_strides=(4, 8),
        strides=(8, 16),
        width=4,
        convolutions=1,
        norm="group",
        nms=rule,
    )
    torch.nn.init.zeros_(head.regress.weight)
    with torch.no_grad():
        head.regress.bias.copy_(torch.tensor([0.0, 1, 2, 100]))
        head.scales.copy_(torch.tensor([1.0, 0.5]))
    found = head([torch.rand(1, 4, 8, 8), torch.rand(1, 4, 4, 4)])
    e = torch.e
    largest = 1000 / 16
    torch.testing.assert_close(
        found.boxes_xyxy[0, 0], torch.tensor([4 - 8, 4 - 8 * e, 4 + 8 * e**2, 4 + 8 * largest]), rtol=1e-5, atol=1e-3
    )
    torch.testing.assert_close(
        found.boxes_xyxy[0, 16], torch.tensor([8 - 16, 8 - 16 * e**0.5, 8 + 16 * e, 8 + 16 * largest])
    )


@pytest.mark.parametrize(("norm", "own"), [("group", 1), ("batch", 5)])
def test_levels_share_convolutions_and_each_has_its_own_batch_statistics(norm, own):
    detection = {**SMALL_CONVOLUTIONS["detection"], "norm": norm}
    head = build_model(small_recipe(model={**SMALL_CONVOLUTIONS, "detection": detection}).model).detection
    assert [len(norms) for norms in head.class_tower.norms] == [own, own]


def test_a_batch_equals_its_images_one_by_one(conv_net, batch):
    conv_net.eval()
    together = conv_net(batch.images)
    for index in range(2):
        alone = conv_net(batch.images[index : index + 1])
        torch.testing.assert_close(together.detection.boxes_xyxy[index], alone.detection.boxes_xyxy[0])
        torch.testing.assert_close(together.semantic.logits[index], alone.semantic.logits[0], atol=1e-5, rtol=1e-4)


def test_every_parameter_learns_from_a_full_batch(conv_net, conv_criterion, batch):
    terms = conv_criterion(conv_net(batch.images), batch)
    assert list(terms) == ["box_class", "box_giou", "box_centerness", "semantic_pixel", "drivable_pixel"]
    sum(terms.values()).backward()
    assert [name for name, parameter in conv_net.named_parameters() if parameter.grad is None] == []


def test_a_task_without_annotation_contributes_nothing(conv_net, conv_criterion, batch, targets):
    nothing = [targets(boxes=None, semantic=False, drivable=False)] * 2
    outputs = conv_net(batch.images)
    assert conv_criterion(outputs, Batch(batch.names, batch.images, nothing)) == {}
    only = [nothing[0], targets(boxes=None, semantic=False)]
    assert set(conv_criterion(outputs, Batch(batch.names, batch.images, only))) == {"drivable_pixel"}


def test_the_finest_level_of_the_segmentation_head_is_not_enlarged():
    head = SemanticFpnHead(classes=3, in_width=4, levels=4, width=8, norm="group")
    assert [len(branch) for branch in head.branches] == [1, 1, 2, 3]
    pyramid = [torch.rand(1, 4, 32 // 2**level, 64 // 2**level) for level in range(4)]
    outputs, auxiliary = head(pyramid)
    assert outputs.logits.shape == (1, 3, 32, 64)
    assert auxiliary is None


def test_the_segmentation_head_adds_the_outputs_of_its_branches():
    head = SemanticFpnHead(classes=3, in_width=4, levels=4, width=8, norm="group").eval()
    pyramid = [torch.rand(1, 4, 32 // 2**level, 64 // 2**level) for level in range(4)]
    merged = []
    for number, (x, branch) in enumerate(zip(pyramid, head.branches, strict=True)):
        for convolution in branch:
            x = convolution(x).relu()
            if number > 0:
                x = functional.interpolate(x, scale_factor=2, mode="bilinear")
        merged.append(x)
    torch.testing.assert_close(head(pyramid)[0].logits, head.classify(sum(merged)))


def points(boxes, scores, *, candidates=100):
    """A head's outputs for one image: class logits and a centre-ness whose geometric means are the scores [N, C]."""
    scores, boxes = torch.tensor(scores), torch.tensor([boxes], dtype=torch.float32)
    logits = scores.square().logit()[None]
    rule = NmsSettings(candidates=candidates, overlap=0.6, least_score=0.05)
    zeros = torch.zeros(boxes.shape[1])
    return PointOutputs(logits, torch.full(boxes.shape[:2], 40.0), boxes, zeros[:, None].expand(-1, 2), zeros, rule)


def test_the_best_box_of_each_object_is_kept_and_the_rest_is_padding():
    boxes = [[0, 0, 20, 20], [1, 1, 21, 21], [40, 0, 120, 20], [60, 40, 70, 50]]
    scores = [[0.7, 0.1], [0.9, 0.02], [0.5, 0.6], [0.04, 0.03]]
    found, said, labels = decode_points(points(boxes, scores), (32, 96), 5)
    torch.testing.assert_close(said, torch.tensor([[0.9, 0.6, 0.5, 0.1, 0]]))
    assert labels.tolist() == [[0, 1, 0, 1, 0]]
    assert labels.dtype == torch.int32
    inside = [[1, 1, 21, 21], [40, 0, 96, 20], [40, 0, 96, 20], [0, 0, 20, 20], [0, 0, 0, 0]]
    assert found[0].tolist() == inside


def test_only_the_best_points_take_part_and_padding_reaches_no_user():
    boxes = [[10 * index, 0, 10 * index + 8, 8] for index in range(6)]
    said = points(boxes, [[0.3 + 0.1 * index] for index in range(6)], candidates=2)
    decoded = decode(Outputs(said, None, None), (32, 96), 4)
    torch.testing.assert_close(decoded.scores, torch.tensor([[0.8, 0.7, 0, 0]]))
    box = Letterbox((32, 96), (32, 96), (32, 96), top=0, left=0)
    assert len(to_predictions(to_raw(decoded), 0, box).detections) == 2


def test_pixels_are_the_most_likely_class_and_its_share():
    logits = torch.zeros((1, 3, 2, 2))
    logits[0, 2, 0], logits[0, 1, 1] = 9.0, np.log(2.0)
    label_map, confidence = decode_masks(PixelOutputs(logits), (8, 8))
    assert label_map[0, :3].unique().tolist() == [2]
    assert label_map[0, 6:].unique().tolist() == [1]
    assert confidence[0, 0].float().mean() == 255
    assert confidence[0, 7].unique().tolist() == [round(0.5 * 255 + 1e-9)]


@pytest.mark.parametrize("stride", [2, 4])
def test_classes_chosen_at_a_coarser_stride_are_repeated_in_blocks(stride):
    logits = torch.randn((2, 5, 8, 12), generator=torch.Generator().manual_seed(1))
    label_map, confidence = decode_masks(PixelOutputs(logits, label_stride=stride), (32, 48))
    assert label_map.shape == confidence.shape == (2, 32, 48)
    assert label_map.dtype == confidence.dtype == torch.uint8
    shares = functional.interpolate(logits.softmax(1), size=(32 // stride, 48 // stride), mode="bilinear")
    share, label = shares.max(dim=1)
    for found, wanted in ((label_map, label), (confidence, (255 * share).round())):
        for row in range(stride):
            for column in range(stride):
                torch.testing.assert_close(found[:, row::stride, column::stride], wanted.to(torch.uint8))


def test_two_images_are_learned_by_heart(conv_net, conv_criterion, targets):
    images = torch.randint(0, 256, (2, 3, *SIZE_HW), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    learned = Batch(["one", "two"], images, [targets(boxes=2, seed=3), targets(boxes=3, seed=4)])
    optimizer = torch.optim.AdamW(conv_net.parameters(), lr=5e-3)
    for _ in range(60):
        optimizer.zero_grad()
        sum(conv_criterion(conv_net(images), learned).values()).backward()
        optimizer.step()
    conv_net.train()  # with the statistics of these two images, which is all that there is
    with torch.no_grad():
        decoded = decode(conv_net(images), SIZE_HW, 10)
    for index, truth in enumerate(learned.targets):
        count = len(truth.labels)
        order = decoded.boxes[index, :count, 0].argsort()
        wanted = truth.boxes_xyxy[:, 0].argsort()
        assert (decoded.boxes[index, :count][order] - truth.boxes_xyxy[wanted]).abs().max() < 3
        assert decoded.labels[index, :count][order].tolist() == truth.labels[wanted].tolist()
        assert decoded.scores[index, :count].min() > 0.5
        assert (decoded.semantic[index] == truth.semantic).float().mean() > 0.8


def test_language_updates_the_pyramid_whatever_the_heads_are(batch):
    """The paper shows the adapter with heads of queries only; it meets z5, which all heads look at."""
    language = {"context": 2, "width": 16, "heads": 2, "layers": 1, "gamma": 1.0}
    recipe = small_recipe(model={**SMALL_CONVOLUTIONS, "language": language})
    net = build_model(recipe.model, encoder=StubEncoder())
    terms = build_criterion(recipe.model, recipe.loss)(net(batch.images), batch)
    terms["box_giou"].backward()
    assert all(context.grad.abs().sum() > 0 for context in net.prompts.contexts.values())


@pytest.fixture(scope="module")
def conv_checkpoint():
    torch.manual_seed(3)
    detection = {**SMALL_CONVOLUTIONS["detection"], "convolutions": 1, "strides": [8, 16, 32, 64]}
    recipe = small_recipe(model={**SMALL_CONVOLUTIONS, "detection": detection, "max_detections": 20})
    net = build_model(recipe.model)
    torch.nn.init.normal_(net.detection.regress.weight, std=0.2)  # boxes of many sizes, of which some overlap
    torch.nn.init.normal_(net.detection.classify.weight, std=0.2)
    for _ in range(3):
        net(torch.randint(0, 256, (2, 3, *SIZE_HW), dtype=torch.uint8))
    return Checkpoint(recipe, 7, net.state_dict())


@pytest.fixture(scope="module")
def conv_file(conv_checkpoint, images, tmp_path_factory):
    pytest.importorskip("onnxscript", reason="the extra export is not installed")
    path = tmp_path_factory.mktemp("conv") / "model.onnx"
    return path, export({"test": conv_checkpoint}, path, images=images, batch_size=2)


@pytest.mark.slow
def test_the_model_file_agrees_with_torch_and_promises_what_the_other_heads_do(conv_file, images):
    path, agreement = conv_file
    assert agreement.within(TOLERANCES["fp32"])
    assert agreement.boxes > 50
    engine = open_engine(path, threads=1)
    names = ("boxes", "scores", "labels", "semantic", "semantic_confidence", "drivable")
    assert engine.manifest.output_names == names
    assert engine.manifest.max_detections == 20
    outputs = engine.infer(np.stack(images[:2]))
    assert outputs.boxes.shape == (2, 20, 4)
    assert (np.diff(outputs.scores) <= 0).all()
    assert outputs.semantic.dtype == outputs.drivable.dtype == np.uint8


@pytest.mark.slow
def test_an_exported_program_is_the_same_model_and_needs_nothing_of_this_package(
    conv_file, conv_checkpoint, images, tmp_path
):
    import zipfile

    path = tmp_path / "model.pt2"
    assert export({"test": conv_checkpoint}, path, images=images[:2], batch_size=2).within(TOLERANCES["fp32"])
    found = open_engine(path).infer(np.stack(images[:2]))
    wanted = open_engine(conv_file[0], threads=1).infer(np.stack(images[:2]))
    assert agree([found], [wanted]).within(TOLERANCES["fp32"])
    with zipfile.ZipFile(path) as archive:
        assert not any(b"lvad.suppress" in archive.read(name) for name in archive.namelist())
