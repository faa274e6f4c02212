import json
import re

import pytest

from lvad_perception.bags.convert import from_dataset
from lvad_perception.bags.evaluate import evaluate_bag
from lvad_perception.bags.replay import replay
from lvad_perception.bags.report import examine_bag, report_bag
from lvad_perception.cli import main
from lvad_perception.errors import BagError, DatasetError
from lvad_perception.perceiver import Perceiver


@pytest.fixture
def predicted(small_split, fake_engine, tmp_path):
    """A replayed bag of the small split."""
    from_dataset(small_split, "val", tmp_path / "bag")
    replay(tmp_path / "bag", Perceiver(fake_engine, score_threshold=0.0), tmp_path / "predicted")
    return tmp_path / "predicted"


@pytest.fixture
def run_folder(predicted, tmp_path):
    """The folder of a training run of five steps."""
    folder = tmp_path / "run"
    folder.mkdir()
    lines = [{"step": step, "terms": {"box_l1": 1 / step, "total": 3 / step}} for step in range(1, 6)]
    (folder / "losses.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    metrics = report_bag(predicted, tmp_path / "unused.html")
    (folder / "metrics.json").write_text(json.dumps(metrics.to_dict()))
    return folder


def test_the_page_shows_images_metrics_and_curves(predicted, run_folder, tmp_path):
    report_bag(predicted, tmp_path / "r.html", training=run_folder, examples=3, commands=("lvad-train run x.yaml",))
    page = (tmp_path / "r.html").read_text()
    worst = page[page.index('id="worst-frames"') :].partition("</section>")[0]
    assert worst.count('<figure class="frame">') == 3
    assert worst.count("data:image/webp;base64,") == 9  # image, truth and prediction
    assert "frame-000" in page
    assert "box_l1" in page
    assert "5 training steps" in page
    assert "lvad-train run x.yaml" in page
    assert "Checkpoint on the data set" in page
    assert not re.search(r"""(src|href)=["']https?:""", page)


def test_more_examples_than_images_show_each_once(predicted, tmp_path):
    report_bag(predicted, tmp_path / "r.html", examples=50)
    page = (tmp_path / "r.html").read_text()
    worst = page[page.index('id="worst-frames"') :].partition("</section>")[0]
    names = re.findall(r"<b>\d+\. (frame-\d+)</b>", worst)
    assert len(names) == len(set(names)) == 8


def test_the_findings_of_a_bag_are_those_of_the_evaluator_and_name_its_frames(predicted):
    evaluation = examine_bag(predicted, worst=3, score_threshold=0.3)
    assert evaluation.findings.metrics == evaluate_bag(predicted)
    errors = {frame.name: frame.errors for frame in evaluation.findings.frames}
    assert set(errors) == {f"frame-{index:03d}" for index in range(8)}
    assert set(errors["frame-001"]) == {"detection", "semantic"}
    assert errors["frame-001"]["semantic"] < 100
    assert evaluation.kept[0].truth.boxes is not None


def test_weather_and_time_of_day_travel_from_the_labels_to_the_report(make_small_split, fake_engine, tmp_path):
    root = make_small_split(tmp_path / "bdd")
    labels = root / "labels/det_20/det_val.json"
    entries = json.loads(labels.read_text())
    for index, entry in enumerate(entries):
        entry["attributes"] = {"weather": "rainy" if index % 2 else "clear", "timeofday": "night"}
    labels.write_text(json.dumps(entries))
    from_dataset(root, "val", tmp_path / "bag")
    replay(tmp_path / "bag", Perceiver(fake_engine, score_threshold=0.0), tmp_path / "predicted")
    slices = examine_bag(tmp_path / "predicted", worst=1, score_threshold=0.3).findings.slices
    assert {value: scores.images for value, scores in slices["weather"].items()} == {
        "clear": 3,
        "rainy": 3,
        "not stated": 2,
    }
    report_bag(tmp_path / "predicted", tmp_path / "r.html", examples=1)
    assert "By time of day" in (tmp_path / "r.html").read_text()


def test_a_bag_without_attributes_says_so(predicted, tmp_path):
    report_bag(predicted, tmp_path / "r.html", examples=1)
    page = (tmp_path / "r.html").read_text()
    assert "No frame of Replayed bag predicted states its weather, scene or time of day" in page


def test_without_a_run_there_are_no_curves(predicted, tmp_path):
    report_bag(predicted, tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text()
    assert 'id="training"' not in page
    assert 'id="worst-frames"' in page


def test_a_folder_that_is_no_run_is_named(predicted, tmp_path):
    with pytest.raises(DatasetError, match=r"is not the folder of a training run: it has no losses"):
        report_bag(predicted, tmp_path / "r.html", training=tmp_path)


def test_a_bag_without_predictions_is_named(small_split, tmp_path):
    from_dataset(small_split, "val", tmp_path / "bag")
    with pytest.raises(BagError, match="has no predictions"):
        report_bag(tmp_path / "bag", tmp_path / "r.html")


def test_the_command_writes_the_page_and_refuses_in_a_sentence(predicted, tmp_path, capsys):
    assert main(["report", str(predicted), "--output", str(tmp_path / "r.html"), "--examples", "2"]) == 0
    assert "open it in a browser" in capsys.readouterr().out
    assert main(["report", str(predicted), "--output", str(tmp_path / "r.html"), "--examples", "0"]) == 2
    assert "--examples 0 shows nothing" in capsys.readouterr().err
    assert main(["report", str(tmp_path / "nothing"), "--output", str(tmp_path / "r.html")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
