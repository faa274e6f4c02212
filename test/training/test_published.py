"""Backbones from files as their projects publish them: the real names, random numbers, small widths."""

import pickle
import warnings

import open_clip.modified_resnet
import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models.byobnet import ByoBlockCfg
from torch import nn

from lvad_perception.errors import CheckpointError, ConfigError
from lvad_training.checkpoints import Checkpoint, save_checkpoint
from lvad_training.model.backbone import timm_backbone
from lvad_training.model.layouts import CLIP, IMAGENET, NONE, architecture_name
from lvad_training.model.multitask import IMAGENET_MEAN, IMAGENET_STD
from lvad_training.model.published import load_published, load_timm, timm_weights

NARROW = {"channels": [4, 4, 8, 8], "stem_width": 8}
DEPTHS = (3, 4, 6, 3)
CLIP_WIDTH = 8


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def resnet(name="resnet50", options=NARROW):
    """A backbone of random numbers, BatchNorm statistics included, so that no two tensors are equal by chance."""
    backbone = timm_backbone(name, options)
    randomise(backbone)
    return backbone


def randomise(module):
    """Random numbers that keep a signal alive through the depth, so that features differ when weights do."""
    with torch.no_grad():
        for name, value in module.state_dict().items():
            if not value.is_floating_point():
                value.fill_(7)
            elif value.ndim > 1:
                value.normal_(std=(2 / value[0].numel()) ** 0.5)
            elif name.endswith(("running_var", "weight")):
                value.uniform_(0.5, 1.5)
            else:
                value.normal_(std=0.3)


