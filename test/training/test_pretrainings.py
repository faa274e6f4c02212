"""Rows that start from published backbones: finding files, deriving rows, and table 2 with real trainings."""

import json
import re

import pytest
import torch

from lvad_perception.errors import CheckpointError, ConfigError
from lvad_training.model.backbone import timm_backbone
from lvad_training.recipe.config import with_convolutional_heads
from lvad_training.recipe.schema import BackboneConfig
from lvad_training.reproduce.base import base_recipe
from lvad_training.reproduce.pretrainings import PRETRAININGS
from lvad_training.reproduce.tables import TABLES, with_files
from lvad_training.reproduce.trainings import trainings
from lvad_training.training import stages

from .table_runs import run_command

TABLE = TABLES["table2"]
NARROW = BackboneConfig(name="resnet18", options={"channels": [8, 8, 16, 16], "stem_width": 8})
NARROW_CLIP = BackboneConfig(name="resnet50_clip", options={"width_factor": 0.125})
WRAPPED = {  # key -> the backbone's tensors as the file of that name has them
    "moco_v1_200ep_pretrain.pth.tar": lambda t: {"state_dict": {f"module.encoder_q.{k}": v for k, v in t.items()}},
    "moco_v2.pth": lambda t: {"state_dict": {f"module.encoder_q.{k}": v for k, v in t.items()}},
    "simclr.pth.tar": lambda t: {"state_dict": {f"backbone.{k}": v for k, v in t.items()}},
    "swav_800ep_pretrain.pth.tar": lambda t: {
        **{f"module.{k}": v for k, v in t.items()},
        "module.prototypes.weight": torch.zeros(9, 2),
    },
    "byol.pth": lambda t: {k: v for k, v in t.items() if not k.endswith("num_batches_tracked")},
    "detco_200ep.pth": lambda t: {"state_dict": t, "author": "OpenSelfSup"},
    "densecl.pth": lambda t: {"state_dict": t, "author": "DenseCL"},
}


def write_files(folder, names=tuple(WRAPPED)):
    folder.mkdir(exist_ok=True)
    for seed, name in enumerate(names):
        torch.manual_seed(seed)
        tensors = timm_backbone(NARROW.name, NARROW.options).features.state_dict()
        torch.save(WRAPPED[name](tensors), folder / name)
    return folder


def write_clip(folder):
    modified_resnet = pytest.importorskip("open_clip.modified_resnet")
    folder.mkdir(exist_ok=True)
    tower = modified_resnet.ModifiedResNet([3, 4, 6, 3], output_dim=16, heads=4, width=8)
    torch.save({f"visual.{name}": value for name, value in tower.state_dict().items()}, folder / "RN50.pt")
    return folder


@pytest.fixture
def base(blobs):
    changes = ["data.train_split=val", "train.steps=4", "train.batch_size=1", "stages.teach.steps=1"]
    return base_recipe(recipe=None, preset=None, data=blobs, smoke=True, overrides=changes)


def test_two_tables_need_files_and_every_file_has_a_row():
    assert [name for name, table in TABLES.items() if table.pretrainings] == ["table2", "table8"]
    assert [row.methods[0].pretraining for row in TABLE.rows[::2]] == list(PRETRAININGS)


def test_files_are_found_by_the_short_name_before_the_published_one(tmp_path):
    moco = PRETRAININGS["moco_v2"]
    assert moco.find(tmp_path) is None
    (tmp_path / "moco_v2_200ep_pretrain.pth.tar").touch()
    assert moco.find(tmp_path).name == "moco_v2_200ep_pretrain.pth.tar"
    (tmp_path / "moco_v2_800ep_pretrain.pth.tar").touch()
    assert moco.find(tmp_path).name == "moco_v2_800ep_pretrain.pth.tar"
    (tmp_path / "moco_v2.safetensors").touch()
    assert moco.find(tmp_path).name == "moco_v2.safetensors"


