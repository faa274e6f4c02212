"""The benchmark that small architectures are chosen by, at tiny sizes."""

import json
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def pareto(monkeypatch):
    """The module, measuring at 96 x 64; the folder ``benchmarks`` belongs to no installed package."""
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks import pareto

    monkeypatch.setattr(pareto, "COST_HW", (64, 96))
    return pareto


def test_operations_are_counted_twice_a_multiply_add_and_scale_with_the_image(pareto, monkeypatch):
    small = pareto.cost_of("tiny")
    monkeypatch.setattr(pareto, "COST_HW", (128, 192))
    large = pareto.cost_of("tiny")
    assert large["parameters"] == small["parameters"]
    assert large["backbone_gflop"] == pytest.approx(4 * small["backbone_gflop"])  # convolutions alone
    # ResNet-D's first convolution: 3 x 3 from 3 channels to 16 at half the size.
    stem_gflop = 2 * 16 * 3 * 9 * (64 * 96) / 1e9
    assert stem_gflop < large["backbone_gflop"] < large["gflop"]
    assert pareto.cost_of("width 128")["gflop"] > small["gflop"]
    assert pareto.cost_of("refinements 4")["parameters"] > small["parameters"]


def test_every_candidate_is_a_valid_recipe(pareto):
    for name in pareto.CANDIDATES:
        recipe = pareto.recipe_of(name, data="x", network_hw=(64, 96), settings=[], output="y")
        assert recipe.model.network_hw == (64, 96), name


def test_the_table_is_sorted_by_cost_and_marks_what_exceeds_the_budget(pareto):
    metrics = {
        "detection": {"scores": {"ap50": 12.34, "ap": 5.0}},
        "semantic": {"scores": {"mean_iou": 50.06, "pixel_accuracy": 90.0}},
        "drivable": {"three_class": {"mean_iou": 95.0}},
    }
    rows = {
        "large": {"gflop": 18.51, "backbone_gflop": 10.0, "parameters": 7e6},
        "heavy": {"gflop": 3.0, "backbone_gflop": 1.0, "parameters": 8.1e6},
        "small": {"gflop": 2.0, "backbone_gflop": 1.0, "parameters": 2e6, "cpu_ms": 10.04, "metrics": metrics},
    }
    lines = pareto.table(rows).splitlines()
    assert lines[2] == "| small | 2.00 | 1.00 | 2.00 | 10.0 | 12.3 | 5.0 | 50.1 | 90.0 | 95.0 |"
    assert lines[3].startswith("| heavy (over the budget) | 3.00 |")
    assert lines[4] == "| large (over the budget) | 18.51 | 10.00 | 7.00 | - | - | - | - | - | - |"


@pytest.mark.slow
def test_it_measures_and_trains_once(pareto, blobs, tmp_path, capsys):
    arguments = ["--data", str(blobs), "--out", str(tmp_path), "--steps", "2", "--train-size", "96x64"]
    arguments += ["--only", "tiny", "--rounds", "2", "--threads", "1"]
    for setting in ("data.workers=0", "data.train_split=val", "train.batch_size=2"):
        arguments += ["--set", setting]
    pareto.main(arguments)
    first = capsys.readouterr().out
    row = first.strip().splitlines()[-1].split(" | ")
    assert row[0] == "| tiny"
    assert float(row[4]) > 0
    metrics = json.loads((tmp_path / "tiny/metrics.json").read_text())
    assert float(row[7]) == pytest.approx(metrics["semantic"]["scores"]["mean_iou"], abs=0.05)
    written = (tmp_path / "tiny/model.pt").stat().st_mtime_ns
    pareto.main(arguments)
    assert (tmp_path / "tiny/model.pt").stat().st_mtime_ns == written
