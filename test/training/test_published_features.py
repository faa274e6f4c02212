"""Backbones from published files give their own features, on images normalised in this package's way."""

import warnings

import pytest
import timm
import torch
from torch import nn

from lvad_perception.errors import CheckpointError, ConfigError
from lvad_training.model.layouts import CLIP, IMAGENET, NONE
from lvad_training.model.multitask import IMAGENET_MEAN, IMAGENET_STD
from lvad_training.model.published import load_published, load_timm, timm_weights

from .published_files import (
    FC,
    NARROW,
    assert_same,
    clip_file,
    narrow_clip,
    prefixed,
    resnet,
    shortcut_first,
    simclr_v2,
    without_counters,
)

pytestmark = pytest.mark.usefixtures("seeded")


class Archive(nn.Module):
    """OpenAI publishes RN50.pt as TorchScript: the model as ``visual`` and the text tower beside it."""

    def __init__(self, tower):
        super().__init__()
        self.visual = tower
        self.positional_embedding = nn.Parameter(torch.zeros(77, 8))
        self.register_buffer("input_resolution", torch.tensor(224))

    def forward(self, image):
        return self.visual(image)


@pytest.fixture(params=["open_clip state dict", "DataParallel", "half precision", "OpenAI archive"])
def clip_published(request, tmp_path):
    backbone, tower = narrow_clip()
    path = tmp_path / "RN50.pt"
    content = clip_file(tower)
    if request.param == "open_clip state dict":
        torch.save({"epoch": 32, "name": "RN50", "state_dict": content}, path)
    elif request.param == "DataParallel":
        torch.save({"state_dict": prefixed("module.", content)}, path)
    elif request.param == "half precision":
        tower.half()
        torch.save(clip_file(tower), path)
        tower.float()
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # tracing attention warns a lot, and TorchScript is deprecated
            torch.jit.trace(Archive(tower), torch.zeros(1, 3, 224, 224), check_trace=False).save(str(path))
    return backbone, tower, path


def padded(images, conv, normalisation):
    """Images normalised for the published network, with the padding that they have here: ImageNet's mean colour."""
    colour = torch.tensor(IMAGENET[0]).view(1, 3, 1, 1)
    border = conv.padding[0]
    conv.padding = (0, 0)
    return normalised(nn.functional.pad(images - colour, 4 * [border]) + colour, normalisation)


def clip_levels(tower, images):
    """CLIP's four stages, by its own forward without the attention pool."""
    x = tower.stem(images)
    levels = []
    for stage in (tower.layer1, tower.layer2, tower.layer3, tower.layer4):
        x = stage(x)
        levels.append(x)
    return levels


def test_clip_gives_its_own_features_on_images_normalised_for_imagenet(clip_published):
    backbone, tower, path = clip_published
    report = load_published(backbone, path)
    assert report.layout == "CLIP"
    assert (report.matched, report.missing, report.folded) == (275, (), True)
    assert report.left_out["attnpool"] == 9
    assert report.left_out["positional_embedding"] == 1
    assert report.normalisation == CLIP
    assert "attnpool (CLIP's attention pool, 9)" in report.to_text()
    assert "folded into the first convolution" in report.to_text()

    images = torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        ours = backbone.eval()(normalised(images, IMAGENET))
        unfolded = clip_levels(tower, normalised(images, IMAGENET))
        theirs = clip_levels(tower, padded(images, tower.conv1, CLIP))
    for level, expected, other in zip(ours, theirs, unfolded, strict=True):
        torch.testing.assert_close(level, expected, rtol=1e-3, atol=1e-3)
        assert not torch.allclose(level, other, rtol=1e-2, atol=1e-2)  # so the folding matters


def normalised(images, normalisation):
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in normalisation)
    return (images - mean) / std


def test_this_package_normalises_as_the_loader_believes():
    for values, ours in zip(IMAGENET, (IMAGENET_MEAN, IMAGENET_STD), strict=True):
        assert [255 * value for value in values] == pytest.approx(list(ours))


@pytest.mark.parametrize("method", ["SimCLR v1 by simclr-converter", "SimCLR v2 by SimCLRv2-Pytorch"])
def test_converted_simclr_gives_its_own_features(method, tmp_path):
    published = resnet().eval()
    tensors = published.features.state_dict()
    if "v1" in method:
        torch.save({"state_dict": {**shortcut_first(tensors), **FC}}, tmp_path / "simclr.pth")
    else:
        torch.save(
            {"resnet": {**simclr_v2(tensors), **FC}, "head": {"layers.0.weight": torch.zeros(2)}},
            tmp_path / "simclr.pth",
        )
    backbone = resnet().eval()
    report = load_published(backbone, tmp_path / "simclr.pth")
    assert report.layout == method.split(" by ")[1]
    assert (report.matched, report.left_out) == (265, {"fc": 2})
    assert (report.normalisation, report.folded) == (NONE, True)
    first = {"conv1.weight", "bn1.running_mean"}
    assert_same(backbone, {name: value for name, value in without_counters(tensors).items() if name not in first})
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        ours = backbone(normalised(images, IMAGENET))
        theirs = published(padded(images, published.features.conv1, NONE))
    for level, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(level, expected, rtol=1e-3, atol=1e-3)


def test_timm_weights_are_loaded_and_their_normalisation_is_folded(monkeypatch):
    published = timm.create_model("resnet50", **NARROW)
    published.pretrained_cfg = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
    asked = []

    def create_model(name, pretrained):
        asked.append((name, pretrained))
        return published

    backbone = resnet()
    monkeypatch.setattr(timm, "create_model", create_model)
    report = load_timm(backbone, "resnet50", "a1_in1k")
    assert asked == [("resnet50.a1_in1k", True)]
    assert (report.source, report.layout, report.folded) == ("resnet50.a1_in1k", "timm", True)
    assert torch.equal(backbone.features.layer1[0].conv1.weight, published.layer1[0].conv1.weight)
    torch.testing.assert_close(backbone.features.conv1.weight[:, 0], published.conv1.weight[:, 0] * 0.229 / 0.5)


def test_timm_weights_that_do_not_exist_or_cannot_be_reached(monkeypatch):
    with pytest.raises(ConfigError, match=r"timm publishes no weights best for resnet50; it has .*timm:a1_in1k"):
        timm_weights("resnet50", "best")
    with pytest.raises(ConfigError, match="no weights at all for test_nothing; it has none"):
        timm_weights("test_nothing")

    def create_model(name, pretrained):
        raise OSError("Network is unreachable")

    monkeypatch.setattr(timm, "create_model", create_model)
    with pytest.raises(
        CheckpointError, match=r"cannot download the weights of resnet50 \(OSError\); connect to the int"
    ):
        timm_weights("resnet50")
