"""Backbones from files as their projects publish them: which layout each is, and what is refused."""

import argparse
import pickle

import pytest
import timm
import torch
from safetensors.torch import save_file

from lvad_perception.errors import CheckpointError
from lvad_training.checkpoints import Checkpoint, save_checkpoint
from lvad_training.model.layouts import architecture_name
from lvad_training.model.published import load_published

from .published_files import (
    FC,
    LAYOUTS,
    NARROW,
    assert_same,
    by_other_names,
    clip_file,
    narrow_clip,
    prefixed,
    randomise,
    resnet,
    v1c,
    without_counters,
)

pytestmark = pytest.mark.usefixtures("seeded")


@pytest.mark.parametrize("method", LAYOUTS)
def test_each_published_layout_is_recognised_and_loaded(method, tmp_path):
    content, layout, left_out = LAYOUTS[method]
    tensors = resnet().features.state_dict()
    torch.save(content(tensors), tmp_path / "published.pth.tar")
    backbone = resnet()
    report = load_published(backbone, tmp_path / "published.pth.tar")
    assert_same(backbone, without_counters(tensors))
    assert report.layout.startswith(layout)
    assert (report.matched, report.missing, report.left_out) == (265, (), left_out)
    assert not report.folded
    assert "265 of the backbone's 265 tensors loaded" in report.to_text()


@pytest.mark.parametrize("whole", [True, False])
def test_resnet_v1c_of_mmsegmentation(whole, tmp_path):
    source, target = (resnet("resnet50c", NARROW) for _ in range(2))
    tensors = source.features.state_dict()
    content = v1c(tensors)
    assert {"stem.0.weight", "stem.7.running_mean", "layer4.2.conv3.weight"} <= content.keys()
    if whole:
        head = {"decode_head.conv_seg.weight": torch.zeros(2), "neck.lateral_convs.0.conv.weight": torch.zeros(2)}
        content = {"meta": {}, "state_dict": {**prefixed("backbone.", content), **head}}
    torch.save(content, tmp_path / "fpn.pth")
    report = load_published(target, tmp_path / "fpn.pth")
    assert_same(target, without_counters(tensors))
    assert report.layout == "ResNetV1c of mmsegmentation"
    assert (report.matched, report.missing, report.folded) == (len(without_counters(tensors)), (), False)
    assert report.left_out == ({"decode_head": 1, "neck": 1} if whole else {})
    if not whole:
        wide = resnet("resnet50c", {}).features.state_dict()
        torch.save(v1c(wide), tmp_path / "resnet50_v1c.pth")
        with pytest.raises(CheckpointError, match=r"set model\.backbone\.name to resnet50c$"):
            load_published(resnet("resnet50", {}), tmp_path / "resnet50_v1c.pth")


def test_safetensors(tmp_path):
    tensors = resnet().features.state_dict()
    save_file({**tensors, **FC}, tmp_path / "model.safetensors")
    backbone = resnet()
    assert load_published(backbone, tmp_path / "model.safetensors").left_out == {"fc": 2}
    assert_same(backbone, tensors)


def test_the_names_are_torchvisions_in_torchvisions_order():
    torchvision = pytest.importorskip("torchvision")
    expected = [name for name in torchvision.models.resnet50().state_dict() if not name.startswith("fc.")]
    assert list(resnet().features.state_dict()) == expected  # what is read by order depends on it


def test_the_published_file_of_byol_pytorch_must_have_its_number_of_tensors(tmp_path):
    tensors = by_other_names(resnet().features.state_dict())
    tensors.popitem()
    tensors.popitem()
    torch.save({"online_backbone": tensors}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="0 of the backbone's 265 tensors"):
        load_published(resnet(), tmp_path / "a.pth")


@pytest.mark.parametrize("name", ["resnet18", "resnet50_clip"])
def test_a_checkpoint_of_this_package(name, make_recipe, tmp_path):
    source, target = (resnet(name, NARROW) if name == "resnet18" else narrow_clip()[0] for _ in range(2))
    randomise(source)
    rest = {"neck.out.0.weight": torch.zeros(2), "semantic.queries": torch.zeros(2), "detection.boxes": torch.zeros(2)}
    weights = {**prefixed("backbone.", source.state_dict()), **rest}
    save_checkpoint(tmp_path / "model.pt", Checkpoint(make_recipe(), 4, weights))
    report = load_published(target, tmp_path / "model.pt")
    assert_same(target, source.features.state_dict())
    assert report.left_out == {"neck": 1, "semantic": 1, "detection": 1}
    assert not report.folded  # it was, when the checkpoint's own backbone was loaded