def test_rows_take_their_file_and_teachers_keep_the_base_backbone(base, tmp_path):
    logged = []
    table = with_files(TABLE, write_files(tmp_path / "w"), base.model.backbone, log=logged.append)
    present = [row for row in table.rows if row.absent is None]
    assert [row.key for row in table.rows if row.absent] == ["clip-pf", "clip-paf"]
    assert table.rows[-1].absent == f"clip.pth or RN50.pt is not in {tmp_path / 'w'}"
    assert [line.partition(":")[0] for line in logged] == [pretraining.title for pretraining in PRETRAININGS.values()]
    assert sum(re.search(r" (\d+) of the backbone's \1 tensors loaded", line) is not None for line in logged) == 7
    teachers = set()
    for row in present:
        (training,) = trainings(base, row, seed=0, out=tmp_path)
        assert training.recipe.model.backbone.weights == str(
            PRETRAININGS[row.methods[0].pretraining].find(tmp_path / "w")
        )
        assert training.recipe.model.backbone.options == base.model.backbone.options
        planned = {stage.name: stage for stage in stages.plan(training.recipe)}
        assert ("adapt" in planned) == row.key.endswith("-paf")
        assert planned["teach-semantic"].recipe.model.backbone == base.model.backbone
        assert planned["adapt" if "adapt" in planned else "finetune"].recipe.model.backbone.weights is not None
        teachers.add((planned["teach-semantic"].folder, json.dumps(str(planned["teach-semantic"].recipe.model))))
    assert len(teachers) == 1
    assert not list(trainings(base, table.rows[-1], seed=0, out=tmp_path))


@pytest.mark.parametrize(("name", "expected"), [("resnet50", "resnet50_clip"), ("resnet50_clip", "resnet50_clip")])
def test_clip_has_an_architecture_of_its_own(name, expected, tmp_path, monkeypatch):
    monkeypatch.setattr("lvad_training.reproduce.pretrainings.load_published", lambda backbone, path: NoReport())
    write_clip(tmp_path)
    table = with_files(TABLE, tmp_path, BackboneConfig(name=name))
    assert table.rows[-1].methods[0].backbone == BackboneConfig(name=expected, weights=str(tmp_path / "RN50.pt"))


class NoReport:
    def to_text(self):
        return ""


def test_files_that_do_not_fit_are_reported_before_any_training(tmp_path):
    torch.save({"layer9.weight": torch.zeros(3)}, tmp_path / "detco_200ep.pth")
    with pytest.raises(CheckpointError, match=r"detco_200ep\.pth: .*give weights of the configured backbone"):
        with_files(TABLE, tmp_path, NARROW)


def test_a_folder_without_any_file_names_all_that_are_looked_for(tmp_path):
    with pytest.raises(ConfigError, match=r"has none of the published files \(MoCo v1: .*RN50\.pt\); docs/backbones"):
        with_files(TABLE, tmp_path, NARROW)
    with pytest.raises(ConfigError, match=r"nowhere: is not a folder; give one"):
        with_files(TABLE, tmp_path / "nowhere", NARROW)