def narrow_clip():
    """timm's resnet50_clip at an eighth of its width, and the CLIP image tower whose names it takes."""
    blocks = tuple(
        ByoBlockCfg(type="bottle", d=depth, c=4 * CLIP_WIDTH * 2**stage, s=min(2, stage + 1), br=0.25)
        for stage, depth in enumerate(DEPTHS)
    )
    stem = (CLIP_WIDTH // 2, CLIP_WIDTH // 2, CLIP_WIDTH)
    tower = open_clip.modified_resnet.ModifiedResNet(list(DEPTHS), output_dim=16, heads=4, width=CLIP_WIDTH)
    randomise(tower)
    return timm_backbone("resnet50_clip", {"stem_chs": stem, "blocks": blocks}), tower.eval()


def clip_file(tower):
    """What a CLIP state dict holds beside the image tower."""
    text = {
        "positional_embedding": torch.zeros(77, 8),
        "text_projection": torch.zeros(8, 16),
        "logit_scale": torch.tensor(4.6),
        "transformer.resblocks.0.attn.in_proj_weight": torch.zeros(24, 8),
        "token_embedding.weight": torch.zeros(9, 8),
        "ln_final.weight": torch.zeros(8),
    }
    return {**text, **{f"visual.{name}": value for name, value in tower.state_dict().items()}}


def prefixed(prefix, tensors):
    return {prefix + name: value for name, value in tensors.items()}


def by_children(tensors):
    """Names of ``nn.Sequential(*list(resnet.children())[:-1])``."""
    order = ["conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4"]
    renamed = {}
    for name, value in tensors.items():
        child, _, rest = name.partition(".")
        renamed[f"{order.index(child)}.{rest}"] = value
    return renamed


def simclr_v2(tensors):
    """Names of SimCLRv2-Pytorch's ``ResNet`` with sk_ratio 0, written out as its modules nest."""
    renamed = {"net.0.0.weight": tensors["conv1.weight"]}
    pairs = [("bn1", "net.0.1.0")]
    for stage, depth in enumerate(DEPTHS, start=1):
        for block in range(depth):
            ours, theirs = f"layer{stage}.{block}", f"net.{stage}.blocks.{block}"
            if block == 0:
                renamed[f"{theirs}.projection.shortcut.weight"] = tensors[f"{ours}.downsample.0.weight"]
                pairs.append((f"{ours}.downsample.1", f"{theirs}.projection.bn.0"))
            for index in (1, 2, 3):
                renamed[f"{theirs}.net.{2 * index - 2}.weight"] = tensors[f"{ours}.conv{index}.weight"]
                pairs.append((f"{ours}.bn{index}", f"{theirs}.net.{2 * index - 1}.0"))
    for ours, theirs in pairs:
        for part in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
            renamed[f"{theirs}.{part}"] = tensors[f"{ours}.{part}"]
    assert len(renamed) == len(tensors)
    return renamed


def shortcut_first(tensors):
    """simclr-converter creates a block's shortcut before its first convolution."""
    return dict(sorted(tensors.items(), key=lambda item: (item[0].split(".")[:2], "downsample" not in item[0])))


def without_counters(tensors):
    return {name: value for name, value in tensors.items() if not name.endswith("num_batches_tracked")}


def by_other_names(tensors):
    """Names that nothing states, but for what every layer calls its own tensors."""
    return {f"layers.{index}.{name.split('.')[-1]}": value for index, (name, value) in enumerate(tensors.items())}


FC = {"fc.weight": torch.zeros(128, 8), "fc.bias": torch.zeros(128)}
QUEUE = {"queue": torch.zeros(128, 16), "queue_ptr": torch.zeros(1, dtype=torch.long)}

# method -> (what its file holds for the backbone's tensors in torchvision's names, the layout, what is left out)
LAYOUTS = {
    "torchvision": (lambda t: {**t, **FC}, "torchvision", {"fc": 2}),
    "timm's training script": (lambda t: {"epoch": 9, "model": prefixed("module.", t)}, "torchvision", {}),
    "before torch 0.4.1": (lambda t: without_counters({**t, **FC}), "torchvision", {"fc": 2}),
    "MoCo v1": (
        lambda t: {
            "epoch": 200,
            "arch": "resnet50",
            "state_dict": prefixed(
                "module.", {**prefixed("encoder_q.", {**t, **FC}), **prefixed("encoder_k.", {**t, **FC}), **QUEUE}
            ),
            "optimizer": {"state": {}, "param_groups": [{"lr": 0.03}]},
        },
        "MoCo",
        {"fc": 2, "encoder_k": 267, "queue": 1, "queue_ptr": 1},
    ),
    "MoCo v2": (
        lambda t: {
            "state_dict": prefixed(
                "module.encoder_q.", {**t, "fc.0.weight": torch.zeros(8, 8), "fc.2.weight": torch.zeros(4, 8)}
            )
        },
        "MoCo",
        {"fc": 2},
    ),
    "SwAV": (
        lambda t: prefixed(
            "module.", {**t, "projection_head.0.weight": torch.zeros(2, 8), "prototypes.weight": torch.zeros(9, 2)}
        ),
        "SwAV",
        {"projection_head": 1, "prototypes": 1},
    ),
    "SimCLR of VISSL": (
        lambda t: {
            "phase_idx": 799,
            "classy_state_dict": {
                "base_model": {
                    "model": {
                        "trunk": prefixed("_feature_blocks.", t),
                        "heads": {"0.clf.0.weight": torch.zeros(2, 2)},
                    },
                    "meta": {},
                }
            },
        },
        "VISSL",
        {},
    ),
    "SimCLR of lightly": (
        lambda t: {
            "epoch": 99,
            "pytorch-lightning_version": "2.0",
            "state_dict": {
                **prefixed("backbone.", t),
                "projection_head.layers.0.weight": torch.zeros(2, 2),
                "online_classifier.linear.weight": torch.zeros(2, 2),
            },
        },
        "OpenSelfSup, mmselfsup or lightly",
        {"projection_head": 1, "online_classifier": 1},
    ),
    "lightly's tutorials": (
        lambda t: {"state_dict": prefixed("backbone.", by_children(t))},
        "lightly with numbered children",
        {},
    ),
    "BYOL by byol-convert": (lambda t: without_counters({**shortcut_first(t), **FC}), "torchvision", {"fc": 2}),
    "BYOL of mmselfsup": (
        lambda t: {
            "meta": {"mmselfsup_version": "0.7"},
            "state_dict": {
                **prefixed("backbone.", t),
                "neck.fc0.weight": torch.zeros(2, 2),
                "head.predictor.fc0.weight": torch.zeros(2, 2),
                **prefixed("target_net.module.0.", t),
            },
        },
        "OpenSelfSup, mmselfsup or lightly",
        {"neck": 1, "head": 1, "target_net": 265},
    ),
    "BYOL of OpenSelfSup": (
        lambda t: {
            "state_dict": {
                **prefixed("online_net.0.", t),
                "online_net.1.fc0.weight": torch.zeros(2, 2),
                **prefixed("backbone.", t),
            }
        },
        "BYOL of OpenSelfSup",
        {"online_net": 1, "backbone": 265},
    ),
    "BYOL of BYOL-PyTorch": (
        lambda t: {
            "config": {"stage": "train"},
            "model": {
                **prefixed("module.online_network.encoder.", by_children(t)),
                "module.online_network.projetion.l1.weight": torch.zeros(2, 2),
                **prefixed("module.target_network.encoder.", by_children(t)),
            },
        },
        "BYOL-PyTorch",
        {"online_network": 1, "target_network": 265},
    ),
    "BYOL-PyTorch's published file": (
        lambda t: {"online_backbone": by_other_names(t)},
        "BYOL-PyTorch, by order",
        {},
    ),
    "BYOL of PyTorch-BYOL": (
        lambda t: {
            "online_network_state_dict": {
                **prefixed("encoder.", by_children(t)),
                "projetion.net.0.weight": torch.zeros(2, 2),
            },
            "target_network_state_dict": prefixed("encoder.", by_children(t)),
        },
        "PyTorch-BYOL",
        {"projetion": 1},
    ),
    "DetCo": (lambda t: {"state_dict": t, "author": "OpenSelfSup"}, "torchvision", {}),
    "DenseCL, extracted": (lambda t: {"state_dict": t, "author": "DenseCL"}, "torchvision", {}),
    "DenseCL, whole": (
        lambda t: {
            "state_dict": {
                **QUEUE,
                "queue2": torch.zeros(128, 16),
                **prefixed("encoder_q.0.", t),
                "encoder_q.1.mlp.0.weight": torch.zeros(2, 2),
                **prefixed("encoder_k.0.", t),
                **prefixed("backbone.", t),
            }
        },
        "MoCo or DenseCL of OpenSelfSup and mmselfsup",
        {"queue": 1, "queue_ptr": 1, "queue2": 1, "encoder_q": 1, "encoder_k": 265, "backbone": 265},
    ),
}


def assert_same(backbone, tensors):
    own = backbone.features.state_dict()
    assert own.keys() >= tensors.keys()
    for name, value in tensors.items():
        assert torch.equal(own[name], value), name


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


# CLIP


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
        ("wide_resnet50_2", {}, None),
        ("resnext50_32x4d", {}, None),
        ("resnet50", NARROW, None),
    ],
)
def test_the_architecture_is_told_from_names_and_shapes(name, options, expected):
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
def test_what_is_no_weights_file_is_told(name, write, message, tmp_path):
    write(tmp_path / name)
    with pytest.raises(CheckpointError, match=message):
        load_published(resnet("resnet18"), tmp_path / name)


# timm's own weights


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