def efficientnet_pytorch(tensors):
    """EfficientNet-PyTorch's names: blocks numbered through, BatchNorms from 0 where the expansion has one."""
    renamed, blocks = {}, {}
    for name, value in tensors.items():
        head, _, rest = name.partition(".")
        if head == "blocks":
            stage, block, layer = rest.split(".", 2)
            number = blocks.setdefault((stage, block), len(blocks))
            layer = f"_bn{int(layer[2]) - (stage != '0')}.{layer[4:]}" if layer.startswith("bn") else layer
            expands = {"conv_pw": "_expand_conv", "conv_dw": "_depthwise_conv", "conv_pwl": "_project_conv"}
            for ours, theirs in {**expands, "conv_pw": "_project_conv" if stage == "0" else "_expand_conv"}.items():
                layer = layer.replace(f"{ours}.", f"{theirs}.")
            renamed[f"_blocks.{number}.{layer}"] = value
        else:
            renamed[{"conv_stem": "_conv_stem", "bn1": "_bn0"}[head] + f".{rest}"] = value
    return renamed


def test_efficientnet_pytorch_is_loaded_by_order(tmp_path):
    source, target = (resnet("tf_efficientnet_lite0", {}) for _ in range(2))
    tensors = source.features.state_dict()
    head = {"_conv_head.weight": torch.zeros(2, 2), "_bn1.weight": torch.zeros(2), "_fc.weight": torch.zeros(2, 2)}
    renamed = efficientnet_pytorch(tensors)
    assert "_blocks.15._expand_conv.weight" in renamed
    assert "_blocks.0._bn1.bias" in renamed
    torch.save({**renamed, **head}, tmp_path / "lite0.pth")
    report = load_published(target, tmp_path / "lite0.pth")
    assert (report.layout, report.missing) == ("EfficientNet-PyTorch, by order", ())
    assert report.left_out == {"_conv_head": 1, "_bn1": 1, "_fc": 1}
    assert report.folded
    first = {"conv_stem.weight", "bn1.running_mean"}
    assert_same(target, {name: value for name, value in without_counters(tensors).items() if name not in first})
    with pytest.raises(CheckpointError, match="EfficientNet-PyTorch, by order, 0 of the backbone's 265"):
        load_published(resnet(), tmp_path / "lite0.pth")


# What does not fit


def test_another_resnet_is_refused_with_the_name_that_fits_and_changes_nothing(tmp_path):
    torch.save(timm.create_model("resnet50").state_dict(), tmp_path / "resnet50.pth")
    backbone = resnet("resnet18", {})
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    expected = (
        r"resnet50.pth: torchvision.*layer1.0.conv1.weight is \(64, 64, 1, 1\) and not .*; set .*name to resnet50"
    )
    with pytest.raises(CheckpointError, match=expected):
        load_published(backbone, tmp_path / "resnet50.pth")
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())


def test_a_deeper_network_of_the_same_widths_is_not_cut_off(tmp_path):
    torch.save(resnet("resnet34", {}).features.state_dict(), tmp_path / "resnet34.pth")
    with pytest.raises(CheckpointError, match=r"layer1\.2\.conv1\.weight has no place.*set .*name to resnet34"):
        load_published(resnet("resnet18", {}), tmp_path / "resnet34.pth")


def test_clip_asks_for_its_own_architecture_and_the_other_way_round(tmp_path):
    clip, tower = narrow_clip()
    torch.save(clip_file(tower), tmp_path / "clip.pt")
    with pytest.raises(CheckpointError, match=r"clip.pt: CLIP, 0 of .*; set model.backbone.name to resnet50_clip"):
        load_published(resnet(), tmp_path / "clip.pt")
    torch.save(resnet(options={}).features.state_dict(), tmp_path / "resnet50.pth")
    with pytest.raises(CheckpointError, match=r"set model\.backbone\.name to resnet50$"):
        load_published(clip, tmp_path / "resnet50.pth")


def test_too_little_is_refused_and_nearly_all_is_reported(tmp_path):
    tensors = without_counters(resnet().features.state_dict())
    names = list(tensors)
    torch.save({name: tensors[name] for name in names[:200]}, tmp_path / "little.pth")
    with pytest.raises(
        CheckpointError, match=r"200 of the backbone's 265 tensors are in it.*not in the file.*give weig"
    ):
        load_published(resnet(), tmp_path / "little.pth")
    torch.save({name: tensors[name] for name in names[:250]}, tmp_path / "most.pth")
    report = load_published(resnet(), tmp_path / "most.pth")
    assert report.missing == tuple(names[250:])
    assert f"250 of the backbone's 265 tensors loaded (not in the file: {names[250]}, " in report.to_text()


def test_unknown_names_match_nothing(tmp_path):
    torch.save({"body.first.weight": torch.zeros(3), 4: torch.zeros(2), "lr": 0.1}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match=r"other.pth: .*0 of the backbone's 265.*give weights of the configured"):
        load_published(resnet(), tmp_path / "other.pth")


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("resnet18", {}, "resnet18"),
        ("resnet34", {}, "resnet34"),
        ("resnet50", {}, "resnet50"),
        ("resnet101", {}, "resnet101"),
        ("resnet50c", {}, "resnet50c"),
        ("resnet101c", {}, "resnet101c"),
        ("resnet50d", {}, None),
        ("wide_resnet50_2", {}, None),
        ("resnext50_32x4d", {}, None),
        ("resnet50", NARROW, None),
    ],
)
def test_the_architecture_follows_from_names_and_shapes(name, options, expected):
    with torch.device("meta"):
        assert architecture_name(timm.create_model(name, **options).state_dict()) == expected


