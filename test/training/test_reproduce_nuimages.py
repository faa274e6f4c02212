"""Table 11 on nuImages: its rows, its page, and a training of each at the smoke size."""

import json
import re

import pytest

from lvad_perception.errors import ConfigError, LvadError, VocabularyMismatchError
from lvad_training.reproduce.base import base_recipe, images_of
from lvad_training.reproduce.render import NONE
from lvad_training.reproduce.tables import TABLES
from lvad_training.reproduce.trainings import trainings

from .nuimages_tree import write_street
from .table_runs import FakeRunner, run_command, run_table

TABLE = TABLES["table11"]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_street(tmp_path_factory.mktemp("nuimages"), images=6)


def make_base(root, *overrides, **options):
    arguments = {"recipe": None, "preset": None, "smoke": True, "vocabulary": "nuimages", **options}
    return base_recipe(data=root, overrides=list(overrides), **arguments)


def test_rows_are_single_networks_then_both_tasks(root, tmp_path):
    base = make_base(root, "train.steps=72")
    assert images_of(base) == {"all": 6, "detection": 6, "semantic": 6, "val": 2}
    found = {row.key: next(trainings(base, row, seed=0, out=tmp_path)).recipe for row in TABLE.rows}
    assert {key: recipe.model.tasks for key, recipe in found.items()} == {
        "sparse_rcnn": ("detection",),
        "maskformer": ("semantic",),
        "multi_task": ("detection", "semantic"),
        "lv_adapter": ("detection", "semantic"),
    }
    for recipe in found.values():
        assert recipe.model.vocabulary == "nuimages"
        assert recipe.stages.teach is None  # every image has all labels: there is nothing to teach
        assert recipe.train.steps + (recipe.stages.adapt.steps if recipe.stages.adapt else 0) == 72
    assert found["lv_adapter"].model.language.l2v
    assert found["lv_adapter"].stages.adapt.steps == 2
    assert found["multi_task"].model.language is None


def test_the_page_sets_ours_beside_the_papers(root, tmp_path):
    page, _ = run_table("table11", make_base(root), tmp_path, FakeRunner())
    markdown = page.with_suffix(".md").read_text()
    lines = [line for line in markdown.partition("## ")[0].splitlines() if line.startswith("| ")]
    cells = {title: row for title, *row in ([cell.strip() for cell in line.split("|")[1:-1]] for line in lines)}
    assert cells["Sparse R-CNN alone"] == [
        *("1 of 1", "26.0", "46.6", "50.5", "72.8", "23.7", "49.4"),
        *(NONE, NONE),
    ]
    assert cells["LV-Adapter"][-2:] == ["60.0", "56.0"]
    assert "figures that the paper gives for nuImages" in markdown
    assert "The paper does not say which classes" in markdown
    assert "DA mIoU is over direct" not in markdown


@pytest.mark.parametrize(
    ("overrides", "options", "message"),
    [
        (["model.semantic=null"], {}, "the heads of semantic"),
        (["model.vocabulary=bdd100k"], {}, "model.vocabulary (nuimages in this table)"),
    ],
)
def test_a_base_recipe_that_does_not_fit_is_refused(root, overrides, options, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        make_base(root, *overrides, **options)


def test_the_wrong_data_set_is_named(root, blobs):
    with pytest.raises(VocabularyMismatchError, match="in the classes of bdd100k, and the model has those of nu"):
        images_of(make_base(blobs, "data.train_split=val"))
    with pytest.raises(VocabularyMismatchError, match=r"the data set lacks .*rider.* and has .*trailer"):
        images_of(make_base(root, vocabulary="bdd100k"))
    with pytest.raises(LvadError, match="give --data, nuImages, or --recipe"):
        run_command("table11")


@pytest.mark.slow
def test_smoke_trains_every_row_for_real(tmp_path, capsys):
    pytest.importorskip("open_clip")
    assert run_command("table11", "--smoke", "--quiet", "--out", tmp_path) == 0
    printed = capsys.readouterr().out
    assert printed.count("| 1 of 1 |") == 4
    assert "24 images in 'train' (annotated: 24 detection, 24 semantic)" in (tmp_path / "table11.md").read_text()
    metrics = json.loads((tmp_path / "full/seed0/multi_task/finetune/metrics.json").read_text())
    assert "construction_vehicle" in metrics["detection"]["per_class"]
    assert metrics["drivable"] is None