def test_a_row_without_its_backbone_is_refused(base, tmp_path):
    with pytest.raises(ConfigError, match="starts from a published file; give --weights-dir"):
        list(trainings(base, TABLE.rows[0], seed=0, out=tmp_path))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["table2", "--smoke"], "table2: give --weights-dir, a folder of published backbones; docs/backbones.md says"),
        (["table1", "--smoke", "--weights-dir", "w"], "table1: --weights-dir: its rows have no published backbones"),
    ],
)
def test_weights_belong_to_tables_that_need_them(words, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        run_command(*words)


def smoke(blobs, weights, out, backbone, table="table2"):
    given = [f"model.backbone={json.dumps({'name': backbone.name, 'options': backbone.options})}"]
    given += ["data.train_split=val", "train.steps=2", "train.batch_size=1", "stages.teach.steps=1"]
    words = [word for text in given for word in ("--set", text)]
    out_words = ["--weights-dir", weights, "--out", out, "--quiet"]
    assert run_command(table, "--smoke", "--data", blobs, *words, *out_words) == 0
    rows = [line.split("|")[1:4] for line in (out / f"{table}.md").read_text().splitlines() if line.startswith("|")]
    return {title.strip(): (seeds.strip(), miou.strip()) for title, seeds, miou in reversed(rows)}


def test_smoke_trains_what_is_there_and_lists_the_rest_as_absent(blobs, tmp_path, capsys):
    weights = write_files(tmp_path / "w", ["moco_v1_200ep_pretrain.pth.tar", "swav_800ep_pretrain.pth.tar"])
    rows = smoke(blobs, weights, tmp_path / "out", NARROW)
    for title in ("MoCo v1, PF", "MoCo v1, PAF", "SwAV, PF", "SwAV, PAF"):
        assert rows[title][0] == "1 of 1"
        float(rows[title][1])
    assert rows["BYOL, PAF"] == ("0 of 1", "absent")
    folder = tmp_path / "out/disjoint_normal/seed0"
    assert {path.name for path in folder.glob("self_training*")} == {
        *("self_training-moco_v1", "self_training-adapt-moco_v1-1+1"),
        *("self_training-swav", "self_training-adapt-swav-1+1"),
    }
    adapted = torch.load(folder / "self_training-adapt-moco_v1-1+1/adapt/model.pt", weights_only=True)["weights"]
    published = torch.load(weights / "moco_v1_200ep_pretrain.pth.tar", weights_only=True)["state_dict"]
    for name, value in published.items():  # adapt keeps the published backbone bit for bit
        assert torch.equal(adapted[name.replace("module.encoder_q.", "backbone.features.")], value), name
    page = (tmp_path / "out/table2.md").read_text()
    assert "* BYOL, PF; BYOL, PAF: absent, byol.pth or resnet50_byol_imagenet2012.pth.tar or " in page
    assert "moco_v1: resnet18, " in page
    assert "SimCLR: absent, " in capsys.readouterr().out


def test_smoke_of_clip(blobs, tmp_path):
    rows = smoke(blobs, write_clip(tmp_path / "w"), tmp_path / "out", NARROW_CLIP)
    assert [rows[f"CLIP, {paradigm}"][0] for paradigm in ("PF", "PAF")] == ["1 of 1", "1 of 1"]
    assert rows["MoCo v1, PF"][1] == "absent"


def test_smoke_of_convolutional_heads(blobs, tmp_path):
    """Both students and teachers have them, in a folder separate from query-based heads."""
    weights = write_files(tmp_path / "w", ["simclr.pth.tar"])
    rows = smoke(blobs, weights, tmp_path / "out", NARROW, table="table8")
    assert [rows[f"SimCLR, {paradigm}"][0] for paradigm in ("PF", "PAF")] == ["1 of 1", "1 of 1"]
    assert rows["DetCo, PAF"] == ("0 of 1", "absent")
    assert [path.name for path in (tmp_path / "out").glob("disjoint_normal*")] == ["disjoint_normal-convolutional"]
    folder = tmp_path / "out/disjoint_normal-convolutional/seed0"
    finetuned, detects, segments = (
        torch.load(folder / stage / "model.pt", weights_only=True)["weights"].keys()
        for stage in ("self_training-simclr/finetune", "teach-detection", "teach-semantic")
    )
    assert "detection.center.weight" in finetuned & detects
    assert "semantic.branches.0.0.0.weight" in finetuned & segments
    assert (
        "semantic.branches.0.0.0.weight" in torch.load(folder / "teach-semantic/model.pt", weights_only=True)["weights"]
    )


def test_convolutional_heads_are_the_presets_unless_the_base_recipe_chose_its_own(blobs, base, tmp_path):
    table = with_files(TABLES["table8"], write_files(tmp_path / "w", ["detco_200ep.pth"]), NARROW)
    (training,) = trainings(base, table.rows[2], seed=0, out=tmp_path)
    model = training.recipe.model
    assert (model.detection.strides, model.detection.width, model.semantic.width) == ((4, 8, 16, 32, 64), 64, 64)
    chosen = ["data.train_split=val", "train.steps=2", "model.detection={head: fcos, width: 8}"]
    own = base_recipe(recipe=None, preset="tiny", data=blobs, smoke=False, overrides=chosen)
    assert with_convolutional_heads(own).model.detection.width == 8
    assert with_convolutional_heads(own).model.semantic == model.semantic