def write_truncated(path):
    torch.save({"conv1.weight": torch.zeros(64, 3, 7, 7)}, path)
    path.write_bytes(path.read_bytes()[:-300])


def write_objects(path):
    torch.save({"state_dict": {}, "args": pytest.approx}, path)


@pytest.mark.parametrize(
    ("name", "write", "message"),
    [
        ("gone.pth", lambda path: None, "gone.pth: no such backbone file; correct model.backbone.weights"),
        ("cut.pth", write_truncated, "cut.pth: not a readable weights file .*copy it again"),
        ("cut.safetensors", lambda path: path.write_bytes(b"\x80" * 40), "not a readable weights file"),
        ("page.pth", lambda path: path.write_text("\n<!DOCTYPE html><html>Sign in"), "page.pth: it is a web page"),
        ("lfs.pth", lambda path: path.write_text("version https://git-lfs.github.com/spec/v1"), "git lfs pull"),
        ("objects.pth", write_objects, "with Python objects besides tensors.*save its state dict alone"),
        (
            "byol.pkl",
            lambda path: path.write_bytes(pickle.dumps({"step": 1}, protocol=2)),
            "byol.pkl: a pickle.*chigur/byol-convert",
        ),
        ("list.pth", lambda path: torch.save([torch.zeros(2)], path), "it holds a list, not a state dict"),
        ("model.ckpt-225206", lambda path: None, "TensorFlow.*tonylins/simclr-converter.*Separius/SimCLRv2-Pytorch"),
        ("weights.npz", lambda path: None, "numpy checkpoints are not read"),
    ],
)
def test_a_file_without_weights_is_reported(name, write, message, tmp_path):
    write(tmp_path / name)
    with pytest.raises(CheckpointError, match=message):
        load_published(resnet("resnet18"), tmp_path / name)


# timm's own weights


WRAPPED = {
    "_orig_mod.": (lambda t: prefixed("_orig_mod.", t), {}),
    "model.": (lambda t: {"state_dict": prefixed("model.", {**t, **FC})}, {"fc": 2}),
    "net.": (lambda t: prefixed("net.", t), {}),
    "_forward_module.": (lambda t: {"module": prefixed("_forward_module.", t)}, {}),
    "nested": (lambda t: prefixed("_orig_mod.module.whatever_it_is.", t), {}),
    "before a known layout": (lambda t: {"state_dict": prefixed("model._orig_mod.", prefixed("encoder_q.", t))}, {}),
    "with a loss beside it": (
        lambda t: {"state_dict": {**prefixed("model.net.", {**t, **FC}), "criterion.weight": torch.zeros(3)}},
        {"fc": 2, "criterion": 1},
    ),
    "a known layout with a loss beside it": (
        lambda t: {"state_dict": {**prefixed("ssl.encoder_q.", t), "loss.weight": torch.zeros(3)}},
        {"loss": 1},
    ),
    "unknown keys around it": (
        lambda t: {
            "run": {"weights": {"net": t}, "optimizer": {"state": {1: {"exp_avg": torch.zeros(2)}}}},
            "epoch": 3,
        },
        {},
    ),
}


@pytest.mark.parametrize("wrapper", WRAPPED)
def test_what_wraps_a_network_is_passed_over_whatever_it_is_called(wrapper, tmp_path):
    content, left_out = WRAPPED[wrapper]
    source, target = (resnet("resnet18", NARROW) for _ in range(2))
    tensors = source.features.state_dict()
    torch.save(content(tensors), tmp_path / "wrapped.pt")
    report = load_published(target, tmp_path / "wrapped.pt")
    assert_same(target, tensors)
    assert (report.missing, report.left_out) == ((), left_out)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {
                "vit.patch.weight": torch.zeros(2),
                "vit.blocks.0.weight": torch.zeros(2),
                "vit.norm.bias": torch.zeros(2),
            },
            r"begin with vit\.patch\.weight, vit\.blocks\.0\.weight, vit\.norm\.bias, and conv1\.weight was expected",
        ),
        ({"epoch": 3, "config": {"a": 1}}, "it has no tensors with names, and conv1.weight was expected"),
    ],
)
def test_names_that_cannot_be_matched_are_shown(content, message, tmp_path):
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match=message):
        load_published(resnet("resnet18", NARROW), tmp_path / "other.pt")


def test_arguments_in_a_checkpoint_run_nothing(tmp_path):
    class Runs:
        def __reduce__(self):
            return (tmp_path.joinpath("ran").touch, ())

    torch.save({"state_dict": {}, "args": argparse.Namespace(hook=Runs())}, tmp_path / "evil.pt")
    with pytest.raises(CheckpointError, match="Python objects besides tensors, which are not loaded"):
        load_published(resnet("resnet18", NARROW), tmp_path / "evil.pt")
    assert not (tmp_path / "ran").exists()
