"""The examples of "Extend" in the documentation do what their pages say."""

import importlib
from pathlib import Path

import numpy as np
import pytest
import torch

from lvad_perception.bags.convert import from_dataset
from lvad_perception.bags.evaluate import evaluate_bag
from lvad_perception.bags.replay import replay
from lvad_perception.datasets.bdd100k import open_split
from lvad_perception.engines import open_engine
from lvad_perception.errors import DatasetError, EngineError, LabelError, ModelFileError
from lvad_perception.media.images import read_image
from lvad_perception.perceiver import Perceiver
from lvad_training.build import build_criterion, build_model
from lvad_training.data.batches import training_batches

EXAMPLES = Path(__file__).resolve().parents[2] / "docs" / "examples"


@pytest.fixture(autouse=True)
def examples_can_be_imported(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)


def example(name):
    """A file of docs/examples as a module."""
    return importlib.import_module(name)


class TestHead:
    def test_learns_and_runs_as_a_model_file(self, blobs, make_recipe, tmp_path):
        pytest.importorskip("onnxscript", reason="the extra export is not installed")
        head = example("dilated_head")
        alone = {"detection": None, "semantic": None}
        recipe = make_recipe(blobs, model=alone, train={"steps": 30, "batch_size": 4, "learning_rate": 3e-3})
        torch.manual_seed(0)
        net, criterion = head.build(recipe)
        batches = training_batches(recipe, first=0, last=30, process=0, processes=1)
        reports = example("short_training").train(recipe.train, net, criterion, batches)
        losses = [report.terms["drivable_pixel"] for report in reports]
        assert len(losses) == 30
        assert np.mean(losses[-5:]) < 0.4 * losses[0]
        scores = head.measure(recipe, net).drivable.three_class
        assert scores.mean_iou > 80 > scores.constant_mean_iou

        images = [read_image(path) for path in sorted(blobs.glob("images/100k/val/*"))]
        agreement = head.export(recipe, net, tmp_path / "dilated.onnx", images)
        assert agreement.masks >= 0.999
        with Perceiver(open_engine(tmp_path / "dilated.onnx", threads=1)) as perceiver:
            found = perceiver(images)
        sky, road = found[0].drivable[:20], found[0].drivable[50:]
        assert (sky == 2).mean() > 0.9
        assert (road == 0).mean() > 0.9

    def test_the_other_heads_are_the_recipes(self, make_recipe):
        head = example("dilated_head")
        net, criterion = head.build(make_recipe())
        assert type(net.detection).__name__ == "SparseRcnnHead"
        assert isinstance(net.drivable, head.DilatedHead)
        assert criterion.weights == {"detection": 1.0, "semantic": 1.0, "drivable": 1.0}


class TestEngine:
    @pytest.fixture
    def engine(self, tiny_model_file):
        return example("reference_engine").ReferenceEngine(tiny_model_file)

    def test_agrees_with_onnx_runtime(self, tiny_model_file):
        images = np.random.default_rng(0).integers(0, 256, (2, 48, 64, 3), np.uint8)
        assert example("reference_engine").check(tiny_model_file, images).startswith("agrees: ")

    def test_replays_a_bag_to_the_numbers_of_onnx_runtime(self, tiny_model_file, small_split, tmp_path):
        from_dataset(small_split, "val", tmp_path / "bag")
        example("reference_engine").replay_bag(tiny_model_file, tmp_path / "bag", tmp_path / "found")
        with Perceiver(open_engine(tiny_model_file, threads=1), score_threshold=0.0) as perceiver:
            replay(tmp_path / "bag", perceiver, tmp_path / "wanted")
        found, wanted = (evaluate_bag(tmp_path / name).to_dict() for name in ("found", "wanted"))
        assert found == wanted
        assert found["detection"] is not None

    def test_refuses_what_is_no_model_file(self, tmp_path):
        (tmp_path / "text.onnx").write_text("not a model")
        with pytest.raises(ModelFileError, match=r"text\.onnx is no ONNX file; write one with lvad-train export"):
            example("reference_engine").ReferenceEngine(tmp_path / "text.onnx")

    def test_refuses_a_file_without_manifest(self, make_tiny_model, tmp_path):
        path = make_tiny_model(tmp_path / "bare.onnx", manifest_text="")
        with pytest.raises(ModelFileError, match="carries no lvad_manifest"):
            example("reference_engine").ReferenceEngine(path)

    def test_closed_says_so(self, engine):
        engine.close()
        engine.close()
        with pytest.raises(EngineError, match="the engine is closed"):
            engine.infer(np.zeros((2, 48, 64, 3), np.uint8))


class TestDataSet:
    CLASSES = ("car", "dog", "bus")

    @pytest.fixture
    def root(self, blobs, tmp_path):
        """The blobs in YOLO's layout: a car on each but the last two, of which one is empty and one not annotated."""
        for folder in ("images/val", "labels/val"):
            (tmp_path / folder).mkdir(parents=True)
        for index, path in enumerate(sorted(blobs.glob("images/100k/val/*"))):
            (tmp_path / "images/val" / path.name).write_bytes(path.read_bytes())
            car = f"0 {(20 + 10 * index) / 96} {39 / 64} {24 / 96} {18 / 64}\n1 0.5 0.5 0.1 0.1\n"
            if index < 5:
                (tmp_path / f"labels/val/{path.stem}.txt").write_text(car if index < 4 else "")
        return tmp_path

    @pytest.fixture
    def split(self, root):
        return example("yolo_split").YoloSplit(root, "val", classes=self.CLASSES)

    def test_boxes_and_what_is_annotated(self, split):
        boxes = split.boxes(1, (64, 96))
        np.testing.assert_allclose(boxes.boxes_xyxy, [[18, 30, 42, 48]], atol=1e-4)
        assert boxes.labels.tolist() == [2]  # "car" among BDD100K's classes; no dogs there
        assert len(split.boxes(4, (64, 96))) == 0
        assert split.boxes(5, (64, 96)) is None
        assert split.annotated_for("detection").tolist() == [True] * 5 + [False]
        assert not split.annotated_for("semantic").any()

    def test_is_checked_as_any_other(self, root, split):
        yolo = example("yolo_split")
        counts, problems = yolo.check(split)
        assert (counts.images, counts.annotated["detection"], counts.boxes.sum(), problems) == (6, 5, 4, [])
        (root / "labels/val/blob1.txt").write_text("0 0.5 0.5 3 0.2\n")
        _, problems = yolo.check(split)
        assert [(problem.severity, "blob1" in problem.file) for problem in problems] == [("warning", True)]

    def test_a_network_learns_from_it(self, split, make_recipe):
        recipe = make_recipe(
            data={"augment": {"scale": [1, 1], "crop": False, "color": 0}},
            model={"semantic": None, "drivable": None},
            train={"steps": 30, "batch_size": 4, "learning_rate": 3e-3},
        )
        torch.manual_seed(0)
        net, criterion = build_model(recipe.model), build_criterion(recipe.model, recipe.loss)
        batches = example("yolo_split").batches(split, recipe)
        reports = example("short_training").train(recipe.train, net, criterion, batches)
        totals = [report.terms["total"] for report in reports]
        assert len(totals) == 30
        assert np.mean(totals[-5:]) < 0.8 * np.mean(totals[:5])

    def test_in_bdd100ks_layout_it_is_the_same(self, split, tmp_path):
        example("yolo_split").write_bdd100k(split, tmp_path / "bdd100k")
        copy = open_split(tmp_path / "bdd100k", "val")
        assert copy.annotated_for("detection").tolist() == split.annotated_for("detection").tolist()
        for i in range(5):
            found, wanted = copy.boxes(i, (64, 96)), split.boxes(i, (64, 96))
            np.testing.assert_allclose(found.boxes_xyxy, wanted.boxes_xyxy, atol=0.01)
            assert found.labels.tolist() == wanted.labels.tolist()

    def test_bad_files_are_named(self, root, split):
        (root / "labels/val/blob0.txt").write_text("0 0.5 0.5\n")
        with pytest.raises(LabelError, match=r"blob0\.txt is not lines of five numbers"):
            split.boxes(0, (64, 96))
        (root / "labels/val/blob0.txt").write_text("7 0.5 0.5 0.1 0.1\n")
        with pytest.raises(LabelError, match="names a class beyond the 3 that there are"):
            split.boxes(0, (64, 96))
        with pytest.raises(DatasetError, match=r"holds no \.jpg or \.png image; name another split"):
            example("yolo_split").YoloSplit(root, "test", classes=self.CLASSES)
